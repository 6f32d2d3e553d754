"""Pieces of Python as text, laid out as a formatter would."""

import keyword
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from luthier.errors import RunError, escaped

WIDTH = 120
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


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
    return [f"{identifier(name)}={literal(value)}" for name, value in arguments.items()]


def identifier(name: str) -> str:
    """Return a name that stands in code as it is.

    Raises:
        RunError: it is not a name in Python.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise RunError(
            f"{name!r} is not a name in Python, so the run cannot be ejected",
            hint="correct that name in run.toml",
            code="run-cannot-eject",
        )
    return name


def words(text: str) -> str:
    """Return text for a docstring or a comment: as it is where it is plain words, else as a literal."""
    return text if re.fullmatch(r"[\w .,:;+()/=-]*", text, re.ASCII) else literal(text)


def literal(value: Any) -> str:
    """Return a plain value as Python: the one way by which a value from outside comes into code.

    Text stands in double quotes, with escapes for quotes, backslashes and all that cannot be printed, so it fits into
    a docstring and a comment too.

    >>> literal({"a": (1,)})
    '{"a": (1,)}'
    """
    if isinstance(value, str):
        return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else escaped(c)) for c in value) + '"'
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(literal, value)) + ("," if len(value) == 1 else "") + ")"
    if value is None or type(value) in (bool, int, float):
        return repr(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def block(*pieces: str | None) -> str:
    """Join pieces of text that stand, one below the other; None and empty ones are left out."""
    return "\n".join(piece.strip("\n") for piece in pieces if piece)


def indented(text: str, by: int) -> str:
    """Return text moved to the right; empty lines stay empty."""
    return "\n".join(" " * by + line if line else line for line in text.splitlines())


def script(
    docstring: str | None, imports: Iterable[str], constants: Iterable[str], functions: Iterable[str | None]
) -> str:
    """Return the text of a module; groups of imports are parted by an empty name."""
    head = [f'"""{docstring}"""' if docstring else "", "\n".join(imports), "\n".join(constants)]
    parts = ["\n\n".join(filter(None, head)), *(function.strip("\n") for function in functions if function)]
    return "\n\n\n".join(filter(None, parts)) + "\n"
