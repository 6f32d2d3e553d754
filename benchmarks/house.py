"""The size of each room, and the way of a step: what the code looks like, before and after.

    python -m benchmarks.house [--before COMMIT]

Prints for each room of src/luthier its lines, functions, and their median, ninth decile and longest; the functions of
Luthier between `fit` and the backward pass of torch; how often what was given is turned into a tensor; and what `fit`
holds beyond the data (peak of resident memory, 300,000 rows of 100 numbers). With `--before` the same of a commit.
"""

import argparse
import ast
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_WAY = """
import contextlib, io, sys, threading, time
import numpy as np, torch, luthier
from torch import nn

kind, n = sys.argv[1], int(sys.argv[2])
g = np.random.default_rng(0)
x = torch.randn(n, 100) if kind == "tensors" else g.normal(size=(n, 100)).astype(kind)
y = torch.randn(n, 1) if kind == "tensors" else g.normal(size=(n, 1)).astype(kind)
hops, turned = [], 0

def hear(frame, event, arg):
    global turned
    name = frame.f_code.co_name
    if event == "call" and name == "to_tensor" and frame.f_locals.get("value") is x:
        turned += 1
    is_torchs = event == "call" and name == "backward" and frame.f_code.co_filename.endswith("torch/_tensor.py")
    if (is_torchs or (event == "c_call" and "run_backward" in getattr(arg, "__name__", ""))) and not hops:
        found = frame
        while found is not None:
            if "luthier" in found.f_code.co_filename.split("/src/")[-1]:
                hops.append(found.f_code.co_name)
            found = found.f_back

def fit(rows, check):
    net = nn.Sequential(nn.Linear(100, 8), nn.ReLU(), nn.Linear(8, 1))
    with contextlib.redirect_stdout(io.StringIO()):
        luthier.fit(net, (x[:rows], y[:rows]) if rows < n else (x, y), criterion="mse", optimizer="SGD", lr=1e-3,
                    epochs=1, batch_size=4096, check=check)

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

for check in (False, True):
    fit(200, check)
    start, peak, going = held(), [0.0], [True]
    def watch():
        while going[0]:
            peak[0] = max(peak[0], held() - start)
            time.sleep(0.001)
    thread = threading.Thread(target=watch)
    thread.start()
    fit(n, check)
    going[0] = False
    thread.join()
    print(f"peak {kind}, checks {'on' if check else 'off'}: raw {x.nbytes / 1e6:.0f} MB, beyond it {peak[0]:.0f} MB")
sys.setprofile(hear)
fit(n, False)
sys.setprofile(None)
if kind == "float64":
    print("hops:", " <- ".join(hops[: hops.index("fit") + 1]) if "fit" in hops else hops)
    print("the inputs are turned into a tensor", turned, "times")
"""


def rooms(src: Path) -> list[tuple[str, int, list[int]]]:
    """Return each room with its lines, and the lines of its functions."""
    found = []
    for room in sorted({path.relative_to(src).parts[0] for path in src.rglob("*.py")}):
        files = sorted((src / room).rglob("*.py")) if (src / room).is_dir() else [src / room]
        lines, functions = 0, []
        for file in files:
            text = file.read_text(encoding="utf-8")
            lines += len(text.splitlines())
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
        found.append((room, lines, functions))
    return found


def show(src: Path) -> None:
    """Print the tables of one checkout."""
    print("| room | lines | functions | median | p90 | longest |\n| --- | --- | --- | --- | --- | --- |")
    whole = rooms(src)
    for room, lines, functions in [*whole, ("all", sum(r[1] for r in whole), [n for r in whole for n in r[2]])]:
        if len(functions) < 2:
            print(f"| {room} | {lines:,} | {len(functions)} | | | |")
            continue
        ninth = statistics.quantiles(functions, n=10)[-1]
        print(
            f"| {room} | {lines:,} | {len(functions):,} | {statistics.median(functions):g} | {ninth:.0f} | "
            f"{max(functions)} |"
        )
    for kind in ("tensors", "float32", "float64"):
        command = [sys.executable, "-c", _WAY, kind, "300000"]
        done = subprocess.run(
            command, env={"PYTHONPATH": str(src.parent), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(done.stdout or done.stderr, end="")


def main() -> None:
    """Show this checkout, and another one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before")
    before = parser.parse_args().before
    root = Path(__file__).parents[1]
    if before:
        with tempfile.TemporaryDirectory() as place:
            archive = subprocess.run(["git", "archive", before, "src"], cwd=root, capture_output=True, check=True)
            subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
            print(f"\n{before}\n")
            show(Path(place) / "src" / "luthier")
    print("\nthis checkout\n")
    show(root / "src" / "luthier")


if __name__ == "__main__":
    main()
