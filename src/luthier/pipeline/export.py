"""Export a model, proven on its run's test rows or on those of a file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from luthier.core.schema import Schema
from luthier.data.files import read_any
from luthier.data.images import list_images
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError, LuthierError, RunError, SettingError
from luthier.networks.foreign import is_own_file
from luthier.pipeline.tables import read_cells
from luthier.pipeline.train import open_run, refuse_other_rows
from luthier.serving.exporting.export import Export
from luthier.serving.exporting.export import export as export_model
from luthier.serving.model import load

_log = logging.getLogger("luthier")
_MOST = 1000
_MOST_IMAGES = 20


def export(
    model: str | Path,
    output: str | Path,
    *,
    format: Any = None,
    rows: str | None = None,
    network: str | None = None,
    trust_code: bool = False,
) -> Export:
    """Write a model for elsewhere, as `Model.export` does.

    Args:
        model: A model's file, or the folder of a run.
        output: As in `Model.export`.
        format: Likewise.
        rows: A file of rows, or a folder of images, that are answered as well; of a run's folder the test rows, read
            again, where it is None and the data is there.
        network: For a network from your own file: `FILE.py:CLASS`.
        trust_code: Run the code of the network that the run's folder names.

    Raises:
        LuthierError: as `Model.export`; or the rows cannot be read.
    """
    folder = Path(model)
    plan = None
    if rows is None and (folder / "run.toml").is_file():
        given: dict[str, Any] = {"trust_code": trust_code} if network is None else {"network": network}
        try:
            _, plan = open_run(folder, **given)
            refuse_other_rows(plan, folder)
        except (DataError, RunError, OSError) as error:
            plan = None
            words = error.message if isinstance(error, LuthierError) else str(error)
            _log.warning("the proof did not use the test rows: %s", words)
    if plan is not None and network is None and is_own_file(plan.blueprint.family):
        network = plan.blueprint.family
    loaded = load(model, network=network)
    own: list[dict[str, Any]] = []
    if loaded.schema is not None and rows is not None:
        own = _file_rows(loaded.schema, rows)
    elif loaded.schema is not None and plan is not None and (part := plan.prepared.parts.get("test")) is not None:
        if loaded.schema.columns:
            frame = read_cells(plan.settings, loaded.schema, part)
            own = _rows(frame, loaded.schema, Path(part.file).parent)
        else:
            own = [{"image": name} for name in _some(part.names, _MOST_IMAGES)]  # none of arrays
    return export_model(loaded, output, format=format, rows=own, sources=(str(model),))


def _file_rows(schema: Schema, source: str) -> list[dict[str, Any]]:
    if schema.image is not None and not schema.columns:
        return [{"image": str(path)} for path in _some(list_images(Path(source)), _MOST_IMAGES)]
    if schema.series is not None:
        raise SettingError(
            "the model takes series with a row for each step, but a row of the proof has a whole series",
            hint="leave rows= out",
            code="setting-ignored",
        )
    return _rows(
        read_any(source, ReadOptions(likely_decimal=schema.decimal, points=schema.points)).frame,
        schema,
        Path(source).parent,
    )


def _rows(frame: pl.DataFrame, schema: Schema, root: Path) -> list[dict[str, Any]]:
    """Return the cells that the model takes, of evenly chosen rows."""
    image = next((column.name for column in schema.inputs if column.kind == "image"), None)
    most = _MOST if image is None else _MOST_IMAGES
    places = np.unique(np.linspace(0, frame.height - 1, min(most, frame.height)).round().astype(int))
    names = [column.name for column in schema.inputs]
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise DataError(
            f"the rows lack columns that the model takes: {', '.join(map(repr, absent))}",
            hint="give the columns of the training data",
            code="data-column-missing",
        )
    chosen = frame[places].select(names).to_dicts()
    if image is not None:
        chosen = [{**row, image: None if row[image] is None else str(root / row[image])} for row in chosen]
    return chosen


def _some(paths: Sequence[Any], most: int) -> list[Any]:
    return [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int))]
