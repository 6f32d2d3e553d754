"""The code in the documentation runs, and every error has its page."""

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest

import luthier
import luthier.sklearn
from luthier.cli.main import _run

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S)
    return [textwrap.dedent(block) for _, block in found]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "docs"}
    for i, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, block {i + 1}", "exec"), space)
    for block in blocks(page, "console"):
        for line in block.splitlines():
            assert line.startswith("$ luthier ")
            assert _run(shlex.split(line)[2:]) == 0, line


def test_the_first_page_shows_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures depend on the processor; words and columns do not."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    assert _run(["train", "examples/penguins.csv", "--target", "species"]) == 0

    def words(line: str) -> str:
        return " ".join(re.sub(r"[\d.]+|  \*$", "", line).split())

    printed = {words(line) for line in capsys.readouterr().out.splitlines()}
    shown = blocks(ROOT / "docs" / "index.md", "text")[1].splitlines()
    assert {words(line) for line in shown if line != "…"} - printed == set()


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"^\.\. auto\w+:: luthier\.([\w.]+)", page, re.M))
    own = {f"sklearn.{name}" for name in luthier.sklearn.__all__}
    assert named == set(luthier.__all__) - {"__version__"} | own


def test_files_that_contributors_are_told_to_touch_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`([\w/.]+(?:\.py|\.md|/))`", page) + re.findall(r"`((?:tests|src)/[\w/]+)`", page):
        assert (ROOT / name).exists() or (ROOT / "src" / "luthier" / name).exists(), name


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    codes = set(
        re.findall(
            r'"((?:bundle|check|data|export|missing|network|request|run|setting|system|training)-[a-z-]+)"', source
        )
    )
    pages = {path.stem for path in (ROOT / "src" / "luthier" / "pages").glob("*.md")}
    assert {code for code in pages if code not in codes} == set()
    literal = set(re.findall(r'code="([a-z-]+)"', source)) | {"network-wrong-family", "network-unknown-family"}
    assert literal - pages == set()


def test_pages_name_no_setting_that_is_none() -> None:
    """A `--option` in the pages is an option of the command."""
    from luthier.cli.main import cli

    known = {
        flag
        for command in cli.commands.values()
        for param in command.params
        for flag in (*param.opts, *param.secondary_opts)
    }
    for page in [*PAGES, *(ROOT / "src" / "luthier" / "pages").glob("*.md")]:
        for flag in re.findall(r"`(?:luthier [^`]*?)?(--[a-z-]+)", page.read_text()):
            assert flag in known | {"--help", "--slow"}, f"{page.name}: {flag}"
