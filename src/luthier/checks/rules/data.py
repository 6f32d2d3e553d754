"""A pass over the data: what stands in it twice, and whether the targets belong to the rows."""

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import WeightedRandomSampler

from luthier.checks.rows import MOST_NUMBERS, Rows, Table, class_called, column_spread, some_columns
from luthier.checks.rule import rule, warning
from luthier.checks.rules.criterion import losses
from luthier.checks.subject import BINARY, ELEMENTWISE, Subject
from luthier.core.finding import Finding
from luthier.core.leaves import leaves
from luthier.data.sources import TensorSource


def both_tables(s: Subject) -> tuple[Table, Table] | None:
    """Return the rows looked at in training and validation, where their inputs are alike in shape."""
    train, valid = s.table, s.valid_table
    if train is None or valid is None or not train.inputs or train.width != valid.width:
        return None
    return train, valid


def row_numbers(rows: list[int], table: Table) -> str:
    """Say which rows of the data these places of a table are."""
    shown = ", ".join(str(table.numbers[i]) for i in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {shown}" + ("…" if len(rows) > 5 else "")


@rule("check-label-leak", "data")
def label_leak(s: Subject) -> Iterator[Finding]:
    """One input column reveals the target."""
    table = s.table if s.step is None else None  # what a step does with the targets is its own
    if table is None or table.targets is None or len(table) < 40 or not 3 <= table.width <= 4096:
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
                f"{table.column(best)} alone gives the target (correlation {float(r[best]):.4f})",
                where=table.column(best, "column"),
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
    apart = gaps / within.clamp(min=1e-9)
    # a column among others that tell much is likelier to be a good one than the target itself
    separated = (apart > 8) | ((apart > 4) & (apart > 3 * apart.sort().values[-2]))
    perfect = [int(i) for i in separated.nonzero().reshape(-1).tolist() if float(x[:, i].std()) > 0]
    if 0 < len(perfect) <= max(1, x.shape[1] // 4):
        i = perfect[0]
        yield warning(
            f"{table.column(i)} alone tells the {len(classes)} classes apart: they lie "
            f"{float(gaps[i] / within[i].clamp(min=1e-9)):.0f} spreads from each other",
            where=table.column(i, "column"),
            fix="leave it out, unless it is known when the model is used",
        )


@rule("check-duplicates", "data", hides="split-classes label-leak constant-output labels-misaligned valid-shift")
def duplicates(s: Subject) -> Iterator[Finding]:
    """Most training rows are copies of others: the dataset returns the same items again."""
    table = s.table
    if table is None or len(table) < 32 or not table.inputs:
        return
    unique = len(table.hashes.unique()) / len(table)
    if unique >= 0.5:
        return
    x = table.features
    rows = round(unique * len(table))
    values = max(len(x[:, i].unique()) for i in range(min(x.shape[1], 64)))
    varied = x[:, x.std(0) > 0]
    is_narrow = varied.shape[1] < 3
    if rows > 1 and values <= 16 and (is_narrow or values < rows or bool((x == x.round()).all())):
        return  # a few values in a few columns repeat by nature
    is_index = s.rows is not None and s.rows.dataset is not None and rows <= max(2, 0.02 * len(table))
    if is_narrow and not is_index and bool((x == x.round()).all()):
        possible = math.prod(len(varied[:, i].unique()) for i in range(varied.shape[1]))
        if possible < 0.25 * len(table):
            return  # as do ids, of which there are few
    yield warning(
        f"{len(table)} checked rows contain {round(unique * len(table))} different ones",
        where="train",
        fix="look at __getitem__: does it use its index? Drop duplicates before the split",
    )


@rule("check-labels-misaligned", "data")
def labels_misaligned(s: Subject) -> Iterator[Finding]:
    """Targets that have nothing to do with their inputs in train, and do when shifted, or in valid."""
    table = s.table if s.step is None else None
    if table is None or table.targets is None or len(table) < 60 or s.rows is None or not table.inputs:
        return
    if len(table) != s.rows.n:  # neighbours are to be neighbours
        source = s.rows.source
        if not isinstance(source, TensorSource):
            return
        n = min(s.rows.n, 2000)  # where they are: large images are not copied, and of each some pixels do
        inputs = [x[:n] for x in leaves(source.inputs)]
        table = Table(list(range(n)), inputs, source.targets[:n], widest=2 * MOST_NUMBERS // n)
    y = _scored(table)
    if y is None:
        return
    x = _probe_features(table)
    as_it_is = _probe(x, y)
    fix = "sort, filter and shuffle inputs and targets together"
    if as_it_is is not None and as_it_is > 0.25:
        yield from _valid_moved(s, x, y, fix)
    if as_it_is is None or as_it_is > 0.08:
        return
    best = max((_probe(x, y.roll(k, 0)) or 0.0, k) for k in (1, -1, 2, -2))
    again = _probe(x, y.roll(best[1], 0), seed=1) or 0.0
    if min(best[0], again) > 0.2 and min(best[0], again) > 4 * max(as_it_is, 0.02) and len(table) >= 100:
        yield warning(
            f"the targets fit the inputs (explained: {best[0]:.0%}) when moved by {best[1]} rows, and not as they "
            f"stand ({as_it_is:.0%})",
            where="train",
            fix=fix,
        )
    both = both_tables(s)
    if both is None or both[1].targets is None or len(both[1]) < 50:
        return
    valid_y = _scored(both[1])
    if valid_y is None or valid_y.shape[1:] != y.shape[1:]:
        return
    fitted = _probe(_probe_features(both[1]), valid_y)
    if fitted is not None and fitted > 0.25 and as_it_is < 0.05:
        yield warning(
            f"a simple fit explains {fitted:.0%} of the validation targets and {as_it_is:.0%} of the training targets",
            where="train",
            fix=fix,
        )


def _valid_moved(s: Subject, x: Tensor, y: Tensor, fix: str) -> Iterator[Finding]:
    """Look whether what training targets teach fits validation targets moved by a row or two, and not as they stand."""
    valid, train = s.valid_table, s.table
    if valid is None or train is None or s.valid_rows is None or len(valid) != s.valid_rows.n or len(valid) < 50:
        return
    same = [a.shape[1:] == b.shape[1:] for a, b in zip(train.inputs, valid.inputs, strict=False)]
    if valid.targets is None or not same or not all(same) or len(train.inputs) != len(valid.inputs):
        return
    both = Table(
        list(range(len(x) + len(valid))),
        [torch.cat([a[: len(x)], b]) for a, b in zip(train.inputs, valid.inputs, strict=True)],
        None,
    )
    if train.targets is None or valid.targets.shape[1:] != train.targets.shape[1:] or len(train) < len(x):
        return
    targets = torch.cat([train.targets[: len(x)], valid.targets])
    scored = _scored(Table(both.numbers, [], targets))
    if scored is None:
        return
    features, cut = _probe_features(both), len(x)
    mean, middle = scored[:cut].mean(0), features[:cut].mean(0)
    a, b = features[:cut] - middle, scored[:cut] - mean
    weights = torch.linalg.solve(a.T @ a + len(a) * torch.eye(a.shape[1], dtype=a.dtype), a.T @ b)
    answers = (features[cut:] - middle) @ weights + mean
    truth = scored[cut:]
    spread = ((truth - mean) ** 2).sum().clamp(min=1e-12)
    fits = {k: 1 - float(((answers - truth.roll(k, 0)) ** 2).sum() / spread) for k in (0, 1, -1, 2, -2)}
    best = max((k for k in fits if k), key=fits.__getitem__)
    if fits[0] < 0.05 and fits[best] > 0.25:
        yield warning(
            f"what the training rows teach explains {fits[best]:.0%} of the validation targets when they are moved by "
            f"{best} rows, and {max(fits[0], 0.0):.0%} as they are",
            where="valid",
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
    x = table.features.nan_to_num()  # of megabytes: what follows is done in place
    if any(not v.is_floating_point() for v in table.inputs) and x.shape[1] > 2:  # ids: how often each occurs
        width = 128
        counts = torch.zeros(len(x), width, dtype=torch.float64)
        x = counts.scatter_add(1, (x.long() % width).clamp(min=0), torch.ones_like(x))
    middle, spread = x.mean(0), column_spread(x).clamp(min=1e-9)
    x.sub_(middle).div_(spread)
    generator = torch.Generator().manual_seed(0)
    if x.shape[1] > 200:
        x = x @ torch.randn(x.shape[1], 200, generator=generator, dtype=torch.float64) / x.shape[1] ** 0.5
    if both := _in_common(table):
        both = [(v - v.mean(0)) / column_spread(v).clamp(min=1e-9) for v in both]
        x = torch.cat([x, *both], dim=1)
    width = 100
    random = (
        x @ torch.randn(x.shape[1], width, generator=generator, dtype=torch.float64) / max(x.shape[1], 1) ** 0.5
    ).relu()
    return torch.cat([x, random], dim=1)


def _in_common(table: Table) -> list[Tensor]:
    """Return what a few channels of series have in common, over time: as a mark beside a number, each `(N, K)`."""
    few = [v for v in table.inputs if v.is_floating_point() and v.ndim == 3 and 2 <= min(v.shape[1:]) <= 8]
    series = [(v if v.shape[1] <= v.shape[2] else v.mT).double().nan_to_num() for v in few]  # (N, C, T)
    return [(v @ v.mT).flatten(1) for v in series]


def _probe(x: Tensor, y: Tensor, seed: int = 0) -> float | None:
    """Return which share of the targets' variance ridge regression explains on held-out rows; below 0 is 0."""
    if float(y.var(0).sum()) < 1e-12 or not bool(torch.isfinite(y).all()):
        return None
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = int(0.7 * len(x))
    train, test = order[:cut], order[cut:]
    mean_x, mean_y = x[train].mean(0), y[train].mean(0)
    a, b = x[train] - mean_x, y[train] - mean_y
    held, wanted, gram, moment = x[test] - mean_x, y[test], a.T @ a, a.T @ b
    spread = ((wanted - mean_y) ** 2).sum().clamp(min=1e-12)
    ridge = len(train) * torch.eye(a.shape[1], dtype=a.dtype)
    best = 0.0
    for weight in (0.1, 1.0, 10.0):
        found = held @ torch.linalg.solve(gram + weight * ridge, moment) + mean_y
        left = float(((found - wanted) ** 2).sum() / spread)
        best = max(best, 1 - left)
    return best


def targets_in_order(rows: Rows) -> Tensor | None:
    """Return targets of one number a row, in the order of the data: all of them in memory, else the first 512."""
    y: Tensor | None = None
    if rows.is_in_memory:
        y = rows.source.targets if rows.source is not None else None
    elif rows.table is not None:
        with suppress(Exception):  # of a dataset's own
            y = rows.batch(range(min(rows.n, 512))).targets
    if not isinstance(y, Tensor):
        return None
    y = y.detach()
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        return None
    if y.is_floating_point() and len(y.unique()) <= 2:
        y = y.long()
    return y


@rule("check-imbalance", "data")
def imbalance(s: Subject) -> Iterator[Finding]:
    """Nearly all training rows are of one class, and nothing weighs the others up."""
    table = s.table
    if table is None or s.rows is None or len(table) < 50:
        return
    y = table.classes
    if y is None and table.targets is not None and table.targets.ndim > 2 and not table.targets.is_floating_point():
        y = table.targets.reshape(-1).long()  # a class a pixel
        y = y[y >= 0]
    loader = s.rows.loader
    samplers = () if loader is None else (loader.sampler, loader.batch_sampler)
    if y is None or not len(y) or any(map(_may_balance, samplers)):
        return
    calls = [call for call in losses(s) if call.name in ("cross_entropy", "nll_loss", *BINARY)]
    if len(calls) != 1 or s.step is not None or calls[0].kwargs.get("reduction") == "none":
        return
    if any(isinstance(x, Tensor) for x in (calls[0].argument(2, "weight"), calls[0].kwargs.get("pos_weight"))):
        return
    counts = torch.bincount(y - y.min())
    share = float(counts.max() / counts.sum())
    if share > (0.89 if table.classes is not None else 0.95):
        yield warning(
            f"{share:.0%} of the training rows are of one class: always saying it is right that often",
            where=class_called(s.rows.source, int(counts.argmax() + y.min())),
            fix="class weights, pos_weight or a WeightedRandomSampler; and a metric that sees it: f1, AUROC",
        )


def _may_balance(sampler: Any) -> bool:
    """Whether a sampler draws by weights, or is the caller's own."""
    return isinstance(sampler, WeightedRandomSampler) or type(sampler).__module__.partition(".")[0] != "torch"


def channels(x: Tensor) -> Tensor:
    """Return inputs as columns, `(M, C)`: those of a table, or the channels of images and sequences."""
    if x.ndim == 4:  # of large images every k-th pixel
        k = max(1, math.ceil(math.sqrt(x.numel() / MOST_NUMBERS)))
        x = x[:, :, ::k, ::k]
    elif x.ndim == 2 and (some := some_columns(x.shape[1])) is not None:
        x = x.index_select(1, some)
    x = x.to(torch.float64, copy=True).nan_to_num_()
    if x.ndim <= 2:
        return x.reshape(len(x), -1)
    if x.ndim == 4:
        return x.movedim(1, -1).flatten(0, -2)
    return x.reshape(-1, x.shape[-1]) if x.shape[-1] <= 64 else x.reshape(len(x), -1)


def is_trend(x: Tensor, n: int) -> bool:
    """Whether the training rows drift as much within themselves as the validation rows are away: ordered in time."""
    flat = channels(x) if x.ndim <= 2 else x.double().reshape(len(x), -1)[:, :64]
    quarter = max(len(flat) // 4, 1)
    drift = (flat[:quarter].mean(0) - flat[-quarter:].mean(0)).abs() / column_spread(flat).clamp(min=1e-9)
    return float((drift > 0.5).double().mean()) > 0.5


@rule("check-target-cast", "data", hides="loss-for-classes labels-misaligned imbalance")
def target_cast(s: Subject) -> Iterator[Finding]:
    """Targets cut to whole numbers, or wrapped round, by a cast on one side."""
    table = s.table
    if table is None or table.targets is None or len(table) < 30:
        return
    y = table.targets
    fix = "look for .long(), .int() or astype(int) on the way to the targets"
    calls = losses(s)
    first = y.reshape(-1)[0]
    is_one = bool((y == first).all())
    if is_one and s.rows is not None and len(table) < s.rows.n:
        more = targets_in_order(s.rows)  # a class may be rare, and a few rows hold none of it
        if more is not None and bool((more != first).any()):
            return
    if len(calls) == 1 and s.step is None and is_one and first == 0:
        yield warning(f"all {len(table)} checked targets are 0", where="train", fix=fix)
    if not any(call.name in ELEMENTWISE for call in calls):
        return
    if not y.is_floating_point():
        values, counts = y.reshape(-1).unique(return_counts=True)
        share, mode = float(counts.max() / counts.sum()), int(values[counts.argmax()])
        if y.dtype != torch.bool and share > 0.5 and mode == 0 and int(values.min()) < 0 < int(values.max()) < 5:
            yield warning(
                f"{share:.0%} of the targets are 0, and all are whole numbers from {int(values.min())} to "
                f"{int(values.max())}: standardised, then cut?",
                where="train",
                fix=fix,
            )
        return
    valid = s.valid_table.targets if s.valid_table else None
    is_whole = bool((y == y.round()).all())
    if isinstance(valid, Tensor) and valid.is_floating_point() and len(valid) >= 10:
        other = bool((valid == valid.round()).all())
        if is_whole != other and len(y.unique()) != len(y):
            which = ("train", "valid") if is_whole else ("valid", "train")
            yield warning(
                f"the targets of {which[0]} are whole numbers, and those of {which[1]} are not", where=which[0], fix=fix
            )
        ends = torch.tensor([0.05, 0.95], dtype=torch.float64)
        lo, hi = torch.quantile(valid.reshape(-1).double(), ends)
        a, b = torch.quantile(y.reshape(-1).double()[:100_000], ends)
        span = max(float(hi - lo), float(b - a), 1e-9)
        is_off = float((lo - a).abs()) > 0.5 * span or float((hi - b).abs()) > 0.5 * span
        if is_off and not is_trend(y.reshape(len(y), -1), len(valid)):
            yield warning(
                f"the middle 90 % of the targets is {float(a):.3g} to {float(b):.3g} in train and "
                f"{float(lo):.3g} to {float(hi):.3g} in valid",
                where="valid",
                fix="the same scale and type for the targets of both",
            )
    values, counts = y.reshape(-1).unique(return_counts=True)
    share, usual = float(counts.max() / counts.sum()), float(values[counts.argmax()])
    low, high = float(values.min()), float(values.max())
    is_cut = share > 0.55 and usual == 0 and -5 <= low < 0 < high <= 5
    is_few = share > 0.6 and 1 < len(values) <= 4 and set(values.tolist()) != {0.0, 1.0}
    if is_whole and y[0].numel() == 1 and (is_few or is_cut):
        what = f"{share:.0%} of the targets are {usual:g}, and all are whole numbers"
        yield warning(what, where="train", fix=fix)
    elif len(values) == 1:
        yield warning(f"all {len(table)} checked targets are {usual:g}", where="train", fix=fix)
