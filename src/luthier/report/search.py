"""The part of a page that shows the search that a run is the best of: its history, and what mattered."""

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
    counts = {state: sum(row["state"] == state for row in trials) for state in ("complete", "pruned", "failed")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    words = (
        f"This run is trial {found['number']} of {len(trials)} ({said}), kept by {metric} on the validation rows. "
        "The best of many has a figure that flatters; those on the test rows do not."
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
        parts.append(table(["setting", f"share in what the trials' {metric} differs by"], list(shares.items())))
    return concat([*parts, details(numbers, summary=f"All {len(trials)} trials")])


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else value
