"""What goes wrong while a network is trained: looked for once an epoch, from figures and one batch of validation."""

import copy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from luthier.checks.rows import class_called
from luthier.checks.rule import note, warning
from luthier.checks.sampled import batch_axis, differs
from luthier.core.finding import Finding
from luthier.core.leaves import leaves, map_leaves
from luthier.core.rng import kept_rng

_RELU = (nn.ReLU, nn.ReLU6)
_LEAST_ROWS = 24


class Monitors:
    """Look at a module in training: at one validation batch an epoch, and at the epochs' figures.

    Forward hooks are there for the first validation batch of an epoch alone and read nothing from the device; what
    they found is read when the epoch is judged.
    """

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.counts: Tensor | None = None
        self.dead: dict[str, Tensor] = {}
        self.inputs: tuple[Any, Any] | None = None
        self.outputs: Any = None
        self.answer: Callable[[Any], Any] = lambda outputs: outputs
        self.collapsed = 0

    def attach(self, module: nn.Module, answer: Callable[[Any], Any]) -> None:
        """Watch a module's next batch in evaluation; `answer` picks what is compared among what it gives."""
        self.detach()
        self.inputs, self.answer = None, answer
        self.handles.append(module.register_forward_hook(lambda *given: self._seen(*given), with_kwargs=True))
        for name, part in module.named_modules():
            if isinstance(part, _RELU):
                self.handles.append(part.register_forward_hook(self._unit_watcher(name)))

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _seen(self, part: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if part.training or torch.is_grad_enabled():
            return
        self.detach()
        self.inputs, self.outputs = (args, kwargs), outputs
        outputs = self.answer(outputs)
        is_scores = isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) >= _LEAST_ROWS
        if is_scores and 1 < outputs.shape[1] <= 1000:
            self.counts = torch.bincount(outputs.argmax(1), minlength=outputs.shape[1])

    def _unit_watcher(self, name: str) -> Any:
        def watch(part: nn.Module, args: Any, output: Any) -> None:
            is_watched = not part.training and not torch.is_grad_enabled()
            if is_watched and isinstance(output, Tensor) and output.ndim > 1 and len(output) >= _LEAST_ROWS:
                axis = -1 if output.ndim <= 3 else 1
                self.dead[name] = (output.movedim(axis, -1).reshape(-1, output.shape[axis]) <= 0).all(0)

        return watch

    def judge(
        self,
        module: nn.Module,
        epochs: Sequence[Mapping[str, Any]],
        *,
        is_classes: bool,
        evaluated: nn.Module,
        source: Any = None,
    ) -> list[Finding]:
        """Return what an epoch shows; `epochs` are the record's rows so far, this one last; `source` names classes."""
        found = [*_curves(epochs), *self._units(), *_gradients(module, epochs)]
        found += self._collapse(source) if is_classes else []
        if len(epochs) == 1:
            found += self._batch_size(evaluated)
        self.detach()
        self.counts, self.dead, self.inputs, self.outputs = None, {}, None, None
        return found

    def _units(self) -> Iterator[Finding]:
        for name, dead in self.dead.items():
            share = float(dead.double().mean())
            if share > 0.9 and len(dead) >= 8:
                yield warning(
                    f"{share:.0%} of {len(dead)} units give 0 for every row of a validation batch",
                    where=name,
                    fix="a smaller learning rate, or LeakyReLU",
                    code="check-dead-units",
                )
                return

    def _collapse(self, source: Any) -> Iterator[Finding]:
        if self.counts is None:
            return
        share = float(self.counts.max() / self.counts.sum())
        self.collapsed = self.collapsed + 1 if share == 1.0 else 0
        if self.collapsed < 2:
            return
        yield warning(
            f"all {int(self.counts.sum())} rows of a validation batch are predicted as "
            f"{class_called(source, int(self.counts.argmax()))}, for two epochs",
            fix="look at the class balance and the learning rate; class_weights='balanced'",
            code="check-collapse",
        )

    def _batch_size(self, module: nn.Module) -> Iterator[Finding]:
        """Compare one validation batch with its halves."""
        if self.inputs is None:
            return
        rows = next((len(x) for x in leaves(self.outputs) if x.ndim), 0)
        if rows < 4 or any(batch_axis(x, rows) != 0 for x in leaves(self.inputs) if x.ndim):
            return
        args, kwargs = (map_leaves(lambda x: x[: rows // 2].clone() if x.ndim else x, value) for value in self.inputs)
        try:
            with kept_rng(), torch.no_grad():
                twin = copy.deepcopy(module).eval()
                half, again = twin(*args, **kwargs), twin(*self.inputs[0], **self.inputs[1])
        except Exception:  # a module that takes no other size
            return
        if any(x.shape[1:] != y.shape[1:] for x, y in zip(leaves(half), leaves(self.outputs), strict=False)):
            return
        if differs(self.outputs, again, tolerance=0.02):  # random in evaluation too, whatever the size
            return
        whole = [x[: rows // 2] for x in leaves(self.outputs) if x.ndim and len(x) == rows]
        halves = [x for x in leaves(half) if x.ndim and len(x) == rows // 2]  # a loss among the outputs has no rows
        if not whole or not differs(whole, halves, tolerance=0.02):
            return
        yield warning(
            "the answers for the same validation rows change with the batch size",
            fix="look for statistics of the batch in evaluation: batch norm without running statistics, a "
            "softmax over rows",
            code="check-valid-batch-size",
        )


def _curves(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    losses = [float(row["train_loss"]) for row in epochs]
    valid = [float(row["valid_loss"]) for row in epochs if row.get("valid_loss") is not None]
    now = losses[-1]
    best = min(losses[:-1], default=now)
    if len(losses) > 2 and best > 0 and now > 3 * best and now > 2 * losses[-2] and now > 0.3 * losses[0]:
        yield warning(
            f"the training loss is {now:.4g}, after {losses[-2]:.4g}",
            fix="a smaller learning rate, a warm-up, or clip_norm=1.0",
            code="check-loss-spike",
        )
    if len(losses) == 6 and abs(losses[0]) > 0 and losses[0] - min(losses) < 0.005 * abs(losses[0]):
        yield warning(
            f"the training loss is {now:.4g} after 6 epochs and was {losses[0]:.4g} after the first",
            fix="use a larger learning rate; check that inputs and targets match",
            code="check-stall",
        )
    if len(valid) >= 5 and len(valid) == len(losses):
        at = valid.index(min(valid))
        rising = all(b >= a for a, b in zip(valid[-4:-1], valid[-3:], strict=True))
        if at <= len(valid) - 4 and rising and valid[-1] > 1.1 * valid[at] and losses[-1] < losses[at]:
            yield note(
                f"the validation loss has been rising since epoch {at + 1} ({valid[at]:.4g} to {valid[-1]:.4g}) while "
                f"the training loss falls ({losses[at]:.4g} to {losses[-1]:.4g})",
                fix="the best weights are kept; patience=3 would stop here, more data or dropout would help",
                code="check-overfitting",
            )


def _gradients(module: nn.Module, epochs: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    norms = [float(row["grad_norm"]) for row in epochs if row.get("grad_norm")]
    is_large = len(norms) >= 4 and norms[-1] > 10 * max(norms[:3])  # and not only after a quiet end
    if is_large and norms[-1] > 1000 * statistics.median(norms[:-1]):
        yield warning(
            f"the gradient's norm is {norms[-1]:.3g}, and was {statistics.median(norms[:-1]):.3g}",
            fix="clip_norm=1.0, or a smaller learning rate",
            code="check-updates",
        )
    if len(epochs) == 2:
        silent = [
            name
            for name, p in module.named_parameters()
            if p.ndim > 1 and p.grad is not None and not p.grad.is_sparse and not bool((p.grad != 0).any())
        ]
        total = sum(p.ndim > 1 and p.grad is not None for p in module.parameters())
        if silent and total:
            yield warning(
                f"{len(silent)} of {total} weights get a gradient of exactly 0 after two epochs",
                where=", ".join(silent[:5]),
                fix="look for dead units, a mask over everything, or a detached branch",
                code="check-updates",
            )
