"""How to train, as plain data. The one definition behind `fit`'s keywords, the CLI's options and `run.toml`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

from luthier.core.names import did_you_mean
from luthier.core.plain import check_types
from luthier.errors import SettingError

Precision = Literal["float32", "bf16", "fp16"]
Flavour = Literal["default", "foreach", "fused", "single"]
MemoryFormat = Literal["contiguous", "channels_last"]
Interval = Literal["step", "epoch"]
Answer = Literal["continue", "stop"]


def _setting(default: Any, words: str, group: str) -> Any:
    metadata = {"help": words, "group": group}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. A field that is None is left to torch's own default, or is off.

    Raises:
        SettingError: a value of the wrong type or outside its range, or a setting that would be ignored.

    >>> Recipe(optimizer="SGD", lr=0.1, momentum=0.9).epochs
    10
    """

    criterion: str | None = _setting(
        None, "Loss by name: cross-entropy, bce, mse, l1, huber, poisson, quantile or a class of torch.nn", "criterion"
    )
    criterion_args: dict[str, Any] = _setting({}, "Further arguments of the criterion, as name=value", "criterion")
    class_weights: str | tuple[float, ...] | None = _setting(
        None,
        "Weights of the classes: 'balanced', or one number a class in the order of the classes",
        "criterion",
    )
    label_smoothing: float = _setting(
        0.0, "Share of a target's probability spread over all classes, in [0, 1)", "criterion"
    )

    optimizer: str | None = _setting(None, "SGD, Adam, AdamW or any class of torch.optim", "optimizer")
    lr: float | None = _setting(None, "Learning rate; the peak where a schedule or a warm-up rises to it", "optimizer")
    momentum: float | None = _setting(None, "Momentum, for optimizers that have it", "optimizer")
    nesterov: bool | None = _setting(None, "Nesterov's momentum, for SGD", "optimizer")
    betas: tuple[float, float] | None = _setting(None, "Decay of the running means, for Adam and the like", "optimizer")
    weight_decay: float | None = _setting(None, "Weight decay, as the optimizer defines it", "optimizer")
    decay_norm_and_bias: bool = _setting(
        True, "Decay one-dimensional parameters (biases, norms) too, as torch does", "optimizer"
    )
    optimizer_args: dict[str, Any] = _setting({}, "Further arguments of the optimizer, as name=value", "optimizer")
    lr_scale: dict[str, float] = _setting(
        {},
        "Factor on the learning rate of parameters by the start of their names: NAME=0.1, or trunk=0.1",
        "optimizer",
    )
    freeze: tuple[str, ...] = _setting(
        (),
        "Parameters not to train, by the start of their names; trunk: all but the last layer",
        "optimizer",
    )
    optimizer_flavour: Flavour = _setting(
        "default", "How the update is computed; changes rounding, not the mathematics", "optimizer"
    )

    scheduler: str | None = _setting(None, "Any class of torch.optim.lr_scheduler, by name", "schedule")
    scheduler_args: dict[str, Any] = _setting(
        {},
        "Arguments of the scheduler; a horizon (total_steps, T_max, …) is filled in from the run",
        "schedule",
    )
    scheduler_interval: Interval | None = _setting(
        None,
        "When the scheduler steps; by default each step for OneCycleLR and CyclicLR, else each epoch",
        "schedule",
    )
    warmup_steps: int = _setting(0, "Steps over which the learning rate rises linearly to its schedule", "schedule")

    epochs: int = _setting(10, "Passes over the training data", "loop")
    max_steps: int | None = _setting(None, "Updates in all, instead of epochs", "loop")
    valid_every_steps: int | None = _setting(
        None, "Also validate after each this many updates, and keep the weights if they are the best so far", "loop"
    )
    log_every_steps: int | None = _setting(
        None, "Record the loss, the learning rate and what a step logs after each this many updates", "loop"
    )
    batch_size: int | None = _setting(None, "Samples per update; 32 by default", "loop")
    shards: int | None = _setting(
        None, "Parts that a batch is computed in; any number of processes up to this gives the same bits", "loop"
    )
    micro_batch_size: int | Literal["auto"] | None = _setting(
        None, "Samples computed at a time; the update still sees batch_size. auto: as many as fit in memory", "loop"
    )
    accumulate: int = _setting(1, "Batches of your own DataLoader per update, for their mean loss", "loop")
    eval_batch_size: int | None = _setting(None, "Samples at a time in validation; changes no result", "loop")
    shuffle: bool = _setting(True, "Visit the training samples in a new order each epoch", "loop")
    drop_last: bool = _setting(False, "Leave out a last batch that is smaller than the others", "loop")
    num_workers: int = _setting(0, "Processes that read a Dataset; the bits are the same for any number", "loop")
    limit: int | None = _setting(
        None, "Dry run: at most this many batches per epoch, in training and validation", "loop"
    )
    max_time_s: float | None = _setting(None, "Stop after this many seconds, at the end of an epoch", "loop")

    clip_norm: float | None = _setting(None, "Clip the gradient's norm over all parameters to this", "regularisation")
    clip_value: float | None = _setting(None, "Clip each element of the gradient to ± this", "regularisation")
    ema: float | None = _setting(
        None,
        "Decay of an exponential moving average of the weights, which is validated and kept",
        "regularisation",
    )
    augment: tuple[str, ...] = _setting((), "Augmentation of training images: flip, shift, erase", "regularisation")

    patience: int | None = _setting(None, "Stop after this many epochs without improvement", "stopping")
    monitor: str = _setting("valid_loss", "Figure that has to improve: valid_loss, train_loss or a metric", "stopping")
    min_delta: float = _setting(0.0, "Smallest change that counts as an improvement", "stopping")

    seed: int | None = _setting(None, "Seed of the weights, the order and all other random numbers", "machine")
    device: str | None = _setting(None, "Device to train on: cpu, cuda, cuda:1, mps, …", "machine")
    precision: Precision = _setting("float32", "Autocast to bf16 or fp16 where the device has it", "machine")
    memory_format: MemoryFormat = _setting("contiguous", "Layout of images and convolution weights", "machine")
    compile: bool = _setting(
        False,
        "Compile the network (torch.compile): for GPUs and many small operations; its start takes a minute",
        "machine",
    )
    sharded: bool = _setting(
        False, "Spread weights, gradients and the optimizer's state over the processes (FSDP2)", "machine"
    )
    threads: int | None = _setting(None, "CPU threads; the exact bits of a run depend on it", "machine")

    checkpoint_every_s: float | None = _setting(60.0, "Seconds between checkpoints of a run", "checkpoints")
    checkpoint_every_steps: int | None = _setting(None, "Steps between checkpoints of a run", "checkpoints")
    on_write_error: Answer = _setting(
        "continue", "If a checkpoint or the record cannot be written during a run: continue, or stop", "checkpoints"
    )

    def __post_init__(self) -> None:
        check_types(self, where="the recipe")
        for name, low in _AT_LEAST.items():
            value = getattr(self, name)
            if value not in (None, "auto") and not (math.isfinite(value) and value >= low):
                _refuse(name, value, f"a finite number of at least {low}")
        if self.seed is not None and self.seed >= 2**63:
            _refuse("seed", self.seed, "a whole number below 2**63")
        for name in ("clip_norm", "clip_value", "max_time_s", "checkpoint_every_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                _refuse(name, value, "a number above 0")
        for name, factor in self.lr_scale.items():
            if not (isinstance(factor, int | float) and math.isfinite(factor) and factor > 0):
                _refuse("lr_scale", f"{name}={factor}", "a factor above 0; to train not at all, use freeze")
        if not 0 <= self.label_smoothing < 1:
            _refuse("label_smoothing", self.label_smoothing, "a number in [0, 1)")
        if self.ema is not None and not 0 < self.ema < 1:
            _refuse("ema", self.ema, "a number between 0 and 1, such as 0.999")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            _refuse("class_weights", self.class_weights, "'balanced' or one number a class")
        weights = () if isinstance(self.class_weights, str) else self.class_weights or ()
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or (weights and not any(weights)):
            _refuse("class_weights", self.class_weights, "numbers of 0 or more, one of them above 0")
        for name in ("threads", "num_workers"):
            if (getattr(self, name) or 0) > _MOST_THREADS:
                _refuse(name, getattr(self, name), f"at most {_MOST_THREADS}")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                _refuse("augment", name, ", ".join(AUGMENTATIONS))
        if self.micro_size and self.batch_size and self.micro_size > self.batch_size:
            _refuse("micro_batch_size", self.micro_batch_size, f"at most batch_size ({self.batch_size})")
        if self.scheduler is None and self.scheduler_args:
            raise SettingError(
                "scheduler_args are given without a scheduler",
                hint="name one with scheduler=, such as CosineAnnealingLR",
                code="setting-ignored",
            )

    @property
    def micro_size(self) -> int | None:
        """Samples computed at a time, where that is known."""
        return None if self.micro_batch_size == "auto" else self.micro_batch_size

    def updated(self, **given: Any) -> "Recipe":
        """Return a copy with the given fields changed.

        Raises:
            SettingError: an unknown field, or a value that its field does not take.
        """
        known = [item.name for item in fields(self)]
        for name in given:
            if name not in known:
                raise SettingError(
                    f"there is no recipe field {name!r}",
                    hint=did_you_mean(name, known),
                    code="setting-unknown",
                )
        return replace(self, **given)


TRUNK = "trunk"
"""The word for all parameters but those of the last layer, the one that owns the last parameter."""
AUGMENTATIONS = ("flip", "shift", "erase")
_MOST_THREADS = 1024  # far beyond, a process ends without a word

_AT_LEAST = {
    "lr": 0, "momentum": 0, "weight_decay": 0, "warmup_steps": 0, "epochs": 1, "batch_size": 1,
    "micro_batch_size": 1, "accumulate": 1, "eval_batch_size": 1, "num_workers": 0, "limit": 1, "patience": 1,
    "min_delta": 0, "seed": 0, "threads": 1, "checkpoint_every_steps": 1, "max_steps": 1, "valid_every_steps": 1,
    "log_every_steps": 1, "shards": 1,
}  # fmt: skip


def _refuse(name: str, value: object, wanted: str) -> None:
    raise SettingError(f"{name} is {value!r}", hint=f"it takes {wanted}", code="setting-out-of-range")


class RecipeFields(TypedDict, total=False):
    """The Recipe's fields as typed keywords, less `seed` and `device`, which `fit` spells out."""

    criterion_args: Mapping[str, Any]
    class_weights: str | tuple[float, ...] | list[float] | None
    label_smoothing: float
    lr: float | None
    momentum: float | None
    nesterov: bool | None
    betas: tuple[float, float] | None
    weight_decay: float | None
    decay_norm_and_bias: bool
    optimizer_args: Mapping[str, Any]
    lr_scale: Mapping[str, float]
    freeze: tuple[str, ...] | list[str]
    optimizer_flavour: Flavour
    scheduler: Any  # a name, an instance or a callable on the optimizer
    scheduler_args: Mapping[str, Any]
    scheduler_interval: Interval | None
    warmup_steps: int
    epochs: int
    max_steps: int | None
    valid_every_steps: int | None
    log_every_steps: int | None
    batch_size: int | None
    shards: int | None
    micro_batch_size: int | Literal["auto"] | None
    accumulate: int
    eval_batch_size: int | None
    shuffle: bool
    drop_last: bool
    num_workers: int
    limit: int | None
    max_time_s: float | None
    clip_norm: float | None
    clip_value: float | None
    ema: float | None
    augment: tuple[str, ...] | list[str]
    patience: int | None
    monitor: str
    min_delta: float
    precision: Precision
    memory_format: MemoryFormat
    compile: bool
    sharded: bool
    threads: int | None
    checkpoint_every_s: float | None
    checkpoint_every_steps: int | None
    on_write_error: Answer
