"""All that the command prints: text for people, with nothing in it that a terminal would act on, and JSON."""

import json
import re
import shlex
import sys
from typing import Any

from luthier.core.plain import finite_or_none
from luthier.errors import printable

_UNSAFE = re.compile(r"[^\n -~\xa1-\xac\xae-\U0010ffff]|[\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


_PAIR = re.compile(r"\b(kind|format)=\{'((?:[^'\\]|\\.)*)': '((?:[^'\\]|\\.)*)'\}")
_VALUE = re.compile(r"\b(target|decimal|delimiter|encoding|missing|task)=(?:\"([^\"]*)\"|'([^']*)')")


_NAME = re.compile(
    r"\b(encoding|query|group|delimiter|run|sheet|series|order|time|valid|test|threads|epochs|network|labels|missing)="
    r"(?=[;,.)\s]|$)"
)


def with_flags(text: str) -> str:
    """Return a message of the library, which names arguments of Python's, with the flags that one types.

    >>> with_flags("pass kind={'my zip': 'number'}, or decimal=','")
    "pass --kind 'my zip=number', or --decimal ,"
    """
    text = _PAIR.sub(lambda found: f"--{found[1]} {shlex.quote(f'{found[2]}={found[3]}')}", text)
    text = _NAME.sub(lambda found: f"--{found[1].replace('_', '-')}", text)
    return _VALUE.sub(lambda found: f"--{found[1]} {shlex.quote(found[2] or found[3] or '')}", text)


def say(text: object, *, is_error: bool = False) -> None:
    """Print lines of text, each cut where it is longer than people read."""
    lines = [printable(with_flags(line) if is_error else line) for line in str(text).split("\n")]
    print("\n".join(lines), file=sys.stderr if is_error else sys.stdout)


def say_json(value: Any) -> None:
    """Print a value as one line of strict JSON: a number that is not finite is null."""
    text = json.dumps(finite_or_none(value), ensure_ascii=False, allow_nan=False)
    print(_UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text))
