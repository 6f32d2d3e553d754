"""The documentation site. Its option tables are made here from the settings, so that they cannot go stale."""

import shutil
from dataclasses import MISSING, fields
from pathlib import Path

from luthier.core.recipe import Recipe
from luthier.core.settings import CheckSettings, DataSettings, FinishSettings, NetworkSettings
from luthier.core.version import VERSION

project = "Luthier"
copyright = "the Luthier developers"
release = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_made"]
html_theme = "furo"
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = False


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


shutil.copytree(  # the pages that `luthier explain` prints
    Path(__file__).parents[1] / "src" / "luthier" / "pages", Path(__file__).parent / "errors", dirs_exist_ok=True
)
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

    lines = ["| code | looks at | |", "| --- | --- | --- |"]
    seen: set[str] = set()
    for rule in sorted(RULES, key=lambda rule: (rule.group, rule.code)):
        if rule.code not in seen:
            seen.add(rule.code)
            lines.append(f"| [{rule.code}](errors/{rule.code}.md) | {rule.group} | {rule.summary} |")
    return "\n".join(lines) + "\n"


(_made / "rules.md").write_text(_rules())
