# ruff: noqa: E501, D102  (rows of a table; methods that others call)
# mypy: disable-error-code="misc,arg-type,str-bytes-safe"
"""How far the outcomes of the checks hang on their limits: each is moved by a fifth, up and down.

    python -m benchmarks.check_margins [--every 1] [--top 20]

A limit is a number that a rule compares with: a constant in a comparison of size, or a factor in one. The rules are
read with each constant as a number that notes when a comparison would go the other way at .8 or 1.2 of it; where one
would, that program is looked at again with that limit moved. An outcome is whether anything louder than a note is said.
"""

import argparse
import ast
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LIMITS: list[str] = []  # where each stands
MOVED: dict[int, float] = {}
NEAR: set[tuple[int, float]] = set()
FACTORS = (0.8, 1.2)
_ORDERED = {"__lt__", "__le__", "__gt__", "__ge__", "lt", "le", "gt", "ge"}


class Limit(float):
    """A number that notes which of its moves would turn a comparison round."""

    number: int

    def __new__(cls, value: float, number: int) -> "Limit":
        self = super().__new__(cls, value * MOVED.get(number, 1.0))
        self.number = number
        return self

    def _scaled(self, value: float) -> "Limit":
        made = float.__new__(Limit, value)
        made.number = self.number
        return made

    def __mul__(self, other: Any) -> Any:
        return self._scaled(float(self) * other) if isinstance(other, int | float) else float(self) * other

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._scaled(float(self) / other) if isinstance(other, int | float) else float(self) / other

    def note(self, compare: Any) -> Any:
        """Compare by `compare(value)`, and note what it would give with the limit moved."""
        answer = compare(float(self))
        for factor in FACTORS:
            other = compare(float(self) * factor)
            is_same = torch.equal(answer, other) if isinstance(answer, torch.Tensor) else bool(answer) == bool(other)
            if not is_same:
                NEAR.add((self.number, factor))
        return answer

    def __lt__(self, other: Any) -> Any:
        return self.note(lambda value: value < other)

    def __le__(self, other: Any) -> Any:
        return self.note(lambda value: value <= other)

    def __gt__(self, other: Any) -> Any:
        return self.note(lambda value: value > other)

    def __ge__(self, other: Any) -> Any:
        return self.note(lambda value: value >= other)


class Tensors(TorchFunctionMode):
    """Note comparisons of tensors with limits too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if len(args) == 2 and isinstance(args[1], Limit):
            if getattr(func, "__name__", "") in _ORDERED:
                return args[1].note(lambda value: func(args[0], value))
            args = (args[0], float(args[1]))
        return func(*args, **(kwargs or {}))


class Wrap(ast.NodeTransformer):
    """Put `__limit__(value, number)` in place of the constants in comparisons of size."""

    def __init__(self, name: str) -> None:
        self.name, self.inside = name, 0

    def visit_Compare(self, node: ast.Compare) -> Any:
        is_of_size = any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.ops)
        self.inside += is_of_size
        self.generic_visit(node)
        self.inside -= is_of_size
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        inside, self.inside = self.inside, 0  # what a function is given in a comparison is none
        self.generic_visit(node)
        self.inside = inside
        return node

    visit_Subscript = visit_Call  # type: ignore[assignment]

    def visit_Constant(self, node: ast.Constant) -> Any:
        value = node.value
        is_limit = isinstance(value, float) or (type(value) is int and abs(value) > 2)
        if not self.inside or not is_limit or value in (0.0, 1.0):
            return node
        LIMITS.append(f"{self.name}:{node.lineno}: {value:g}")
        name = ast.Name("__limit__", ast.Load())
        call = ast.Call(name, [ast.Constant(float(value)), ast.Constant(len(LIMITS) - 1)], [])
        return ast.copy_location(ast.fix_missing_locations(call), node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        target = node.targets[0]
        is_named = isinstance(target, ast.Name) and target.id.startswith("_") and target.id.isupper()
        self.inside += is_named and isinstance(node.value, ast.Constant)
        self.generic_visit(node)
        self.inside = 0
        return node


class Loader(SourceFileLoader):
    """Read a room's file with its limits wrapped."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        tree = Wrap(str(path).rpartition("checks/")[2]).visit(ast.parse(data))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)  # and none that is kept

    def exec_module(self, module: Any) -> None:
        module.__dict__["__limit__"] = Limit
        super().exec_module(module)


class Finder(MetaPathFinder):
    """Find the rules."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(("luthier.checks.rules.", "luthier.checks.first_steps", "luthier.checks.copies")):
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Loader(name, spec.origin)
        return spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="look at every k-th program")
    parser.add_argument("--top", type=int, default=20, help="limits to print")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    sys.meta_path.insert(0, Finder())
    from tests.checks.corpus import EVERY_PAIR, EVERY_SOUND

    from benchmarks.checks import findings_of

    makers = [
        (f"{p} {'broken' if b else 'sound'}", lambda p=p, b=b: p.make(b, 0)) for p in EVERY_PAIR for b in (True, False)
    ]
    makers += [(p.name, lambda p=p: p.make(0)) for p in EVERY_SOUND]
    makers = makers[:: given.every]

    def outcome(make: Any) -> bool:
        with Tensors():
            return any(finding.severity != "note" for finding in findings_of(make(), "plain"))

    changed: Counter[tuple[int, float]] = Counter()
    examples: dict[tuple[int, float], str] = {}
    tried = 0
    for name, make in makers:
        NEAR.clear()
        MOVED.clear()
        try:
            before = outcome(make)
        except Exception:
            continue
        for move in sorted(NEAR):
            MOVED.clear()
            MOVED[move[0]] = move[1]
            tried += 1
            try:
                if outcome(make) != before:
                    changed[move] += 1
                    examples.setdefault(move, name)
            except Exception:
                changed[move] += 1
    print(f"{len(LIMITS)} limits, {len(makers)} programs, {tried} looked at again with a limit moved")
    worst = changed.most_common(1)[0][1] if changed else 0
    print(
        f"{len({number for number, _ in changed})} limits change an outcome; the most that one changes is {worst} ({worst / len(makers):.2%})"
    )
    over = sum(count > 0.01 * len(makers) for count in changed.values())
    print(f"moves that change more than 1 % of the outcomes: {over}")
    print("\n| limit | moved to | outcomes changed | one of them |\n|---|---|---|---|")
    for move, count in changed.most_common(given.top):
        print(f"| {LIMITS[move[0]]} | x {move[1]} | {count} | {examples.get(move, 'it raises')} |")


if __name__ == "__main__":
    main()
