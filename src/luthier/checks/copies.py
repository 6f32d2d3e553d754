"""Rows that stand twice: candidates by a projection to one number, confirmed number by number."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from luthier.checks.rows import some_columns

_NUMBERS_AT_ONCE = 1 << 18
_EPSILON = 2e-5  # of the projection's spread: some ten times the rounding of float32
_MOST_CANDIDATES = 16
_MOST_MOVED = 8
_MOST_ROWS = 4_000


class Projected:
    """Rows projected to `k` numbers each, their columns brought to one scale.

    Attributes:
        inputs: Tensors, each `(N, …)`; nothing of them is copied.
        middle: What is taken off each column, `(D,)`.
        scale: What each column is divided by, `(D,)`.
    """

    def __init__(self, inputs: Sequence[Tensor], middle: Tensor, scale: Tensor) -> None:
        self.inputs = [x.detach() for x in inputs]
        self.middle, self.scale = middle, scale

    def __len__(self) -> int:
        return len(self.inputs[0])

    def rows(self, numbers: Tensor) -> Tensor:
        """Return the rows of these numbers as they are, shape `(n, D)`, float64."""
        parts = [x.index_select(0, numbers).reshape(len(numbers), -1).double() for x in self.inputs]
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return x if bool(x.sum().isfinite()) else x.nan_to_num()

    def onto(self, k: int, most: int | None = None) -> Tensor:
        """Return `k` numbers for each row (evenly chosen ones, where there are more than `most`), `(N, k)`.

        Where `k` is more than 1, wide rows are taken by some of their numbers.
        """
        n = len(self)
        numbers = torch.arange(n) if most is None or n <= most else torch.linspace(0, n - 1, most).long()
        generator = torch.Generator().manual_seed(0)
        some = some_columns(len(self.scale)) if k > 1 else None
        scale, middle = (x if some is None else x[some] for x in (self.scale, self.middle))
        middle = middle.float()
        directions = torch.randn(len(scale), k, generator=generator, dtype=torch.float64) / len(scale) ** 0.5
        # In float32, as candidates are confirmed number by number; less the middle first, so that little is rounded
        turned = (directions / scale[:, None]).float()
        at_once = max(1, _NUMBERS_AT_ONCE // len(self.scale))
        found = []
        for part in numbers.split(at_once):
            is_whole = len(numbers) == n  # then a slice will do
            rows = [x[int(part[0]) : int(part[-1]) + 1] if is_whole else x[part] for x in self.inputs]
            x = torch.cat([x.reshape(len(part), -1).float() for x in rows], dim=1)
            x = (x if some is None else x.index_select(1, some)) - middle
            found.append((x if bool(x.sum().isfinite()) else x.nan_to_num()) @ turned)
        return torch.cat(found).double()

    def equal(self, a: Tensor, other: "Projected", b: Tensor) -> Tensor:
        """Return which rows of numbers `a` are those of numbers `b` of the other, shape `(n,)`, bool."""
        if not len(a):
            return torch.zeros(0, dtype=torch.bool)
        at_once = max(1, _NUMBERS_AT_ONCE // len(self.scale))
        pairs = zip(a.split(at_once), b.split(at_once), strict=True)
        found = [((self.rows(i) - other.rows(j)).abs() <= 1e-5 * self.scale).all(dim=1) for i, j in pairs]
        return torch.cat(found)


def stand_in(valid: Projected, train: Projected) -> tuple[Tensor, float]:
    """Return which rows of one split stand in the other, `(N,)`, and the share of the other's rows that stand twice."""
    known = train.onto(1)[:, 0]
    order = torch.from_numpy(np.argsort(known.numpy()))  # some seven times as fast as torch's, where there is AVX-512
    known = known[order]
    asked = valid.onto(1)[:, 0]
    margin = _EPSILON * float(known.std().nan_to_num()) + 1e-12
    low, high = torch.searchsorted(known, asked - margin), torch.searchsorted(known, asked + margin, right=True)
    hit = torch.zeros(len(asked), dtype=torch.bool)
    for i in range(_MOST_CANDIDATES):
        rows = ((low + i < high) & ~hit).nonzero()[:, 0]
        if not len(rows):
            break
        hit[rows] = valid.equal(rows, train, order[low[rows] + i])
    places = torch.linspace(0, len(known) - 1, min(len(known), _MOST_ROWS)).long()
    doubled = torch.zeros(len(places), dtype=torch.bool)
    for step in (-1, 1):
        beside = (places + step).clamp(0, len(known) - 1)
        close = ((known[beside] - known[places]).abs() <= 2 * margin) & (beside != places)
        rows = close.nonzero()[:, 0]
        doubled[rows] |= train.equal(order[places[rows]], train, order[beside[rows]])
    return hit, float(doubled.double().mean())


def share_moved(valid: Tensor, train: Tensor) -> float:
    """Return the share of windows `(N, T)` that are a window of the other split moved by one to eight steps.

    Three values in the middle of each training window are looked for in the validation windows at other places.
    """
    valid = valid[:: max(1, len(valid) // 400)]
    length = valid.shape[1]
    middle = length // 2 - 1
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, generator=generator, dtype=torch.float64)
    known = train[:, middle : middle + 3].double() @ w
    order = torch.from_numpy(np.argsort(known.numpy()))
    known = known[order]
    hit = torch.zeros(len(valid), dtype=torch.bool)
    reach = min(_MOST_MOVED, length // 3)
    for k in (*range(-reach, 0), *range(1, reach + 1)):
        start = middle + k
        if start < 0 or start + 3 > length:
            continue
        asked = valid[:, start : start + 3].double() @ w
        at = torch.searchsorted(known, asked).clamp(max=len(known) - 1)
        for beside in (at, (at - 1).clamp(min=0)):
            rows = ((known[beside] - asked).abs() < 1e-4).nonzero()[:, 0]
            if not len(rows):
                continue
            mine, theirs = valid[rows].double(), train[order[beside[rows]]].double()
            mine, theirs = (mine[:, k:], theirs[:, :-k]) if k > 0 else (mine[:, :k], theirs[:, -k:])
            same = ((mine - theirs).abs() <= 1e-5).all(1) & (mine.diff(dim=1) != 0).double().mean(1).gt(0.5)
            hit[rows] |= same
    return float(hit.double().mean())


def share_of_near(valid: Projected, train: Projected) -> tuple[float, float]:
    """Return the share of rows that lie ten times closer to a row of the other split than its rows to each other.

    The second is the same share among the other split's own rows.
    """
    a, b = train.onto(64, 3_000).float(), valid.onto(64, 150).float()  # their scale is 1
    nearest = torch.cdist(b, a).amin(1)
    own = torch.randperm(len(a), generator=torch.Generator().manual_seed(1))[:150]
    between = torch.cdist(a[own], a)
    between[torch.arange(len(own)), own] = float("inf")
    some = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:100]]
    usual = torch.cdist(some, a).topk(min(8, len(a)), dim=1, largest=False).values[:, -1].median()
    shares = [float((distance < 0.1 * usual).double().mean()) for distance in (nearest, between.amin(1))]
    return shares[0], shares[1]
