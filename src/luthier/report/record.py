"""What a record says of a training, as plain columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST = 400  # epochs that are shown one by one


def training_document(rows: Iterable[Mapping[str, Any]], *, name: str = "") -> dict[str, Any]:
    """Return how a training went, from the rows of its record.

    Of many epochs some hundred are kept, evenly spread, with the last and the one whose weights were kept. A figure
    that is no number is None.

    >>> rows = [{"event": "epoch", "epoch": 0, "step": 3, "train_loss": 0.5, "seconds": 1.5}]
    >>> found = training_document([*rows, {"event": "end", "reason": "all epochs are done", "best_epoch": 0}])
    >>> found["epochs"]["train_loss"], found["kept"], found["seconds"]["all"]
    ([0.5], 0, 1.5)
    """
    rows = list(rows)
    ends = [row for row in rows if row["event"] in ("end", "extended")]
    is_done = bool(ends) and ends[-1]["event"] == "end"
    kept = ends[-1]["best_epoch"] if is_done else None
    epochs = [row for row in rows if row["event"] == "epoch"]
    every = -(-len(epochs) // _MOST)
    last = len(epochs) - 1
    some = [row for i, row in enumerate(epochs) if i % max(every, 1) == 0 or i == last or row["epoch"] == kept]
    names = dict.fromkeys(name for row in some for name, value in row.items() if isinstance(value, int | float))
    spent = [float(row.get("seconds") or 0.0) for row in epochs]
    until = sum(spent) if kept is None else sum(spent[: int(kept) + 1])
    return {
        "name": name,
        "machine": next(({k: row[k] for k in row if k != "event"} for row in rows if row["event"] == "start"), {}),
        "epochs": {name: [row.get(name) for row in some] for name in names},
        "num_epochs": len(epochs),
        "every": max(every, 1),
        "steps": epochs[-1]["step"] if epochs else 0,
        "kept": kept,
        "done": is_done,
        "end": ends[-1]["reason"] if is_done else None,
        "not_finite": next((row["what"] for row in reversed(rows) if row["event"] == "not-finite"), None),
        "before": {row["event"]: row["seconds"] for row in rows if row["event"] in ("reading", "checks")},
        "seconds": {
            "all": round(sum(spent), 3), "to_the_kept": round(until, 3), "after_it": round(sum(spent) - until, 3),
            "an_epoch": round(sum(spent) / max(len(epochs), 1), 4),
        },
        "findings": [{k: row[k] for k in row if k != "event"} for row in rows if row["event"] == "finding"],
    }  # fmt: skip


def run_words(trainings: Sequence[dict[str, Any]], *, is_finished: bool, is_training: bool = False) -> str:
    """Say in a word how a run stands: finished, running, failed (no finite loss, an error of a check) or stopped."""
    if is_finished or is_training:
        return "finished" if is_finished else "running"
    has_failed = any(training["not_finite"] and not training["done"] for training in trainings)
    has_failed |= any(finding.get("severity") == "error" for training in trainings for finding in training["findings"])
    return "failed" if has_failed else "stopped"


def without_cells(found: dict[str, Any]) -> dict[str, Any]:
    """Return a document without what may hold values of cells: names of columns and of classes stay.

    A query and words for a missing value quote cells, and so does the command that gave them.
    """
    kept = {name: value for name, value in found.items() if name not in ("notes", "unseen", "rows")}
    settings = found.get("settings", {})
    if quoting := settings.keys() & {"data.query", "data.missing"}:
        kept |= {"asked": "", "settings": {name: value for name, value in settings.items() if name not in quoting}}
    kept["columns"] = [{**column, "why": "", "doubt": ""} for column in found.get("columns", [])]
    kept["trainings"] = [
        {**training, "findings": [{**finding, "what": "", "fix": ""} for finding in training["findings"]]}
        for training in found["trainings"]
    ]
    if "test" in kept:
        kept["test"] = {name: value for name, value in kept["test"].items() if name != "unseen"}
    return kept
