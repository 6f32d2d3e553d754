"""Programs cut down to what a run reaches: files of `luthier.plain` with a run's settings, without what it never needs.

`folded` sets constants and leaves out the branches that they rule out; `shaken` leaves out the lines that did not run.
Both cut the source by lines, so comments and layout stay.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from types import FrameType, ModuleType
from typing import Any, Protocol

from luthier.ejection.text import WIDTH, call, literal, script
from luthier.plain import cells, figures, images, trunk


class Code(str):
    """Text that takes a constant's place in a program, wherever it is used."""


class Assigned(str):
    """Text that stands for a constant's value, where it is assigned."""


class Arguments(list[str]):
    """Arguments as text, `name=value` each, in place of `**constant` at the end of a call."""


def source_of(module: ModuleType, names: Iterable[str]) -> str:
    """Return the source of some functions and constants of a module and of all that they use, in the module's order.

    >>> import luthier.plain.cells
    >>> print(source_of(luthier.plain.cells, ["MAX_ABS"]))
    MAX_ABS = 4.0  # standardised numbers stop here, which limits the effect of an unusual cell
    """
    pieces = _pieces(inspect.getsource(module))
    kept = _needed(pieces, names)
    return "\n\n\n".join(dict.fromkeys(text for name, text in pieces.items() if name in kept))


def assembled(name: str) -> str:
    """Return a file of a project as `luthier.plain` has it, with all that it imports from there, for `folded`."""
    text = files("luthier.plain").joinpath("project", name).read_text(encoding="utf-8")
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.ImportFrom) and node.module in _PARTS:
            lines = text.splitlines()
            borrowed = source_of(_PARTS[node.module], [part.name for part in node.names])
            text = "\n".join([*lines[: node.lineno - 1], *lines[node.end_lineno :], "", "", borrowed, ""])
    return text


_PARTS = {"cells": cells, "figures": figures, "images": images, "trunk": trunk}


def folded(text: str, values: Mapping[str, Any], *, roots: Iterable[str] = (), docstring: str | None = None) -> str:
    r"""Return a program with some of its constants set, without the branches that they rule out and what is unused.

    A constant is set to a plain value (or `Assigned`), which is written anew where it is assigned; or to `Code` or
    `Arguments`, which take its place where it is used. Branches are those of `if` and of `a if constant else b`.

    Args:
        text: The program: imports, constants, functions, and what calls them.
        values: By the constants' names.
        roots: Functions and constants that stay, besides what the program's last lines use.
        docstring: In place of the program's own.

    >>> program = 'DEEP = False\nSIZE = 3\n\n\ndef f(x):\n    if DEEP:\n        x = x - 1\n    return x + SIZE\n'
    >>> print(folded(program, {"DEEP": False, "SIZE": 5}, roots=["f"]), end="")
    SIZE = 5
    <BLANKLINE>
    <BLANKLINE>
    def f(x):
        return x + SIZE
    """
    text = _cut(re.sub(r"  # (type: ignore|noqa)[^\n]*", "", text), _Folding(values))
    while True:
        changes = list(_simpler(ast.parse(text), text.encode(), values))
        if not changes:
            break
        content, end = text.encode(), -1
        for start, stop, new in sorted(changes, reverse=True):
            if end < 0 or stop <= end:  # those inside another wait for the next round
                content, end = content[:start] + new.encode() + content[stop:], start
        text = content.decode()
    lines = text.splitlines()
    for node in ast.parse(text).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in values and not isinstance(values[target.id], Code | Arguments):
            end = node.end_lineno or node.lineno
            comment = lines[end - 1].partition("  # ")
            value = values[target.id]
            line = f"{target.id} = {value if isinstance(value, Assigned) else literal(value)}{comment[1]}{comment[2]}"
            if len(line) > WIDTH and isinstance(value, list):
                line = "\n".join([f"{target.id} = [", *(f"    {literal(item)}," for item in value), "]"])
            lines[node.lineno - 1] = line
            lines[node.lineno : end] = [""] * (end - node.lineno)
    return _laid_out("\n".join(lines), roots, docstring)


def _simpler(tree: ast.AST, content: bytes, values: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """Yield places of a program, in bytes, and the text that stands there once the constants are set."""
    starts = [0]
    for line in content.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)

    def place(node: Any) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def text(node: ast.AST) -> str:
        start, stop = place(node)
        return content[start:stop].decode()

    def alone(node: ast.AST, chosen: ast.AST) -> tuple[int, int, str]:
        """Return a change to one part of an expression, without brackets that it no longer needs."""
        start, stop = place(node)
        is_bracketed = content[start - 1 : start] == b"(" and content[stop : stop + 1] == b")"
        is_call = content[start - 2 : start - 1].isalnum() or content[start - 2 : start - 1] in (b"_", b")", b"]")
        is_simple = isinstance(chosen, ast.Name | ast.Call | ast.Constant | ast.Attribute | ast.Subscript | ast.Compare)
        if is_bracketed and is_simple and not is_call:
            return start - 1, stop + 1, text(chosen)
        return start, stop, text(chosen)

    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp) and (truth := _truth(node.test, values)) is not None:
            yield alone(node, node.body if truth else node.orelse)
        elif isinstance(node, ast.BoolOp) and _truth(node, values) is None:
            left = [part for part in node.values if _truth(part, values) is None]
            if len(left) == 1:
                yield alone(node, left[0])
            elif len(left) < len(node.values):
                word = " and " if isinstance(node.op, ast.And) else " or "
                yield (*place(node), word.join(f"({text(p)})" if isinstance(p, ast.BoolOp) else text(p) for p in left))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.keywords:
            last = node.value.keywords[-1]
            found = values.get(getattr(last.value, "id", "")) if last.arg is None else None
            if isinstance(found, Arguments):
                head = f"{text(node.targets[0])} = {text(node.value.func)}"
                given = [*map(text, node.value.args), *map(text, node.value.keywords[:-1])]
                made = call(head, [*given, *found], indent=node.col_offset)
                yield (*place(node), made.lstrip())
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and isinstance(values.get(node.id), Code):
            yield (*place(node), values[node.id])


def _truth(node: ast.expr, values: Mapping[str, Any]) -> bool | None:
    """Return whether an expression holds, None where that does not follow from the constants."""
    if isinstance(node, ast.BoolOp):
        parts = [_truth(part, values) for part in node.values]
        decides = isinstance(node.op, ast.Or)
        if decides in parts:
            return decides
        return None if None in parts else not decides
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        truth = _truth(node.operand, values)
        return None if truth is None else not truth
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    is_plain = all(isinstance(part, _PLAIN) for part in ast.walk(node))
    if not names or not is_plain or any(isinstance(values.get(name, Code()), Code | Arguments) for name in names):
        return None
    return bool(eval(compile(ast.Expression(node), "<constants>", "eval"), {"__builtins__": {}}, dict(values)))


_PLAIN = (ast.Name, ast.Load, ast.Constant, ast.Compare, ast.cmpop, ast.UnaryOp, ast.unaryop, ast.Tuple)


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


def shaken(text: str, lines: set[int], *, roots: Iterable[str] = ()) -> str:
    r"""Return a program without the statements in its functions that did not run, and what only these used.

    Functions of which nothing ran stay where something uses them. Statements that raise stay, as do docstrings. An
    `if` whose body did not run is replaced by its `else`; a loop that never turned goes.

    >>> program = "MOST = 4.0\n\n\ndef f(x):\n    if x:\n        return 1\n    return MOST\n"
    >>> print(shaken(program, {5, 6}, roots=["f"]), end="")
    def f(x):
        if x:
            return 1
    """
    return _laid_out(_cut(text, _Running(lines)), roots)


class _Rule(Protocol):
    """What decides which statements stay."""

    def enters(self, node: ast.FunctionDef) -> bool: ...

    def stays(self, node: ast.stmt) -> bool: ...

    def branches(self, node: ast.If) -> tuple[bool, bool, bool] | None:
        """Return whether the test, the body and the `else` stay; None leaves the statement as it is."""
        ...


class _Folding:
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def enters(self, node: ast.FunctionDef) -> bool:
        return True

    def stays(self, node: ast.stmt) -> bool:
        return True

    def branches(self, node: ast.If) -> tuple[bool, bool, bool]:
        truth = _truth(node.test, self.values)
        return (True, True, True) if truth is None else (False, truth, not truth)


class _Running:
    def __init__(self, lines: set[int]) -> None:
        self.lines = lines

    def ran(self, nodes: Iterable[ast.stmt]) -> bool:
        return any(self.lines & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)) for node in nodes)

    def enters(self, node: ast.FunctionDef) -> bool:
        return self.ran(node.body)

    def stays(self, node: ast.stmt) -> bool:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        raises = any(isinstance(part, ast.Raise) for part in ast.walk(node))
        return is_docstring or raises or self.ran(node.body if isinstance(node, ast.FunctionDef) else [node])

    def branches(self, node: ast.If) -> tuple[bool, bool, bool] | None:
        if any(isinstance(part, ast.Raise) for part in ast.walk(node)):
            return None
        return self.ran(node.body), self.ran(node.body), self.ran(node.orelse)


def _cut(text: str, rule: _Rule) -> str:
    """Return a program without the statements in its functions that a rule leaves out."""
    source = text.splitlines()
    out: list[str] = []
    done = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and rule.enters(node):
            out += source[done : node.body[0].lineno - 1]
            out += _block(node.body, source, rule)
            done = node.end_lineno or done
    return "\n".join(out + source[done:]) + "\n"


def _block(nodes: list[ast.stmt], source: list[str], rule: _Rule) -> list[str]:
    """Return the lines of the statements of one block that stay, with the comments before them."""
    out: list[str] = []
    for i, node in enumerate(nodes):
        start, end = node.lineno - 1, node.end_lineno or node.lineno
        while i and source[start - 1].lstrip().startswith("#"):
            start -= 1
        if not rule.stays(node):
            continue
        if isinstance(node, ast.If) and (kept := rule.branches(node)) is not None:
            out += _branch(node, start, source, rule, *kept)
        elif isinstance(node, ast.For | ast.FunctionDef | ast.With):
            body = _block(node.body, source, rule)
            out += source[start : node.body[0].lineno - 1] + body if body else []  # a loop that never turned
        else:
            out += source[start:end]
    return out


def _branch(
    node: ast.If, start: int, source: list[str], rule: _Rule, has_test: bool, has_body: bool, has_others: bool
) -> list[str]:
    """Return the lines of an `if`, of which the test, the body or the `else` may not stay."""
    body = _block(node.body, source, rule) if has_body else []
    others = textwrap.dedent("\n".join(_block(node.orelse, source, rule) if has_others else [])).splitlines()
    pad = " " * node.col_offset
    if not has_test or not has_body:
        between = source[node.test.end_lineno or node.lineno : node.body[0].lineno - 1]
        lines = textwrap.dedent("\n".join([*between, *body] if body else [])).splitlines() or others
        lines[:1] = [line.replace("elif ", "if ", 1) if line.startswith("elif ") else line for line in lines[:1]]
        return [f"{pad}{line}" if line else line for line in lines]
    kept = source[start : node.body[0].lineno - 1] + body
    if others and others[0].startswith("elif "):
        return kept + [f"{pad}{line}" if line else line for line in others]
    return kept + ([f"{pad}else:", *(f"{pad}    {line}" if line else line for line in others)] if others else [])


def _pieces(text: str) -> dict[str, str]:
    """Return the source of the functions and constants at the top of a program, by each name that they define."""
    lines = text.splitlines()
    pieces: dict[str, str] = {}
    for node in ast.parse(text).body:
        names = _names(node)
        start = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", []))]) - 1
        while start and lines[start - 1].startswith("#"):
            start -= 1
        pieces |= dict.fromkeys(names, "\n".join(lines[start : node.end_lineno]))
    return pieces


def _names(node: ast.stmt) -> list[str]:
    """Return what a statement at the top of a program defines."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in getattr(target, "elts", [target]) if isinstance(part, ast.Name)]


def _used(tree: ast.AST) -> set[str]:
    """Return the names that a piece of a program takes from outside."""
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    is_function = any(isinstance(node, ast.FunctionDef) for node in nodes)
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in names if isinstance(node.ctx, ast.Store) and is_function}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - own


def _needed(pieces: Mapping[str, str], names: Iterable[str]) -> set[str]:
    """Return some names, and those of the pieces that they use."""
    needed: set[str] = set()
    waiting = [name for name in names if name in pieces]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [part for part in _used(ast.parse(pieces[name])) if part in pieces]
    return needed


def _laid_out(text: str, roots: Iterable[str], docstring: str | None = None) -> str:
    """Return a program with what `roots` and its bare statements use, and no more: imports, constants, functions."""
    lines, tree, pieces = text.splitlines(), ast.parse(text), _pieces(text)
    bare = [node for node in tree.body if not _names(node) and not isinstance(node, ast.Import | ast.ImportFrom)]
    kept = _needed(pieces, {*roots, *(name for node in bare for name in _used(node))})
    used = {name for node in bare for name in _used(node)} | kept
    used |= {name for piece in kept for name in _used(ast.parse(pieces[piece]))}
    imports: list[str] = []
    constants: list[str] = []
    functions: list[str] = []
    last: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [part for part in node.names if (part.asname or part.name).partition(".")[0] in used]
            if imports and imports[-1] and not lines[node.lineno - 2]:
                imports.append("")
            if names:
                said = ", ".join(ast.unparse(part) for part in names)
                imports.append(
                    f"from {node.module} import {said}" if isinstance(node, ast.ImportFrom) else f"import {said}"
                )
        elif isinstance(node, ast.FunctionDef):
            functions += [pieces[node.name]] if node.name in kept else []
        elif names_of := _names(node):
            constants += [pieces[names_of[0]]] if set(names_of) & kept else []
        elif isinstance(node, ast.Expr) and docstring is None and node is tree.body[0]:
            docstring = "\n".join(lines[: node.end_lineno]).strip('"')
        elif not isinstance(node, ast.Expr):
            last.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return script(docstring, imports[: len(imports) - (imports[-1:] == [""])], constants, [*functions, *last])
