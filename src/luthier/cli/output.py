"""All that the command prints: text for people, with nothing in it that a terminal would act on, and JSON."""

import json
import re
import shlex
import sys
from functools import cache
from typing import Any

from click import Option

from luthier.core.plain import finite_or_none
from luthier.errors import printable

_UNSAFE = re.compile(r"[^\n -~\xa1-\xac\xae-\U0010ffff]|[\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


_QUOTES = "\"'"
_TEXT = r"'(?:[^'\\]|\\.)*'"
_VALUE = rf"""(?:"[^"]*"|{_TEXT}|\{{{_TEXT}: (?:{_TEXT}|…)\}}|True|False|-?\d+(?:\.\d+)?(?![\w(])|(?=[;,.:)\s]|$))"""


@cache
def _flags() -> tuple[dict[str, str], re.Pattern[str]]:
    """Return the option of each argument of Python's, from the options themselves, and what finds `name=value`."""
    from luthier.cli.main import cli

    options = [param for command in cli.commands.values() for param in command.params if isinstance(param, Option)]
    flags = {str(param.name): max(param.opts, key=len) for param in options}
    return flags, re.compile(rf"(?<![\w.'\"`-])({'|'.join(sorted(flags, key=len, reverse=True))})=({_VALUE})")


def with_flags(text: str) -> str:
    """Return a message of the library, which names arguments of Python's, with the flags that one types.

    >>> with_flags("pass kind={'my zip': 'number'}, folds=5, trust_code=True, or decimal=','")
    "pass --kind 'my zip=number', --folds 5, --trust-code, or --decimal ,"
    >>> with_flags("give start= and stop=; or luthier.load(path, network='x')")
    "give --from and --to; or luthier.load(path, network='x')"
    """
    flags, pattern = _flags()

    def flag(found: re.Match[str]) -> str:
        name, value = flags[found[1]], found[2]
        if re.search(r"\w\([^()]*$", text[: found.start()]):  # a call of Python's, to be typed as it stands
            return found[0]
        if value in ("True", "False"):
            return name if value == "True" else f"--no-{name[2:]}"
        if value.startswith("{"):
            key, said = re.findall(r"'((?:[^'\\]|\\.)*)'|(…)", value)
            value = f"{key[0]}={said[0] or said[1]}"
        return f"{name} {shlex.quote(value.strip(_QUOTES)) if '…' not in value else value}" if value else name

    return pattern.sub(flag, text)


def say(text: object, *, is_error: bool = False) -> None:
    """Print lines of text, each cut where it is longer than people read."""
    lines = [printable(with_flags(line) if is_error else line) for line in str(text).split("\n")]
    print("\n".join(lines), file=sys.stderr if is_error else sys.stdout)


def say_json(value: Any) -> None:
    """Print a value as one line of strict JSON: a number that is not finite is null."""
    text = json.dumps(finite_or_none(value), ensure_ascii=False, allow_nan=False)
    print(_UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text))
