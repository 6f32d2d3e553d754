"""Write a model as ONNX or a program of torch, once it has answered as the model does."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.core.schema import Schema
from luthier.core.version import VERSION
from luthier.errors import CheckError, MissingPackageError
from luthier.serving.exporting import proof
from luthier.serving.exporting.inputs import RawInput, describe_columns, raw_inputs
from luthier.serving.exporting.proof import TOLERANCE, Row
from luthier.serving.exporting.whole import Whole
from luthier.serving.model import Model
from luthier.store.files import write_whole


@dataclass(frozen=True)
class Export:
    """A model that was written elsewhere, and what was seen of it.

    Attributes:
        path: The file.
        rows: Rows that it answered as the model does.
        greatest: The greatest difference, of probabilities or in shares of a target's spread.
        size: Bytes.
    """

    path: Path
    rows: dict[str, int]
    greatest: float
    size: int


def need_packages() -> None:
    """Refuse where what writes and runs ONNX is not installed.

    Raises:
        MissingPackageError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"export writes and runs ONNX with the package {error.name}, which is not installed",
            hint="pip install 'luthier[onnx]'",
            code="missing-package",
        ) from error


def export(model: Model, path: Path, *, rows: Sequence[Row] = ()) -> Export:
    """Write a model with a Schema as ONNX."""
    need_packages()
    from luthier.serving.exporting.graph import onnx_graph, torch_program, with_facts, with_texts

    schema = model._need_schema()
    whole = Whole(model, schema).eval()
    inputs = raw_inputs(schema)
    names = answer_names(model, schema, inputs)
    program = torch_program(whole, *_examples(inputs))
    made = onnx_graph(program, [given.name for given in inputs], names)
    with_texts(made, inputs, names, schema)
    facts = facts_of(model, schema, names)
    proven = prove(model, schema, with_facts(made, facts), names, rows)
    content = with_facts(made, {**facts, "proof": proven})
    write_whole(path, content)
    return Export(path, proven["rows"], proven["greatest_difference"], len(content))


def _examples(inputs: Sequence[RawInput]) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Return example inputs, and which of their sizes are free."""
    sizes = {"L": 5, "H": 40, "W": 50}
    free = {name: torch.export.Dim(name, min=1) for name in sizes} | {"N": torch.export.Dim("N")}
    examples = tuple(given.example(3, sizes) for given in inputs)
    shapes = tuple(
        {i: free[size] for i, size in enumerate(given.shape) if isinstance(size, str)} for given in inputs
    )
    return examples, (shapes,)


def answer_names(model: Model, schema: Schema, inputs: Sequence[RawInput]) -> list[str]:
    """Return the names of the outputs; where an input has one of them, a line stands after it."""
    found = ["prediction"]
    if schema.task == "regression":
        found += ["prediction_low", "prediction_high"] if model.answering.level is not None else []
    else:
        found += ["probabilities"]
        found += ["prediction_set"] if model.answering.least_probability is not None else []
    taken = {given.name for given in inputs}
    return [f"{name}_" if name in taken else name for name in found]


def facts_of(model: Model, schema: Schema, names: Sequence[str]) -> dict[str, Any]:
    """Return what the file says of itself."""
    targets = [target.name for target in schema.targets]
    of_classes = schema.task in ("binary", "multiclass")
    classes = list(schema.targets[0].classes) if of_classes else targets
    outputs = {}
    for name in names:
        lone = name.startswith("prediction") and name != "prediction_set" and len(targets) == 1
        many = classes if name.startswith("probab") or name == "prediction_set" else targets
        outputs[name] = {"columns": [name] if lone else [f"{name}_{one}" for one in many]}
    return {
        "luthier": VERSION,
        "task": schema.task,
        "targets": targets,
        "classes": [list(target.classes) for target in schema.targets],
        "outputs": outputs,
        "columns": describe_columns(schema),
    }


def prove(model: Model, schema: Schema, content: bytes, names: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """Return what was seen when the graph answered rows.

    Raises:
        CheckError: an answer differs by more than the tolerance.
    """
    import onnxruntime

    from luthier.serving.exporting.folder.reader import Reader

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    reader = Reader(session=session)
    counts: dict[str, int] = {}
    greatest, worst = 0.0, ""
    facts, cuts = reader.facts, model.answering.thresholds
    for kind, some, pixels in _batches(schema, rows):
        wanted = proof.model_answers(model, some, pixels)
        name = next((column["name"] for column in facts["columns"] if column["kind"] == "image"), "")
        given = reader.inputs(some if pixels is None else [{**row, name: own} for row, own in zip(some, pixels)])
        found = dict(zip(wanted, session.run(list(names), given), strict=True))
        seen = proof.difference(found, wanted, schema, cuts)
        counts[kind] = counts.get(kind, 0) + len(some)
        if seen.greatest >= greatest:
            greatest = seen.greatest
            worst = json.dumps(some[seen.row], default=str, ensure_ascii=False)[:500] if some else ""
        if not seen.is_within:
            what = f"{seen.decided} rows are decided otherwise" if seen.decided else f"{seen.greatest:.2g}"
            raise CheckError(
                f"the graph does not answer as the model does: {what}, on {kind} rows; the tolerance is {TOLERANCE:g}; "
                f"the row: {json.dumps(some[seen.row], default=str, ensure_ascii=False)[:300]}",
                hint="nothing was written; report it with the model's summary",
                code="export-differs",
            )
    return {
        "tolerance": TOLERANCE,
        "greatest_difference": greatest,
        "row": worst,
        "rows": counts,
        "runtime": f"onnxruntime {metadata.version('onnxruntime')}",
    }


def _batches(schema: Schema, rows: Sequence[Row]) -> Iterator[tuple[str, list[Row], Any]]:
    """Yield batches of rows, what they are, and their images."""
    image = schema.image
    if rows:
        yield "given", list(rows), None
    drawn = proof.drawn_rows(schema, proof.SIZES[-1])
    for height, width in [(0, 0)] if image is None else proof.image_sizes(image):
        of_size = "" if image is None else f", images of {height}x{width}"
        for size in proof.batch_sizes(schema, height, width):
            pixels = None if image is None else proof.drawn_images(image, size, height, width)
            yield f"{size} drawn{of_size}", drawn[:size], pixels
