"""Public training scripts by `luthier.fit`: lines, seconds, and whether weights and losses are equal by the bit.

    python -m benchmarks.programs [--repeats 3] [mnist nanogpt ...]

Each program is written afresh from the idea of a public script, over small data made in place, twice: the loop as
such a script has it, and the same by `luthier.fit`. Lines are those of the two functions, less blank ones and comments;
what both share (network, data) counts for neither. Seconds are the least of the repeats, checks included: at this size
they are those of starting. Exit status 1 says that something differs.
"""

import argparse
import inspect
import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.programs import methods, pictures, sequences
from benchmarks.programs.common import Program

PROGRAMS = {make.__name__: make for make in (*pictures.PROGRAMS, *sequences.PROGRAMS, *methods.PROGRAMS)}


def lines(function: Callable[..., Any]) -> int:
    text = (line.strip() for line in inspect.getsource(function).splitlines()[1:])
    return sum(1 for line in text if line and not line.startswith("#"))


def run(program: Program, function: Callable[..., Any]) -> tuple[dict[str, torch.Tensor], Any, float]:
    """Run one of the two loops on fresh parts; return all weights, what it gave, and seconds."""
    torch.manual_seed(0)
    parts = program.parts()
    torch.manual_seed(1)
    start = time.perf_counter()
    given = function(*parts)
    seconds = time.perf_counter() - start
    nets = [part for part in parts if isinstance(part, nn.Module)]
    return {f"{i}.{k}": v for i, net in enumerate(nets) for k, v in net.state_dict().items()}, given, seconds


def _alike(ours: Any, wanted: Any) -> bool:
    """Whether figures are equal, but for the last bit of a sum: some processors round it by where its terms lie."""
    if isinstance(ours, float) and isinstance(wanted, float):
        return math.isclose(ours, wanted, rel_tol=1e-15)
    return bool(ours == wanted)


def compare(program: Program, repeats: int) -> tuple[list[str], list[str]]:
    """Return the program's cells of the table, and what differs or was found, in words."""
    notes = []
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        weights, rows, seconds = run(program, program.plain)
        times[0].append(seconds)
        try:
            found, result, seconds = run(program, program.ours)
        except Exception as error:
            return [str(lines(program.plain)), str(lines(program.ours)), "raises", "raises", "", ""], [
                f"{type(error).__name__}: {error}"
            ]
        times[1].append(seconds)
    far = [name for name, value in weights.items() if not torch.equal(found[name], value)]
    if far:
        notes.append(f"{len(far)} of {len(weights)} weights differ, the first is {far[0]}")
    ours = [row for row in result.record if row["event"] in ("validation", "epoch")]
    wrong = [] if len(ours) == len(rows) else [f"{len(rows)} rows, ours {len(ours)}"]
    for i, (wanted, row) in enumerate(zip(rows, ours, strict=False)):
        wrong += [f"row {i}: {k} {v!r}, ours {row.get(k)!r}" for k, v in wanted.items() if not _alike(row.get(k), v)]
    notes += wrong[:4]
    notes += [f"check: {finding}" for finding in result.findings]
    cells = [str(lines(program.plain)), str(lines(program.ours)), "no" if far else "yes", "no" if wrong else "yes"]
    return cells + [f"{min(of):.2f}" for of in times], notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", default=list(PROGRAMS), metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("luthier").setLevel(logging.ERROR)
    differs = False
    print("| script | source | lines of loop | of fit | weights equal | figures equal | s loop | s fit | by a detour |")
    print("| --- | --- | ---: | ---: | --- | --- | ---: | ---: | --- |")
    said = []
    for name in given.programs:
        try:
            program = PROGRAMS[name]()
        except ImportError as error:
            print(f"| {name} | {error.name} is not installed |" + " |" * 7)
            continue
        cells, notes = compare(program, given.repeats)
        differs |= cells[2:4] != ["yes", "yes"]
        print(f"| {' | '.join([name, program.source, *cells, program.cannot])} |", flush=True)
        said += [f"{name}: {note}" for note in notes]
    print("\n" + "\n".join(said))
    sys.exit(differs)


if __name__ == "__main__":
    main()
