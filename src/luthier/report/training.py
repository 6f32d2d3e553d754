"""The part of a page that shows how a training went: its curves, with the epoch whose weights were kept."""

from typing import Any

from luthier.core.charts import Chart, Line, details
from luthier.core.html import Html, concat, table, tag

_ALONE = ("lr", "grad_norm", "seconds")
_TITLES = {"lr": "Learning rate", "grad_norm": "Gradient norm", "seconds": "Seconds an epoch"}
_NO_CURVE = ("epoch", "step")


def training_section(training: dict[str, Any]) -> Html:
    """Return the curves of one training, and its table."""
    if not training["epochs"]:
        words = training["not_finite"] or "There is no finished epoch."
        return tag("p", f"{training['name']}: {words}" if training["name"] else words)
    columns, kept = training["epochs"], training["kept"]
    across = [epoch + 1 for epoch in columns["epoch"]]
    charts = [chart.html() for chart in curves(training)]
    parts = [tag("h4", training["name"].replace("-", " ").capitalize())] if training["name"] else []
    words = "" if kept is None else f"The weights of epoch {kept + 1} were kept: the dashed upright line. "
    words += f"Every {training['every']}th epoch is drawn. " if training["every"] > 1 else ""
    parts += [tag("p", words)] if words else []
    parts += [tag("p", training["not_finite"], class_="warn")] if training["not_finite"] else []
    whole = {"epoch": across, **{name: values for name, values in columns.items() if name != "epoch"}}
    numbers = table(list(whole), zip(*whole.values(), strict=True))
    return concat(
        [*parts, tag("div", *charts, class_="charts"), details(numbers, summary="The record, an epoch a row")]
    )


def curves(training: dict[str, Any], *, most: int | None = None) -> list[Chart]:
    """Return the curves of one training: the losses, then each metric, then learning rate, gradient norm and seconds.

    Args:
        training: As `training_document` gives it.
        most: How many charts.
    """
    columns, kept = training["epochs"], training["kept"]
    across = [epoch + 1 for epoch in columns.get("epoch", [])]
    mark = None if kept is None or not across else (kept + 1, f"The weights of epoch {kept + 1} were kept")
    return [
        Chart(
            title, "epoch", axis, [Line(name, across, columns[key]) for name, key in named], mark, has_table=False,
            is_whole=True,
        )
        for title, axis, named in _charts(columns)[:most]
    ]  # fmt: skip


def _charts(columns: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return the charts: title, axis, and lines with the names of their columns. Losses stand together."""
    named = {"train_loss": "train", "valid_loss": "validation"}
    losses = [(label, name) for name, label in named.items() if name in columns]
    taken = {*named, *_ALONE, *_NO_CURVE}
    others = [name for name in columns if name not in taken]
    found: list[tuple[str, str, list[tuple[str, str]]]] = [("Loss", "loss", losses)] if losses else []
    by_metric: dict[str, list[tuple[str, str]]] = {}
    for name in others:
        part, _, metric = name.partition("_")
        is_part = part in ("train", "valid") and metric
        key = metric if is_part else name
        label = {"valid": "validation"}.get(part, part) if is_part else name
        by_metric.setdefault(key, []).append((label, name))
    for key, lines in by_metric.items():
        of = f", {lines[0][0]}" if len(lines) == 1 and lines[0][0] != key else ""
        found.append((f"{key.replace('_', ' ')}{of}", key, lines))
    return found + [(_TITLES[name], name, [(name, name)]) for name in _ALONE if name in columns]
