"""The part of a page that shows the search that a run is the best of: its history, and what mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.core.charts import Chart, Line, details
from luthier.core.html import Html, concat, table, tag


def search_section(document: dict[str, Any]) -> Html:
    """Return the trials of the study that a run is a trial of, as charts and a table."""
    found = document.get("search")
    if not found:
        return Html("")
    metric, trials = found["metric"], found["trials"]
    complete = [row for row in trials if row["value"] is not None]
    best, so_far = [], None
    for row in complete:
        value = row["value"]
        is_better = so_far is None or (value > so_far if found["higher_is_better"] else value < so_far)
        so_far = value if is_better else so_far
        best.append(so_far)
    across = [row["trial"] for row in complete]
    lines = [
        Line("a trial", across, [row["value"] for row in complete], is_points=True),
        Line("the best so far", across, best),
    ]
    charts = [Chart(f"{metric} of the trials", "trial", metric, lines, is_whole=True).html()]
    charts += _tradeoff(metric, complete, is_high=found["higher_is_better"])
    counts = {state: sum(row["state"] == state for row in trials) for state in ("complete", "pruned", "failed")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    words = (
        f"This run is trial {found['number']} of {len(trials)} ({said}), kept by {metric} on the validation rows. "
        "The validation figure of the best of many trials is too good; the test figures are not."
    )
    names = list(dict.fromkeys(name for row in trials for name in row["settings"]))
    rows = [
        (
            row["trial"],
            row["state"],
            row["value"],
            row["epochs"],
            *(_plain(row["settings"].get(name)) for name in names),
        )
        for row in trials
    ]
    numbers = table(["trial", "state", metric, "epochs", *names], rows)
    parts = [tag("p", words), tag("div", *charts, class_="charts")]
    if shares := found["importances"]:
        parts.append(table(["setting", f"share in the differences of {metric}"], list(shares.items())))
    return concat([*parts, details(numbers, summary=f"All {len(trials)} trials")])


def unbeaten(rows: Sequence[Mapping[str, Any]], directions: Mapping[str, bool]) -> list[Mapping[str, Any]]:
    """Return the rows that no other one equals or betters in all of some figures, and betters in one: a Pareto front.

    Args:
        rows: Figures by name; rows that lack one are left out.
        directions: Of each figure that counts whether it is better high.

    >>> rows = [{"loss": 0.3, "seconds": 9}, {"loss": 0.4, "seconds": 2}, {"loss": 0.5, "seconds": 3}]
    >>> len(unbeaten(rows, {"loss": False, "seconds": False}))
    2
    """
    points = {
        i: tuple(-row[name] if high else row[name] for name, high in directions.items())
        for i, row in enumerate(rows)
        if all(isinstance(row.get(name), int | float) for name in directions)
    }
    return [
        rows[i]
        for i, own in points.items()
        if not any(other != own and all(x <= y for x, y in zip(other, own, strict=True)) for other in points.values())
    ]


def _tradeoff(metric: str, rows: Sequence[Mapping[str, Any]], *, is_high: bool) -> list[Html]:
    """Return what the metric costs in parameters, where networks of several sizes were tried."""
    known = [{**row["figures"], "value": row["value"]} for row in rows if row["figures"].get("parameters")]
    if len({row["parameters"] for row in known}) < 2:
        return []
    front = sorted(unbeaten(known, {"value": is_high, "parameters": False}), key=lambda row: row["parameters"])
    lines = [
        Line("a trial", [row["parameters"] for row in known], [row["value"] for row in known], is_points=True),
        Line("none is better and smaller", [r["parameters"] for r in front], [r["value"] for r in front]),
    ]
    return [Chart(f"{metric} by size", "parameters", metric, lines, is_whole=True).html()]


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else value
