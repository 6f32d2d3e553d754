"""A model as one module of tensors: raw numbers, codes, dates, steps and pixels in, answers in the user's terms out."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from luthier.core.schema import Column, ImageInput, Schema, Task
from luthier.core.tape import Tape
from luthier.core.units import answers_in_units, class_sets, interval_ends
from luthier.data.augment import normalise
from luthier.data.cells import missing_words
from luthier.data.encode import saturation
from luthier.data.series import MAX_ABS as MOST_OF_STEP
from luthier.data.sources import to_tensor
from luthier.metrics.metrics import decide
from luthier.metrics.outputs import answer_of
from luthier.plain.cells import MAX_ABS
from luthier.serving.answers import probabilities
from luthier.serving.exporting.unpacked import unpacked
from luthier.serving.model import Model
from luthier.store.bundle import without_wrapper

_MEASURED = ("number", "boolean", "date")
NO_DATE = -(2**63)
"""The microseconds of a missing date, which is NumPy's NaT."""


class Whole(nn.Module):
    """Raw tensors to answers: what `encode_inputs`, the network and `answers` do, as torch operations.

    Its arguments are those of `exporting.inputs.raw_inputs`, in order; it gives what `answer_names` names.
    """

    def __init__(self, model: Model, schema: Schema) -> None:
        super().__init__()
        self.schema, self.answering = schema, model.answering
        self.tall_first = schema.image is not None and is_tall_first()
        network = copy.deepcopy(without_wrapper(model.module)).cpu().eval()
        self.dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
        self.network = unpacked(network)
        measured = [column for column in schema.inputs if column.kind in _MEASURED]
        self.numbers = Numbers(measured)
        self.series = [column for column in schema.inputs if column.kind == "series"]

    def forward(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Map raw tensors, each `(N, …)`, to answers."""
        with _ExactScalars():
            return self.answered(*raw)

    def answered(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Gather the columns by kind into the network's blocks, and return its answers."""
        given = iter(raw)
        found: dict[str, list[Tensor]] = {}
        for column in self.schema.inputs:
            kind = "measured" if column.kind in _MEASURED else column.kind
            found.setdefault(kind, []).append(next(given))
            if column.kind == "text" and "characters" in self.schema.blocks:
                found.setdefault("characters", []).append(next(given))
        if self.schema.image is not None and not self.schema.columns:
            found["image"] = [next(given)]
        some = raw[0]
        blocks: dict[str, Tensor] = {}
        if "numbers" in self.schema.blocks:
            measured = found.get("measured", [])
            none = torch.zeros((some.shape[0], 0))
            blocks["numbers"] = self.numbers(measured) if measured else none
            codes = found.get("category", [])
            blocks["categories"] = torch.cat(codes, 1) if codes else torch.zeros((some.shape[0], 0), dtype=torch.int64)
        if "text" in found:
            blocks["tokens"] = torch.stack(found["text"], dim=1)
        if "characters" in found:
            blocks["characters"] = torch.stack(found["characters"], dim=1)
        if self.series:
            blocks["values"], blocks["lengths"] = encoded_series(found["series"], self.series)
        if self.schema.image is not None:
            blocks["pixels"] = pixels_of(found["image"][0], self.schema.image, tall_first=self.tall_first)
        inputs = (blocks[name] for name in self.schema.blocks)
        outputs = self.network(*(part.to(self.dtype) if part.dtype == torch.float32 else part for part in inputs))
        return self.answers(outputs.float())

    def answers(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Return the answers for the network's outputs `(N, K)`, float32; a class by its number."""
        schema, answering = self.schema, self.answering
        outputs = outputs.reshape(outputs.shape[0], schema.num_outputs)
        outputs = outputs if answering.temperature == 1 else outputs / answering.temperature
        if schema.task == "regression":
            numbers = answers_in_units(outputs, schema.targets)
            found = [numbers]
            if answering.level is not None:
                found += interval_ends(outputs, schema.targets, answering.margins)
            return tuple(part.reshape(-1) for part in found) if len(schema.targets) == 1 else tuple(found)
        likely = probabilities(outputs, schema)
        decided = decide(outputs, schema.task, answering.cuts)
        decided = decided if schema.task == "multilabel" else decided.reshape(-1)
        if answering.least_probability is None:
            return decided, likely
        return decided, likely, class_sets(likely, answering.least_probability)


class Own(nn.Module):
    """A module of the user's own, by position, with the answers that its task implies.

    Attributes:
        names: Of its inputs.
        given: The example.
        answers: Names of what it gives.
        is_decided: Whether these are classes and probabilities.
    """

    def __init__(self, model: Model, example: Any) -> None:
        super().__init__()
        self.module = unpacked(copy.deepcopy(without_wrapper(model.module)).cpu().eval())
        self.output_key = model.output_key
        self.is_named = isinstance(example, dict)
        parts = example if isinstance(example, dict | tuple) else (example,)
        given = parts.items() if isinstance(parts, dict) else enumerate(parts)
        tensors = {str(key): to_tensor(value, f"input {key!r}") for key, value in given}
        self.given = list(tensors.values())
        wanted = list(inspect.signature(self.module.forward).parameters)
        places = [wanted[i] if i < len(wanted) else f"input_{i}" for i in range(len(tensors))]
        self.names = list(tensors) if self.is_named else places
        self.task: Task = model.task or "regression"
        self.is_decided = self.task in ("multiclass", "multilabel")
        self.answers = ("prediction", "probabilities") if self.is_decided else ("outputs",)

    def forward(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Map inputs to answers: decided classes and probabilities, or the outputs."""
        given = self.module(**dict(zip(self.names, raw, strict=True))) if self.is_named else self.module(*raw)
        outputs: Tensor = answer_of(given, self.output_key)
        if not self.is_decided:
            return (outputs,)
        likely = outputs.softmax(dim=1) if self.task == "multiclass" else outputs.sigmoid()
        return decide(outputs, self.task), likely


class _ExactScalars(Tape):
    """Make tensors of Python's numbers beside float64 tensors: torch's ONNX export rounds them to float32."""

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Make the call with exact numbers."""
        if any(isinstance(arg, Tensor) and arg.dtype == torch.float64 for arg in args):
            args = tuple(_exact(arg) for arg in args)
            kwargs = {name: _exact(arg) for name, arg in kwargs.items()}
        return func(*args, **kwargs)


def _exact(arg: Any) -> Any:
    return torch.tensor(arg, dtype=torch.float64) if isinstance(arg, float) else arg


class Numbers(nn.Module):
    """Numbers, yes/no and dates to the block `numbers`, `(N, D)`, as `plain.cells.features_of` makes it.

    Args:
        columns: Of the kinds number, boolean and date, in order.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.is_date = [column.kind == "date" for column in columns]
        self.dates = [i for i, column in enumerate(columns) if column.kind == "date"]
        self.parts = sorted({part for column in columns for part in column.parts if part != "seconds"})
        places = {part: len(columns) + i * len(self.dates) for i, part in enumerate(self.parts)}
        sources: list[int] = []
        bases: list[int] = []
        low: list[float] = []
        high: list[float] = []
        means: list[float] = []
        stds: list[float] = []
        ranked = [i for i, column in enumerate(columns) if column.quantiles]
        flagged = [i for i, column in enumerate(columns) if column.missing]
        order = []
        num_parts = sum(len(column.parts) or 1 for column in columns)
        for i, column in enumerate(columns):
            span = saturation(column)
            for j, part in enumerate(column.parts or ("",)):
                order.append(len(sources))
                sources.append(i)
                bases.append(i if part in ("", "seconds") else places[part] + self.dates.index(i))
                low.append(span[0] if span and j == 0 else -torch.inf)
                high.append(span[1] if span and j == 0 else torch.inf)
            means += column.means
            stds += column.stds
            order += [num_parts + ranked.index(i)] if column.quantiles else []
            order += [num_parts + len(ranked) + flagged.index(i)] if column.missing else []
        self.sources, self.bases, self.ranked, self.flagged, self.order = sources, bases, ranked, flagged, order
        for name, numbers in {"low": low, "high": high, "means": means, "stds": stds}.items():
            self._keep(name, numbers)
        most = max((len(columns[i].quantiles) for i in ranked), default=1)
        knots, ranks, slopes = [], [], []
        for i in ranked:
            own = torch.tensor(columns[i].quantiles, dtype=torch.float64)
            of_rank = torch.linspace(-1, 1, len(own), dtype=torch.float64)
            gaps = own.diff().clamp(min=torch.finfo(torch.float64).tiny)
            slope = torch.cat([of_rank.diff() / gaps, of_rank.new_zeros(1)])
            fill = most - len(own)
            knots.append([*own.tolist(), *[torch.inf] * fill])
            ranks.append([*of_rank.tolist(), *[1.0] * fill])
            slopes.append([*slope.tolist(), *[0.0] * fill])
        self._keep("knots", knots)
        self._keep("ranks", ranks)
        self._keep("slopes", slopes)
        self._keep("first", [columns[i].quantiles[0] for i in ranked])
        self._keep("last", [columns[i].quantiles[-1] for i in ranked])
        sentinels = [_sentinels(column) for column in columns]
        width = max(map(len, sentinels), default=0)
        self.has_sentinels = bool(width)
        self._keep("sentinels", [[*own, *[torch.nan] * (width - len(own))] for own in sentinels])

    def _keep(self, name: str, numbers: list[float] | list[list[float]]) -> None:
        self.register_buffer(name, torch.tensor(numbers, dtype=torch.float64), persistent=False)

    low: Tensor
    high: Tensor
    means: Tensor
    stds: Tensor
    knots: Tensor
    ranks: Tensor
    slopes: Tensor
    first: Tensor
    last: Tensor
    sentinels: Tensor

    def forward(self, raw: Sequence[Tensor]) -> Tensor:
        """Map columns `(N, 1)`, float64 with NaN for missing, dates int64 in microseconds, to `(N, D)`, float32."""
        values = torch.cat([_seconds(part) if date else part for part, date in zip(raw, self.is_date, strict=True)], 1)
        missing = values.isnan() | are_infinite(values)
        if self.has_sentinels:
            missing = missing | (values[:, :, None] == self.sentinels).any(dim=2)
        values = torch.where(missing, 0.0, values)
        bases = [values]
        if self.parts:
            turns = calendar(values[:, self.dates])
            bases += [_turned(turns, part) for part in self.parts]
        parts = torch.cat(bases, dim=1)[:, self.bases]
        parts = torch.minimum(torch.maximum(parts, self.low), self.high)
        parts = ((parts - self.means) / self.stds).clamp(-MAX_ABS, MAX_ABS)
        features = [torch.where(missing[:, self.sources], 0.0, parts)]
        if self.ranked:
            ranks = self.place(values[:, self.ranked])
            features.append(torch.where(missing[:, self.ranked], 0.0, ranks))
        if self.flagged:
            features.append(missing[:, self.flagged].to(torch.float64))
        return torch.cat(features, dim=1)[:, self.order].float()

    def place(self, values: Tensor) -> Tensor:
        """Return where values `(N, R)` stand among their columns' quantiles, in [-1, 1], as `numpy.interp`."""
        values = torch.minimum(torch.maximum(values, self.first), self.last)
        below = (values[:, :, None] >= self.knots).to(torch.float32).sum(dim=2).long() - 1  # (N, R)
        width = self.knots.shape[1]
        at = below + torch.arange(len(self.knots)) * width
        knots, slopes, ranks = (part.flatten()[at] for part in (self.knots, self.slopes, self.ranks))
        return (values - knots) * slopes + ranks


def _sentinels(column: Column) -> list[float]:
    """Return the numbers that stand for no value, where the user named such words."""
    words = () if column.missing_words is None else missing_words(column.missing_words)
    return [float(word) for word in words if word[-1:].isdigit() and word.lstrip("-").replace(".", "").isdigit()]


def are_infinite(values: Tensor) -> Tensor:
    """Return which of float64 numbers are infinite; torch's ONNX export makes `isinf` one of float32."""
    return values.abs() > torch.finfo(torch.float64).max


def _seconds(microseconds: Tensor) -> Tensor:
    return torch.where(microseconds == NO_DATE, torch.nan, microseconds.double() / 1e6)


def calendar(seconds: Tensor) -> dict[str, Tensor]:
    """Return places in the year, month, week and day in [0, 1), as `plain.cells.date_parts` reckons them.

    Source: Howard Hinnant 2013, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    """
    days = (seconds / 86400).floor()
    shifted = days + 719468  # days since 1 March of the year 0
    era = (shifted / 146097).floor()
    day = shifted - era * 146097
    year = ((day - (day / 1460).floor() + (day / 36524).floor() - (day / 146096).floor()) / 365).floor()
    of_year = day - (365 * year + (year / 4).floor() - (year / 100).floor())  # since 1 March
    of_march = ((5 * of_year + 2) / 153).floor()  # months since March
    of_month = of_year - ((153 * of_march + 2) / 5).floor()
    month = torch.where(of_march < 10, of_march + 2, of_march - 10)  # January is 0
    before = torch.where(of_march < 10, year - 1, year)  # the year, counted from March, that 1 January is in
    whole = torch.where(before < 0, 1.0, 0.0)  # 1 January of the era's first year is in the era before
    before = before + 400 * whole
    january = (era - whole) * 146097 + 365 * before + (before / 4).floor() - (before / 100).floor() + 306
    return {
        "yearday": (shifted - january) / 366,
        "month": month / 12,
        "monthday": of_month / 31,
        "weekday": torch.remainder(days + 3, 7) / 7,
        "hour": seconds / 86400 - days,
    }


def _turned(turns: dict[str, Tensor], part: str) -> Tensor:
    name, _, function = part.partition("_")
    if not function:
        return 2 * turns[name] - 1
    angle = 2 * torch.pi * turns[name]
    return angle.sin() if function == "sin" else angle.cos()


def encoded_series(raw: Sequence[Tensor], columns: Sequence[Column]) -> tuple[Tensor, Tensor]:
    """Return what `data.series.encode_series` does, of steps `(N, L)`, float64, NaN where missing and after the end."""
    raw = [torch.where(are_infinite(part), torch.nan, part) for part in raw]
    steps = torch.arange(1, raw[0].shape[1] + 1)
    ends = [((~part.isnan()).long() * steps).amax(dim=1) for part in raw]
    lengths = torch.stack(ends).amax(dim=0)
    inside = steps <= lengths[:, None]
    channels: list[Tensor] = []
    for part, column in zip(raw, columns, strict=True):
        gone = part.isnan()
        filled = torch.where(gone, 0.0, part)
        means, stds = column.means, column.stds
        if len(means) == 2:
            scaled, levels = _scaled_rows(filled, ~gone)
            levels = ((levels - torch.tensor(means).double()) / torch.tensor(stds).double()).clamp(
                -MOST_OF_STEP, MOST_OF_STEP
            )
            channels += [scaled, inside * levels[:, :1], inside * levels[:, 1:]]
        else:
            channels.append(torch.where(gone, 0.0, (filled - means[0]) / stds[0]))
        channels[:] = [channel.clamp(-MOST_OF_STEP, MOST_OF_STEP) for channel in channels]
        if column.missing:
            channels.append((gone & inside).double())
    return torch.stack(channels, dim=1).float(), lengths


def _scaled_rows(filled: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    counts = present.sum(dim=1, keepdim=True).clamp(min=1)
    peaks = filled.abs().amax(dim=1, keepdim=True)
    peaks = torch.where(peaks == 0, 1.0, peaks)
    values = filled / peaks
    means = values.sum(dim=1, keepdim=True) / counts
    centred = torch.where(present, values - means, 0.0)
    deviations = ((centred**2).sum(dim=1, keepdim=True) / counts).sqrt().clamp(min=1e-6)
    return centred / deviations, torch.cat([means / deviations, deviations.log() + peaks.log()], dim=1)


def pixels_of(pixels: Tensor, image: ImageInput, *, tall_first: bool) -> Tensor:
    """Return images `(N, H, W, C)` as the network takes them: bytes resized as Pillow does, to the bit; normalised.

    Args:
        pixels: The images.
        image: From training.
        tall_first: As `is_tall_first` says.
    """
    images = pixels.permute(0, 3, 1, 2)
    if image.value_scale == 255.0:
        images = resized(images.double(), image.height, image.width, tall_first=tall_first)
    return normalise(images.float(), image)


def resized(images: Tensor, height: int, width: int, *, tall_first: bool) -> Tensor:
    """Return images `(N, C, H, W)`, float64, in another size, by Pillow's bilinear filter: rows, then columns.

    Where `tall_first`, columns come first in what loses more than twice as much in height as in width.
    """
    down, across = shares(images.shape[2], height), shares(images.shape[3], width).T
    wide = _whole(down @ _whole(images @ across))
    if not tall_first:
        return wide
    one = torch.ones((), dtype=torch.int64)  # sizes are no numbers yet when the graph is made
    less_high, less_wide = one * images.shape[2] - height, one * images.shape[3] - width
    is_tall = (less_high > 0) & (less_high > 2 * less_wide)
    return torch.where(is_tall, _whole(_whole(down @ images) @ across), wide)


def is_tall_first() -> bool:
    """Whether the Pillow that is installed takes columns first in tall images: 13 does, and 12 does not."""
    tall = np.random.default_rng(0).integers(0, 256, (64, 16), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(tall).resize((5, 7), Image.Resampling.BILINEAR))
    found = resized(torch.from_numpy(tall).double()[None, None], 7, 5, tall_first=True)
    return bool((found[0, 0].numpy() == wanted).all())


_SHARES = float(1 << 22)  # Pillow's weights are whole numbers of these parts


def _whole(images: Tensor) -> Tensor:
    return ((images + _SHARES / 2) / _SHARES).floor().clamp(0, 255)


def shares(size: int, wanted: int) -> Tensor:
    """Return how much of each of `size` pixels is in each of `wanted`, `(wanted, size)`: Pillow's bilinear filter.

    Source: Pillow, `src/libImaging/Resample.c`, `precompute_coeffs` and `normalize_coeffs_8bpc`.
    """
    scale = torch.ones((), dtype=torch.float64) * size / wanted
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(size, dtype=torch.float64)
    weights = (1 - ((places - centres[:, None] + 0.5) * (1 / scale.clamp(min=1.0))).abs()).clamp(min=0)
    return (weights * (1 / weights.sum(dim=1, keepdim=True)) * _SHARES + 0.5).floor()
