"""`eject`: a finished run of the command as a plain PyTorch project, without Luthier, that gives the same weights."""

import hashlib
import inspect
import io
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from luthier.core.machine import machine
from luthier.data.arrays import as_frame, read_npz, series_frame, target_frame
from luthier.data.cells import to_texts
from luthier.data.commas import Commas, with_decimal_points
from luthier.data.csvtext import UTF8_WITH_STRAYS
from luthier.data.encode import text_columns
from luthier.data.files import is_one_file, source_name
from luthier.data.images import image_paths
from luthier.data.rows import RowSource, is_by_windows
from luthier.data.series import step_rows
from luthier.data.sources import TensorSource
from luthier.data.tables import Table, read_table
from luthier.data.textfile import TextLayout, text_layout
from luthier.ejection.images import ImageData, image_facts, image_values
from luthier.ejection.loop import Loop, Story, long_arguments, write_loop
from luthier.ejection.reading import csv_reading, file_commas, npz_reading, parquet_reading
from luthier.ejection.shake import assembled, folded, lines_run, shaken
from luthier.ejection.tables import TableData, TableFile, table_docstring, table_facts, table_values
from luthier.ejection.text import literal
from luthier.errors import RunError
from luthier.networks.build import FAMILIES
from luthier.networks.foreign import is_foreign, source_file
from luthier.pipeline.parts import Rows
from luthier.pipeline.plan import Plan
from luthier.pipeline.prepare import prepare
from luthier.pipeline.stages import fold_folder, fold_plans, refit_folder, refit_plan
from luthier.pipeline.tables import read_options
from luthier.pipeline.train import make_module, open_run, read_split
from luthier.plain import cells as plain
from luthier.store.bundle import load_bundle
from luthier.store.checkpoint import load_checkpoint
from luthier.store.files import cannot_write
from luthier.training.folder import hash_source
from luthier.training.freezing import freeze, names_under
from luthier.training.optimizers import optimizer_class, parameter_groups
from luthier.training.record import read_record
from luthier.training.settings import class_counts
from luthier.training.state import reading_checkpoint

_FITTED = ("train", "valid")


def eject(run: str | Path, folder: str | Path, *, network: str | None = None, trust_code: bool = False) -> list[str]:
    """Write a run as a plain PyTorch project: `train.py`, `network.py`, `data.py`, and the files that they need.

    The project depends on torch, NumPy, safetensors and the reader of the data. `python train.py` in it reads the same
    source (its SHA-256 is checked), trains, and writes `model.safetensors` with the run's weights to the bit.

    Args:
        run: The folder of a finished run of `luthier train`.
        folder: Where to write; it must not exist, or be empty.
        network: For a network from your own file, that file and class, `my_nets.py:Net`.
        trust_code: Run the file that the run names, without naming it.

    Returns:
        The files written.

    Raises:
        RunError: no such run, one that is not finished or cannot be ejected, with the reason; or `folder` is taken.
    """
    found = Path(run)
    is_of_fit = (found / "record.jsonl").is_file() and not (found / "split.safetensors").is_file()
    if is_of_fit and not (found / "run.toml").is_file():
        raise _cannot(found, "it was made by fit, so its module, data and callbacks are in no file")
    found, plan = open_run(found, network=network, trust_code=trust_code)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is there already", hint="choose a new folder", code="run-folder-taken")
    if is_by_windows(plan.prepared.parts["train"].source):
        raise _cannot(found, "its rows are in a store, and an ejected project reads a table into memory")
    story, plan = _story(found, plan), _read_whole(_with_micro_batch_size(found, plan))
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        _write(plan, story, beside)
        _shake(beside, plan)
        _prove(plan, beside)
        if target.exists():
            target.rmdir()
        beside.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return sorted(path.name for path in target.iterdir())


def _cannot(run: Path, why: str) -> RunError:
    return RunError(f"{run} cannot be ejected: {why}", hint="see docs/eject.md", code="run-cannot-eject")


def _read_whole(plan: Plan) -> Plan:
    """Return a plan over a store of rows as one over the table itself, which a project reads; others as they are."""
    part = plan.prepared.parts["train"]
    if not isinstance(part.source, RowSource):
        return plan
    settings = replace(plan.settings, source=part.file)
    return replace(plan, settings=settings, prepared=prepare(settings))


def _with_micro_batch_size(run: Path, plan: Plan) -> Plan:
    """Return the plan with the number that the run found for `micro_batch_size="auto"`.

    Raises:
        RunError: it trained several networks, each with a number of its own.
    """
    if plan.recipe.micro_batch_size != "auto":
        return plan
    if plan.prepared.folds is not None or plan.finish.refit:
        raise _cannot(run, "micro_batch_size='auto' chose another size for each network; give a number")
    tree = load_checkpoint(run / "checkpoints") or {}
    with reading_checkpoint(run):
        size = tree["arguments"]["recipe"]["micro_batch_size"]
    return replace(plan, recipe=plan.recipe.updated(micro_batch_size=size))


def _story(run: Path, plan: Plan) -> Story:
    """Return what the run was.

    Raises:
        RunError: it is not finished, went on after its end, or its data is another now.
    """
    trained = refit_folder(run) if plan.finish.refit else run
    record = read_record((trained if plan.prepared.folds is None else fold_folder(run, 0)) / "record.jsonl")
    start = next((row for row in record if row["event"] == "start"), None)
    end = next((row for row in record if row["event"] == "end"), None)
    if start is None or not record.epochs:
        raise _cannot(run, "its record has no start or no epochs")
    if end is None or not (run / "model.safetensors").is_file():
        raise RunError(f"{run} is not finished", hint=f"finish it first: luthier resume {run}", code="run-cannot-eject")
    if any(row["event"] == "extended" for row in record):
        raise _cannot(run, "it got more epochs after its end, so it is not a single loop")
    recipe = plan.recipe
    named = [name for name in ("max_steps", "valid_every_steps") if getattr(recipe, name) is not None]
    if named or recipe.optimizer == "LBFGS":
        what = f"{named[0]} was set" if named else "LBFGS evaluates the loss several times a step"
        raise _cannot(run, f"{what}, which the loop of the project does not support")
    rows = read_split(run)
    for part, found in plan.prepared.parts.items():
        if part not in rows or not np.array_equal(rows[part].numpy(), found.rows):
            raise _cannot(run, f"its data has changed: the {part} rows have changed")
    tree = load_checkpoint(run / "checkpoints") or {"arguments": {}}
    for part in _FITTED:
        with reading_checkpoint(run):
            before = (tree["arguments"].get(part) or {}).get("sha256")
        if before is not None and str(before) != hash_source(plan.prepared.parts[part].source):
            raise _cannot(run, f"its data has changed: the {part} data has changed values")
    bundle = load_bundle(run / "model.safetensors")
    if not all(isinstance(value, torch.Tensor) for value in bundle.weights["state"].values()):
        raise _cannot(run, "its model.safetensors holds other weights than tensors")
    return Story(
        name=run.resolve().name,
        epochs=record.epochs,
        best_epoch=end["best_epoch"],
        stopped=end["reason"],
        test=bundle.metrics.get("test", {}),
        weights=_digest(bundle.weights["state"]),
        machine={name: start[name] for name in machine()},
        answering=bundle.answering,
    )


def _digest(weights: dict[str, torch.Tensor]) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(weights):
        sha256.update(name.encode() + weights[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def _write(plan: Plan, story: Story, folder: Path) -> None:
    parts = {part: plan.prepared.parts[part] for part in _FITTED if part in plan.prepared.parts}
    fitted, folds = plan, plan.prepared.folds
    if folds is not None:
        fitted = next(fold_plans(plan))
        sizes = {-(-int((folds != fold).sum()) // (plan.recipe.batch_size or 32)) for fold in range(folds.max() + 1)}
        if plan.recipe.class_weights == "balanced" or (len(sizes) > 1 and plan.recipe.scheduler):
            raise RunError(
                "the run's folds differ in their class weights, or in the batches that their schedule is made for",
                hint="train it without a scheduler, or with class weights as numbers",
                code="run-cannot-eject",
            )
    elif plan.finish.refit:
        fitted = refit_plan(plan, len(story.epochs))
    for part in parts.values():
        if plan.schema.columns and not is_one_file(part.file) and Path(part.file).suffix.lower() != ".npz":
            raise RunError(
                f"{source_name(part.file)} cannot be ejected: an ejected project reads one CSV, Parquet or .npz file",
                hint="write the data as a CSV or Parquet file, and train on that",
                code="run-cannot-eject",
            )
    text, facts, reader, rows = _table_data(plan, folder) if plan.schema.columns else _image_data(plan, folder)
    rows |= {} if folds is None else {"folds": folds}
    network, class_name, more = _network(plan)
    starts_from = plan.start is not None or plan.settings.weights is not None
    longs = long_arguments(plan.blueprint)
    facts |= {"network": longs} if longs else {}
    groups = _groups(plan)
    facts |= {} if groups is None else {"groups": groups}
    if plan.recipe.freeze and plan.head is None:
        module = make_module(plan)
        facts["frozen"] = sorted(name for prefix in plan.recipe.freeze for name in names_under(module, prefix))
    train = fitted.prepared.parts["train"].source
    loop = Loop(
        schema=plan.schema,
        blueprint=plan.blueprint,
        class_name=class_name,
        recipe=fitted.recipe,
        num_train=len(train),
        has_valid="valid" in fitted.prepared.parts,
        is_joined=plan.finish.refit,
        folds=None if folds is None else int(folds.max()) + 1,
        has_weights=train.weights is not None,
        class_counts=class_counts(train) if plan.recipe.class_weights == "balanced" else None,
        starts_from=starts_from,
        groups=groups,
        head=plan.head or "",
        has_unseen="valid" in fitted.prepared.parts
        and bool(fitted.prepared.parts["valid"].unseen)
        and plan.schema.label_delimiter is None,
    )
    (folder / "train.py").write_text(write_loop(loop, story), encoding="utf-8")
    (folder / "data.py").write_text(text, encoding="utf-8")
    for name in re.findall(r"^from luthier\.networks\.families\.(\w+) import ", network, re.MULTILINE):
        beside = Path(inspect.getfile(FAMILIES[name].module)).read_text(encoding="utf-8")
        (folder / f"{name}.py").write_text(beside, encoding="utf-8")
        network = network.replace(f"from luthier.networks.families.{name} import", f"from {name} import")
    (folder / "network.py").write_text(network, encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if rows:
        np.savez(folder / "split.npz", **rows)
    if starts_from:
        weights = {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in make_module(plan).state_dict().items()
        }
        save_file(weights, folder / "start.safetensors")
    needs = ["torch", "numpy", "safetensors", *reader, *more]
    lines = [f"{name}=={version(name).partition('+')[0]}" for name in needs]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _network(plan: Plan) -> tuple[str, str, list[str]]:
    """Return the text of `network.py`, what makes the network there, and the packages that it needs."""
    family = plan.blueprint.family
    file = source_file(family)
    if file is not None:
        return file.read_text(encoding="utf-8"), family.rpartition(":")[2], []
    if not is_foreign(family):
        made = FAMILIES[family].module
        return Path(inspect.getfile(made)).read_text(encoding="utf-8"), made.__name__, []
    name = literal(family.partition(":")[2])
    text = f'''"""The network: a model of timm."""

import timm


def network(**arguments):
    """Return the model, with fresh weights."""
    return timm.create_model({name}, pretrained=False, **arguments)
'''
    return text, "network", ["timm"]


def _groups(plan: Plan) -> list[dict[str, Any]] | None:
    """Return what the optimizer moves, by name, where learning rates differ."""
    if plan.recipe.decay_norm_and_bias and not plan.recipe.lr_scale:
        return None
    if plan.head is not None or not (plan.recipe.lr_scale or plan.recipe.freeze):
        return None
    module = make_module(plan)
    freeze(module, plan.recipe.freeze)
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, plan.recipe, optimizer_class(plan.recipe.optimizer or ""))
    return [{**group, "params": [names[parameter] for parameter in group["params"]]} for group in groups]


def _shake(folder: Path, plan: Plan) -> None:
    """Leave out of a project's reader what this data never reaches; where it fails, `_prove` says so."""
    file = folder / "data.py"
    made = runpy.run_path(str(file))

    def use() -> None:
        parts = made["read"]()
        if "augment" in made:
            draws = torch.zeros(1, sum(made["NUM_DRAWS"].values()))
            made["augment"](parts[0]["pixels"][:1], draws, plan.recipe.augment)

    try:
        lines = lines_run(use, str(file))
    except Exception:
        return
    wanted = re.findall(r"\bdata\.(\w+)", (folder / "train.py").read_text(encoding="utf-8"))
    file.write_text(shaken(file.read_text(encoding="utf-8"), lines, roots=wanted), encoding="utf-8")


def _prove(plan: Plan, folder: Path) -> None:
    """Read the data by the project's own code, and compare every tensor with the run's.

    Raises:
        RunError: one differs: the reading of this data is not known to eject.
    """
    file = source_file(plan.blueprint.family)
    if file is not None:
        beside = str(file.resolve().parent)
        hidden = {name: part for name, part in sys.modules.items() if _lies_in(part, beside)}
        for name in hidden:
            del sys.modules[name]
        try:
            runpy.run_path(str(folder / "network.py"))
        except ImportError as error:
            raise RunError(
                f"{plan.blueprint.family} cannot be copied out: {error}",
                hint="write the class in one file that imports only installed packages",
                code="run-cannot-eject",
            ) from error
        finally:
            sys.modules.update(hidden)
    read = runpy.run_path(str(folder / "data.py"))["read"]
    files = _sources(plan)
    others = [str(file) for part, file in files.items() if file != files["train"]]
    unlike = RunError(
        f"{' and '.join(others)} cannot be read in the same way as {files['train']}, and an ejected project "
        "has one reader",
        hint="write both in the same way (kind of file, delimiter, encoding, order of columns), and train again",
        code="run-cannot-eject",
    )
    try:
        made = list(read())
    except Exception as error:
        if others:
            raise unlike from error
        raise RunError(
            f"this data cannot be ejected: the project's reader fails on it ({type(error).__name__}: {error})",
            hint="save the data with the usual types (int64, float64, text), and train again",
            code="run-cannot-eject",
        ) from error
    parts = [plan.prepared.parts[part] for part in _FITTED if part in plan.prepared.parts]
    for found, part in zip(made, parts, strict=True):
        source = part.source
        assert not isinstance(source, RowSource)
        own = {"targets": source.targets}
        if isinstance(source, TensorSource):
            assert isinstance(source.inputs, tuple)
            own |= dict(zip(plan.schema.blocks, source.inputs, strict=True))
        else:
            own |= dict(zip(plan.schema.blocks, (*source.others, source.taken(torch.arange(len(source)))), strict=True))
        own |= {} if source.weights is None else {"weights": source.weights}
        for name, value in own.items():
            if found[name].dtype != value.dtype or not torch.equal(found[name], value):
                if others and part.file != str(files["train"]):
                    raise unlike
                raise RunError(
                    f"this data cannot be ejected: an ejected project would read its {name} differently",
                    hint="please report it, with the kinds and types of the columns",
                    code="run-cannot-eject",
                )


def _lies_in(module: Any, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and os.path.dirname(file) == folder


def _sources(plan: Plan) -> dict[str, Path]:
    """Return the file or folder of each part."""
    return {part: Path(plan.prepared.parts[part].file) for part in _FITTED if part in plan.prepared.parts}


def _named(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _table_data(plan: Plan, folder: Path) -> tuple[str, dict[str, Any], list[str], dict[str, Any]]:
    sources, settings = _sources(plan), plan.settings
    is_npz = Path(settings.source).suffix.lower() == ".npz"
    options = read_options(settings, plan.schema.decimal, plan.schema.points)
    wanted = {*settings.target, *settings.kind, *(column.name for column in plan.schema.columns)}
    wanted |= {name for name in (settings.weight, settings.series, settings.order) if name is not None}
    files: dict[str, TableFile] = {}
    for part, path in sources.items():
        content = path.read_bytes()
        table = Table(_npz_frame(path, plan), path.name) if is_npz else read_table(path, options, wanted=wanted)
        files[part] = TableFile(
            _named(path, folder), hashlib.sha256(content).hexdigest(), table.frame, content, table.commas
        )
    numbers = {part: plan.prepared.parts[part].rows for part in sources}
    rows: dict[str, Any] = dict(numbers)
    if plan.schema.series is not None:
        for part, found in numbers.items():
            rows |= _step_rows(part, files[part].frame, found, plan)
    data = TableData(plan.schema, settings, files, {part: rows[part] for part in sources})
    facts = table_facts(data)
    if data.image is not None:
        facts["roots"] = {part: _named(path.parent, folder) for part, path in sources.items()}
        facts |= {"sha256": {}, "found": {}}  # the latter: names in the table that are not quite those of the files
        for part, path in sources.items():
            cells = to_texts(files[part].frame[data.image.name][data.rows[part]])
            paths = image_paths(cells, path.parent)
            facts["sha256"][part] = _digest_of(paths)
            pairs = [(cell, file) for cell, file in zip(cells, paths, strict=True) if file is not None]
            facts["found"] |= {
                cell: Path(os.path.relpath(file, path.parent)).as_posix()
                for cell, file in pairs
                if file != path.parent / cell
            }
    train = files["train"]
    reading: tuple[dict[str, Any], dict[str, Any]]
    if is_npz:
        arrays = np.load(io.BytesIO(train.content))
        reading = npz_reading(data, arrays, *_keys(arrays))
    elif train.content[:4] == b"PAR1":
        reading = parquet_reading(data, pl.read_parquet(io.BytesIO(train.content))), {}
    else:
        layout = text_layout(sources["train"], options)
        commas = file_commas(files.values())
        regular = all(_is_regular(file, layout, commas) for file in files.values())
        reading = csv_reading(data, layout, is_regular=regular)
    more = [*(["tokenizers"] if text_columns(plan.schema) else []), *(["pillow"] if data.image else [])]
    text = _reader({**table_values(data), **reading[0]}, plan, table_docstring(data))
    return text, {**facts, **reading[1]}, ["polars", *more], rows


def _reader(values: dict[str, Any], plan: Plan, docstring: str) -> str:
    """Return the text of `data.py`."""
    of_pixels = ["normalise", "MEANS"] if plan.schema.image is not None else []
    of_pixels += ["augment", "filling"] if of_pixels and plan.recipe.augment else []
    return folded(assembled("data.py"), values, roots=["read", *of_pixels], docstring=docstring)


def _step_rows(part: str, frame: pl.DataFrame, numbers: Rows, plan: Plan) -> dict[str, Any]:
    """Return the rows of the steps of some series, where each but the last ends, and the first row of each."""
    assert plan.schema.series is not None
    _, steps, codes = step_rows(frame, plan.schema.series, plan.schema.order)
    of_series = np.split(steps, np.searchsorted(codes, np.arange(1, codes.max() + 1)))
    chosen = [of_series[number] for number in numbers]
    return {
        part: np.array([rows[0] for rows in chosen]),
        f"{part}_steps": np.concatenate(chosen),
        f"{part}_ends": np.cumsum([len(rows) for rows in chosen])[:-1],
    }


def _is_regular(file: TableFile, layout: TextLayout, commas: Commas | None) -> bool:
    """Whether polars alone reads a text table as the run did."""
    encoding = layout.encoding
    try:
        if encoding == UTF8_WITH_STRAYS:
            text = plain.with_strays(file.content.decode("utf-8-sig", "surrogateescape"))
        else:
            text = file.content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
        text = text[layout.start :].strip("\r\n")
        found = pl.read_csv(io.StringIO(text), separator=layout.delimiter, infer_schema=False, null_values=[""])
        found.columns = file.frame.columns
        found = found if commas is None else with_decimal_points(found, commas)
    except (pl.exceptions.PolarsError, UnicodeError, ValueError):
        return False
    return found.equals(file.frame)


def _keys(arrays: Any) -> tuple[str, str]:
    names = {name.lower(): name for name in arrays.files}
    return names["x"], names["y"]


def _npz_frame(path: Path, plan: Plan) -> pl.DataFrame:
    arrays = read_npz(path)
    assert arrays.y is not None
    make = series_frame if any(column.kind == "series" for column in plan.schema.inputs) else as_frame
    return make(arrays.x).hstack(target_frame(arrays.y, [target.name for target in plan.schema.targets]))


def _image_data(plan: Plan, folder: Path) -> tuple[str, dict[str, Any], list[str], dict[str, Any]]:
    sources, parts = _sources(plan), plan.prepared.parts
    names = {part: list(parts[part].names) for part in sources if parts[part].names}
    if names:
        digests = {part: _digest_of([Path(path) for path in found]) for part, found in names.items()}
        paths = {part: [_named(Path(path), folder) for path in found] for part, found in names.items()}
        data = ImageData(plan.schema, list(sources), {}, paths, digests, {})
        roots = {part: _named(path, folder) for part, path in sources.items()}
        text = _reader(image_values(data), plan, "Read the image files as the run did, by statistics that lie beside.")
        return text, {**image_facts(data), "roots": roots}, ["pillow"], {}
    files = {
        part: (_named(path, folder), hashlib.sha256(path.read_bytes()).hexdigest()) for part, path in sources.items()
    }
    arrays = {part: np.load(path) for part, path in sources.items()}
    keys = _keys(arrays["train"])
    codes: dict[str, int] = {}
    for part in sources:
        values = np.asarray(arrays[part][keys[1]])[parts[part].rows].reshape(-1).tolist()
        if plan.schema.task in ("binary", "multiclass"):
            targets = parts[part].source.targets.reshape(-1).tolist()
            codes |= {str(value): int(code) for value, code in zip(values, targets, strict=True)}
    data = ImageData(plan.schema, list(sources), files, {}, {}, codes, np.asarray(arrays["train"][keys[0]]), keys)
    text = _reader(image_values(data), plan, "Read the arrays as the run did, by statistics that lie beside.")
    return text, image_facts(data), [], {part: parts[part].rows for part in sources}


def _digest_of(paths: Sequence[Path | None]) -> str:
    sha256 = hashlib.sha256()
    for path in paths:
        sha256.update(b"" if path is None else path.read_bytes())
    return sha256.hexdigest()
