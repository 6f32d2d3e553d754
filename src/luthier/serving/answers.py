"""Outputs of a network to answers in the user's own terms."""

from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.schema import Schema
from luthier.metrics.metrics import decide


def probabilities(outputs: Tensor, schema: Schema) -> Tensor:
    """Return probabilities from logits: `(N, C)` of the classes; of labels `(N, L)`, each label's of being there."""
    if schema.task == "multiclass":
        return outputs.double().softmax(dim=1)
    yes = outputs.double().sigmoid()
    return torch.cat([1 - yes, yes], dim=1) if schema.task == "binary" else yes


def values(outputs: Tensor, schema: Schema) -> NDArray[Any]:
    """Return class names `(N,)`, labels `(N, L)` of 0 and 1, or numbers `(N,)` or `(N, K)` in their units."""
    if schema.task == "regression":
        stds = torch.tensor([target.std for target in schema.targets], dtype=torch.float64)
        means = torch.tensor([target.mean for target in schema.targets], dtype=torch.float64)
        numbers: NDArray[Any] = (outputs.double() * stds + means).numpy()
        return numbers.reshape(-1) if len(schema.targets) == 1 else numbers
    decided: NDArray[Any] = decide(outputs, schema.task).numpy()
    if schema.task == "multilabel":
        return decided
    names: NDArray[Any] = np.array(schema.targets[0].classes, dtype=object)
    chosen: NDArray[Any] = names[decided.reshape(-1)]
    return chosen


def row_values(outputs: NDArray[np.float32], schema: Schema) -> NDArray[Any]:
    """Return what `values` does for one row's outputs, `(K,)`, without a tensor."""
    if schema.task not in ("binary", "multiclass"):
        return values(torch.from_numpy(outputs)[None], schema)
    code = int(outputs[0] > 0) if schema.task == "binary" else int(outputs.argmax())
    return np.array((schema.targets[0].classes[code],), dtype=object)


def answer_frame(outputs: Tensor, schema: Schema) -> pl.DataFrame:
    """Return the answers as columns: `prediction` (`prediction_<target>` of several), `probability_<class>`."""
    answers = values(outputs, schema)
    targets = schema.targets
    if schema.task == "regression":
        if len(targets) == 1:
            return pl.DataFrame({"prediction": answers})
        return pl.DataFrame({f"prediction_{target.name}": answers[:, i] for i, target in enumerate(targets)})
    chances = probabilities(outputs, schema).numpy()
    if schema.task in ("binary", "multiclass"):
        named = {f"probability_{name}": chances[:, i] for i, name in enumerate(targets[0].classes)}
        return pl.DataFrame({"prediction": pl.Series(answers.tolist(), dtype=pl.String), **named})
    named = {f"probability_{target.name}": chances[:, i] for i, target in enumerate(targets)}
    if schema.label_delimiter is not None:
        names = np.array([target.name for target in targets], dtype=object)
        joined = [schema.label_delimiter.join(names[row.astype(bool)]) for row in answers]
        return pl.DataFrame({"prediction": pl.Series(joined, dtype=pl.String), **named})
    words = {
        f"prediction_{target.name}": pl.Series([target.classes[code] for code in answers[:, i]], dtype=pl.String)
        for i, target in enumerate(targets)
    }
    return pl.DataFrame({**words, **named})
