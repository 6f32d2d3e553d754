"""Write a model as ONNX or a program of torch, once it has answered as the model does."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.core.schema import Schema
from luthier.core.version import VERSION
from luthier.errors import CheckError, LuthierError, MissingPackageError, NetworkError, RunError, SettingError
from luthier.metrics.outputs import answer_of
from luthier.serving.answers import typed
from luthier.serving.exporting import proof
from luthier.serving.exporting.card import model_card
from luthier.serving.exporting.inputs import RawInput, describe_columns, raw_inputs
from luthier.serving.exporting.proof import TOLERANCE, Row
from luthier.serving.exporting.whole import Own, Whole
from luthier.store.files import cannot_write, check_output, part_of, write_whole

if TYPE_CHECKING:
    from luthier.serving.model import Model

_log = logging.getLogger("luthier")
Format = Literal["onnx", "pt2", "aoti"]
FORMATS: tuple[Format, ...] = ("onnx", "pt2", "aoti")
Ask = Callable[[Sequence[Any]], list[NDArray[Any]]]
"""What a written model answers to its inputs, in order."""

_REFERENCE_ROWS = 7  # that onnx.reference, which is slow, is asked


@dataclass(frozen=True)
class Export:
    """A model that was written for elsewhere, and what was seen of it before.

    Attributes:
        path: The file, or the folder.
        files: Names of the files in the folder; of a file its own.
        greatest: The greatest difference from the model: of probabilities, or of values in shares of the target's
            spread and of the value.
        rows: How many rows were answered, by what they are.
        reference: What `onnx.reference` said: the greatest difference, or why it could not be asked.
        size: Bytes of the model.
    """

    path: Path
    files: tuple[str, ...]
    greatest: float
    rows: dict[str, int]
    reference: str
    size: int


def export(
    model: Model,
    path: str | Path,
    *,
    format: Format | None = None,
    rows: Sequence[Row] = (),
    example: Any = None,
    sources: Sequence[str] = (),
) -> Export:
    """Write a model; `Model.export` says what it takes.

    Args:
        model: The model.
        path: A file, or a folder that is not there.
        format: As in `Model.export`.
        rows: The user's own rows that are answered as well.
        example: As in `Model.export`.
        sources: Files that must not be written over.
    """
    output = Path(path)
    is_folder = not output.suffix
    chosen = _format_of(output, format)
    output = output if is_folder else check_output(str(path), _SUFFIXES[chosen], flag="output=", sources=sources)
    if is_folder and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output} is there already", hint="choose a new folder", code="run-folder-taken")
    need_packages(chosen)
    schema = model.schema
    if schema is None:
        subject = _of_own(model, example)
    elif example is not None:
        raise SettingError(
            "example= is for a custom module without a Schema, and this model knows its inputs",
            hint="leave example= out",
            code="setting-ignored",
        )
    else:
        subject = _of_schema(model, schema, rows, chosen)
    facts = {"luthier": VERSION, "format": chosen, **subject.facts}
    with tempfile.TemporaryDirectory() as place:
        content, proven = _written(subject, facts, chosen, Path(place))
    if not is_folder:
        write_whole(output, content)
        return Export(output, (output.name,), *proven, len(content))
    name = f"model.{'onnx' if chosen == 'onnx' else 'pt2'}"
    others = _folder_files(model, facts | {"proof": _proof(*proven)}, name)
    _write_folder(output, {name: content, **others})
    return Export(output, (name, *others), *proven, len(content))


_SUFFIXES: dict[Format, tuple[str, ...]] = {"onnx": (".onnx",), "pt2": (".pt2",), "aoti": (".pt2",)}


def _format_of(output: Path, format: Format | None) -> Format:
    if format is not None and format not in FORMATS:
        raise SettingError(
            f"there is no format {format!r}", hint=f"it is one of {', '.join(FORMATS)}", code="setting-unknown-choice"
        )
    return format or ("pt2" if output.suffix.lower() == ".pt2" else "onnx")


def need_packages(format: Format = "onnx") -> None:
    """Refuse where what writes a format is not installed.

    Raises:
        MissingPackageError: it is not.
    """
    if format == "aoti":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # torch says it in an error of its own
            raise MissingPackageError(
                "an AOTInductor package is compiled, and there is no C++ compiler",
                hint="install g++ or clang, or leave format='aoti' out: pt2 and onnx need none",
                code="missing-package",
            ) from error
    if format != "onnx":
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"ONNX is written and proven with the package {error.name}, which is not installed",
            hint="pip install 'luthier[onnx]'",
            code="missing-package",
        ) from error


@dataclass
class _Subject:
    """What is exported.

    Attributes:
        module: Raw tensors to answers.
        inputs: Of it, in order.
        names: Of its answers.
        facts: What the file says of itself.
        schema: From training, or None.
        batches: Rows, as what they are called, the inputs as the reader gives them, the answers of the model, and the
            rows in words.
        compare: How far answers lie apart.
    """

    module: nn.Module
    inputs: list[RawInput]
    names: list[str]
    facts: dict[str, Any]
    schema: Schema | None
    batches: Callable[[dict[str, Any]], Iterator[tuple[str, list[Any], dict[str, Any], Sequence[Any]]]]
    compare: Callable[[dict[str, Any], dict[str, Any]], proof.Difference]


def _of_schema(model: Model, schema: Schema, rows: Sequence[Row], format: Format) -> _Subject:
    from luthier.plain.reader.reader import inputs_of

    inputs = raw_inputs(schema)

    def batches(facts: dict[str, Any]) -> Iterator[tuple[str, list[Any], dict[str, Any], Sequence[Any]]]:
        for kind, some, pixels in proof.row_batches(schema, _readable(rows, facts)):
            image = next((column["name"] for column in facts["columns"] if column["kind"] == "image"), "")
            own = some if pixels is None else [{**row, image: one} for row, one in zip(some, pixels, strict=True)]
            found = inputs_of(own, facts)
            yield kind, [found[given.name] for given in inputs], proof.model_answers(model, some, pixels), some

    return _Subject(
        module=Whole(model, schema).eval(),
        inputs=inputs,
        names=answer_names(model, schema, inputs),
        facts=facts_of(model, schema, inputs, format),
        schema=schema,
        batches=batches,
        compare=lambda found, wanted: proof.difference(
            found,
            wanted,
            schema.task,
            [proof.spread(target) for target in schema.targets],
            model.answering.thresholds,
            model.answering.least_probability,
        ),
    )


def _readable(rows: Sequence[Row], facts: dict[str, Any]) -> list[Row]:
    """Return the rows that the readers take; they refuse a cell that the model counts as missing with a warning."""
    from luthier.plain.reader.reader import inputs_of

    kept, why = [], ""
    for row in rows:
        try:
            inputs_of([row], facts)
        except ValueError as error:
            why = why or str(error)
        else:
            kept.append(row)
    if why:
        _log.warning(
            "%d of %d of the rows given are left out of the proof, because the readers cannot read them: %s",
            len(rows) - len(kept),
            len(rows),
            why,
        )
    return kept


def _of_own(model: Model, example: Any) -> _Subject:
    if example is None:
        raise SettingError(
            "this model is a custom module without a Schema, so the form of its inputs is not known",
            hint="pass example=, a tensor, a tuple or a dict of what its forward takes, with two rows or more",
            code="setting-missing",
        )
    own = Own(model, example)
    if len({len(value) for value in own.given}) > 1 or len(own.given[0]) < 2:
        raise SettingError(
            f"example= has {', '.join(str(len(value)) for value in own.given)} rows",
            hint="give two rows or more, as many for each input",
            code="setting-out-of-range",
        )
    inputs = [
        RawInput(name, None, value.dtype, ("N", *value.shape[1:]))
        for name, value in zip(own.names, own.given, strict=True)
    ]

    def batches(facts: dict[str, Any]) -> Iterator[tuple[str, list[Any], dict[str, Any], Sequence[Any]]]:
        generator = np.random.default_rng(0)
        count = len(own.given[0])
        for size in dict.fromkeys((count, *proof.SIZES[1:])):
            chosen = np.arange(count) if size == count else generator.integers(0, count, size)
            some = [value[chosen] for value in own.given]
            source: Any = dict(zip(own.names, some, strict=True)) if own.is_named else tuple(some)
            if own.is_decided:
                wanted = {"prediction": model.predict(source), "probabilities": model.predict_proba(source)}
            else:
                wanted = {"outputs": answer_of(model.predict(source), model.output_key)}
            answers = {name: part.numpy() for name, part in wanted.items()}
            yield "of the example", [value.numpy() for value in some], answers, chosen.tolist()

    facts = {
        "task": model.task,
        "inputs": [{"name": i.name, "type": i.onnx_type, "shape": list(i.shape)} for i in inputs],
        "outputs": {name: {"columns": [name]} for name in own.answers},
    }
    return _Subject(
        own.eval(), inputs, list(own.answers), facts, None, batches,
        lambda found, wanted: proof.difference(found, wanted, model.task if "prediction" in wanted else "regression"),
    )  # fmt: skip


def _written(
    subject: _Subject, facts: dict[str, Any], format: Format, place: Path
) -> tuple[bytes, tuple[float, dict[str, int], str]]:
    """Return a file's bytes, and what was seen when it answered."""
    from luthier.serving.exporting.program import program_of

    try:
        program = program_of(subject.module, *_examples(subject))
    except LuthierError:
        raise
    except Exception as error:  # torch raises anything for what it cannot export
        words = str(error).strip().splitlines()
        raise NetworkError(
            f"torch cannot export the network: {words[0] if words else type(error).__name__}",
            hint="its forward may use Python's if, int() or loops on the data's values; use tensor operations",
            code="export-not-possible",
        ) from error
    if format == "onnx":
        from luthier.serving.exporting.graph import onnx_graph, reference, session, with_facts, with_texts

        graph = onnx_graph(program, [given.name for given in subject.inputs], subject.names)
        with_texts(graph, subject.inputs, subject.names, subject.schema)
        content = with_facts(graph, facts)
        names = [given.name for given in subject.inputs]
        greatest, counts = _prove(subject, facts, session(content, names, subject.names))
        said = _by_reference(subject, facts, reference(graph, names, subject.names))
        proven = greatest, counts, said
        return with_facts(graph, {**facts, "proof": _proof(*proven)}), proven
    from luthier.serving.exporting.program import compiled, saved

    make = compiled if format == "aoti" else saved
    content, ask = make(program, facts, place)
    greatest, counts = _prove(subject, facts, ask)
    proven = greatest, counts, ""
    return make(program, {**facts, "proof": _proof(*proven)}, place)[0], proven


def _examples(subject: _Subject) -> tuple[tuple[Tensor, ...], Any]:
    """Return example inputs, and which of their sizes are free."""
    sizes = {"L": 5, "H": 40, "W": 50}
    free = {name: torch.export.Dim(name, min=1) for name in sizes} | {"N": torch.export.Dim("N")}
    shapes = tuple({i: free[size] for i, size in enumerate(g.shape) if isinstance(size, str)} for g in subject.inputs)
    if isinstance(subject.module, Own):
        return tuple(value[:2] for value in subject.module.given), (shapes,)
    return tuple(given.example(3, sizes) for given in subject.inputs), (shapes,)


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


def facts_of(model: Model, schema: Schema, inputs: Sequence[RawInput], format: Format) -> dict[str, Any]:
    """Return what the file says of itself."""
    targets = [target.name for target in schema.targets]
    classes = list(schema.targets[0].classes) if schema.task in ("binary", "multiclass") else targets
    outputs = {}
    for name in answer_names(model, schema, inputs):
        many = classes if name.startswith(("probabilities", "prediction_set")) else targets
        outputs[name] = {"columns": [name] if many is targets and len(targets) == 1 else [f"{name}_{i}" for i in many]}
    return {
        "task": schema.task,
        "targets": targets,
        "classes": [typed(target.classes, target.dtype).tolist() for target in schema.targets],
        "outputs": outputs,
        "columns": describe_columns(schema, with_lookups=format != "onnx"),
    }


def _proof(greatest: float, rows: dict[str, int], reference: str) -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in ("torch", "onnxruntime") if find_spec(name)}
    found = {"tolerance": TOLERANCE, "greatest_difference": greatest, "rows": rows, "versions": versions}
    return {**found, "reference": reference} if reference else found


def _prove(subject: _Subject, facts: dict[str, Any], ask: Ask) -> tuple[float, dict[str, int]]:
    """Return the greatest difference between what was written and the model, and the rows.

    Raises:
        CheckError: one is beyond the tolerance.
    """
    counts: dict[str, int] = {}
    greatest = 0.0
    for kind, given, wanted, rows in subject.batches(facts):
        answers = dict(zip(subject.names, ask(given), strict=True))
        found = dict(zip(wanted, answers.values(), strict=True))
        seen = subject.compare(found, wanted)
        counts[kind] = counts.get(kind, 0) + len(rows)
        greatest = max(greatest, seen.greatest)
        if not seen.is_within:
            _refuse(seen, kind, rows)
    return greatest, counts


def _refuse(seen: proof.Difference, kind: str, rows: Sequence[Any]) -> None:
    what = f"{seen.decided} rows have another class" if seen.decided else f"they differ by {seen.greatest:.3g}"
    row = json.dumps(rows[seen.row], default=str, ensure_ascii=False)[:300] if len(rows) else "none"
    raise CheckError(
        f"the exported network does not answer as the model does on rows {kind}: {what}, and the tolerance is "
        f"{TOLERANCE:g}. The row: {row}",
        hint="nothing was written; it may draw random numbers, or depend too much on rounding",
        code="export-differs",
    )


def _by_reference(subject: _Subject, facts: dict[str, Any], ask: Ask) -> str:
    """Return what the reference implementation of ONNX says of the same rows."""
    for _, given, wanted, rows in subject.batches(facts):
        if not 1 < len(rows) <= max(_REFERENCE_ROWS, 2):
            continue
        try:
            found = dict(zip(wanted, ask(given), strict=True))
        except Exception as error:  # it lacks operators, and raises anything
            return f"not asked: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        seen = subject.compare(found, wanted)
        if not seen.is_within:
            _refuse(seen, "of onnx.reference", rows)
        return f"{seen.greatest:.3g}, {len(rows)} rows"
    return "not asked"


def _folder_files(model: Model, facts: dict[str, Any], name: str) -> dict[str, bytes]:
    """Return what stands beside a model in a folder."""
    found = {"README.md": model_card(model, facts, name).encode()}
    if model.schema is None:
        return found
    document = json.dumps(facts, ensure_ascii=False, indent=1)
    texts = files("luthier.plain").joinpath("reader")
    found |= {"model.json": document.encode(), "reader.py": texts.joinpath("reader.py").read_bytes()}
    if name.endswith(".onnx"):
        found |= {page: texts.joinpath(page).read_bytes() for page in ("reader.js", "index.html")}
    return found


def _write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    """Write the files into a folder beside, which then takes its name."""
    beside = part_of(folder)
    try:
        beside.mkdir(parents=True)
        for name, content in contents.items():
            write_whole(beside / name, content)
        if folder.exists():
            folder.rmdir()  # it is empty
        beside.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
