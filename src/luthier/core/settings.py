"""What to read and what to build, as plain data: the settings of `train` and `design` beside the Recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.core.names import did_you_mean
from luthier.core.plain import check_types
from luthier.core.schema import COLUMN_KINDS, ColumnKind, Decimal, Decoder, Task, Transform
from luthier.errors import SettingError

Effort = Literal["quick", "normal", "thorough"]
Arrays = Literal["table", "images", "series"]
Reader = Literal["mean", "conv", "lstm", "gru"]


NO_IMAGE_ROWS = ("folds", "start", "weights")
"""The settings of data that a store of a folder of images does not go with."""
ONLY_IMAGE_ROWS = ("image_size", "decoder", "skip_unreadable", "image_means", "image_stds", "valid", "test")
"""Those that it goes with, and a store of a table does not."""
NO_ROWS = ("series", "order", "channel", "arrays", *ONLY_IMAGE_ROWS, *NO_IMAGE_ROWS)
"""The settings of data that a store of a table does not go with."""


def _name(value: Any) -> Any:
    """Return a number as the text that it becomes where it names a column of a frame or a class."""
    is_number = hasattr(value, "__index__") or isinstance(value, float)
    return str(value) if is_number else value


def _setting(default: Any, words: str) -> Any:
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"help": words})
    return field(default=default, metadata={"help": words})


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data, what of it, and how it is split.

    Raises:
        SettingError: a value of the wrong type or outside its range, or two ways to split at once.
    """

    source: str
    target: tuple[str, ...] = _setting((), "Column to predict; several for several targets")
    kind: dict[str, ColumnKind] = _setting({}, f"Override a column's kind: NAME=KIND, with {', '.join(COLUMN_KINDS)}")
    format: dict[str, str] = _setting(
        {}, "How a column's dates or numbers are written: NAME=FORMAT, as DD/MM/YYYY, 'Mon DD YYYY' or '1.234,5'"
    )
    missing: tuple[str, ...] = _setting((), "Words that mean a missing value, instead of the usual ones; repeatable")
    task: Task | None = _setting(
        None, "Task, if the target allows several: binary, multiclass, multilabel or regression"
    )
    labels: str | None = _setting(None, "Separator of several labels in one cell of the target")
    target_transform: Transform | None = _setting(
        None, "Transform of a numeric target: none or log; by default log if it is skewed"
    )
    positive: str | None = _setting(None, "Positive class of two, for f1 and AUC; by default the second in order")
    weight: str | None = _setting(None, "Column with each row's weight in the loss")
    valid: str | None = _setting(None, "File or folder to validate on, instead of a part of SOURCE")
    test: str | None = _setting(None, "File or folder to test on, instead of a part of SOURCE")
    valid_fraction: float = _setting(0.15, "Share of SOURCE to validate on")
    test_fraction: float = _setting(0.15, "Share of SOURCE to test on; 0 for none")
    folds: int | None = _setting(
        None, "Train this many networks, each validated on another part of the rows, and predict their mean"
    )
    group: str | None = _setting(None, "Column whose equal values must stay in one part of the split")
    time: str | None = _setting(None, "Column to split by: the newest rows are the test, the next newest validation")
    series: str | None = _setting(None, "Column that names the series, if each row is a step of a series")
    order: str | None = _setting(None, "Column that orders the steps of a series; by default the order of the rows")
    channel: tuple[str, ...] = _setting(
        (), "Columns that are the steps of one series, such as 't_*'; repeat it for more channels"
    )
    arrays: Arrays | None = _setting(None, "What x of an .npz holds, if its shape allows several")
    delimiter: str | None = _setting(None, "Delimiter of a CSV; detected by default")
    encoding: str | None = _setting(None, "Encoding of a CSV; detected by default")
    decimal: Decimal | None = _setting(
        None, "Decimal mark of a CSV; by default a comma if semicolons separate the cells, else a point"
    )
    sheet: str | None = _setting(None, "Sheet of a workbook, by name or counted from 1; the first by default")
    query: str | None = _setting(None, "SQL query (SELECT …), if SOURCE is the URL of a database")
    image_size: int | None = _setting(None, "Side in pixels that images are resized to")
    decoder: Decoder = _setting(
        "pillow", "Decoder of image files; simplejpeg is faster for JPEG, with slightly different pixels"
    )
    skip_unreadable: bool = _setting(False, "Leave out images that cannot be read")
    image_means: tuple[float, ...] | None = _setting(
        None, "Means of the channels, of pixels in [0, 1], that a pretrained network was trained with"
    )
    image_stds: tuple[float, ...] | None = _setting(None, "Standard deviations of the channels, likewise")
    weights: str | None = _setting(
        None, "Weights to start from: safetensors, or a state dict (.pt); the first and last layer may have other sizes"
    )
    start: str | None = _setting(None, "Bundle to start from, with its Schema, network and weights")

    def __post_init__(self) -> None:
        for name in ("target", "channel"):
            value = getattr(self, name)
            names = value if isinstance(value, list | tuple) else (value,)
            object.__setattr__(self, name, tuple(_name(item) for item in names))
        for name in ("positive", "weight", "group", "time", "series", "order", "sheet"):
            object.__setattr__(self, name, _name(getattr(self, name)))
        if isinstance(self.kind, Mapping):
            object.__setattr__(self, "kind", {_name(name): kind for name, kind in self.kind.items()})
        for name, kind in self.kind.items():
            if kind not in COLUMN_KINDS:
                raise SettingError(
                    f"column {name!r} is given the kind {kind!r}",
                    hint=did_you_mean(str(kind), COLUMN_KINDS),
                    code="setting-unknown-choice",
                )
        check_types(self, where="the data settings")
        for name, words in self.format.items():
            if not words:
                raise SettingError(
                    f"the format of {name!r} is empty", hint="give it, as DD/MM/YYYY", code="setting-out-of-range"
                )
        for name in ("valid_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(
                    f"{name} is {getattr(self, name)}", hint="it takes a number in [0, 1)", code="setting-out-of-range"
                )
        if self.valid_fraction + self.test_fraction >= 1:
            raise SettingError(
                "valid_fraction and test_fraction leave nothing to train on",
                hint="their sum is below 1, such as 0.15 and 0.15",
                code="setting-out-of-range",
            )
        if self.folds is not None and not 2 <= self.folds <= 100:
            raise SettingError(f"folds is {self.folds}", hint="it takes 2 to 100", code="setting-out-of-range")
        if self.folds is not None and (self.time is not None or self.valid is not None):
            name = "time" if self.time is not None else "valid"
            raise SettingError(
                f"folds and {name} both choose the validation rows",
                hint="give one of them",
                code="setting-ignored",
            )
        if self.group is not None and self.time is not None:
            raise SettingError("group and time both decide the split", hint="give one of them", code="setting-ignored")
        if self.order is not None and self.series is None:
            raise SettingError(
                "order would be ignored: it orders the steps of series, and series= is not given",
                hint="give series= too, or leave order out",
                code="setting-ignored",
            )
        if self.time is not None and self.series is not None:
            raise SettingError(
                "a split by time needs one sample per row, and here rows are steps of series",
                hint="split by group=, or give files with valid= and test=",
                code="setting-ignored",
            )
        if (self.image_means is None) != (self.image_stds is None):
            raise SettingError(
                "image_means and image_stds go together", hint="give both, or neither", code="setting-missing"
            )
        if self.image_stds is not None and not all(value > 0 for value in self.image_stds):
            raise SettingError(
                f"image_stds is {self.image_stds}", hint="it takes numbers above 0", code="setting-out-of-range"
            )
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise SettingError(
                f"image_size is {self.image_size}", hint="it takes 8 to 1024 pixels", code="setting-out-of-range"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What of the network is not left to the design."""

    network: str | None = _setting(
        None,
        "tabm, mlp, mixed, convnet, resnet, rocket, inception or recurrent, as the data allows; "
        "FILE.py:CLASS; or timm:NAME",
    )
    network_args: dict[str, Any] = _setting({}, "Further arguments of the network, as name=value")
    effort: Effort = _setting("normal", "How long to train: quick, normal or thorough")
    widths: tuple[int, ...] | None = _setting(None, "Width of each hidden layer or stage, as 128,64")
    activation: str | None = _setting(None, "Activation of an mlp: relu, gelu, silu, tanh, sigmoid, leaky_relu, elu")
    dropout: float | None = _setting(None, "Share of units dropped in training, in [0, 1)")
    batch_norm: bool | None = _setting(None, "Batch norm in an mlp")
    reader: Reader | None = _setting(None, "How text is read: mean, conv, lstm or gru")
    trust_code: bool = _setting(False, "Trust the run file or folder: run the code of the network that it names")

    def __post_init__(self) -> None:
        check_types(self, where="the network settings")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise SettingError(
                f"dropout is {self.dropout}", hint="it takes a number in [0, 1)", code="setting-out-of-range"
            )
        if self.widths is not None and not (self.widths and all(width >= 1 for width in self.widths)):
            raise SettingError(
                f"widths is {self.widths}", hint="it takes whole numbers from 1, such as 128,64",
                code="setting-out-of-range",
            )  # fmt: skip

    @property
    def arguments(self) -> dict[str, Any]:
        """What was said of the network's arguments."""
        names = ("widths", "activation", "dropout", "batch_norm", "reader")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()} | {
            **self.network_args
        }


@dataclass(frozen=True, kw_only=True)
class FinishSettings:
    """What is done when training has ended: the section `[finish]` of a run file.

    Raises:
        SettingError: a value of the wrong type or outside its range, or two that do not go together.
    """

    refit: bool = _setting(False, "Train once more on training and validation rows, for as many epochs as the best one")
    calibrate: bool = _setting(False, "Divide logits by a temperature fitted on validation rows, if that helps")
    threshold: str | None = _setting(
        None, "Threshold of the positive class: f1, youden, cost=C (a miss costs C false alarms) or a probability"
    )
    interval: float | None = _setting(
        None, "Give intervals, or sets of classes, that contain this share of true answers, such as 0.9"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", _name(self.threshold))
        check_types(self, where="[finish]")
        if self.threshold is not None and not _is_threshold(self.threshold):
            raise SettingError(
                f"threshold is {self.threshold!r}",
                hint="it takes f1, youden, cost=C with C above 0, or a probability such as 0.3",
                code="setting-out-of-range",
            )
        if self.interval is not None and not 0 < self.interval < 1:
            raise SettingError(
                f"interval is {self.interval}", hint="it takes a share such as 0.9", code="setting-out-of-range"
            )
        if self.refit and self.is_measured:
            raise SettingError(
                "refit trains on the validation rows, and calibrate, threshold and interval need them for measuring",
                hint="leave refit out, or train several networks in its place: folds=5",
                code="setting-ignored",
            )

    @property
    def is_measured(self) -> bool:
        """Whether something is measured on validation rows."""
        is_found = self.threshold is not None and self.fixed_threshold is None
        return self.calibrate or self.interval is not None or is_found

    @property
    def fixed_threshold(self) -> float | None:
        """The threshold that was said, where it is not to be found."""
        return None if self.threshold is None else _number(self.threshold)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_threshold(text: str) -> bool:
    if text in ("f1", "youden"):
        return True
    number = _number(text.removeprefix("cost="))
    if number is None:
        return False
    return 0 < number < float("inf") if text.startswith("cost=") else 0 <= number <= 1


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Which checks for silent mistakes run before training and during it: the section `[check]` of a run file.

    Raises:
        SettingError: a value of the wrong type.
    """

    check: bool = _setting(True, "Look for mistakes that raise no error; one of severity error stops the run")
    select: tuple[str, ...] = _setting((), "Only checks of this code or group (data, module, criterion, …)")
    ignore: tuple[str, ...] = _setting((), "Leave out checks of this code or group")

    def __post_init__(self) -> None:
        check_types(self, where="[check]")
        for name in ("select", "ignore"):
            object.__setattr__(self, name, split_codes(getattr(self, name)))


def split_codes(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return codes one by one: several may stand in one text, with commas between.

    >>> split_codes(["data, criterion", "check-stall"])
    ('data', 'criterion', 'check-stall')
    """
    texts = [names] if isinstance(names, str) else names
    return tuple(code for text in texts for part in text.split(",") if (code := part.strip()))
