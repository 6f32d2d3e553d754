"""Programs cut down to what a run reaches: functions of `luthier.plain`, without the lines that never ran."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from types import FrameType, ModuleType
from typing import Any


def source_of(module: ModuleType, names: Iterable[str]) -> str:
    """Return the source of some functions and constants of a module and of all that they use, in the module's order.

    >>> import luthier.plain.cells
    >>> print(source_of(luthier.plain.cells, ["MAX_ABS"]))
    MAX_ABS = 4.0  # standardised numbers stop here, which limits the effect of an unusual cell
    """
    return "\n\n\n".join(_needed(_top(inspect.getsource(module)), names).values())


def lines_run(function: Callable[[], Any], path: str) -> set[int]:
    """Call a function; return the numbers of the lines of one file that it ran."""
    found: set[int] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != path:
            return None
        found.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return found


def shaken(text: str, lines: set[int], module: ModuleType) -> str:
    r"""Return a program without the statements in its functions that did not run, and what only these used.

    Functions of which nothing ran stay, unless they are the module's, of which only what is used stays. Statements that
    raise stay, as do docstrings. An `if` whose body did not run is replaced by its `else`.

    >>> import luthier.plain.cells
    >>> program = "def f(x):\n    if x:\n        return 1\n    return MAX_ABS\n\n\nMAX_ABS = 4.0\n"
    >>> print(shaken(program, {2, 3}, luthier.plain.cells), end="")
    def f(x):
        if x:
            return 1
    """
    source = text.splitlines()
    out: list[str] = []
    done = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and _ran(node.body, lines):
            out += source[done : node.body[0].lineno - 1]
            out += _block(node.body, source, lines)
            done = node.end_lineno or done
    program = "\n".join(out + source[done:]) + "\n"
    pieces = _top(program)
    theirs = _top(inspect.getsource(module))
    kept = _needed(pieces, [name.partition(",")[0] for name in pieces if name not in theirs])
    for name, piece in pieces.items():
        if name not in kept:
            program = program.replace(f"{piece}\n", "", 1)
    while "\n\n\n\n" in program:
        program = program.replace("\n\n\n\n", "\n\n\n")
    return program.rstrip("\n") + "\n"


def _ran(nodes: Iterable[ast.AST], lines: set[int]) -> bool:
    return any(
        lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
        for node in nodes
    )


def _stays(node: ast.stmt, lines: set[int]) -> bool:
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    raises = any(isinstance(part, ast.Raise) for part in ast.walk(node))
    return is_docstring or raises or _ran(node.body if isinstance(node, ast.FunctionDef) else [node], lines)


def _block(nodes: list[ast.stmt], source: list[str], lines: set[int]) -> list[str]:
    """Return the lines of the statements of one block that stay, with the comments before them."""
    out: list[str] = []
    for i, node in enumerate(nodes):
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        while i and source[start - 1].lstrip().startswith("#"):
            start -= 1
        if not _stays(node, lines):
            continue
        if isinstance(node, ast.If) and not any(isinstance(part, ast.Raise) for part in ast.walk(node)):
            out += _branch(node, start, source, lines)
        elif isinstance(node, ast.For | ast.FunctionDef) and (body := _block(node.body, source, lines)):
            out += source[start : node.body[0].lineno - 1] + body
        else:
            out += source[start:end]
    return out


def _branch(node: ast.If, start: int, source: list[str], lines: set[int]) -> list[str]:
    """Return the lines of an `if`, whose body or whose `else` may not have run."""
    others = _block(node.orelse, source, lines) if _ran(node.orelse, lines) else []
    dedented = textwrap.dedent("\n".join(others)).splitlines()
    pad = " " * node.col_offset
    if not _ran(node.body, lines):
        dedented[:1] = [line.replace("elif ", "if ", 1) if line.startswith("elif ") else line for line in dedented[:1]]
        return [f"{pad}{line}" if line else line for line in dedented]
    kept = source[start : node.body[0].lineno - 1] + _block(node.body, source, lines)
    if others and dedented[0].startswith("elif "):
        return kept + others
    return kept + ([f"{pad}else:", *(f"{pad}    {line}" if line else line for line in dedented)] if others else [])


def _top(text: str) -> dict[str, str]:
    """Return the source of each function and constant at the top of a program, by the names that it defines."""
    lines = text.splitlines()
    pieces: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
            parts = getattr(node.targets[0], "elts", [node.targets[0]])
            name = ", ".join(part.id for part in parts)
        else:
            continue
        start = node.lineno - 1
        while start and lines[start - 1].startswith("#"):
            start -= 1
        pieces[name] = "\n".join(lines[start : node.end_lineno])
    return pieces


def _needed(pieces: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the pieces that define some names, and those that they use."""
    owners = {part: name for name in pieces for part in name.split(", ")}
    needed: set[str] = set()
    waiting = [owners[name] for name in names]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            used = (part.id for part in ast.walk(ast.parse(pieces[name])) if isinstance(part, ast.Name))
            waiting += [owners[part] for part in used if part in owners]
    return {name: text for name, text in pieces.items() if name in needed}
