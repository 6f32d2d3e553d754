"""Change one constant or comparison at a time, and see whether a test notices.

    python -m tests.mutants [FILE ...] [--sample 0.1] [--seed 0] [--list]

Numbers are scaled, `<` and `<=` (`>` and `>=`) swapped, booleans flipped; strings are left alone. The tree is copied to
a temporary folder, where one file at a time is changed. Each mutant runs in a process that is forked from one that has
imported what takes long (torch, polars, scikit-learn), and runs only the tests of its file (`TESTS`) that reach the
line that was changed, the quickest first, until one fails. Printed are the share noticed of each file, and every mutant
that no test noticed, with its line. What no behaviour can tell apart is in `EQUIVALENT`, with the reason.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
SRC = "src/luthier/"
_FIT = [f"tests/training/test_{name}.py" for name in ("policy", "settings", "schedules", "fit", "moments")]
TESTS: dict[str, list[str]] = {
    "networks/choose.py": ["tests/networks/test_design.py", "tests/golden"],
    "data/kinds.py": ["tests/data/test_kinds.py", "tests/golden"],
    "data/columns.py": ["tests/data/test_kinds.py", "tests/golden"],
    "metrics/criteria.py": ["tests/metrics/test_criteria.py", "tests/training/test_outputs.py"],
    "metrics/curves.py": ["tests/metrics/test_curves.py", "tests/report/test_measured.py"],
    "metrics/evaluation.py": ["tests/metrics", *_FIT],
    "metrics/figures.py": ["tests/metrics", "tests/report/test_measured.py"],
    "metrics/finishing.py": ["tests/metrics/test_finishing.py", "tests/pipeline/test_finish.py"],
    "metrics/metrics.py": ["tests/metrics", *_FIT],
    "metrics/named.py": ["tests/metrics", *_FIT],
    "metrics/objective.py": ["tests/metrics", *_FIT, "tests/training/test_outputs.py"],
    "metrics/outputs.py": ["tests/metrics", "tests/training/test_outputs.py"],
    "training/callbacks.py": [*_FIT, "tests/training/test_resume.py"],
    "training/fast.py": ["tests/training/test_fast.py"],
    "training/fit.py": [*_FIT, "tests/training/test_left_as_found.py"],
    "training/folder.py": [*_FIT, "tests/training/test_resume.py", "tests/faults/test_faults.py"],
    "training/freezing.py": [*_FIT, "tests/training/test_combinations.py"],
    "training/loop.py": [*_FIT, "tests/training/test_equal_by_the_bit.py", "tests/training/test_resume.py"],
    "training/monitoring.py": [*_FIT, "tests/checks/test_checks.py::test_the_monitors_speak_once"],
    "training/optimizers.py": [*_FIT, "tests/training/test_every_optimizer.py", "tests/training/test_combinations.py"],
    "training/progress.py": [*_FIT],
    "training/record.py": [*_FIT, "tests/training/test_numbers.py", "tests/faults/test_faults.py"],
    "training/replay.py": ["tests/training/test_replay.py"],
    "training/result.py": [*_FIT],
    "training/schedules.py": [*_FIT, "tests/training/test_combinations.py"],
    "training/settings.py": [*_FIT, "tests/training/test_combinations.py"],
    "training/state.py": [*_FIT, "tests/training/test_resume.py"],
    "training/step.py": [*_FIT, "tests/training/test_equal_by_the_bit.py", "tests/training/test_numbers.py"],
    "training/trying.py": [*_FIT, "tests/training/test_outputs.py"],
    "training/unkept.py": [*_FIT, "tests/training/test_resume.py"],
}
EQUIVALENT: dict[tuple[str, str, str], str] = {  # (file, the line's code, what stands in place): why nothing differs
    ("networks/choose.py", "num_tokens = max(1, len(sizes.ranks) + len(sizes.category_sizes))", "2"):
        "of one column as of two the size of a token is at its most",
    ("networks/choose.py",
     '"token_size": min(8 if n < 2_000 else 16, _power_of_two(2_048 / num_tokens, 2, 16)),', "32"):
        "each of the two sixteens limits what the other lets through",
    ("networks/choose.py",
     "15 if has_waves else 40 if n < 10_000 else 30 if n <= 100_000 else max(10, round(30 * math.sqrt(100_000 / n)))",
     "<"): "both rules give 30 epochs for 100,000 rows",
    ("networks/choose.py", "epochs = max(4, round(20 * effort))", "8"): "the least effort gives 8",
    ("networks/choose.py", "nearest: int = 2 ** round(math.log2(max(value, 1)))", "2"): "no lower end is below 2",
    ("networks/choose.py",
     "epochs = max(10, min(150, round(steps * batch_size / max(n, 1) * _EFFORT[settings.effort])))", "2"):
        "one row and two have more epochs than the most",
    ("networks/choose.py", "epochs = max(least, min(60, round(steps * batch_size / max(n, 1) * share)))", "2"):
        "one row and two have more epochs than the most",
    ("data/kinds.py", "if not len(present) or odd.sum() > (1 - MOSTLY) * (odd.sum() + len(present)):", ">="):
        "1 - 0.95 times a whole number of cells is no whole number in floats",
    ("data/kinds.py", "if measured[0][1] > _UNEVEN * usual:", ">="): "two deviations are never equal to the last bit",
    ("metrics/criteria.py", "return (criterion.weight[targets.masked_fill(~kept, 0)] * kept).sum()", "1"):
        "whichever class stands in for an ignored one, its weight is multiplied by 0",
    ("metrics/criteria.py", "own = own * criterion.weight[targets.masked_fill(~kept, 0)]", "1"):
        "whichever class stands in for an ignored one, its weight is multiplied by 0",
    ("metrics/curves.py", '"false_positive_rate": [0.0, *(alarms / max((~yes).sum(), 1)).tolist()],', "2"):
        "where there is no negative there is no alarm: 0 over anything",
    ("metrics/curves.py", "thresholds = np.round(np.arange(1, 100) / 100, 2)", "4"): "hundredths have two digits",
    ("metrics/curves.py", '"f1": 2 * hits / np.maximum(2 * hits + missed + alarms, 1),', "2"):
        "below 2 are no hits, and 0 over anything is 0",
    ("metrics/evaluation.py", "_SLOTS = 64", "128"): "how much is read from the device at once changes no figure",
    ("metrics/evaluation.py", "if len(mean.pending) > _SLOTS:", ">="): "when it is read changes no figure",
    ("metrics/figures.py", "_SEED = 20_240_229", "40480458"): "any seed does",
    ("metrics/figures.py", "return np.asarray(found.reshape(len(found), -1))", "2"): "NumPy takes any number below 0",
    ("metrics/figures.py",
     "counts = np.array(schema.targets[0].counts or [1] * self.num_classes, dtype=np.float64)", "2"):
        "only their shares are used",
    ("training/loop.py", "_LOOK_EVERY = 64", "128"): "when losses are read from the device changes no figure",
    ("training/loop.py", "if len(state.loss.pending) >= _LOOK_EVERY:", ">"): "when they are read changes no figure",
    ("training/loop.py", "sign = 1.0 if run.higher_is_better.get(monitor, False) else -1.0", "2.0"):
        "a common factor of both sides of a comparison",
}  # fmt: skip
WARMED = ("numpy", "torch", "torch.utils.data", "torch.optim.swa_utils", "polars", "PIL.Image", "safetensors.torch",
          "rich.console", "rich.live", "click", "sklearn.metrics", "pandas", "pytest", "scipy.stats")  # fmt: skip
_SWAPPED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
}  # fmt: skip
_LEAST_S = (
    60.0  # a machine may be busy; a mutant that never ends is noticed when this and ten times the usual have passed
)


@dataclass(frozen=True)
class Mutant:
    """One change: `old` at a place of a file becomes `new`."""

    file: str
    line: int
    column: int
    old: str
    new: str
    text: str  # the whole line, as it is
    span: tuple[int, int]  # first and last line of the statement, or (0, 0) where it runs on import

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old} -> {self.new}: {self.text}"


def _scaled(number: float) -> float:
    if number in (0, 1):
        return number + 1
    if abs(number) < 1e-6:  # what keeps a division from 0: twice as much is nothing
        return number * 1e6
    return number * 2


def _skipped(tree: ast.Module) -> set[int]:
    """Return what carries no behaviour: types, decorators of dataclasses, `strict` of a zip, `__all__`."""
    found: set[int] = set()

    def skip(node: ast.AST | None) -> None:
        if node is not None:
            found.update(id(item) for item in ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg):
            skip(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skip(node.returns)
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                skip(decorator)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            for keyword in node.keywords:
                skip(keyword)
        if isinstance(node, ast.FormattedValue):
            skip(node.format_spec)
    return found


def _is_literal(text: str, value: Any) -> bool:
    try:
        return type(value) is type(ast.literal_eval(text)) and ast.literal_eval(text) == value
    except (SyntaxError, ValueError):
        return False


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of a file, in the order of its text."""
    tree, lines, found = ast.parse(source), source.split("\n"), []
    skipped = _skipped(tree)

    def visit(node: ast.AST, span: tuple[int, int], is_inside: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in [*node.decorator_list, node.args]:
                visit(part, (0, 0) if not is_inside else span, is_inside)
            for part in node.body:
                visit(part, (part.lineno, part.end_lineno or part.lineno), True)
            return
        if isinstance(node, ast.Lambda):  # runs when it is called, wherever it stands
            span = (node.lineno, node.end_lineno or node.lineno)
        elif isinstance(node, ast.stmt) and is_inside:
            end = node.body[0].lineno if isinstance(node, ast.If | ast.For | ast.While | ast.With) else node.end_lineno
            span = (
                node.lineno,
                max(node.lineno, (end or node.lineno) - isinstance(node, ast.If | ast.For | ast.While)),
            )
        if id(node) not in skipped:
            make(node, span)
        for child in ast.iter_child_nodes(node):
            visit(child, span, is_inside)

    def add(line: int, column: int, old: str, new: str, span: tuple[int, int]) -> None:
        raw = lines[line - 1].encode()
        assert raw[column : column + len(old)].decode() == old, (file, line, column, old)
        found.append(Mutant(file, line, column, old, new, lines[line - 1].strip(), span))

    def make(node: ast.AST, span: tuple[int, int]) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            old = lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()
            if node.lineno != node.end_lineno or not _is_literal(old, node.value):
                return  # places inside an f-string are not told exactly by every Python
            new = str(not node.value) if isinstance(node.value, bool) else repr(_scaled(node.value))
            add(node.lineno, node.col_offset, old, new, span)
        elif isinstance(node, ast.Compare):
            for before, operator, after in zip(
                [node.left, *node.comparators], node.ops, node.comparators, strict=False
            ):
                if type(operator) in _SWAPPED:
                    old, new = _SWAPPED[type(operator)]
                    line, column = before.end_lineno or 0, before.end_col_offset or 0
                    while True:  # the sign stands between the two, perhaps behind a bracket or a new line
                        text = lines[line - 1].encode()
                        until = after.col_offset if line == after.lineno else len(text)
                        at = text.find(old.encode(), column, until)
                        if at >= 0:
                            break
                        line, column = line + 1, 0
                    add(line, at, old, new, span)

    for statement in tree.body:
        visit(statement, (0, 0), False)
    return sorted(set(found), key=lambda mutant: (mutant.line, mutant.column))


def changed(source: str, mutant: Mutant) -> str:
    """Return the text of a file with the mutant in it."""
    lines = source.split("\n")
    raw = lines[mutant.line - 1].encode()
    lines[mutant.line - 1] = (
        raw[: mutant.column] + mutant.new.encode() + raw[mutant.column + len(mutant.old) :]
    ).decode()
    return "\n".join(lines)


class _Reached:
    """A pytest plugin that notes which lines of a file each test runs, and how long it takes."""

    def __init__(self, path: str) -> None:
        self.path, self.lines, self.seconds = path, defaultdict(set), {}  # type: ignore[var-annotated]
        self.failed: list[str] = []
        self._test = ""

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename == self.path else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines[frame.f_lineno].add(self._test)
        return self._line

    def pytest_runtest_protocol(self, item: Any) -> None:
        import threading

        self._test = item.nodeid
        self.seconds[self._test] = time.perf_counter()
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "teardown":
            sys.settrace(None)
            self.seconds[report.nodeid] = time.perf_counter() - self.seconds[report.nodeid]


class _Chosen:
    """A pytest plugin that keeps the tests named, in their order."""

    def __init__(self, order: list[str]) -> None:
        self.place = {name: i for i, name in enumerate(order)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda i: self.place[i.nodeid])


def _pytest(copy: Path, tests: list[str], plugin: Any, *more: str) -> int:
    import pytest

    sys.dont_write_bytecode = True
    os.chdir(copy)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # this script came as one of them, from the tree that is not changed
    here = {"", str(ROOT), str(ROOT / "src")}
    sys.path[:] = [str(copy), str(copy / "src"), *(place for place in sys.path if place not in here)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy / "src"), str(copy)])
    quiet = io.StringIO()
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow", *more]
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        code = int(pytest.main([*options, *tests], plugins=[plugin]))
    if more == () and code:  # the unchanged tree
        print(quiet.getvalue()[-3000:], flush=True)
    return code


def _forked(work: Any, timeout_s: float) -> int | None:
    """Return the exit status of `work()` in a process of its own; None where it took too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        code = 70
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 2):
                os.dup2(null, stream)
            code = work()
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}")
            code = 71
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def reached(copy: Path, file: str) -> tuple[dict[int, list[str]], dict[str, float]]:
    """Return the tests that run each line of a file, and the seconds of each test, on the unchanged tree."""
    out = copy / "reached.json"

    def work() -> int:
        plugin = _Reached(str(copy / SRC / file))
        code = _pytest(copy, TESTS[file], plugin)
        lines = {line: sorted(names) for line, names in plugin.lines.items()}
        out.write_text(json.dumps([lines, plugin.seconds, plugin.failed]))
        return 0 if code in (0, 5) else 1

    code = _forked(work, 1800)
    lines, seconds, failed = json.loads(out.read_text()) if out.exists() else ({}, {}, [])
    if code != 0:
        raise SystemExit(f"tests of {file} fail without any change: {failed or code}")
    out.unlink()
    return {int(line): names for line, names in lines.items()}, seconds


def is_noticed(copy: Path, mutant: Mutant, lines: dict[int, list[str]], seconds: dict[str, float]) -> bool:
    """Run the tests that reach a mutant; tell whether one fails."""
    if mutant.span == (0, 0):
        names = set(seconds)
    else:
        names = {name for line in range(mutant.span[0], mutant.span[1] + 1) for name in lines.get(line, ())}
    if not names:
        return False
    order = sorted(names, key=lambda name: seconds[name])
    files = list(dict.fromkeys(name.split("::")[0] for name in order))
    path = copy / SRC / mutant.file
    source = path.read_text()
    path.write_text(changed(source, mutant))
    try:
        usual = sum(seconds[name] for name in order)
        return _forked(lambda: _pytest(copy, files, _Chosen(order), "-x"), max(_LEAST_S, 10 * usual)) not in (0, 5)
    finally:
        path.write_text(source)


def files_of(asked: list[str]) -> Iterator[str]:
    """Yield the files asked for, as `TESTS` names them; all of them where none is."""
    for file in TESTS:
        if not asked or any(file == name or file.startswith(name.rstrip("/") + "/") for name in asked):
            yield file


def main() -> None:
    """Print the share noticed of each file, and what was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files or folders below src/luthier; all of TESTS by default")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the mutants that is tried")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    given = parser.parse_args()
    lot, total, noticed = random.Random(given.seed), 0, 0
    survivors: list[Mutant] = []
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "tree"
        copy.mkdir()
        named = ("src", "tests", "examples", "docs", "benchmarks")
        for name in named:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(copy / "src"), str(copy / "tests")], check=False)
        if not given.list:
            for module in WARMED:
                with contextlib.suppress(ImportError):
                    __import__(module)
        for file in files_of(given.files):
            every = mutants_of(file, (copy / SRC / file).read_text())
            every = [item for item in every if (item.file, item.text.split("  #")[0], item.new) not in EQUIVALENT]
            some = [mutant for mutant in every if lot.random() < given.sample]
            if given.list:
                print(*some, sep="\n")
                continue
            if not some:
                continue
            for stale in (copy / SRC / file).parent.glob(f"__pycache__/{Path(file).stem}.*.pyc"):
                stale.unlink()  # it would be read in place of a change of the same size in the same second
            start = time.monotonic()
            lines, seconds = reached(copy, file)
            lost = []
            for mutant in some:
                if not is_noticed(copy, mutant, lines, seconds):
                    lost.append(mutant)
                    print(f"  {mutant}", flush=True)
            took = time.monotonic() - start
            print(f"{file}: {len(some) - len(lost)} of {len(some)} noticed, {took:.0f} s", flush=True)
            total, noticed, survivors = total + len(some), noticed + len(some) - len(lost), survivors + lost
    if total:
        print(f"{noticed} of {total} noticed: {noticed / total:.1%}; {len(EQUIVALENT)} more cannot be told apart")


if __name__ == "__main__":
    main()
