"""The card of a model: what it is, takes and gives, in the form of a README on the Hugging Face hub."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.errors import printable

if TYPE_CHECKING:
    from luthier.serving.model import Model

_TAGS = {"regression": "tabular-regression", "binary": "tabular-classification", "multiclass": "tabular-classification"}
_ROWS = 40


def model_card(model: "Model", facts: Mapping[str, Any], name: str) -> str:
    """Return the card, in Markdown, of what the bundle and the export know; nothing in it is guessed.

    Args:
        model: The model.
        facts: What the exported file says of itself, with its proof.
        name: Of the file.
    """
    schema, proof = model.schema, facts["proof"]
    parameters = sum(part.numel() for part in model.module.parameters())
    kinds = {column["kind"] for column in facts.get("columns", [])}
    tag = "image-classification" if kinds == {"image"} else _TAGS.get(facts["task"] or "", "")
    tag = "text-classification" if kinds == {"text"} and facts["task"] != "regression" else tag
    family = model.blueprint.family if model.blueprint else type(model.module).__name__
    head = ["---", "library_name: luthier", f"tags: [luthier, {name.rpartition('.')[2]}]"]
    head += [f"pipeline_tag: {tag}"] if tag else []
    title = printable(", ".join(facts.get("targets", [])) or family, most=200)
    lines = [*head, "---", "", f"# {_plain(title)}", ""]
    what = f"A network of the family `{family}` with {parameters:,} parameters, made by Luthier {facts['luthier']}"
    source = model.facts.get("source")
    lines += [f"{what}{f' from `{_plain(str(source))}`' if source else ''}; task: {facts['task'] or 'not known'}.", ""]
    if schema is not None:
        lines += [f"Trained on {schema.num_rows:,} rows.", ""] if schema.num_rows else []
        lines += ["## What it takes", "", "| column | kind | from training rows |", "| --- | --- | --- |"]
        for column in schema.inputs[:_ROWS]:
            lines.append(f"| {_plain(column.name)} | {column.kind} | {_plain(column.why)} |")
        lines += [f"| and {len(schema.inputs) - _ROWS} more | | |"] if len(schema.inputs) > _ROWS else []
        if schema.image is not None:
            image = schema.image
            lines.append(f"| image | image | {image.channels} x {image.height} x {image.width} |")
        lines += ["", "## What it answers", ""]
        lines += [f"- {_plain(target.name)}: {_plain(target.words)}" for target in schema.targets[:_ROWS]]
        lines += [
            f"- classes of {_plain(t.name)}: {_plain(', '.join(t.classes))}" for t in schema.targets[:5] if t.classes
        ]
        lines += [f"- outputs of the file: {', '.join(f'`{_plain(output)}`' for output in facts['outputs'])}", ""]
    if model.metrics:
        lines += ["## Figures", "", "| rows | figure | value |", "| --- | --- | --- |"]
        found = [(part, figure, value) for part, figures in model.metrics.items() for figure, value in figures.items()]
        lines += [f"| {part} | {figure} | {value:.4g} |" for part, figure, value in found]
        lines.append("")
    rows = sum(proof["rows"].values())
    lines += [
        "## The file", "",
        f"`{name}` answered {rows:,} rows as the model does. The greatest difference is "
        f"{proof['greatest_difference']:.2g} (of probabilities, or in shares of a target's spread and value), "
        f"the tolerance {proof['tolerance']:g}; "
        f"{', '.join(f'{package} {version}' for package, version in proof['versions'].items())}.", "",
    ]  # fmt: skip
    if schema is not None and name.endswith(".onnx"):
        example = json.dumps({column["name"]: "…" for column in facts["columns"][:3]}, ensure_ascii=False)
        lines += [
            "```python", "from reader import Reader  # NumPy and onnxruntime", "",
            f'Reader("{name}").predict([{_plain(example)}])', "```", "",
        ]  # fmt: skip
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text of the data's as it can stand in a table of Markdown."""
    text = printable(text, most=300).replace("\n", " ")
    return "".join(f"\\{char}" if char in "|\\`<>[]*_#" else char for char in text)
