"""A program with its constants folded does what it did, and holds nothing that it does not need."""

import itertools
from typing import Any

import pytest

from luthier.ejection.shake import Arguments, Assigned, Code, folded, lines_run, shaken

PROGRAM = '''"""A program."""

import math
import os
from collections import Counter, OrderedDict

DEEP = False  # how far
KIND = "a"
SIZE = 0
MORE: dict = {}
MAKE = dict
LIMITS = (1, 2)


def helper(x):
    # only for deep ones
    return math.sqrt(x)


def other(x):
    return Counter(x)


def f(x):
    """Return something."""
    made = MAKE(x=x, **MORE)
    total = made["x"] * (2 if DEEP else 3)
    if DEEP and x > 1:
        total += helper(x)
    elif KIND == "b":
        # of kind b
        total += 10
    elif x > 5:
        total += 100
    elif KIND == "c" or SIZE:
        total += 1000
    else:
        total -= 1
    for i in range(3):
        if KIND == "a":
            total += i
            continue
        total -= i
    if not DEEP:
        with open(os.devnull) as file:
            if SIZE:
                total += SIZE * len(file.read() + "x")
    if KIND in ("b", "c") and not (DEEP or SIZE):
        total += sum(LIMITS)
    return total, (x > 2 if DEEP else x < 2) or (SIZE and x == 3), made.get("more", 0)


RESULT = [f(x) for x in range(8)]
'''


@pytest.mark.parametrize(("deep", "kind", "size"), list(itertools.product([True, False], "abc", [0, 4])))
def test_a_folded_program_gives_what_the_whole_one_gives(deep: bool, kind: str, size: int) -> None:
    values = {"DEEP": deep, "KIND": kind, "SIZE": size, "LIMITS": Assigned("(3, 4)")}
    values |= {"MAKE": Code("dict"), "MORE": Arguments(["more=7"])}
    text = folded(PROGRAM, values, roots=["RESULT"])
    whole = PROGRAM
    changes = {"DEEP = False": f"DEEP = {deep}", 'KIND = "a"': f"KIND = {kind!r}", "SIZE = 0": f"SIZE = {size}"}
    changes |= {"(1, 2)": "(3, 4)", "MORE: dict = {}": "MORE = {'more': 7}"}
    for name, value in changes.items():
        whole = whole.replace(name, value)
    spaces: list[dict[str, Any]] = [{}, {}]
    exec(whole, spaces[0])
    # constants stand before functions in a project, so the call is made here
    exec(text.replace("RESULT = [f(x) for x in range(8)]", ""), spaces[1])
    assert [spaces[1]["f"](x) for x in range(8)] == spaces[0]["RESULT"]
    for gone in ("DEEP", "KIND", "Counter", "OrderedDict", "def other", "MORE"):
        assert gone not in text
    assert ("import math" in text) == deep
    assert ("# only for deep ones" in text) == deep
    assert ("# of kind b" in text) == (kind == "b")
    assert "dict(x=x, more=7)" in text


def test_lines_that_did_not_run_are_left_out(tmp_path: Any) -> None:
    program = """MOST = 3


def g(x):
    if x > MOST:
        return 1
    elif x > 1:
        return 2
    for _ in range(x - 1):
        x += MOST
    if x < 0:
        raise ValueError("below 0")
    return x
"""
    file = tmp_path / "g.py"
    file.write_text(program)
    space: dict[str, Any] = {}
    exec(compile(program, str(file), "exec"), space)
    text = shaken(program, lines_run(lambda: space["g"](2), str(file)), roots=["g"])
    assert text == 'def g(x):\n    if x > 1:\n        return 2\n    if x < 0:\n        raise ValueError("below 0")\n'
    assert "MOST" in shaken(program, lines_run(lambda: space["g"](9), str(file)), roots=["g"])
