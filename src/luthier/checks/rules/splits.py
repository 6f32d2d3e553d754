"""Training and validation data beside each other: rows in both, other scales, other classes."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from luthier.checks.copies import Projected, share_moved, share_of_near, stand_in
from luthier.checks.rows import Rows, Table, class_called, column_spread, num_different
from luthier.checks.rule import rule, warning
from luthier.checks.rules.data import both_tables, channels, is_trend, row_numbers, targets_in_order
from luthier.checks.subject import Subject
from luthier.core.finding import Finding
from luthier.core.schema import UNSEEN
from luthier.data.sources import TensorSource


@rule("check-split-overlap", "data")
def split_overlap(s: Subject) -> Iterator[Finding]:
    """Rows of the validation data that stand in the training data too, or nearly so."""
    both = both_tables(s)
    if both is None or s.rows is None:
        return
    table, held = both
    middle, scale = table.middle_and_spread
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
    coarse = is_coarse(table)
    by_chance = 3 * doubled if (is_ids and not _are_drawn(table, held)) or (coarse and not is_ids) else 0.0
    if share > (0.1 if is_ids else 0.02) and share > by_chance and int(hit.sum()) >= 2 and not is_whole_domain(table):
        yield warning(
            f"{share:.0%} of the checked validation rows are also in the training data ({doubled:.0%} of the "
            "training rows are there twice)",
            where=row_numbers(hit.nonzero().reshape(-1).tolist(), held) + " of valid",
            fix=fix,
        )
    for x, v in zip(whole, held.inputs, strict=False):
        if not x.is_floating_point() or x.ndim > 3 or min(x.shape[1:], default=0) < 1 or x[0].numel() > 4096:
            continue
        if num_different(x[:200]) < max(64, x[:200].numel() // 50):  # few values meet by chance
            continue
        for a, b in _series_of(x[:20_000], v):
            moved = 1.0
            for train_part, valid_part in zip(a, b, strict=True):
                moved = min(moved, share_moved(valid_part, train_part))
                if moved <= 0.3:
                    break
            if moved > 0.3:
                yield warning(
                    f"{moved:.0%} of the validation windows are training windows moved by a few steps: they share "
                    "nearly all their values",
                    where="valid",
                    fix="split by time before cutting windows, or leave a window's length between the parts",
                )
    near, usual = (0.0, 0.0) if coarse else share_of_near(valid, train)
    if near > 0.3 or near > max(0.05, 3 * usual):  # rows of a few hidden numbers are near each other by nature
        yield warning(
            f"{near:.0%} of the validation rows have a near copy in the training data, far closer than rows lie to "
            "each other",
            where="valid",
            fix=fix,
        )


def _are_drawn(train: Table, valid: Table) -> bool:
    """Whether rows of ids in both parts are the same rows, and not the same by chance.

    They meet twenty times as often as columns that know nothing of each other would, and never with another target.
    """
    if train.targets is None or valid.targets is None or train.targets.shape[1:] != valid.targets.shape[1:]:
        return False
    columns = [train.features[:, i].unique(return_counts=True)[1].double() / len(train) for i in range(train.width)]
    meet = math.prod(float((share * share).sum()) for share in columns)
    known = dict(zip(train.hashes.tolist(), train.targets.tolist(), strict=True))
    pairs = zip(valid.hashes.tolist(), valid.targets.tolist(), strict=True)
    same = [known[row] == target for row, target in pairs if row in known]
    usual = 1 - (1 - meet) ** len(train)
    is_told = len(train.targets.unique()) > 1 and len(same) >= 20
    return is_told and all(same) and len(same) / len(valid) > max(0.3, 20 * usual)


def _series_of(x: Tensor, v: Tensor) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Return what may be windows over time of both parts: rows, or channels of sequences, each `(N, T)`."""
    if x.ndim == 2:
        found = [([x], [v])]
    elif x.ndim == 3:
        found = [
            ([x[:, :, i] for i in _varied(x)], [v[:, :, i] for i in _varied(x)]),
            ([x[:, i] for i in _varied(x.mT)], [v[:, i] for i in _varied(x.mT)]),
        ]
    else:
        found = []
    return [(a, b) for a, b in found if a and a[0].shape[1] == b[0].shape[1] >= 6]


def _varied(x: Tensor) -> list[int]:
    """Return the first three of the channels of sequences, `(N, T, C)`, in which most steps differ from the last."""
    moves = (x[:100].diff(dim=1) != 0).double().mean(dim=(0, 1))
    return moves.gt(0.5).nonzero()[:3, 0].tolist() if x.shape[1] > 1 else []


_WHOLE = 0.5  # of all combinations of the columns' values


def is_whole_domain(train: Table) -> bool:
    """Whether rows are most of all that there can be, as in a truth table: what is asked is then known by design."""
    x = train.features
    if not x.shape[1] or x.shape[1] > 64:
        return False
    possible = math.prod(num_different(x[:, i]) for i in range(x.shape[1]))
    return len(train.hashes.unique()) >= _WHOLE * possible


def is_coarse(train: Table) -> bool:
    """Whether rows are near each other by nature: few, of few columns, or of few values in most columns."""
    if not all(x.is_floating_point() for x in train.inputs) or len(train) < 20 or train.features.shape[1] < 3:
        return True
    x = train.features.nan_to_num()[:500]
    columns = range(0, x.shape[1], max(1, x.shape[1] // 32))
    return sum(len(x[:, i].unique()) > 32 for i in columns) < len(columns) / 2


@rule("check-valid-shift", "data", hides="split-overlap")
def valid_shift(s: Subject) -> Iterator[Finding]:
    """Validation inputs on another scale than training inputs: prepared in another way."""
    both = both_tables(s)
    if both is None or len(both[0]) < 20 or len(both[1]) < 20:
        return
    if (found := _other_numbering(*both)) is not None:
        yield warning(
            f"{found[0]:.0%} of the tokens in valid are others than in train, of {found[1]}, and as frequent under "
            "other numbers: was the vocabulary built again?",
            where="valid",
            fix="build the vocabulary from the training data, and use it for both",
        )
    for x, v in zip(both[0].inputs, both[1].inputs, strict=False):
        if not x.is_floating_point() and x.dtype != torch.uint8:
            continue
        a, b = channels(x), channels(v)
        if a.shape[1] != b.shape[1]:
            continue
        std_a, std_b = column_spread(a).clamp(min=1e-9), column_spread(b).clamp(min=1e-9)
        use = (std_a > 1e-6) | (std_b > 1e-6)
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
            and _is_off_in_the_middle(a[:, use][:, off], b[:, use][:, off])
            and (len(off) > 2 or float(shift.max()) > 1 or float(ratio.max()) > 2 or float(ratio.min()) < 0.5)
        ):
            if is_trend(x, n) and float(ratio.max()) < 3:
                continue
            i = int(off.nonzero()[0])
            yield warning(
                f"{share:.0%} of the input columns lie elsewhere in valid: mean {float(a.mean(0)[use][i]):.3g} and "
                f"spread {float(std_a[use][i]):.3g} in train, {float(b.mean(0)[use][i]):.3g} and "
                f"{float(std_b[use][i]):.3g} in valid",
                where="valid",
                fix="scale both in the same way, with the training data's mean and spread",
            )
        if found_column := _lone_shift(x, v, both[0]):
            yield warning(found_column, where="valid", fix="one unit and one preparation for both parts")


def _is_off_in_the_middle(a: Tensor, b: Tensor) -> bool:
    """Whether most columns, `(M, C)`, differ in the middle 80 % too, and not only in a few wild values."""
    ratio, away, _ = _apart(*(_middle_80(x[:: max(1, len(x) // 4000)]) for x in (a, b)))
    return float(((ratio > 1.4) | (away > 0.15)).double().mean()) > 0.5


def _apart(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many times wider and how far away each column is by its middle 80 %, and whether it has any width."""
    spread_p, spread_q = (p[2] - p[0]).clamp(min=1e-9), (q[2] - q[0]).clamp(min=1e-9)
    ratio = torch.maximum(spread_p / spread_q, spread_q / spread_p)
    away = (p[1] - q[1]).abs() / torch.maximum(spread_p, spread_q)
    return ratio, away, (spread_p > 1e-9) & (spread_q > 1e-9)


def _middle_80(x: Tensor) -> Tensor:
    """Return the number of each column, `(M, C)`, below which 10, 50 and 90 % lie, `(3, C)`."""
    ordered = np.sort(x.T.contiguous().numpy(), axis=1)  # twenty times as fast as torch.quantile
    places = np.round(np.array([0.1, 0.5, 0.9]) * (len(x) - 1)).astype(int)
    return torch.from_numpy(ordered[:, places].T)


def _lone_shift(x: Tensor, v: Tensor, table: Table) -> str:
    """Say which column of numbers is on another scale in valid, far beyond what its rows spread; or nothing."""
    if x.ndim != 2 or not x.is_floating_point() or min(len(x), len(v)) < 50 or x.shape[1] > 512:
        return ""
    a, b = (_middle_80(part[:: max(1, len(part) // 1000)].float().nan_to_num()) for part in (x, v))
    ratio, away, is_number = _apart(a, b)
    for i in (is_number & ((ratio > 4) | (away > 2))).nonzero()[:, 0].tolist():
        values, counts = x[:, i].unique(return_counts=True)
        named = table.column(i) if x is table.inputs[0] else f"input column {i}"
        is_filled = float(counts.max()) > 0.1 * len(x)  # with 0 after the end of a sequence, for one
        if len(values) > 16 and not is_filled and not is_trend(x[:, i : i + 1], len(v)):
            return (
                f"{named} lies elsewhere in valid: the middle 80 % is {float(a[0, i]):.3g} to "
                f"{float(a[2, i]):.3g} in train and {float(b[0, i]):.3g} to {float(b[2, i]):.3g} in valid"
            )
    return ""


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


@rule("check-split-classes", "data", hides="valid-shift")
def split_classes(s: Subject) -> Iterator[Finding]:
    """Validation rows of classes that training never sees, or of one class only."""
    both = both_tables(s)
    if both is None or both[1].targets is None or s.rows is None:
        return
    a, b = _all_classes(s.rows, both[0]), both[1].classes
    if a is None or b is None or len(b) < 10:
        return
    known, seen = set(a.unique().tolist()), set(b.unique().tolist())
    new = sorted(code for code in seen - known if code > UNSEEN)  # of those below, who read the table has told
    fix = "split by class: the same shares of each class in both parts (stratify=)"
    if new:
        share = float(torch.isin(b, torch.tensor(new)).double().mean())
        yield warning(
            f"{share:.0%} of the validation rows are of {len(new)} classes that are not in the training data",
            where=f"classes {new[:5]}",
            fix=fix,
        )
    elif len(seen) == 1 and len(known) > 1 and float((a == next(iter(seen))).double().mean()) < 0.9:
        yield warning(
            f"all {len(b)} checked validation rows are of one class of {len(known)}",
            where=class_called(s.rows.source, next(iter(seen))),
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
                f"the classes have other shares in valid: {distance:.0%} of the rows would have to change class",
                where="valid",
                fix=fix,
            )


def _all_classes(rows: Rows, table: Table) -> Tensor | None:
    if table.classes is None:
        return None
    whole = targets_in_order(rows) if rows.is_in_memory else table.classes
    return table.classes if whole is None or whole.is_floating_point() else whole
