"""The runs in a folder, a row each, from what their folders hold: no data is read and no network built."""

import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luthier.core.names import did_you_mean
from luthier.data.files import source_name
from luthier.errors import LuthierError, RunError, SettingError, printable
from luthier.metrics.figures import HIGHER
from luthier.pipeline.report import run_state, trainings_of
from luthier.store.bundle import read_facts
from luthier.store.files import read_plain

COLUMNS = ("run", "data", "target", "network", "figure", "value", "seconds", "state", "when")


def list_runs(folder: str | Path = "runs", *, sort: str = "when", match: str = "") -> list[dict[str, Any]]:
    """Return the runs that lie in a folder, a dict each with the keys `COLUMNS`.

    `figure` and `value` are the main figure on the test rows, or on the validation rows where there are none; `when` is
    when the run last wrote, in UTC. A damaged run is listed with what can be read of it.

    Args:
        folder: Where the runs lie.
        sort: A column; `value` puts the best first, figure by figure, and `when` the newest.
        match: Text that some column of a run holds, in any case: its data, its network, its state.

    Raises:
        RunError: there is no such folder.
        SettingError: there is no such column.
    """
    place = Path(folder)
    if sort not in COLUMNS:
        raise SettingError(
            f"runs cannot be sorted by {sort!r}", hint=did_you_mean(sort, COLUMNS), code="setting-unknown-choice"
        )
    if not place.is_dir():
        raise RunError(f"there is no folder {place}", hint="name the folder with the runs", code="run-not-found")
    rows = [_row(path) for path in sorted(place.iterdir()) if path.is_dir() and _is_run(path)]
    rows = [row for row in rows if any(match.casefold() in str(cell).casefold() for cell in row.values())]
    if sort == "value":
        return sorted(rows, key=_by_value)
    return sorted(rows, key=lambda row: (row[sort] is None, row[sort] or 0), reverse=sort == "when")


def _by_value(row: dict[str, Any]) -> tuple[bool, str, float]:
    sign = -1.0 if str(row["figure"]).partition(" ")[2] in HIGHER else 1.0
    return row["value"] is None, str(row["figure"]), sign * (row["value"] or 0.0)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("run.toml", "record.jsonl"))


def _row(run: Path) -> dict[str, Any]:
    document, facts = _run_file(run), read_facts(run / "model.safetensors")
    try:
        trainings = trainings_of(run)
        finished = bool(facts) and all(training["done"] for training in trainings)
        state = run_state(run, trainings, is_finished=finished)
    except LuthierError:  # a damaged record says nothing
        trainings, state = [], "damaged"
    data, blueprint = _part(document, "data"), _part(document, "blueprint")
    named = data.get("target") or []
    figure, value = _main_figure(_part(facts, "metrics"))
    written = [path.stat().st_mtime for path in run.rglob("record.jsonl")] or [run.stat().st_mtime]
    return {
        "run": printable(str(run)),
        "data": printable(source_name(str(data["source"]))) if "source" in data else None,
        "target": printable(", ".join(map(str, named))) if isinstance(named, list) and named else None,
        "network": printable(str(blueprint.get("family") or facts.get("module") or "")) or None,
        "figure": figure,
        "value": value,
        "seconds": round(sum(training["seconds"]["all"] for training in trainings), 1),
        "state": state,
        "when": datetime.fromtimestamp(max(written), UTC).isoformat(timespec="seconds"),
    }


def _run_file(run: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_plain(run / "run.toml", most=1 << 24).decode(errors="replace"))
    except (OSError, LuthierError, tomllib.TOMLDecodeError, RecursionError):
        return {}


def _part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _main_figure(metrics: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Return the name and value of the first figure on the test rows, or else on the validation rows."""
    for part in ("test", "valid"):
        for name, value in _part(metrics, part).items():
            if isinstance(value, float) and name != "loss":
                return f"{part} {name}", value
    return None, None
