"""The documentation site. Its option tables are made here from the settings, so that they cannot go stale."""

import ast
import shutil
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

from luthier.core.pages import codes, explain
from luthier.core.recipe import Recipe
from luthier.core.settings import CheckSettings, DataSettings, FinishSettings, NetworkSettings
from luthier.core.version import VERSION

project = "Luthier"
copyright = "the Luthier developers"
release = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_made"]
html_theme = "furo"
html_title = f"Luthier {VERSION}"
html_static_path = ["_static"]
html_css_files = ["luthier.css"]
html_show_sphinx = False
myst_heading_anchors = 3
default_role = "literal"  # what stands between single backticks in a docstring
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
nitpicky = False
smartquotes = False  # quotes in options are typed as they stand


def _table(cls: type) -> str:
    lines = ["| option | default | |", "| --- | --- | --- |"]
    for item in fields(cls):
        if "help" not in item.metadata:
            continue
        flag = {"start": "--from"}.get(item.name, "--" + item.name.replace("_", "-"))
        default = {} if item.default is MISSING else item.default
        shown = "" if default in (None, {}, ()) else f"`{default}`"
        words = item.metadata["help"].replace("|", "\\|")
        lines.append(f"| `{flag}` | {shown} | {words} |")
    return "\n".join(lines) + "\n"


def _pages() -> str:
    """Write the pages that `luthier explain` prints, which are in no sidebar; return the list of them by group."""
    place = Path(__file__).parent / "errors"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    lines: list[str] = []
    group = ""
    for code, sentence in codes().items():
        (place / f"{code}.md").write_text(f"---\norphan: true\n---\n\n{explain(code)}")
        if code.partition("-")[0] != group:
            group = code.partition("-")[0]
            lines += ["", f"## {group}", "", "| code | |", "| --- | --- |"]
        lines.append(f"| [{code}](errors/{code}.md) | {sentence.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


_made = Path(__file__).parent / "_made"
_made.mkdir(exist_ok=True)
_SETTINGS = {
    "data": DataSettings, "network": NetworkSettings, "recipe": Recipe, "finish": FinishSettings,
    "check": CheckSettings,
}  # fmt: skip
for _name, _cls in _SETTINGS.items():
    (_made / f"{_name}.md").write_text(_table(_cls))


def _rules() -> str:
    import luthier.checks.look  # noqa: F401  (registers the rules)
    from luthier.checks.rule import RULES

    words = codes()
    lines = ["| code | looks at | |", "| --- | --- | --- |"]
    seen: set[str] = set()
    for rule in sorted(RULES, key=lambda rule: (rule.group, rule.code)):
        if rule.code not in seen:
            seen.add(rule.code)
            lines.append(f"| [{rule.code}](errors/{rule.code}.md) | {rule.group} | {words[rule.code]} |")
    return "\n".join(lines) + "\n"


(_made / "rules.md").write_text(_rules())
(_made / "codes.md").write_text(_pages())


def _architecture() -> str:
    """Draw the rooms in the layers that import-linter holds, each with its lines of code and its first sentence."""
    root = Path(__file__).parents[1]
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    lines = ['<div class="rooms">']
    for layer in layers[:-1]:  # errors.py, the last, is a file
        lines.append("<div>")
        for room in (name.strip().removeprefix("luthier.") for name in layer.split("|")):
            place = root / "src" / "luthier" / room
            count = sum(len(path.read_text().splitlines()) for path in place.rglob("*.py"))
            words = ast.get_docstring(ast.parse((place / "__init__.py").read_text()))
            lines.append(f"<p><b>{room}</b> {count:,} lines<br>{words}</p>")
        lines.append("</div>")
    return "\n".join([*lines, "</div>"])


(_made / "architecture.html").write_text(_architecture())
