"""Outputs of a network to answers in the user's own terms."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.answering import Answering
from luthier.core.schema import Schema, ValueType
from luthier.core.units import answers_in_units, class_sets, interval_ends
from luthier.data.cells import YES_WORDS
from luthier.data.frames import PANDAS_TYPES, is_pandas
from luthier.metrics.metrics import Cuts, decide


def probabilities(outputs: Tensor, schema: Schema) -> Tensor:
    """Return probabilities from logits: `(N, C)` of the classes; of labels `(N, L)`, each label's of being there."""
    if schema.task == "multiclass":
        return outputs.double().softmax(dim=1)
    yes = outputs.double().sigmoid()
    return torch.cat([1 - yes, yes], dim=1) if schema.task == "binary" else yes


def row_probabilities(outputs: NDArray[np.float32], schema: Schema) -> list[float]:
    """Return what `probabilities` does for one row's outputs, `(K,)`, to rounding; tensors take longer than the sum."""
    logits: list[float] = outputs.tolist()
    if schema.task != "multiclass":
        yes = [1 / (1 + math.exp(-logit)) if logit > -700 else 0.0 for logit in logits]
        return [1 - yes[0], *yes] if schema.task == "binary" else yes
    most = max(logits)
    shares = [math.exp(logit - most) for logit in logits]
    whole = sum(shares)
    return [share / whole for share in shares]


def typed(names: Sequence[str], dtype: ValueType) -> NDArray[Any]:
    """Return class names as the type that the target had: whole numbers, numbers, yes/no, else text.

    >>> typed(["1", "2"], "int"), typed(["no", "yes"], "str"), typed(["false"], "bool")
    (array([1, 2]), array(['no', 'yes'], dtype=object), array([False]))
    """
    if dtype == "int":
        numbers = [int(name) for name in names]
        return np.array(numbers, dtype=np.int64 if all(abs(number) < 2**63 for number in numbers) else object)
    if dtype == "float":
        return np.array([float(name) for name in names])
    if dtype == "bool":
        return np.array([name.lower() in YES_WORDS for name in names])
    return np.array(names, dtype=object)


def values(outputs: Tensor, schema: Schema, cuts: Cuts = None) -> NDArray[Any]:
    """Return classes `(N,)` of the target's type, labels `(N, L)` of 0 and 1, or numbers `(N,)` or `(N, K)`."""
    if schema.task == "regression":
        numbers: NDArray[Any] = answers_in_units(outputs, schema.targets).numpy()
        return numbers.reshape(-1) if len(schema.targets) == 1 else numbers
    decided: NDArray[Any] = decide(outputs, schema.task, cuts).numpy()
    if schema.task == "multilabel":
        return decided
    target = schema.targets[0]
    chosen: NDArray[Any] = typed(target.classes, target.dtype)[decided.reshape(-1)]
    return chosen


def row_class(outputs: NDArray[np.float32], schema: Schema, cuts: Cuts = None) -> int:
    """Return which class `values` decides for one row's outputs, `(K,)`, without a tensor."""
    return int(outputs[0] > (cuts[0] if cuts else 0)) if schema.task == "binary" else int(outputs.argmax())


def row_values(outputs: NDArray[np.float32], schema: Schema, cuts: Cuts = None) -> NDArray[Any]:
    """Return what `values` does for one row's outputs, `(K,)`, without a tensor."""
    if schema.task not in ("binary", "multiclass"):
        return values(torch.from_numpy(outputs)[None], schema, cuts)
    target = schema.targets[0]
    return typed((target.classes[row_class(outputs, schema, cuts)],), target.dtype)


def framed(answers: NDArray[Any], schema: Schema, source: Any, index: pl.Series | None) -> Any:
    """Return what `values` gave as a Series, or a frame of several targets: pandas' where `source` is, else polars'.

    Args:
        answers: One a row of `source`, or one a series.
        schema: From training.
        source: What was asked about.
        index: The names of the series, where a row of the answers is one.
    """
    columns = {target.name: answers.reshape(len(answers), -1)[:, i] for i, target in enumerate(schema.targets)}
    if schema.task == "multilabel":
        for target in schema.targets:
            columns[target.name] = typed(target.classes, target.dtype)[columns[target.name]]
    if not is_pandas(source):
        made = {name: pl.Series(name, column.tolist()) for name, column in columns.items()}
        return pl.DataFrame(made) if len(made) > 1 else next(iter(made.values()))
    import pandas as pd

    labels = _labels(source, index)
    found = {}
    for target in schema.targets:
        series = pd.Series(columns[target.name], index=labels, name=target.name)
        if target.pandas == "category":
            series = pd.Series(
                pd.Categorical(series, categories=typed(target.classes, target.dtype)), index=labels, name=target.name
            )
        elif target.pandas in PANDAS_TYPES and target.kind != "number":
            series = series.astype(target.pandas)
        found[target.name] = series
    return pd.DataFrame(found) if len(found) > 1 else next(iter(found.values()))


def framed_proba(chances: NDArray[Any], schema: Schema, source: Any, index: pl.Series | None) -> Any:
    """Return probabilities as a frame of a column a class or label: of pandas where `source` is, else of polars."""
    of_classes = schema.task in ("binary", "multiclass")
    names = list(schema.targets[0].classes) if of_classes else [target.name for target in schema.targets]
    if not is_pandas(source):
        return pl.DataFrame(chances, schema=names)
    import pandas as pd

    return pd.DataFrame(chances, index=_labels(source, index), columns=names)


def _labels(source: Any, index: pl.Series | None) -> Any:
    """Return the index of answers: that of the rows, or the names of the series."""
    import pandas as pd

    if index is not None:
        return pd.Index(index.to_list(), name=index.name)
    return source.index if hasattr(source, "columns") else pd.Index([source.name])  # a Series is one row


def answer_frame(outputs: Tensor, schema: Schema, answering: Answering) -> pl.DataFrame:
    """Return the answers as columns: `prediction` (`prediction_<target>` of several), `probability_<class>`.

    Where the model has intervals: `prediction_low` and `prediction_high`, or `prediction_set`, its classes with `|`
    between.
    """
    targets, cuts = schema.targets, answering.cuts
    if schema.task == "regression":
        answers = values(outputs, schema).reshape(-1, len(targets))
        found = {"": answers}
        if answering.level is not None:
            ends = interval_ends(outputs, targets, answering.margins)
            found["_low"], found["_high"] = (end.numpy() for end in ends)
        lone = len(targets) == 1
        columns = ["prediction" if lone else f"prediction_{target.name}" for target in targets]
        return pl.DataFrame({f"{name}{end}": of[:, i] for i, name in enumerate(columns) for end, of in found.items()})
    likely = probabilities(outputs, schema)
    chances = likely.numpy()
    if schema.task in ("binary", "multiclass"):
        named: dict[str, Any] = {f"probability_{name}": chances[:, i] for i, name in enumerate(targets[0].classes)}
        codes = decide(outputs, schema.task, cuts).reshape(-1).numpy()
        chosen = pl.Series(targets[0].classes, dtype=pl.String).gather(codes)
        if answering.least_probability is not None:
            classes = np.array(targets[0].classes, dtype=object)
            sets = ["|".join(classes[row]) for row in class_sets(likely, answering.least_probability).numpy()]
            named = {"prediction_set": pl.Series(sets, dtype=pl.String), **named}
        return pl.DataFrame({"prediction": chosen, **named})
    named = {f"probability_{target.name}": chances[:, i] for i, target in enumerate(targets)}
    answers = values(outputs, schema, cuts)
    if schema.label_delimiter is not None:
        names = np.array([target.name for target in targets], dtype=object)
        joined = [schema.label_delimiter.join(names[row.astype(bool)]) for row in answers]
        return pl.DataFrame({"prediction": pl.Series(joined, dtype=pl.String), **named})
    words = {
        f"prediction_{target.name}": pl.Series([target.classes[code] for code in answers[:, i]], dtype=pl.String)
        for i, target in enumerate(targets)
    }
    return pl.DataFrame({**words, **named})
