"""The library names arguments of Python's; the command translates them into its own options, in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import luthier
from luthier.cli.main import cli
from luthier.cli.output import with_flags

SOURCE = Path(luthier.__file__).parent
OPTIONS = {flag for command in cli.commands.values() for param in command.params for flag in param.opts}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a file but for docstrings, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in lone:
            yield node.lineno, node.value


def test_the_library_names_no_option_of_the_command() -> None:
    for path in SOURCE.rglob("*.py"):
        if "cli" in path.parts or "project" in path.parts or path.name == "pages.py":
            continue  # a page, as `explain` prints it, tells both
        for line, text in texts(path):
            named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)) & OPTIONS
            is_typed = "luthier design SOURCE" in text  # a whole command, which is typed in a shell either way
            assert not named or is_typed, f"{path.name}:{line}: {named}; name the argument, such as folds=5"


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("pass time='when day'", "pass --time 'when day'"),
        ("name it with target='COLUMN'; its columns", "name it with --target COLUMN; its columns"),
        ("leave it, or pass encoding=, such as 'latin-1'", "leave it, or pass --encoding, such as 'latin-1'"),
        ("network_args={'hidden': …}, or rename", "--network-args hidden=…, or rename"),
        ("to train without them pass skip_unreadable=True.", "to train without them pass --skip-unreadable."),
        ("pass interval=0.9.", "pass --interval 0.9."),
        ("column 'folds=5' is missing", "column 'folds=5' is missing"),
        ("numpy.savez(path, weight=1, time='a')", "numpy.savez(path, weight=1, time='a')"),
        ("the same class as network=; x", "the same class as --network; x"),
    ],
)
def test_arguments_become_options(said: str, typed: str) -> None:
    assert with_flags(said) == typed
