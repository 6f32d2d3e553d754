"""The numbers in the data: not finite, words for missing ones, of odd scales, wrapped around."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from luthier.checks.rows import MOST_NUMBERS, Rows
from luthier.checks.rule import error, rule, warning
from luthier.checks.rules.data import row_numbers
from luthier.checks.subject import CONV, NORMS, WEIGHTED, Subject
from luthier.core.finding import Finding

_SENTINELS = (-1.0, -9.0, -99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0, -1e6, 1e6, -32768.0, 32767.0)


@rule("check-data-not-finite", "data", hides="not-finite input-scale no-gradient learning-rate split-overlap")
def not_finite(s: Subject) -> Iterator[Finding]:
    """NaN or infinite numbers in the data, which reach the loss."""
    for name, rows in (("train", s.rows), ("valid", s.valid_rows)):
        table = None if rows is None else rows.table
        if table is None or rows is None:
            continue
        parts = [*(("inputs", x) for x in table.inputs), ("targets", table.targets)]
        for what, x in parts:
            if x is None or not x.is_floating_point():
                continue
            pieces = x.reshape(len(table), -1).split(max(1, MOST_NUMBERS // max(x[0].numel(), 1)))
            bad = torch.cat([~piece.isfinite().all(1) for piece in pieces]).nonzero().reshape(-1).tolist()
            if bad and not _is_taken_care_of(s, rows, [table.numbers[i] for i in bad]):
                say = partial(error, by="value") if name == "train" else warning
                yield say(
                    f"{len(bad)} of {len(table)} checked rows in {name} have NaN or infinite {what}",
                    where=row_numbers(bad, table),
                    fix="fill or leave out those rows; mask them in the loss",
                )
    yield from _sentinels(s)


def _is_taken_care_of(s: Subject, rows: Rows, numbers: list[int]) -> bool:
    """Whether the loss over bad rows, beside others, is finite all the same."""
    if not s.has_loss or rows.batches is not None:
        return False
    try:
        batch = rows.batch((numbers[:4] + rows.spread(32))[:32])
        passed = s.pass_over(s.fresh(training=False, only_read=True), batch)
        return isinstance(passed.loss, Tensor) and bool(torch.isfinite(passed.loss))
    except Exception:
        return False


def _sentinels(s: Subject) -> Iterator[Finding]:
    table = s.table
    if table is None or len(table) < 32 or s.first_is_norm:
        return
    floats = [x for x in table.inputs if x.is_floating_point()]
    parts = [("input column", x) for x in floats if x.ndim == 2]
    parts += [("input channel", x.reshape(-1, x.shape[-1])[:20_000]) for x in floats if x.ndim == 3]  # at any time
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
                        f"{count} of {len(column)} rows have {value:g} in {what} {i}, "
                        f"{gap / max(spread, 1e-9):.0f} spreads away from all others: a mark for missing?",
                        where="" if what == "input channel" else row_numbers(hit.nonzero().reshape(-1).tolist(), table),
                        fix="read it as missing, then fill it or leave it out",
                    )


@rule("check-input-scale", "data", hides="dead-units init-scale vanishing learning-rate")
def input_scale(s: Subject) -> Iterator[Finding]:
    """Inputs that reach the first layer in raw units, or scaled twice."""
    if not s.can_run or s.module_batch is None:
        return
    for name, part, args, _kwargs in s.eval_pass.trace.layers:
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            continue
        if isinstance(part, NORMS) and part is not s.module:
            return
        if not isinstance(part, WEIGHTED) or not args or not isinstance(args[0], Tensor):
            continue
        x = args[0].detach().float()  # what forward has made of it counts, a normaliser for one
        axis = 1 if isinstance(part, CONV) and x.ndim > 2 else x.ndim - 1
        flat = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        if flat.shape[0] < 8 or flat.shape[1] == 0:
            return
        found = None if _norm_follows(s, name) else _odd_scale(flat)
        if found is not None:
            what, fix = found
            yield warning(what.format(name or "the first layer"), where=name, fix=fix)
        return


def _odd_scale(x: Tensor) -> tuple[str, str] | None:
    """Return what is odd about the scale of columns, `(M, C)`, that the layer {} takes, and what to do; or None."""
    std, mean = x.std(0), x.mean(0)
    large, small = float(std.max()), float(std[std > 0].min()) if bool((std > 0).any()) else 0.0
    top, furthest = float(x.abs().max()), float(mean.abs().max())
    fix = "standardise with the training data's mean and spread, or start with a BatchNorm"
    if large > 50 and (large > 100 * small or x.shape[1] <= 4):
        return f"the inputs of {{}} spread {small:.3g} to {large:.3g} and reach {top:.4g}", fix
    if large > 20 and top > 200:
        return f"the inputs of {{}} spread {large:.3g} and reach {top:.4g}", fix
    if 0 < large < 0.05 and float(mean.abs().min()) > 20 * large and x.shape[0] >= 32:
        what = f"the inputs of {{}} spread {large:.2g} at most round {float(mean[0]):.3g}: scaled twice?"
        return what, "scale once, with the training data's mean and spread"
    if 0 < top < 0.02:
        what = f"the inputs of {{}} reach {top:.2g} at most: scaled twice?"
        return what, "scale once: x / 255 of uint8, or (x - mean) / std"
    is_far = x.shape[1] > 1 and large > 0 and float((mean.abs() / std.clamp(min=1e-6)).max()) > 100
    if is_far and furthest > 100:
        return f"an input of {{}} is {furthest:.4g} on average and spreads 100 times less", fix
    return None


def _norm_follows(s: Subject, name: str) -> bool:
    """Whether a norm stands right behind a layer, which makes the scale of its input one of no matter."""
    order = [(n, part) for n, part, *_ in s.eval_pass.trace.layers if not list(part.children())]
    at = next((i for i, (n, _) in enumerate(order) if n == name), None)
    return at is not None and at + 1 < len(order) and isinstance(order[at + 1][1], NORMS)


@rule("check-overflow", "data")
def overflow(s: Subject) -> Iterator[Finding]:
    """Images that have wrapped round at 255: dark where they should be brightest."""
    table = s.table
    for x in table.inputs if table else []:
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
            if (is_filled or is_split) and _jumps(v, axes[0]) > 0.02 and _is_of_integers(signal):
                yield warning(
                    f"neighbouring {what} jump from one end of the range to the other: the inputs are "
                    f"{1 - circular / plain:.0%} smoother when its ends are neighbours",
                    where="the inputs",
                    fix="turn integers into floats before arithmetic, or clip",
                )


def _is_of_integers(signal: Tensor) -> bool:
    """Whether values stand on an even grid over the range of an integer type, as what has wrapped round in one does."""
    values = signal[: max(1, MOST_NUMBERS // 8 // max(1, signal[0].numel()))].unique()
    if len(values) < 3:
        return False
    span = float(values[-1] - values[0])
    steps = span / max(float(values.diff().min()), 1e-12)
    # 255 or 65,535; fewer by powers of two where what has wrapped was multiplied by them
    return any(0.97 * 2**bits < steps < 1.003 * 2**bits for bits in range(6, 17))


def _signals(x: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...], str]]:
    """Yield what runs along places, a channel at a time, with its axes."""
    x = x[:: max(1, len(x) // max(16, MOST_NUMBERS // max(x[0].numel(), 1)))][:128].double()
    if x.ndim == 4 and min(x.shape[-2:]) >= 8:
        for i in range(min(x.shape[1], 4)):
            yield x[:, i], (-1, -2), "pixels"
    elif x.ndim == 3 and min(x.shape[-2:]) >= 8 and abs(x.shape[1] - x.shape[2]) <= max(x.shape[1:]) // 2:
        yield x, (-1, -2), "pixels"
    elif x.ndim == 2 and x.shape[1] >= 64:
        yield x, (-1,), "steps"
    elif x.ndim == 3 and max(x.shape[1:]) >= 16:
        series = x if x.shape[2] >= x.shape[1] else x.transpose(1, 2)  # (N, C, T)
        for i in range(min(series.shape[1], 4)):
            yield series[:, i], (-1,), "steps"


def _jumps(v: Tensor, axis: int) -> float:
    step = v.diff(dim=axis).abs()
    far, half = float((step > 192).double().mean()), float(((step > 96) & (step <= 160)).double().mean())
    return far if far > 1.5 * half else 0.0
