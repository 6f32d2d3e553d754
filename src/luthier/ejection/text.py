"""Pieces of Python as text, laid out as a formatter would."""

from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 120


def call(head: str, arguments: Iterable[str], *, indent: int = 0) -> str:
    """Return a call (or a list, with `head` ending in a bracket of its own) on one line, or one argument a line."""
    items = [item for item in arguments if item]
    pad = " " * indent
    line = f"{pad}{head}({', '.join(items)})"
    if len(line) <= WIDTH:
        return line
    inner = f"{pad}    {', '.join(items)}"
    if len(inner) <= WIDTH:
        return f"{pad}{head}(\n{inner}\n{pad})"
    return "\n".join([f"{pad}{head}(", *(f"{pad}    {item}," for item in items), f"{pad})"])


def keywords(arguments: Mapping[str, Any]) -> list[str]:
    """Return `name=value` for each argument; a list of numbers is a tensor where torch's losses take one."""
    return [f"{name}={literal(value)}" for name, value in arguments.items()]


def literal(value: Any) -> str:
    """Return a plain value as Python, text in double quotes."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def block(*pieces: str | None) -> str:
    """Join pieces of text that stand, one below the other; None and empty ones are left out."""
    return "\n".join(piece.strip("\n") for piece in pieces if piece)


def indented(text: str, by: int) -> str:
    """Return text moved to the right; empty lines stay empty."""
    return "\n".join(" " * by + line if line else line for line in text.splitlines())


def script(docstring: str, imports: Iterable[str], constants: Iterable[str], functions: Iterable[str | None]) -> str:
    """Return the text of a module; groups of imports are parted by an empty name."""
    head = [f'"""{docstring}"""', "\n".join(imports), "\n".join(constants)]
    parts = ["\n\n".join(head), *(function.strip("\n") for function in functions if function)]
    return "\n\n\n".join(parts) + "\n"
