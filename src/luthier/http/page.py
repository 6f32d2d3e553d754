"""A page with a form to try the models: one file, nothing asked for but answers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from luthier.core.html import Html, concat, tag
from luthier.core.schema import Column, Schema
from luthier.http.answering import example
from luthier.http.served import Served

_STYLE = Html("""
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
form { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .75rem; }
label { display: block; font-size: .875rem; } label > * { display: block; width: 100%; box-sizing: border-box; }
input, select, button { font: inherit; padding: .35rem; } button { align-self: end; cursor: pointer; }
table { border-collapse: collapse; margin-top: 1rem; } th, td { padding: .25rem .75rem .25rem 0; text-align: left; }
output { display: block; } .warning { color: #9a5b00; } .error { color: #b3261e; }
@media (prefers-color-scheme: dark) { .warning { color: #f0b357; } .error { color: #f2b8b5; } }
""")
_SCRIPT = Html("""
const numbers = /^-?[0-9]+([.][0-9]+)?$/;
function show(form, answer, isWell) {
  const out = form.nextElementSibling, rows = isWell ? answer.predictions : [];
  out.replaceChildren();
  const lines = isWell ? answer.warnings : [answer.error, answer.hint];
  for (const line of lines.filter(Boolean)) {
    const part = out.appendChild(document.createElement("p"));
    part.className = isWell ? "warning" : "error";
    part.textContent = line;
  }
  if (!rows.length) return;
  const table = out.appendChild(document.createElement("table"));
  const add = (row, kind, value) => { row.appendChild(document.createElement(kind)).textContent = value ?? ""; };
  const names = Object.keys(rows[0]);
  if (rows.length === 1) {
    for (const name of names) { const row = table.insertRow(); add(row, "th", name); add(row, "td", rows[0][name]); }
    return;
  }
  const head = table.insertRow();
  for (const name of names) add(head, "th", name);
  for (const found of rows.slice(0, 100)) {
    const row = table.insertRow();
    for (const name of names) add(row, "td", found[name]);
  }
}
function inBase64(file) {
  return new Promise(done => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
}
for (const form of document.forms) form.addEventListener("submit", async event => {
  event.preventDefault();
  const file = form.elements.file, row = {}, names = JSON.parse(form.dataset.columns);
  for (const field of form.querySelectorAll("[data-kind]")) {
    const text = field.value;
    row[names.shift()] = text === "" ? null : field.dataset.kind === "image" ? await inBase64(field.files[0])
      : field.dataset.kind === "list" ? text.split(",").map(Number)
      : field.dataset.kind === "number" && numbers.test(text) ? Number(text) : text;
  }
  let body = JSON.stringify({rows: [row]}), headers = {"content-type": "application/json"};
  if (file?.files.length) {
    [body, headers] = [new FormData(), {}];
    for (const one of file.files) body.append("file", one);
  }
  try {
    const answer = await fetch(form.getAttribute("action"), {method: "POST", body, headers});
    show(form, await answer.json(), answer.ok);
  } catch (error) { show(form, {error: "the server does not answer: " + error.message}, false); }
});
""")
_MOST = 200  # categories in a list to choose from


def page(models: Sequence[Served]) -> tuple[bytes, bytes]:
    """Return the page as HTML, and the policy that it is to be shown under: its own script and style alone run."""
    parts: list[Any] = [tag("h1", "Luthier")]
    for number, served in enumerate(models):
        schema = served.answering.schema
        answers = ", ".join(target.name for target in schema.targets[:8])
        action = f"models/{served.name}/predict"
        parts += [
            tag("h2", served.name),
            tag("p", f"{schema.task}: {answers}; version {served.version}"),
            tag("form", *_fields(schema, number), action=action, data_columns=json.dumps(list(example(schema)))),
            tag("output"),
        ]
    parts.append(tag("p", tag("a", "openapi.json", href="openapi.json"), " describes the server for programs."))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "Luthier"),
        tag("style", _STYLE),
    ]
    body = tag("body", *parts, tag("script", _SCRIPT))
    text = concat([Html("<!doctype html>"), tag("html", tag("head", *head), body, lang="en")])
    policy = f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'"
    return text.encode(), f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'".encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _fields(schema: Schema, form: int) -> list[Html]:
    is_images = schema.image is not None and not schema.columns
    upload = tag("input", type="file", name="file", multiple="" if is_images else None)
    words = "Image files" if is_images else "Or a CSV or Parquet file"
    takes_files = is_images or schema.image is None
    fields = [*([tag("label", words, upload)] if takes_files else []), tag("button", "Answer")]
    if is_images:
        return fields
    kinds = {column.name: column for column in schema.inputs}
    shown = []
    for number, (name, value) in enumerate(example(schema).items()):
        column = kinds.get(name)
        if column is not None and column.kind == "image":
            field = tag("input", type="file", accept="image/*", data_kind="image")
            shown.append(tag("label", name, field))
            continue
        kind = "list" if isinstance(value, list) else "text" if column and column.kind != "number" else "number"
        given = {"data_kind": kind, "autocomplete": "off"}
        filled = ",".join(map(str, value)) if isinstance(value, list) else "" if value is None else value
        choices = _choices(column)
        key = f"choices-{form}-{number}"
        field = tag("input", **given, value=filled, list=key if choices else None)
        shown.append(tag("label", name, field, *([tag("datalist", *choices, id=key)] if choices else [])))
    return [*shown, *fields]


def _choices(column: Column | None) -> list[Html]:
    names = column.categories[:_MOST] if column is not None and column.kind in ("category", "boolean") else ()
    return [tag("option", value=name) for name in names if name]
