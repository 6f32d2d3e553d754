"""Cost of training: Luthier, the tutorial's loop, the expert's loop and other libraries, in interleaved processes.

    python -m benchmarks.speed [--repeats 5] [--threads 1] [--works mlp,cnn,lstm,linear] [--peers PYTHON] [--out FILE]

Each repeat starts one process a loop, in shuffled order. A process imports, makes the data, trains on a small part of
them (so that what is imported late is not charged), then trains once more and is timed: CPU seconds (user and system),
wall seconds, and the growth of its peak memory. Validation each epoch is in the figure. Luthier runs with its defaults:
checks, monitors, a bar, a run's folder with record and checkpoints. `--peers` names the Python of an environment with
lightning, keras, fastai, skorch, pytorch-ignite, accelerate and scikit-learn, which are then measured too.
`luthier bare` is `fit(fast=True)` without checks, bar and folder; the others have all that is on by default.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.loops import LOOPS, WORKS, shuffled, work
from benchmarks.peers import PEERS


def timed(name: str, loop: str, threads: int) -> dict[str, float]:
    """Train in this process; return what it cost."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    todo = work(name)
    run = {**LOOPS, **PEERS}[loop]
    few = 20 * todo.batch_size
    part = replace(
        todo, train=(todo.train[0][:few], todo.train[1][:few]), valid=(todo.valid[0][:few], todo.valid[1][:few])
    )
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        run(part, part.make(), 1)
        net = todo.make()
        memory = peak_mb()
        start, clock = time.process_time(), time.perf_counter()
        run(todo, net, todo.epochs)
        cpu, wall = time.process_time() - start, time.perf_counter() - clock
    return {"cpu": cpu, "wall": wall, "peak_mb": peak_mb(), "grown_mb": peak_mb() - memory}


def peak_mb() -> float:
    """Return the most memory that this process has held. (`ru_maxrss` also counts that of the process it came from.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--loops", default=",".join(LOOPS))
    parser.add_argument("--peers", help="Python of an environment with the other libraries")
    parser.add_argument("--out", help="where the raw numbers go")
    parser.add_argument("--one", nargs=2, metavar=("WORK", "LOOP"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(timed(given.one[0], given.one[1], given.threads)))
        return
    names = dict.fromkeys(given.loops.split(","), sys.executable)
    names |= dict.fromkeys(PEERS, given.peers) if given.peers else {}
    raw: list[dict[str, Any]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    for name in given.works.split(","):
        for repeat in range(given.repeats):
            for loop in shuffled(list(names), repeat):
                command = [names[loop], "-m", "benchmarks.speed", "--one", name, loop, "--threads", str(given.threads)]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                if done.returncode:
                    print(f"{loop} failed on {name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    continue
                raw.append({"work": name, "loop": loop, "repeat": repeat, **json.loads(done.stdout.splitlines()[-1])})
        show(name, [row for row in raw if row["work"] == name])
    if given.out:
        Path(given.out).write_text(json.dumps(raw, indent=1))


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the table of a work: medians, and the ratio to the tutorial's loop repeat by repeat."""
    base = {row["repeat"]: row for row in rows if row["loop"] == "tutorial"}
    print(
        f"\n{work(name).name}\n\n| loop | CPU s | wall s | CPU to the tutorial's [least, most] | peak MB |\n"
        "|---|---|---|---|---|"
    )
    for loop in sorted({row["loop"] for row in rows}, key=lambda loop: statistics.median(_of(rows, loop, "cpu"))):
        ratios = [
            row["cpu"] / base[row["repeat"]]["cpu"] for row in rows if row["loop"] == loop and row["repeat"] in base
        ]
        shown = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]" if ratios else ""
        cpu, wall, peak = (statistics.median(_of(rows, loop, key)) for key in ("cpu", "wall", "peak_mb"))
        print(f"| {loop} | {cpu:.2f} | {wall:.2f} | {shown} | {peak:.0f} |", flush=True)


def _of(rows: list[dict[str, Any]], loop: str, key: str) -> list[float]:
    return [row[key] for row in rows if row["loop"] == loop]


if __name__ == "__main__":
    main()
