"""Random changes of training samples: do their targets still belong to them?"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from luthier.checks.rows import Table
from luthier.checks.rule import rule, warning
from luthier.checks.rules.reading import kept, tree_differs
from luthier.checks.subject import Subject
from luthier.core.finding import Finding

_FEWEST = 20
_WIDTH = 100


@rule("check-augmentation", "data", hides="labels-misaligned")
def augmentation(s: Subject) -> Iterator[Finding]:
    """A random change of the inputs that the targets do not follow: a flip of left and right arrows, a turned mask."""
    rows, valid_rows = s.rows, s.valid_rows
    if rows is None or rows.dataset is None or valid_rows is None or s.step is not None:
        return
    try:
        first, second = (kept(rows.items(rows.spread(6), seed)) for seed in (0, 1))
    except Exception:
        return
    train, valid = rows.table, valid_rows.table
    if not tree_differs(first, second) or train is None or valid is None or not train.inputs:
        return
    fix = "change the targets in the same way (the side, the point, the mask), or remove that augmentation"
    before, after = _along(valid), _along(train)
    if before > 0.4 and after < 0.5 * before:
        yield warning(
            f"pixels of inputs and masks go together in valid (correlation {before:.2f}), and not in the training "
            f"samples as they are read ({after:.2f}): they are changed apart",
            where="train",
            fix=fix,
        )
    y, held = _as_numbers(train), _as_numbers(valid)
    is_alike = [x.shape[1:] for x in train.inputs] == [x.shape[1:] for x in valid.inputs]
    if y is None or held is None or y.shape[1:] != held.shape[1:] or not is_alike or len(valid) < 2 * _FEWEST:
        return
    if not all(x.is_floating_point() for x in train.inputs):
        return
    a, b = _places(train, valid), _places(valid, valid)
    own = torch.cdist(b, b).fill_diagonal_(float("inf")).min(1)
    near = torch.cdist(a, b).min(1)
    usual = near.values <= 1.2 * own.values.median()  # what looks like nothing in valid says nothing
    if int(usual.sum()) < _FEWEST:
        return
    known = _explained(held, held[own.indices])
    found = _explained(y[usual], held[near.indices[usual]])
    broken = (known > 0.6) & (found < 0.2) & (found < known - 0.6)
    if bool(broken.any()):
        i = int((known - found).argmax())
        yield warning(
            "training samples are changed at random, and do not go with their targets: samples that look alike explain "
            f"{float(known[i]):.0%} of the targets within valid, and {max(float(found[i]), 0.0):.0%} between the parts",
            where="train",
            fix=fix,
        )


def _along(table: Table) -> float:
    """Return how far the pixels of an image go with those of its mask, at the same places: a correlation, or 0."""
    y, found = table.targets, [0.0]
    for x in table.inputs:
        if (
            y is None
            or x.ndim != 4
            or y.ndim < 3
            or y.shape[-2:] != x.shape[-2:]
            or y.numel() * x.shape[1] != x.numel()
        ):
            continue
        for i in range(x.shape[1]):
            pair = torch.stack([x[:, i].reshape(-1).double(), y.reshape(-1).double()])
            found.append(float(torch.corrcoef(pair)[0, 1].nan_to_num().abs()))
    return max(found)


def _as_numbers(table: Table) -> Tensor | None:
    """Return the targets as numbers, `(N, K)`: classes one-hot, masks in 4 x 4 parts."""
    y = table.targets
    if y is None:
        return None
    if y.ndim == 3 or (y.ndim == 4 and y.shape[1] == 1):
        pooled: Tensor = nn.functional.adaptive_avg_pool2d(y.reshape(len(y), 1, *y.shape[-2:]).float(), 4)
        return pooled.flatten(1).double()
    if table.classes is not None and y.ndim == 1:
        hot: Tensor = nn.functional.one_hot(table.classes - int(table.classes.min()), -1).double()
        return hot
    return y.reshape(len(y), -1).double() if y.is_floating_point() and y[0].numel() <= 64 else None


def _places(table: Table, valid: Table) -> Tensor:
    """Return the inputs as points, `(N, D)`, scaled by the validation data and cast to at most a hundred numbers."""
    middle, scale = valid.features.mean(0), valid.features.std().clamp(min=1e-9)
    x = (table.features - middle) / scale
    if x.shape[1] > _WIDTH:
        generator = torch.Generator().manual_seed(0)
        x = x @ torch.randn(x.shape[1], _WIDTH, generator=generator, dtype=torch.float64) / _WIDTH**0.5
    return x


def _explained(y: Tensor, guess: Tensor) -> Tensor:
    """Return which share of the variance of each target a guess explains, `(K,)`; 1 where it does not vary."""
    total = ((y - y.mean(0)) ** 2).sum(0)
    left = ((y - guess) ** 2).sum(0)
    return torch.where(total > 1e-9, 1 - left / total.clamp(min=1e-9), 1.0)
