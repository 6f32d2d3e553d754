"""The page of one or several runs: one HTML file without scripts, which asks for nothing beside itself."""

import base64
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.core.charts import STYLE, details
from luthier.core.html import Html, concat, shown, table, tag, text
from luthier.core.plain import finite_or_none
from luthier.core.version import VERSION
from luthier.report.measured import measured_sections
from luthier.report.search import search_section
from luthier.report.training import training_section
from luthier.store.files import write_whole

_STYLE = Html(files("luthier").joinpath("report", "style.css").read_text(encoding="utf-8"))
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(documents: Sequence[dict[str, Any]], path: Path, *, rows: bool = True) -> None:
    """Write the page of some runs.

    Raises:
        RunError: it cannot be written.
    """
    write_whole(path, page(documents, rows=rows).encode(errors="backslashreplace"))


def page(documents: Sequence[dict[str, Any]], *, rows: bool = True) -> str:
    """Return the page as text; all that it shows stands in its JSON too.

    Args:
        documents: Of each run, what is known of it.
        rows: Whether the documents hold values of cells, which the page's head says.
    """
    has_rows = rows and any("rows" in document for document in documents)
    names = [document["name"] for document in documents]
    title = f"Report: {', '.join(map(str, names[:3]))}{' and others' if len(names) > 3 else ''}"
    said = "This file holds values of cells: rows of the data are shown in it." if has_rows else (
        "This file holds no values of cells: names of columns and classes, settings and figures alone."
    )  # fmt: skip
    sections = [_run(document, f"run-{i + 1}") for i, document in enumerate(documents)]
    head = [
        Html('<meta charset="utf-8">'),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="luthier-rows", content="yes" if has_rows else "no"),
        tag("title", title),
        tag("style", STYLE, _STYLE),
    ]
    body = [
        tag("a", "Skip to the report", class_="skip", href="#main"),
        tag("header", tag("h1", title), tag("p", said, class_="note"), *_overview(documents)),
        tag("main", *sections, id="main"),
        tag("footer", f"Made by Luthier {VERSION}. This file has the numbers as JSON, in the element #data."),
        tag(
            "script",
            _json({"luthier": VERSION, "rows": has_rows, "runs": list(documents)}),
            type="application/json",
            id="data",
        ),
    ]
    return f'<!doctype html>\n<html lang="en">{tag("head", *head)}\n{tag("body", *body)}</html>\n'


def _json(value: Any) -> Html:
    """Return strict JSON that ends no element: NaN is null."""
    written = json.dumps(finite_or_none(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Html(written.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _overview(documents: Sequence[dict[str, Any]]) -> list[Html]:
    """Return the runs beside each other, where there are several."""
    if len(documents) < 2:
        return []
    rows = []
    for i, document in enumerate(documents):
        figures = document.get("test") or document.get("figures", {}).get("test", {})
        plain = {name: value for name, value in figures.items() if isinstance(value, float)}
        shown_figures = ", ".join(f"{name} {shown(value)}" for name, value in list(plain.items())[:4])
        seconds = ", ".join(str(shown(training["seconds"]["all"])) for training in document["trainings"])
        name = tag("a", document["name"], href=f"#run-{i + 1}")
        rows.append((name, document.get("source", ""), document["state"], shown_figures, seconds))
    return [tag("div", table(["run", "data", "state", "on the test", "seconds"], rows), class_="wide", tabindex=0)]


def _run(document: dict[str, Any], place: str) -> Html:
    """Return all that is known of one run."""
    sections = [
        ("asked", "What was asked", _asked(document)),
        ("data", "Data and split", _data(document)),
        ("design", "Design", _design(document)),
        ("search", "The search", search_section(document)),
        ("training", "Training", concat(training_section(training) for training in document["trainings"])),
        *measured_sections(document),
        ("findings", "Findings of the checks", _findings(document)),
        ("time", "Where time went", _time(document)),
        ("network", "The network", _network(document)),
    ]
    sections = [section for section in sections if section[2]]
    links = [tag("li", tag("a", title, href=f"#{place}-{name}")) for name, title, _ in sections]
    parts = [
        tag("section", tag("h3", title, id=f"{place}-{name}"), content, aria_labelledby=f"{place}-{name}")
        for name, title, content in sections
    ]
    heading = tag("h2", document["name"], id=place)
    nav = tag("nav", tag("ul", *links), aria_label=f"Parts of the report of {document['name']}")
    return tag("section", heading, tag("p", _outcome(document)), nav, *parts, aria_labelledby=place)


def _outcome(document: dict[str, Any]) -> str:
    ends = [training["end"] for training in document["trainings"] if training["end"]]
    words = f"{document['state'].capitalize()}"
    words += f": {ends[-1]}." if ends else "."
    epochs = [training["num_epochs"] for training in document["trainings"]]
    return f"{words} {' + '.join(map(str, epochs))} epochs." if sum(epochs) else words


def _asked(document: dict[str, Any]) -> Html:
    parts = [tag("pre", text(document["asked"], 4000))] if document.get("asked") else []
    rows = list(document.get("settings", {}).items())
    parts += [tag("div", table(["setting", "value"], rows), class_="wide", tabindex=0)] if rows else []
    machine = document["trainings"][0]["machine"] if document["trainings"] else {}
    facts = {**document.get("facts", {}), **machine}
    parts += [tag("p", "; ".join(f"{name} {value}" for name, value in facts.items()), class_="note")] if facts else []
    return concat(parts)


def _data(document: dict[str, Any]) -> Html:
    """Return rows of each part, classes, and the columns with what is left out."""
    parts: list[Html] = []
    if counts := document.get("parts"):
        parts.append(table(["part", "rows"], list(counts.items())))
    parts += [tag("p", f"{target['name']}: {target['what']}") for target in document.get("targets", [])]
    if classes := document.get("classes"):
        parts.append(table(["class", "target", "training rows"], [(name, of, count) for of, name, count in classes]))
    for part, unseen in document.get("unseen", {}).items():
        lost = ", ".join(f"{name} ({count:,})" for name, count in unseen.items())
        parts.append(tag("p", f"Classes in {part} that training rows do not have: {lost}", class_="warn"))
    columns = document.get("columns", [])
    left_out = [column for column in columns if not column["used"]]
    if left_out:
        rows = [(column["name"], column["kind"], column["why"]) for column in left_out]
        parts.append(table(["column", "kind", "why"], rows, caption="Left out"))
    if doubts := [column for column in columns if column["doubt"]]:
        rows = [(column["name"], column["doubt"], column["kind"]) for column in doubts]
        parts.append(table(["column", "warning", "kind"], rows, caption="Ambiguous"))
    if columns:
        every = [(c["name"], c["kind"], "yes" if c["used"] else "no", c["why"]) for c in columns]
        parts.append(details(table(["column", "kind", "used", "why"], every), summary=f"All {len(every)} columns"))
    if notes := document.get("notes"):
        parts.append(details(tag("ul", *(tag("li", text(note, 500)) for note in notes)), summary="Notes on reading"))
    return concat(parts)


def _design(document: dict[str, Any]) -> Html:
    """Return what was chosen and why; settings without a reason open on demand."""
    rows = [row for part in document.get("design", {}).values() for row in part]
    if not rows:
        return Html("")
    with_reason, others = [row for row in rows if row[2]], [row[:2] for row in rows if not row[2]]
    parts = [tag("div", table(["chosen", "value", "why"], with_reason), class_="wide", tabindex=0)]
    parts += [details(table(["setting", "value"], others), summary="The other settings")] if others else []
    return concat(parts)


def _findings(document: dict[str, Any]) -> Html:
    found = [finding for training in document["trainings"] for finding in training["findings"]]
    if not found:
        return tag("p", "None.")
    rows = []
    for finding in found:
        where = f" ({finding['where']})" if finding.get("where") else ""
        rows.append(
            (
                finding.get("code", ""),
                finding.get("severity", ""),
                f"{finding.get('what', '')}{where}",
                finding.get("fix", ""),
            )
        )
    headings = ["code", "severity", "what was seen", "what to do"]
    return tag("div", table(headings, _texts(rows)), class_="wide", tabindex=0)


def _texts(rows: Iterable[Sequence[Any]]) -> list[list[Html]]:
    """Return sentences of the program's own, which may be longer than a cell of the data."""
    return [[text(cell, 1000) for cell in row] for row in rows]


def _time(document: dict[str, Any]) -> Html:
    rows = []
    for training in document["trainings"]:
        counts = training["num_epochs"], training["steps"]
        before = [training["before"].get(name) for name in ("reading", "checks")]
        rows.append((training["name"] or "training", *counts, *before, *training["seconds"].values()))
    if not rows:
        return Html("")
    headings = ["", "epochs", "updates", "reading", "checks", "epochs", "up to the kept epoch", "after it", "an epoch"]
    words = (
        "Seconds for reading the data and designing the network, for the checks before the first epoch, and for the "
        "epochs with validation. Saving is not included."
    )
    return concat([tag("div", table(headings, rows), class_="wide", tabindex=0), tag("p", words, class_="note")])


def _network(document: dict[str, Any]) -> Html:
    """Return the network's drawing as a picture of its own, whose names cannot meet those of the page."""
    found = document.get("network")
    if not found:
        return Html("")
    source = f"data:image/svg+xml;base64,{base64.b64encode(found['svg'].encode(errors='replace')).decode()}"
    picture = tag("img", src=source, alt=f"The network's layers and the tensors between them. {found['words']}")
    frame = tag("div", picture, class_="network", tabindex=0, role="region", aria_label="The network drawn")
    return concat([tag("p", found["words"]), frame])
