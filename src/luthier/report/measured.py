"""The parts of a page that show what the test rows said: figures, curves, slices, columns, rows."""

from typing import Any

from luthier.core.charts import Chart, Line, details, intervals
from luthier.core.html import Html, cell, concat, shown, table, tag, text
from luthier.metrics.figures import HIGHER

_SHARES = [0.0, 1.0]
_MOST_CLASSES = 15  # of a confusion matrix that is shown whole
_SHOWN_FIGURES = {"accuracy": "accuracy", "log_loss": "log loss", "rmse": "RMSE", "mae": "MAE"}
_BARS = 20


def measured_sections(document: dict[str, Any]) -> list[tuple[str, str, Html]]:
    """Return name, title and content of each part; empty ones too."""
    has_test = document.get("test") or document.get("figures", {}).get("test")
    return [
        ("test", "On the test rows" if has_test else "Figures", _figures(document)),
        ("curves", "Curves", _curves(document)),
        ("slices", "Where it fails: slices", _slices(document)),
        ("columns", "Which columns matter", _columns(document)),
        ("rows", "Rows", _rows(document)),
    ]


def _figures(document: dict[str, Any]) -> Html:
    """Return the figures with intervals beside the constant answer, and those of the classes."""
    parts = []
    if why := document.get("unmeasured"):
        words = f"The test rows were not measured again: {why}. The report shows what the run saved."
        parts.append(tag("p", words, class_="warn" if document.get("finished") else "note"))
    test = document.get("test", {})
    baseline = test.get("baseline", {})
    ends = test.get("intervals", {})
    rows = [(name, test[name], *ends[name], baseline.get(name)) for name in ends if name in test]
    if rows:
        headings = ["figure", "value", "95 % interval from", "to", "constant answer"]
        parts += [tag("p", f"{shown(test['rows'])} rows."), _scrolled(table(headings, rows))]
        words = (
            "An interval says how far a figure may be off because the rows are few. The constant answer gives "
            "every row the class shares, or the mean, of the training rows."
        )
        parts.append(tag("p", words, class_="note"))
    kept = {part: found for part, found in document.get("figures", {}).items() if part != "test" or not rows}
    for part, found in kept.items():
        if found:
            named = {"valid": "validation"}.get(part, part)
            parts.append(table(["figure", "value"], list(found.items()), caption=f"On {named} rows"))
    if classes := test.get("classes"):
        names = list(classes[0])
        parts.append(_scrolled(table(names, [list(row.values()) for row in classes[:50]], caption="Each class")))
        if "target" not in names:
            parts.append(_confusion([row["class"] for row in classes], test["confusion"]))
    if unseen := test.get("unseen"):
        parts.append(table(["class not seen in training", "rows"], [(row["class"], row["rows"]) for row in unseen]))
    return concat(parts)


def _confusion(names: list[str], counts: list[list[int]]) -> Html:
    """Return the confusion matrix; of many classes the pairs that are confused most."""
    if len(names) > _MOST_CLASSES:
        pairs = [(names[i], names[j], n) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
        some = sorted(pairs, key=lambda pair: -pair[2])[:20]
        return table(["true", "decided", "rows"], some, caption="Confused most often")
    head = tag("tr", tag("td", "true \\ decided"), *(tag("th", cell(name), scope="col") for name in names))
    body = []
    for name, row in zip(names, counts, strict=True):
        shares = [round(60 * count / max(sum(row), 1)) for count in row]
        cells = [tag("td", shown(n), style=f"--share:{share}%") for n, share in zip(row, shares, strict=True)]
        body.append(tag("tr", tag("th", cell(name), scope="row"), *cells))
    caption = tag("caption", "Confusion: the true class (down) by the decided one (across), rows")
    return _scrolled(tag("table", caption, tag("thead", head), tag("tbody", *body), class_="confusion"))


def _curves(document: dict[str, Any]) -> Html:
    curves = document.get("curves") or {}
    charts: list[Html] = []
    if ranking := curves.get("ranking"):
        test = document["test"]
        positive = test.get("positive", "yes")
        diagonal = Line("at random", _SHARES, _SHARES, is_guide=True)
        base = test.get("baseline", {}).get("average_precision")
        line = Line("network", ranking["false_positive_rate"], ranking["recall"])
        area = f"area {shown(test.get('auc'))}"
        charts.append(
            Chart(f"ROC curve, {area}", "false positive rate", "recall", [line, diagonal], rows=ranking).html()
        )
        level = [] if base is None else [Line("constant answer", _SHARES, [base, base], is_guide=True)]
        line = Line("network", ranking["recall"], ranking["precision"])
        words = f"average precision {shown(test.get('average_precision'))}"
        note = f"Of the class {positive}."
        lines = [line, *level]
        charts.append(
            Chart(f"Precision and recall, {words}", "recall", "precision", lines, note=note, rows=ranking).html()
        )
    if found := curves.get("calibration"):
        line = Line("network", found["said"], found["came"], found["low"], found["high"])
        diagonal = Line("perfect", _SHARES, _SHARES, is_guide=True)
        error = shown(document.get("test", {}).get("calibration_error"))
        binary = "ranking" in curves
        axes = ("predicted probability", "observed share") if binary else ("confidence", "accuracy")
        note = "Upright lines are 95 % intervals: bins of few rows have long ones."
        charts.append(Chart(f"Calibration, error {error}", *axes, [line, diagonal], note=note, rows=found).html())
    if found := curves.get("thresholds"):
        charts += _thresholds(found, document.get("answering", {}).get("thresholds") or [0.5])
    if found := curves.get("points"):
        ends = [min(found["true"]), max(found["true"])]
        points = Line("a row", found["true"], found["answer"], is_points=True)
        perfect = Line("perfect", ends, ends, is_guide=True)
        note = f"{len(found['true'])} test rows, evenly spread." if len(found["true"]) >= 400 else ""
        charts.append(Chart("Answer against truth", "true", "answer", [points, perfect], note=note).html())
    if found := curves.get("residuals"):
        middle = Line("median error", found["answer"], found["error_50"], found["error_10"], found["error_90"])
        zero = Line("none", [min(found["answer"]), max(found["answer"])], [0.0, 0.0], is_guide=True)
        note = "Rows in tenths by the size of the answer; upright lines hold the middle 80 % of the errors."
        lines = [middle, zero]
        charts.append(
            Chart("Errors by the size of the answer", "answer", "answer − true", lines, note=note, rows=found).html()
        )
    return tag("div", *charts, class_="charts") if charts else Html("")


def _thresholds(found: dict[str, Any], used: list[float]) -> list[Html]:
    mark = (used[0], f"The threshold of the model: {shown(used[0])}")
    across, costs = found["threshold"], [name for name in found if name.startswith("cost_")]
    lines = [Line(name, across, found[name]) for name in ("precision", "recall", "f1")]
    note = f"{mark[1]}: the dashed upright line."
    first = Chart("Threshold", "threshold", "share", lines, mark, note=note).html()
    words = [f"a missed yes costs {name.removeprefix('cost_')}" for name in costs]
    lines = [Line(name, across, found[cost]) for name, cost in zip(words, costs, strict=True)]
    note = "Mean cost of a row; a false alarm costs 1."
    return [first, Chart("Cost by threshold", "threshold", "cost", lines, mark, note=note).html()]


def _slices(document: dict[str, Any]) -> Html:
    """Return figures of slices, those first that are clearly worse than all rows."""
    found, test = document.get("slices"), document.get("test", {})
    if not found:
        return Html("")
    main = "rmse" if document["main"] == "rmse" else "accuracy"
    whole = test.get(main, found[0]["values"][main])
    worse = [row for row in found if _is_worse(row, main, whole)]
    worse.sort(key=lambda row: row["values"][main], reverse=main not in HIGHER)
    bars = [
        (f"{row['column']}: {row['slice']}", row["values"][main], *row["intervals"].get(main, [None, None]))
        for row in (worse[:_BARS] or sorted(found, key=lambda row: row["values"][main], reverse=main not in HIGHER)[:8])
    ]
    words = f"No slice of {len(found)} is clearly worse than all rows; the lowest are drawn."
    if worse:
        words = (
            f"{len(worse)} of {len(found)} slices have a 95 % interval that is entirely worse than the figure "
            f"of all rows. By chance alone about {max(1, round(len(found) * 0.025))} would."
        )
    title = f"{_SHOWN_FIGURES[main]} of slices".capitalize() if main != "rmse" else "RMSE of slices"
    chart = intervals(
        title,
        bars,
        x=_SHOWN_FIGURES[main],
        guide=whole,
        note="The dashed line is all rows.",
        headings=("slice", _SHOWN_FIGURES[main], "from", "to"),
    )
    others = [name for name in _SHOWN_FIGURES if name in found[0]["values"] and name != main]
    rows = [
        (
            row["column"], row["slice"], row["rows"], row["values"][main], *row["intervals"].get(main, [None, None]),
            *(row["values"][name] for name in others),
        )
        for row in found
    ]  # fmt: skip
    headings = [
        "column",
        "slice",
        "rows",
        _SHOWN_FIGURES[main],
        "from",
        "to",
        *(_SHOWN_FIGURES[name] for name in others),
    ]
    return concat(
        [
            tag("p", words),
            tag("div", chart, class_="charts"),
            details(table(headings, rows), summary=f"All {len(found)} slices"),
        ]
    )


def _is_worse(row: dict[str, Any], main: str, whole: float) -> bool:
    ends = row["intervals"].get(main)
    if not ends:
        return False
    if main in HIGHER:
        return bool(max(ends[1], row["values"][main]) < whole)
    return bool(min(ends[0], row["values"][main]) > whole)


def _columns(document: dict[str, Any]) -> Html:
    """Return importances, and how the answer goes with the most important columns."""
    found = document.get("importance")
    if not found:
        return Html("")
    loss = "RMSE" if document["main"] == "rmse" else "log loss"
    bars = [(row["column"], row["increase"], row["low"], row["high"]) for row in found[:_BARS]]
    words = (
        f"How much the {loss} on the test rows grows where the cells of one column are exchanged between rows, with "
        "95 % intervals. Columns that say the same stand in for each other, so each of them may look small."
    )
    headings = ("column", f"increase of the {loss}", "from", "to")
    charts = [intervals("Importance by permutation", bars, x=f"increase of the {loss}", guide=0.0, headings=headings)]
    charts += [_dependence(row, document) for row in document.get("dependence", [])]
    return concat([tag("p", words), tag("div", *charts, class_="charts")])


def _dependence(row: dict[str, Any], document: dict[str, Any]) -> Html:
    is_number = row["numbers"] is not None and row["kind"] == "number"
    across = row["numbers"] if row["numbers"] is not None else list(range(len(row["labels"])))
    ticks = [] if is_number else _ticks(across, row["labels"])
    lines = [Line(name, across, values, is_points=row["numbers"] is None) for name, values in row["answers"].items()]
    axis = "mean answer" if document["main"] == "rmse" else "mean probability"
    rows = {row["column"]: row["labels"], **row["answers"]}
    title = f"Answer by {row['column'] if len(row['column']) <= 80 else row['column'][:79] + '…'}"
    return Chart(title, row["column"], axis, lines, ticks=ticks, rows=rows).html()


def _ticks(across: list[float], labels: list[str]) -> list[tuple[float, str]]:
    """Return some places with their names, few and short enough to stand side by side."""
    every = max(1, -(-len(labels) // 4))
    return [
        (at, name if len(name) <= 12 else f"{name[:11]}…")
        for at, name in list(zip(across, labels, strict=True))[::every]
    ]


def _rows(document: dict[str, Any]) -> Html:
    """Return the lists of rows, each with its cells."""
    parts = []
    for name, rows in (document.get("rows") or {}).items():
        if not rows:
            continue
        plain = [key for key in rows[0] if key not in ("cells", "picture")]
        columns = list(rows[0]["cells"])
        has_picture = "picture" in rows[0]
        headings = [*plain, *(["picture"] if has_picture else []), *columns]
        head = tag("tr", *(tag("th", cell(heading), scope="col") for heading in headings))
        body = [tag("tr", *_row(row, plain, columns, has_picture=has_picture)) for row in rows]
        title = {"worst": "Answered worst", "least certain": "Answered with the least certainty"}.get(name, name)
        parts.append(_scrolled(tag("table", tag("caption", title), tag("thead", head), tag("tbody", *body))))
    return concat(parts)


def _row(row: dict[str, Any], plain: list[str], columns: list[str], *, has_picture: bool) -> list[Html]:
    cells = [tag("th", cell(row[plain[0]]), scope="row")]
    cells += [tag("td", cell(row[key]), class_="n" if isinstance(row[key], int | float) else None) for key in plain[1:]]
    if has_picture:
        source = f"data:image/png;base64,{row['picture']}"
        cells.append(tag("td", tag("img", src=source, alt=f"The picture of {row['row']}", class_="picture")))
    return [*cells, *(tag("td", text(row["cells"][name]), class_="cell", dir="auto") for name in columns)]


def _scrolled(found: Html) -> Html:
    return tag(
        "div", found, class_="wide", tabindex=0, role="region", aria_label="A table that may be wider than the page"
    )
