"""From a batch to its loss, by a criterion or by a custom step: the same in training, validation and the checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

from torch import Tensor, nn

from luthier.core.batch import Batch, describe
from luthier.core.names import did_you_mean
from luthier.errors import SettingError, TrainingError
from luthier.metrics.criteria import Criterion, Measured, measure
from luthier.metrics.outputs import OutputKey, answer_of, is_torch_loss

Step = Callable[[nn.Module, Any], Any]
_PARTS = ("loss", "outputs", "targets", "count", "log")


@dataclass(slots=True)  # not frozen: one is made each step
class Passed:
    """What a batch gave.

    Attributes:
        measured: The loss and its count.
        outputs: What the module gave; None where a custom step does not say.
        targets: What they are compared with; None where a custom step does not say.
        log: Further figures of a custom step, by name.
    """

    measured: Measured
    outputs: Any = None
    targets: Any = None
    log: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> Tensor:
        """The batch's mean loss, as `backward` gets it."""
        return self.measured.loss

    @property
    def count(self) -> Any:
        """What the loss is a mean over."""
        return self.measured.count


@dataclass(frozen=True)
class Objective:
    """What is minimised: a criterion on what the module gives, or a custom step.

    Attributes:
        criterion: `(outputs, targets) -> loss`. One of torch's gets the answer alone, any other all outputs.
        step: `step(module, batch)`, in place of it; see `read_step` for what it returns.
        output_key: Which part of the outputs is the answer; None finds it.
    """

    criterion: Criterion | None = None
    step: Step | None = None
    output_key: OutputKey | None = None
    takes_answer: bool = field(init=False)  # of a criterion of torch's

    def __post_init__(self) -> None:
        if not isinstance(self.output_key, str | int | None):
            raise SettingError(
                f"output_key is {self.output_key!r}",
                hint="give the name of one part of the outputs, or its place in a tuple",
                code="setting-output-key",
            )
        object.__setattr__(self, "takes_answer", is_torch_loss(self.criterion))

    def __call__(self, module: nn.Module, batch: Batch) -> Passed:
        """Run the module over a batch and take its loss."""
        if self.step is not None:
            return run_step(self.step, module, batch)
        outputs = batch.forward(module)
        return Passed(self.measure(outputs, batch), outputs, batch.targets)

    def compared(self, outputs: Any) -> Any:
        """Return what the criterion compares with the targets: the answer, or where it is a custom one, all outputs."""
        return answer_of(outputs, self.output_key) if self.takes_answer else outputs

    def measure(self, outputs: Any, batch: Batch) -> Measured:
        """Return the criterion's loss of outputs and its count."""
        assert self.criterion is not None
        if type(outputs) is not Tensor or self.output_key is not None:
            outputs = self.compared(outputs)
        return measure(self.criterion, outputs, batch.targets, batch.weights, len(batch), batch.lowest_target)


def run_step(step: Step, module: nn.Module, batch: Batch) -> Passed:
    """Call a custom step and read its answer."""
    return read_step(step(module, batch.original()), batch)


def read_step(answer: Any, batch: Batch) -> Passed:
    """Read what a custom step returned: a loss, `(loss, count)`, or a dict.

    The dict has `loss` and, where wanted, `outputs` and `targets` (for metrics and checks), `count` (what the loss is a
    mean over; the batch's rows if it is left out) and `log` (figures by name, which are averaged by the count).

    Raises:
        TrainingError: something else.
        SettingError: a dict with another key.
    """
    if isinstance(answer, Mapping):
        unknown = [key for key in answer if key not in _PARTS]
        if unknown or "loss" not in answer:
            what = f"{unknown[0]!r}" if unknown else f"no 'loss' among {', '.join(map(repr, answer)) or 'no keys'}"
            raise SettingError(
                f"the step returns a dict with {what}",
                hint=did_you_mean(str(unknown[0]), _PARTS) if unknown else "its keys are " + ", ".join(_PARTS),
                code="setting-step",
            )
        loss, count = answer["loss"], answer.get("count")
    else:
        loss, count = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TrainingError(
            f"the step gave {got} as its loss, and a loss is one number",
            hint="return a tensor of one element, (loss, count), or a dict with 'loss'",
            code="training-loss-shape",
        )
    if count is not None and not _is_number(count):
        raise _wrong("count", f"{describe(count)}", "a number, or a tensor of one element")
    measured = Measured(loss, len(batch) if count is None else count)
    if not isinstance(answer, Mapping):
        return Passed(measured)
    log = answer.get("log") or {}
    if not isinstance(log, Mapping):
        raise _wrong("log", describe(log), "figures by name: {'log': {'kl': kl}}")
    for name, value in log.items():
        if name == "loss":
            raise _wrong("log", "a figure called 'loss', as the loss itself is", "another name")
        if not _is_number(value):
            raise _wrong("log", f"{describe(value)} as {name!r}", "one number for each name, such as its mean")
    return Passed(measured, answer.get("outputs"), answer.get("targets"), log)


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, SupportsFloat)


def _wrong(key: str, what: str, wanted: str) -> SettingError:
    return SettingError(f"the step returns as its {key} {what}", hint=f"give {wanted}", code="setting-step")
