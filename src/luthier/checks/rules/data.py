"""A pass over the data: what stands in it, what stands in it twice, and how it is served."""

import copy
import inspect
import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler, WeightedRandomSampler, default_collate

from luthier.checks.copies import Projected, share_moved, share_of_near, stand_in
from luthier.checks.rows import Rows, Table
from luthier.checks.rule import error, rule, warning
from luthier.checks.rules.criterion import losses
from luthier.checks.subject import ELEMENTWISE, WEIGHTED, Subject
from luthier.checks.tracing import leaves
from luthier.core.finding import Finding
from luthier.core.rng import (
    GENERATORS,
    find_generators,
    generator_states,
    get_rng_state,
    kept_rng,
    put_generators_back,
    seed_all,
)
from luthier.data.sources import TensorSource

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
_SENTINELS = (-1.0, -9.0, -99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0, -1e6, 1e6, -32768.0, 32767.0)


def _table(s: Subject) -> Table | None:
    return None if s.rows is None else s.rows.table


def _both(s: Subject) -> tuple[Table, Table] | None:
    train, valid = _table(s), None if s.valid_rows is None else s.valid_rows.table
    if train is None or valid is None or not train.inputs or train.features.shape[1] != valid.features.shape[1]:
        return None
    return train, valid


def _numbers(rows: list[int], table: Table) -> str:
    shown = ", ".join(str(table.numbers[i]) for i in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {shown}" + ("…" if len(rows) > 5 else "")


@rule(
    "check-data-not-finite",
    "data",
    hides=["check-not-finite", "check-input-scale", "check-no-gradient", "check-learning-rate"],
)
def not_finite(s: Subject) -> Iterator[Finding]:
    """NaN or infinite numbers in the data, which reach the loss."""
    for name, rows in (("train", s.rows), ("valid", s.valid_rows)):
        table = None if rows is None else rows.table
        if table is None or rows is None:
            continue
        parts = [("inputs", x) for x in table.inputs] + (
            [("targets", table.targets)] if table.targets is not None else []
        )
        for what, x in parts:
            if not x.is_floating_point():
                continue
            bad = (~torch.isfinite(x)).reshape(len(table), -1).any(1).nonzero().reshape(-1).tolist()
            if bad and not _is_taken_care_of(s, rows, [table.numbers[i] for i in bad]):
                say = error if name == "train" else warning
                yield say(
                    "check-data-not-finite",
                    f"{len(bad)} of {len(table)} rows looked at in {name} have NaN or infinite {what}",
                    where=_numbers(bad, table),
                    fix="fill or leave out those rows; mask them in the loss",
                )
                return
    yield from _sentinels(s)


def _is_taken_care_of(s: Subject, rows: Rows, numbers: list[int]) -> bool:
    """Whether the loss over bad rows, beside others, is finite all the same."""
    if not s.has_loss or rows.batches is not None:
        return False
    try:
        batch = rows.batch((numbers[:4] + rows.spread(32))[:32])
        passed = s.pass_over(s.fresh(training=False), batch)
        return isinstance(passed.loss, Tensor) and bool(torch.isfinite(passed.loss))
    except Exception:
        return False


def _sentinels(s: Subject) -> Iterator[Finding]:
    table = _table(s)
    if table is None or len(table) < 32 or s.first_is_norm:
        return
    parts = [("input column", x) for x in table.inputs if x.ndim == 2 and x.is_floating_point()]
    parts += [  # (N, T, C): a channel at any time
        ("input channel", x.reshape(-1, x.shape[-1])[:20_000])
        for x in table.inputs
        if x.ndim == 3 and x.is_floating_point()
    ]
    if table.targets is not None and table.targets.is_floating_point():
        parts.append(("target", table.targets.reshape(len(table), -1)))
    for what, x in parts:
        for i in range(min(x.shape[1], 512)):
            column = x[:, i]
            for value in {float(column.min()), float(column.max())} & set(_SENTINELS):
                hit = column == value
                rest = column[~hit & torch.isfinite(column)]
                count = int(hit.sum())
                if count < 2 or count < 0.002 * len(column) or len(rest) < 16 or len(rest.unique()) < 8:
                    continue
                spread, gap = float(rest.std()), float((rest - value).abs().min())
                if gap > 6 * max(spread, 1e-9) and abs(value) > 8 * float(rest.abs().max()) * 0.5:
                    yield warning(
                        "check-data-not-finite",
                        f"{count} of {len(column)} rows have {value:g} in {what} {i}, "
                        f"{gap / max(spread, 1e-9):.0f} spreads away from all others: a mark for missing?",
                        where="" if what == "input channel" else _numbers(hit.nonzero().reshape(-1).tolist(), table),
                        fix="read it as missing, then fill it or leave it out",
                    )
                    return


@rule(
    "check-input-scale",
    "data",
    hides=["check-dead-units", "check-init-scale", "check-vanishing", "check-learning-rate"],
)
def input_scale(s: Subject) -> Iterator[Finding]:
    """Inputs that reach the first layer in raw units, or scaled twice."""
    if not s.can_run or s.module_batch is None:
        return
    given = {id(x) for x in leaves(s.eval_pass.batch.inputs)}
    for name, part, args, _kwargs in s.eval_pass.trace.entered:
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            continue
        if isinstance(part, _NORMS) and part is not s.module:
            return
        if not isinstance(part, WEIGHTED) or not args or not isinstance(args[0], Tensor):
            continue
        x = args[0].detach().float()
        if (
            s.eval_pass.trace.origin(args[0]) is not None
            and id(args[0]) not in given
            and not _is_only_reshaped(s, args[0])
        ):
            pass  # what forward has made of it counts, a normaliser for one
        axis = 1 if isinstance(part, nn.modules.conv._ConvNd) and x.ndim > 2 else x.ndim - 1
        flat = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        if flat.shape[0] < 8 or flat.shape[1] == 0:
            return
        after = _norm_follows(s, name)
        std, mean = flat.std(0), flat.mean(0)
        large, small = float(std.max()), float(std[std > 0].min()) if bool((std > 0).any()) else 0.0
        top = float(flat.abs().max())
        fix = "standardise with the training data's mean and spread, or start with a BatchNorm"
        if after:
            return
        if large > 50 and (large > 100 * small or flat.shape[1] <= 4):
            yield warning(
                "check-input-scale",
                f"the inputs of {name or 'the first layer'} spread {small:.3g} to {large:.3g} and reach {top:.4g}",
                where=name,
                fix=fix,
            )
        elif large > 20 and top > 200:
            yield warning(
                "check-input-scale",
                f"the inputs of {name or 'the first layer'} spread {large:.3g} and reach {top:.4g}",
                where=name,
                fix=fix,
            )
        elif 0 < large < 0.05 and float(mean.abs().min()) > 20 * large and flat.shape[0] >= 32:
            yield warning(
                "check-input-scale",
                f"the inputs of {name or 'the first layer'} spread {large:.2g} at most round {float(mean[0]):.3g}: "
                "scaled twice?",
                where=name,
                fix="scale once, with the training data's mean and spread",
            )
        elif 0 < top < 0.02:
            yield warning(
                "check-input-scale",
                f"the inputs of {name or 'the first layer'} reach {top:.2g} at most: scaled twice?",
                where=name,
                fix="scale once: x / 255 of uint8, or (x - mean) / std",
            )
        elif (
            flat.shape[1] > 1
            and large > 0
            and float((mean.abs() / std.clamp(min=1e-6)).max()) > 100
            and float(mean.abs().max()) > 100
        ):
            yield warning(
                "check-input-scale",
                f"an input of {name or 'the first layer'} is {float(mean.abs().max()):.4g} on average and spreads "
                "100 times less",
                where=name,
                fix=fix,
            )
        return


def _is_only_reshaped(s: Subject, x: Tensor) -> bool:
    return s.eval_pass.trace.origin(x) is None


def _norm_follows(s: Subject, name: str) -> bool:
    """Whether a norm stands right behind a layer, which makes the scale of its input one of no matter."""
    order = [(n, part) for n, part, *_ in s.eval_pass.trace.entered if not list(part.children())]
    at = next((i for i, (n, _) in enumerate(order) if n == name), None)
    return at is not None and at + 1 < len(order) and isinstance(order[at + 1][1], _NORMS)


@rule("check-overflow", "data")
def overflow(s: Subject) -> Iterator[Finding]:
    """Images that have wrapped round at 255: dark where they should be brightest."""
    table = _table(s)
    for x in [] if table is None else table.inputs:
        for signal, axes, what in _signals(x):
            low, high = float(signal.min()), float(signal.max())
            if high <= low:
                continue
            v = (signal - low) / (high - low) * 255
            plain, circular = 0.0, 0.0
            for axis in axes:
                step = v.diff(dim=axis).abs()
                plain += float(step.mean())
                circular += float(torch.minimum(step, 256 - step).mean())
            # a wrapped range is filled: values in the middle, and jumps over nearly all of it
            middle = float(((v > 32) & (v < 223)).double().mean())
            is_filled = middle > (0.3 if len(axes) > 1 else 0.2) and circular < 0.8 * plain
            # or small differences: near both ends, and not at the very ends as black and white are
            ends = float(((v < 4) | (v > 251)).double().mean())
            is_split = middle < 0.5 and ends < 0.5 and circular < 0.4 * plain
            if (is_filled or is_split) and _jumps(v, axes[0]) > 0.02:
                yield error(
                    "check-overflow",
                    f"neighbouring {what} jump from one end of the range to the other: the inputs are "
                    f"{1 - circular / plain:.0%} smoother when its ends are neighbours",
                    where="the inputs",
                    fix="turn integers into floats before arithmetic, or clip",
                )
                return


def _signals(x: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...], str]]:
    """Yield what runs along places, a channel at a time, with its axes."""
    x = x[:128].double()
    if x.ndim == 4 and min(x.shape[-2:]) >= 8:
        for i in range(min(x.shape[1], 4)):
            yield x[:, i], (-1, -2), "pixels"
    elif x.ndim == 3 and min(x.shape[-2:]) >= 8 and abs(x.shape[1] - x.shape[2]) <= max(x.shape[1:]) // 2:
        yield x, (-1, -2), "pixels"
    elif x.ndim == 3 and max(x.shape[1:]) >= 16:
        series = x if x.shape[2] >= x.shape[1] else x.transpose(1, 2)  # (N, C, T)
        for i in range(min(series.shape[1], 4)):
            yield series[:, i], (-1,), "steps"


def _jumps(v: Tensor, axis: int = -1) -> float:
    step = v.diff(dim=axis).abs()
    far, half = float((step > 192).double().mean()), float(((step > 96) & (step <= 160)).double().mean())
    return far if far > 1.5 * half else 0.0


@rule("check-label-leak", "data")
def label_leak(s: Subject) -> Iterator[Finding]:
    """One column of the inputs is the target in other clothes."""
    table = _table(s) if s.step is None else None  # what a step does with the targets is its own
    if table is None or table.targets is None or len(table) < 40 or not 3 <= table.features.shape[1] <= 4096:
        return
    if any(x.ndim > 2 for x in table.inputs) or table.targets.numel() != len(table):
        return
    x, y = table.features.nan_to_num(), table.targets.reshape(-1).double()
    if table.classes is None and table.targets.is_floating_point():
        a, b = x - x.mean(0), y - y.mean()
        r = (a * b[:, None]).sum(0).abs() / (a.norm(dim=0) * b.norm()).clamp(min=1e-12)
        best = int(r.argmax())
        others = r.clone()
        others[best] = 0
        if float(r[best]) > 0.995 and float(others.max()) < 0.99:
            yield warning(
                "check-label-leak",
                f"input column {best} alone gives the target (correlation {float(r[best]):.4f})",
                where=f"column {best}",
                fix="leave it out, unless it is known when the model is used",
            )
        return
    classes, index = y.unique(return_inverse=True)
    if not 2 <= len(classes) <= 50:
        return
    hot = nn.functional.one_hot(index, len(classes)).double()
    counts = hot.sum(0).clamp(min=1)
    means = (hot.T @ x) / counts[:, None]  # (K, D)
    within = ((x - means[index]) ** 2).mean(0).sqrt()  # (D,)
    ordered = means.sort(dim=0).values
    gaps = ordered.diff(dim=0).amin(0) if len(classes) > 1 else within
    separated = gaps > 4 * within.clamp(min=1e-9)
    perfect = [int(i) for i in separated.nonzero().reshape(-1).tolist() if float(x[:, i].std()) > 0]
    if 0 < len(perfect) <= max(1, x.shape[1] // 4):
        i = perfect[0]
        yield warning(
            "check-label-leak",
            f"input column {i} alone tells the {len(classes)} classes apart: they lie "
            f"{float(gaps[i] / within[i].clamp(min=1e-9)):.0f} spreads from each other",
            where=f"column {i}",
            fix="leave it out, unless it is known when the model is used",
        )


@rule("check-split-overlap", "data")
def split_overlap(s: Subject) -> Iterator[Finding]:
    """Rows of the validation data that stand in the training data too, or nearly so."""
    both = _both(s)
    if both is None or s.rows is None:
        return
    table, held = both
    middle, scale = table.features.nan_to_num().mean(0), table.features.nan_to_num().std(0).nan_to_num()
    scale = torch.where(scale > 0, scale, 1.0)
    source = s.rows.source if s.rows.is_in_memory else None
    whole = table.inputs
    if isinstance(source, TensorSource):  # all rows, where they are, and not only those looked at
        whole = list(source.inputs.values() if isinstance(source.inputs, dict) else source.inputs)
    train, valid = Projected(whole, middle, scale), Projected(held.inputs, middle, scale)
    hit, doubled = stand_in(valid, train)
    share = float(hit.double().mean())
    fix = "split before augmenting or copying, and drop duplicates first; keep the rows of one source in one part"
    is_ids = all(not x.is_floating_point() for x in table.inputs)  # a few numbers from small ranges meet by chance
    by_chance = 0.0 if not is_ids and not _is_coarse(table) else 3 * doubled
    if share > (0.1 if is_ids else 0.01) and share > by_chance and int(hit.sum()) >= 2:
        yield warning(
            "check-split-overlap",
            f"{share:.0%} of the validation rows looked at stand in the training data ({doubled:.0%} of its own "
            "rows stand there twice)",
            where=_numbers(hit.nonzero().reshape(-1).tolist(), held) + " of valid",
            fix=fix,
        )
        return
    for x, v in zip(whole, held.inputs, strict=False):
        if not x.is_floating_point() or x.ndim > 3 or min(x.shape[1:], default=0) < 1 or x[0].numel() > 4096:
            continue
        if len(x[:200].unique()) < max(64, x[:200].numel() // 50):  # few values meet by chance
            continue
        for a, b in _series_of(x[:20_000], v):
            moved = share_moved(b, a)
            if moved > 0.3:
                yield warning(
                    "check-split-overlap",
                    f"{moved:.0%} of the validation windows are training windows moved by a few steps: they share "
                    "nearly all their values",
                    where="valid",
                    fix="split by time before cutting windows, or leave a window's length between the parts",
                )
                return
    near = 0.0 if _is_coarse(table) else share_of_near(valid, train)
    if near > 0.05:
        yield warning(
            "check-split-overlap",
            f"{near:.0%} of the validation rows have a near copy in the training data, far closer than rows lie to "
            "each other",
            where="valid",
            fix=fix,
        )


def _series_of(x: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return what may be windows over time, `(N, T)`, of both parts: rows, or the first channel of sequences."""
    if x.ndim == 2:
        found = [(x, v)]
    elif x.ndim == 3:
        found = [(x[:, :, 0], v[:, :, 0]), (x[:, 0], v[:, 0])]
    else:
        found = []
    return [(a, b) for a, b in found if a.shape[1] == b.shape[1] >= 6]


def _is_coarse(train: Table) -> bool:
    """Whether rows are near each other by nature: few, of few columns, or of few values in most columns."""
    if not all(x.is_floating_point() for x in train.inputs) or len(train) < 20 or train.features.shape[1] < 3:
        return True
    x = train.features.nan_to_num()[:500]
    columns = range(0, x.shape[1], max(1, x.shape[1] // 32))
    return sum(len(x[:, i].unique()) > 32 for i in columns) < len(columns) / 2


@rule(
    "check-duplicates",
    "data",
    hides=[
        "check-split-classes",
        "check-label-leak",
        "check-constant-output",
        "check-labels-misaligned",
        "check-valid-shift",
    ],
)
def duplicates(s: Subject) -> Iterator[Finding]:
    """Most training rows are copies of others: the dataset returns the same items again."""
    table = _table(s)
    if table is None or len(table) < 32 or not table.inputs:
        return
    unique = len(table.hashes.unique()) / len(table)
    if unique >= 0.5:
        return
    x = table.features
    rows = round(unique * len(table))
    values = max(len(x[:, i].unique()) for i in range(min(x.shape[1], 64)))
    is_narrow = int((x.std(0) > 0).sum()) < 3
    if rows > 1 and values <= 16 and (is_narrow or values < rows or bool((x == x.round()).all())):
        return  # a few values in a few columns repeat by nature
    is_index = s.rows is not None and s.rows.dataset is not None and rows <= max(2, 0.02 * len(table))
    say = error if is_index else warning
    yield say(
        "check-duplicates",
        f"{len(table)} rows looked at hold {round(unique * len(table))} different ones",
        where="train",
        fix="look at __getitem__: does it use its index? Drop duplicates before the split",
    )


@rule("check-labels-misaligned", "data")
def labels_misaligned(s: Subject) -> Iterator[Finding]:
    """Targets that have nothing to do with their inputs in train, and do when shifted, or in valid."""
    table = _table(s) if s.step is None else None
    if table is None or table.targets is None or len(table) < 60 or s.rows is None or not table.inputs:
        return
    if len(table) != s.rows.n:  # neighbours are to be neighbours
        if not s.rows.is_in_memory:
            return
        first = list(range(min(s.rows.n, 2000)))
        batch = s.rows.batch(first)
        if not isinstance(batch.targets, Tensor):
            return
        table = Table(first, leaves(batch.inputs), batch.targets)
    y = _scored(table)
    if y is None:
        return
    x = _probe_features(table)
    as_it_is = _probe(x, y)
    if as_it_is is None or as_it_is > 0.08:
        return
    fix = "sort, filter and shuffle inputs and targets together"
    best = max((_probe(x, y.roll(k, 0)) or 0.0, k) for k in (1, -1, 2, -2))
    again = _probe(x, y.roll(best[1], 0), seed=1) or 0.0
    if min(best[0], again) > 0.2 and min(best[0], again) > 4 * max(as_it_is, 0.02) and len(table) >= 100:
        yield error(
            "check-labels-misaligned",
            f"the targets fit the inputs (explained: {best[0]:.0%}) when moved by {best[1]} rows, and not as they "
            f"stand ({as_it_is:.0%})",
            where="train",
            fix=fix,
        )
        return
    both = _both(s)
    if both is None or both[1].targets is None or len(both[1]) < 50:
        return
    valid_y = _scored(both[1])
    if valid_y is None or valid_y.shape[1:] != y.shape[1:]:
        return
    fitted = _probe(_probe_features(both[1]), valid_y)
    if fitted is not None and fitted > 0.25 and as_it_is < 0.05:
        yield error(
            "check-labels-misaligned",
            f"a simple fit explains {fitted:.0%} of the validation targets and {as_it_is:.0%} of the training targets",
            where="train",
            fix=fix,
        )


def _scored(table: Table) -> Tensor | None:
    y = table.targets
    if y is None:
        return None
    if not y.is_floating_point() and y.ndim == 1:
        classes = y.unique()
        if not 2 <= len(classes) <= 50:
            return None
        hot: Tensor = (y[:, None] == classes[None]).double()
        return hot
    return y.reshape(len(table), -1).double() if y[0].numel() <= 64 and y.is_floating_point() else None


def _probe_features(table: Table) -> Tensor:
    x = table.features.nan_to_num()
    if any(not v.is_floating_point() for v in table.inputs) and x.shape[1] > 2:  # ids: how often each occurs
        width = 128
        counts = torch.zeros(len(x), width, dtype=torch.float64)
        x = counts.scatter_add(1, (x.long() % width).clamp(min=0), torch.ones_like(x))
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    generator = torch.Generator().manual_seed(0)
    if x.shape[1] > 200:
        x = x @ torch.randn(x.shape[1], 200, generator=generator, dtype=torch.float64) / x.shape[1] ** 0.5
    width = 100
    random = (
        x @ torch.randn(x.shape[1], width, generator=generator, dtype=torch.float64) / max(x.shape[1], 1) ** 0.5
    ).relu()
    return torch.cat([x, random], dim=1)


def _probe(x: Tensor, y: Tensor, seed: int = 0) -> float | None:
    """Return which share of the targets' variance ridge regression explains on held-out rows; below 0 is 0."""
    if float(y.var(0).sum()) < 1e-12 or not bool(torch.isfinite(y).all()):
        return None
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = int(0.7 * len(x))
    train, test = order[:cut], order[cut:]
    mean_x, mean_y = x[train].mean(0), y[train].mean(0)
    a, b = x[train] - mean_x, y[train] - mean_y
    best = 0.0
    for weight in (0.1, 1.0, 10.0):
        gram = a.T @ a + weight * len(train) * torch.eye(a.shape[1], dtype=a.dtype)
        found = (x[test] - mean_x) @ torch.linalg.solve(gram, a.T @ b) + mean_y
        left = float(((found - y[test]) ** 2).sum() / ((y[test] - mean_y) ** 2).sum().clamp(min=1e-12))
        best = max(best, 1 - left)
    return best


@rule("check-not-shuffled", "data")
def not_shuffled(s: Subject) -> Iterator[Finding]:
    """The training loader goes through sorted classes in order: each batch is nearly of one class."""
    loader = None if s.rows is None else s.rows.loader
    batches_of = None if loader is None else loader.batch_sampler
    if s.rows is None or batches_of is None:
        return
    if type(batches_of) is not torch.utils.data.BatchSampler or not type(batches_of.sampler).__module__.startswith(
        "torch."
    ):
        yield from _own_batches(s.rows, batches_of)
        return
    if not isinstance(batches_of.sampler, SequentialSampler):
        return
    size, n = batches_of.batch_size, s.rows.n
    y = _targets_in_order(s.rows)
    if y is None or len(y) < 40:
        return
    size = max(size, 8)
    batches = [y[i : i + size] for i in range(0, len(y) - size + 1, size)]
    if len(batches) < 2:
        return
    fix = "DataLoader(…, shuffle=True) for training"
    if not y.is_floating_point():
        whole = _entropy(y)
        mean = float(np.mean([_entropy(part) for part in batches]))
        chance = float(
            np.mean(
                [
                    _entropy(part[torch.randperm(len(part))])
                    for part in y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))][
                        : len(batches) * size
                    ].split(size)
                ]
            )
        )
        if whole > 0.2 and mean < 0.5 * chance:
            yield error(
                "check-not-shuffled",
                f"batches hold {math.exp(mean):.1f} classes on average where shuffled ones hold "
                f"{math.exp(chance):.1f}, and the loader does not shuffle ({n} rows in order)",
                where="train",
                fix=fix,
            )
        return
    steps = y.reshape(-1).double().diff()
    if bool((steps >= 0).all()) or bool((steps <= 0).all()):
        yield warning(
            "check-not-shuffled",
            f"the {len(y)} targets looked at are sorted, and the loader does not shuffle",
            where="train",
            fix=fix,
        )


def _own_batches(rows: Rows, sampler: Any) -> Iterator[Finding]:
    """Look at the batches that a sampler of the caller's own makes, drawn from a copy."""
    y = _targets_in_order(rows)
    if y is None or y.is_floating_point() or len(y) < rows.n or len(y) < 40:
        return
    try:
        with kept_rng():
            seed_all(0)
            batches = [torch.as_tensor(list(found)) for found in islice(iter(copy.deepcopy(sampler)), 40)]
    except Exception:
        return
    batches = [numbers for numbers in batches if numbers.ndim == 1 and len(numbers) >= 8]
    if len(batches) < 3 or any(int(numbers.max()) >= len(y) for numbers in batches):
        return
    mean = float(np.mean([_entropy(y[numbers]) for numbers in batches]))
    drawn = torch.randint(len(y), (len(batches), len(batches[0])), generator=torch.Generator().manual_seed(0))
    chance = float(np.mean([_entropy(y[numbers]) for numbers in drawn]))
    if math.exp(mean) < 1.5 and math.exp(chance) > 1.25 * math.exp(mean):
        yield error(
            "check-not-shuffled",
            f"batches of the loader's own sampler hold {math.exp(mean):.1f} classes on average where drawn ones hold "
            f"{math.exp(chance):.1f}",
            where="train",
            fix="draw the order of the samples, and not that of the batches alone",
        )


def _targets_in_order(rows: Rows) -> Tensor | None:
    if rows.is_in_memory:
        y = rows.source.targets if rows.source is not None else None
    elif rows.table is not None:
        y = rows.table.targets
        first = [int(i) for i in range(min(rows.n, 512))]
        try:
            y = rows.batch(first).targets
        except Exception:
            y = None
    else:
        return None
    if y is None or not isinstance(y, Tensor):
        return None
    y = y.detach()
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        return None
    if y.is_floating_point() and len(y.unique()) <= 2:
        y = y.long()
    return y


def _entropy(y: Tensor) -> float:
    share = torch.bincount(y - y.min()).double() / len(y)
    share = share[share > 0]
    return float(-(share * share.log()).sum())


@rule("check-imbalance", "data")
def imbalance(s: Subject) -> Iterator[Finding]:
    """Nearly all training rows are of one class, and nothing weighs the others up."""
    table = _table(s)
    if table is None or s.rows is None or len(table) < 50:
        return
    y = table.classes
    if y is None and table.targets is not None and table.targets.ndim > 2 and not table.targets.is_floating_point():
        y = table.targets.reshape(-1).long()  # a class a pixel
        y = y[y >= 0]
    loader = s.rows.loader
    if (
        y is None
        or not len(y)
        or (
            loader is not None
            and (
                isinstance(loader.sampler, WeightedRandomSampler)
                or type(loader.sampler).__module__.partition(".")[0] != "torch"
            )
        )
    ):
        return
    if loader is not None and type(loader.batch_sampler).__module__.partition(".")[0] != "torch":
        return
    calls = [
        call
        for call in losses(s)
        if call.name in ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "binary_cross_entropy")
    ]
    if len(calls) != 1 or s.step is not None:
        return
    weight = calls[0].argument(2, "weight")
    if (
        isinstance(weight, Tensor)
        or isinstance(calls[0].kwargs.get("pos_weight"), Tensor)
        or calls[0].kwargs.get("reduction") == "none"
    ):
        return
    counts = torch.bincount(y - y.min())
    share = float(counts.max() / counts.sum())
    if share > (0.89 if table.classes is not None else 0.95):
        yield warning(
            "check-imbalance",
            f"{share:.0%} of the training rows are of one class: always saying it is right that often",
            where=f"class {int(counts.argmax() + y.min())}",
            fix="class weights, pos_weight or a WeightedRandomSampler; and a metric that sees it: f1, AUROC",
        )


@rule("check-valid-random", "data")
def valid_random(s: Subject) -> Iterator[Finding]:
    """Validation samples are another at each reading: augmented, or drawn."""
    rows = s.valid_rows
    if rows is None or rows.dataset is None:
        return
    numbers = rows.spread(8)
    try:
        first, second, again = (_collated(rows, numbers, seed) for seed in (0, 1, 0))
    except Exception:
        return
    if tree_differs(first, second) and not tree_differs(first, again):
        yield warning(
            "check-valid-random",
            "reading the same validation samples twice gives two results: the figure of each epoch is over other data",
            where="valid",
            fix="a dataset without random transforms for validation",
        )


def _collated(rows: Rows, numbers: list[int], seed: int) -> Any:
    """Return samples as the loader's collation makes a batch of them, drawn with a seed."""
    items = kept(rows.items(numbers, seed))
    if rows.collate is default_collate:
        return items
    with kept_rng():
        seed_all(seed)
        return kept(rows.collate(items))


def tree_differs(a: Any, b: Any) -> bool:
    """Whether two samples, or lists of them, are not the same."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape != b.shape or not bool(((a == b) | (a != a)).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape != b.shape or not bool(((a == b) | (a != a)).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return any(tree_differs(a[key], b.get(key)) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) != len(b) or any(tree_differs(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float | str | bool | np.generic):
        return bool(a != b and a == a)
    return False


@rule("check-data-changed", "data", hides=["check-valid-random", "check-repeated-draws", "check-duplicates"])
def data_changed(s: Subject) -> Iterator[Finding]:
    """Reading a sample changes it: the same number gives another sample the next time, with the same random numbers."""
    for name, rows in (("train", s.rows), ("valid", s.valid_rows)):
        if rows is None or rows.dataset is None:
            continue
        try:
            first = kept(rows.items(rows.spread(4), 0))
            rows.items(rows.spread(4), 1)  # what this writes over stays
            second = rows.items(rows.spread(4), 0)
        except Exception:
            continue
        if tree_differs(first, second) and not find_generators(rows.read_from) and not _closed_over(rows.read_from):
            yield error(
                "check-data-changed",
                f"reading sample {rows.spread(4)[0]} of {name} again gives another one: reading writes over what "
                "is stored",
                where=name,
                fix="copy before changing: x = self.x[i].clone(), and no operations in place",
            )
            return


def _closed_over(dataset: Any) -> list[Any]:
    """Return the generators that functions of a dataset hold, as a closure or a global: these move at each reading."""
    found: list[Any] = []
    for value in list(vars(dataset).values()) if hasattr(dataset, "__dict__") else []:
        if inspect.isfunction(value):
            held = inspect.getclosurevars(value)
            found += [x for x in (*held.nonlocals.values(), *held.globals.values()) if isinstance(x, GENERATORS)]
    return found


def kept(value: Any) -> Any:
    """Return a copy of a sample's tensors and arrays."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: kept(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [kept(item) for item in value] if not hasattr(value, "_fields") else value
    return value


@rule("check-repeated-draws", "data")
def repeated_draws(s: Subject) -> Iterator[Finding]:
    """A dataset that seeds its random numbers at each reading, or whose own generator every worker copies."""
    rows = s.rows
    if rows is None or rows.dataset is None:
        return
    with kept_rng():
        ends = []
        for seed in (11, 12):
            seed_all(seed)
            before = get_rng_state()
            try:
                rows.read_from[rows.spread(2)[0]]
            except Exception:
                return
            ends.append((before, get_rng_state()))
    for key, where in (("torch", "torch.manual_seed"), ("numpy", "np.random.seed"), ("python", "random.seed")):
        starts = [_plain(before[key]) for before, _ in ends]
        after = [_plain(state[key]) for _, state in ends]
        if after[0] == after[1] and after[0] != starts[0] and starts[0] != starts[1]:
            yield error(
                "check-repeated-draws",
                f"reading a sample seeds the global generator ({where}): every sample and epoch gets the same "
                "random numbers",
                where="train",
                fix="seed once before training, never in __getitem__",
            )
            return
    if _seeds_alike(rows):
        yield error(
            "check-repeated-draws",
            "samples are drawn anew with one fixed seed at each reading: all get the same noise",
            where="train",
            fix="make the generator once, in __init__ or the worker, and keep it",
        )
        return
    table = rows.table
    for x in [] if table is None or table.targets is None else table.inputs:
        y = table.targets if table is not None else None
        if y is None or x.shape != y.shape or not x.is_floating_point() or len(x) < 16:
            continue
        noise = (x - y).reshape(len(x), -1).double()  # (N, D)
        if float(noise.abs().mean()) > 1e-3 and float(noise.std(0).max()) < 1e-5 < float(noise.std(1).mean()):
            yield error(
                "check-repeated-draws",
                f"inputs less targets are the same {noise.shape[1]} numbers in all {len(x)} rows looked at: noise that "
                "was drawn once",
                where="train",
                fix="draw anew in __getitem__",
            )
            return
    own = find_generators(rows.read_from)
    workers = 0 if rows.loader is None else rows.loader.num_workers
    if own and workers > 1 and rows.loader is not None and rows.loader.worker_init_fn is None:
        states = generator_states(own)
        with kept_rng():
            rows.read_from[0]
            moved = [path for path, state in generator_states(own).items() if _plain(state) != _plain(states[path])]
        put_generators_back(own, states)
        if moved:
            yield warning(
                "check-repeated-draws",
                f"each of the {workers} workers has a copy of the dataset's own generator, and draws the same numbers",
                where=moved[0],
                fix="seed it in worker_init_fn from torch.initial_seed(), or draw from torch's global generator",
            )


def _plain(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.numpy().tobytes()
    if isinstance(state, np.ndarray):
        return state.tobytes()
    if isinstance(state, tuple | list):
        return tuple(_plain(item) for item in state)
    if isinstance(state, dict):
        return tuple((key, _plain(item)) for key, item in state.items())
    return state


def _seeds_alike(rows: Rows) -> bool:
    """Whether reading two samples makes a generator with the same seed for each."""
    seeds: list[list[Any]] = []

    def hears(make: Any) -> Any:
        if isinstance(make, type):  # stays a type: NumPy itself asks what is one

            class Heard(make):  # type: ignore[misc]
                def __init__(self, *args: Any, **kwargs: Any) -> None:
                    seeds[-1].append((make.__name__, repr(args), repr(kwargs)))
                    super().__init__(*args, **kwargs)

            return Heard

        def made(*args: Any, **kwargs: Any) -> Any:
            seeds[-1].append((make.__name__, repr(args), repr(kwargs)))
            return make(*args, **kwargs)

        return made

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> Any:
            seeds[-1].append(("manual_seed", seed))
            return super().manual_seed(seed)

    kind: Any = torch.Generator
    places = [(np.random, "default_rng"), (np.random, "RandomState"), (random, "Random")]
    kept = [getattr(place, name) for place, name in places]
    numbers = rows.spread(3)
    try:
        for (place, name), make in zip(places, kept, strict=True):
            setattr(place, name, hears(make))
        setattr(torch, "Generator", Generator)  # noqa: B010  (a type, to mypy)
        with kept_rng():
            for number in numbers:
                seeds.append([])
                rows.read_from[number]
    except Exception:
        return False
    finally:
        for (place, name), make in zip(places, kept, strict=True):
            setattr(place, name, make)
        setattr(torch, "Generator", kind)  # noqa: B010
    given = [[seed for seed in found if "()" not in seed] for found in seeds]
    return len(numbers) > 1 and bool(given[0]) and all(found == given[0] for found in given)


@rule("check-valid-shift", "data", hides=["check-split-overlap"])
def valid_shift(s: Subject) -> Iterator[Finding]:
    """Validation inputs on another scale than training inputs: prepared in another way."""
    both = _both(s)
    if both is None or len(both[0]) < 20 or len(both[1]) < 20:
        return
    if (found := _other_numbering(*both)) is not None:
        yield warning(
            "check-valid-shift",
            f"{found[0]:.0%} of the tokens in valid are others than in train, of {found[1]}, and as frequent under "
            "other numbers: a vocabulary built anew?",
            where="valid",
            fix="build the vocabulary from the training data, and use it for both",
        )
        return
    start = 0
    for x, v in zip(both[0].inputs, both[1].inputs, strict=False):
        if not x.is_floating_point() and x.dtype != torch.uint8:
            continue
        a, b = _channels(x), _channels(v)
        if a.shape[1] != b.shape[1]:
            continue
        std_a, std_b = a.std(0).clamp(min=1e-9), b.std(0).clamp(min=1e-9)
        use = (a.std(0) > 1e-6) | (b.std(0) > 1e-6)
        if not bool(use.any()):
            continue
        shift = ((a.mean(0) - b.mean(0)).abs() / torch.maximum(std_a, std_b))[use]
        ratio = (std_b / std_a)[use]
        n = min(len(x), len(v))
        noise = 6 / math.sqrt(n)
        off = (shift > max(0.5, noise)) | (ratio > 1 + max(0.6, noise)) | (ratio < 1 / (1 + max(0.6, noise)))
        share = float(off.double().mean())
        if (
            share > 0.6
            and int(off.sum()) >= 1
            and (len(off) > 2 or float(shift.max()) > 1 or float(ratio.max()) > 2 or float(ratio.min()) < 0.5)
        ):
            if _is_trend(both[0].inputs[start], n) and float(ratio.max()) < 3:
                continue
            i = int(off.nonzero()[0])
            yield warning(
                "check-valid-shift",
                f"{share:.0%} of the input columns lie elsewhere in valid: mean {float(a.mean(0)[use][i]):.3g} and "
                f"spread {float(std_a[use][i]):.3g} in train, {float(b.mean(0)[use][i]):.3g} and "
                f"{float(std_b[use][i]):.3g} in valid",
                where="valid",
                fix="prepare both alike, with the training data's mean and spread",
            )
            return
        if found_column := _lone_shift(x, v):
            yield warning(
                "check-valid-shift",
                found_column,
                where="valid",
                fix="one unit and one preparation for both parts",
            )
            return
        start += 1


def _lone_shift(x: Tensor, v: Tensor) -> str:
    """Say which column of numbers is on another scale in valid, far beyond what its rows spread; or nothing."""
    if x.ndim != 2 or not x.is_floating_point() or min(len(x), len(v)) < 50 or x.shape[1] > 512:
        return ""
    marks = torch.tensor([0.1, 0.5, 0.9])
    a, b = (torch.quantile(part[:1000].float().nan_to_num(), marks, dim=0) for part in (x, v))
    spread_a, spread_b = (a[2] - a[0]).clamp(min=1e-9), (b[2] - b[0]).clamp(min=1e-9)
    ratio = torch.maximum(spread_a / spread_b, spread_b / spread_a)
    away = (a[1] - b[1]).abs() / torch.maximum(spread_a, spread_b)
    is_number = (spread_a > 1e-9) & (spread_b > 1e-9)
    for i in (is_number & ((ratio > 4) | (away > 2))).nonzero()[:, 0].tolist():
        values, counts = x[:, i].unique(return_counts=True)
        is_filled = float(counts.max()) > 0.1 * len(x)  # with 0 after the end of a sequence, for one
        if len(values) > 16 and not is_filled and not _is_trend(x[:, i : i + 1], len(v)):
            return (
                f"input column {i} lies elsewhere in valid: the middle 80 % is {float(a[0, i]):.3g} to "
                f"{float(a[2, i]):.3g} in train and {float(b[0, i]):.3g} to {float(b[2, i]):.3g} in valid"
            )
    return ""


def _channels(x: Tensor) -> Tensor:
    x = x.double().nan_to_num()
    if x.ndim <= 2:
        return x.reshape(len(x), -1)
    if x.ndim == 4:
        return x.movedim(1, -1).reshape(-1, x.shape[1])
    return x.reshape(-1, x.shape[-1]) if x.shape[-1] <= 64 else x.reshape(len(x), -1)


def _is_trend(x: Tensor, n: int) -> bool:
    """Whether the training rows drift as much within themselves as the validation rows are away: ordered in time."""
    flat = _channels(x) if x.ndim <= 2 else x.double().reshape(len(x), -1)[:, :64]
    quarter = max(len(flat) // 4, 1)
    drift = (flat[:quarter].mean(0) - flat[-quarter:].mean(0)).abs() / flat.std(0).clamp(min=1e-9)
    return float((drift > 0.5).double().mean()) > 0.5


def _other_numbering(train: Table, valid: Table) -> tuple[float, int] | None:
    """Return the share of tokens that are others in valid, and of how many, where sequences hold numbers of words."""
    for x, v in zip(train.inputs, valid.inputs, strict=False):
        if x.is_floating_point() or x.ndim != 2 or x.shape[1] < 5 or x.dtype == torch.bool or v.ndim != 2:
            continue
        size = int(max(x.max(), v.max())) + 1
        if int(min(x.min(), v.min())) < 0 or not 8 <= size <= min(50_000, x.numel() // 4, v.numel() // 4):
            continue
        p, q = (torch.bincount(ids.reshape(-1).long(), minlength=size).double() / ids.numel() for ids in (x, v))
        noise = 0.4 * float((p * (1 - p) * (1 / x.numel() + 1 / v.numel())).sqrt().sum())
        distance = float((p - q).abs().sum() / 2)
        # renumbered: as frequent words as before, under other numbers
        alike = float((p.sort().values - q.sort().values).abs().sum() / 2)
        if distance > 0.15 and distance > 5 * noise and alike < 0.5 * distance:
            return distance, size
    return None


@rule("check-split-classes", "data", hides=["check-valid-shift"])
def split_classes(s: Subject) -> Iterator[Finding]:
    """Validation rows of classes that training never sees, or of one class only."""
    both = _both(s)
    if both is None or both[1].targets is None or s.rows is None:
        return
    a, b = _all_classes(s.rows, both[0]), both[1].classes
    if a is None or b is None or len(b) < 10:
        return
    known, seen = set(a.unique().tolist()), set(b.unique().tolist())
    new = sorted(seen - known)
    fix = "split by class: the same shares of each class in both parts (stratify=)"
    if new:
        share = float(torch.isin(b, torch.tensor(new)).double().mean())
        yield warning(
            "check-split-classes",
            f"{share:.0%} of the validation rows are of {len(new)} classes that are not in the training data",
            where=f"classes {new[:5]}",
            fix=fix,
        )
    elif len(seen) == 1 and len(known) > 1 and float((a == next(iter(seen))).double().mean()) < 0.9:
        yield warning(
            "check-split-classes",
            f"all {len(b)} validation rows looked at are of one class of {len(known)}",
            where=f"class {next(iter(seen))}",
            fix=fix,
        )
    else:
        size = int(max(known | seen)) + 1
        if min(known | seen) < 0 or size > 10_000 or len(b) < 40:
            return
        p, q = (torch.bincount(y, minlength=size).double() / len(y) for y in (a, b))
        distance = float((p - q).abs().sum() / 2)
        noise = float((p * (1 - p) / len(b)).sqrt().sum() / 2)
        table = both[0]
        if distance > 0.3 and len(table) == len(a) and table.inputs:  # rows that were repeated on purpose count once
            _, first = np.unique(table.hashes.numpy(), return_index=True)
            once = torch.bincount(a[torch.from_numpy(first)], minlength=size).double()
            distance = min(distance, float((once / once.sum() - q).abs().sum() / 2))
        if distance > 0.3 and distance > 5 * noise:
            yield warning(
                "check-split-classes",
                f"the classes have other shares in valid: {distance:.0%} of the rows would have to change class",
                where="valid",
                fix=fix,
            )


def _all_classes(rows: Rows, table: Table) -> Tensor | None:
    if table.classes is None:
        return None
    whole = _targets_in_order(rows) if rows.is_in_memory else table.classes
    return table.classes if whole is None or whole.is_floating_point() else whole


@rule("check-target-cast", "data", hides=["check-loss-for-classes", "check-labels-misaligned"])
def target_cast(s: Subject) -> Iterator[Finding]:
    """Targets cut to whole numbers, or wrapped round, by a cast on one side."""
    table = _table(s)
    if table is None or table.targets is None or len(table) < 30:
        return
    y = table.targets
    fix = "look for .long(), .int() or astype(int) on the way to the targets"
    calls = losses(s)
    if len(calls) == 1 and s.step is None and bool((y == y.reshape(-1)[0]).all()) and y.reshape(-1)[0] == 0:
        yield error("check-target-cast", f"all {len(table)} targets looked at are 0", where="train", fix=fix)
        return
    if not any(call.name in ELEMENTWISE for call in calls):
        return
    if not y.is_floating_point():
        values, counts = y.reshape(-1).unique(return_counts=True)
        share, mode = float(counts.max() / counts.sum()), int(values[counts.argmax()])
        if y.dtype != torch.bool and share > 0.5 and mode == 0 and int(values.min()) < 0 < int(values.max()) < 5:
            yield warning(
                "check-target-cast",
                f"{share:.0%} of the targets are 0, and all are whole numbers from {int(values.min())} to "
                f"{int(values.max())}: standardised, then cut?",
                where="train",
                fix=fix,
            )
        return
    valid = None if s.valid_rows is None or s.valid_rows.table is None else s.valid_rows.table.targets
    is_whole = bool((y == y.round()).all())
    if isinstance(valid, Tensor) and valid.is_floating_point() and len(valid) >= 10:
        other = bool((valid == valid.round()).all())
        if is_whole != other and len(y.unique()) != len(y):
            which = ("train", "valid") if is_whole else ("valid", "train")
            yield error(
                "check-target-cast",
                f"the targets of {which[0]} are whole numbers, and those of {which[1]} are not",
                where=which[0],
                fix=fix,
            )
            return
        lo, hi = torch.quantile(valid.reshape(-1).double(), torch.tensor([0.05, 0.95], dtype=torch.float64))
        a, b = torch.quantile(y.reshape(-1).double()[:100_000], torch.tensor([0.05, 0.95], dtype=torch.float64))
        span = max(float(hi - lo), float(b - a), 1e-9)
        is_off = float((lo - a).abs()) > 0.5 * span or float((hi - b).abs()) > 0.5 * span
        if is_off and not _is_trend(y.reshape(len(y), -1), len(valid)):
            yield warning(
                "check-target-cast",
                f"the middle 90 % of the targets is {float(a):.3g} to {float(b):.3g} in train and "
                f"{float(lo):.3g} to {float(hi):.3g} in valid",
                where="valid",
                fix="the same scale and type for the targets of both",
            )
            return
    values, counts = y.reshape(-1).unique(return_counts=True)
    share = float(counts.max() / counts.sum())
    is_cut = (
        share > 0.55 and float(values[counts.argmax()]) == 0 and -5 <= float(values.min()) < 0 < float(values.max())
    )
    is_few = share > 0.6 and 1 < len(values) <= 4 and set(values.tolist()) != {0.0, 1.0}
    if is_whole and y[0].numel() == 1 and (is_few or (is_cut and float(values.max()) <= 5)):
        yield warning(
            "check-target-cast",
            f"{share:.0%} of the targets are {float(values[counts.argmax()]):g}, and all are whole numbers",
            where="train",
            fix=fix,
        )
    elif len(values) == 1 and len(table) >= 30:
        yield error(
            "check-target-cast", f"all {len(table)} targets looked at are {float(values[0]):g}", where="train", fix=fix
        )
