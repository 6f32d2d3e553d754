"""What several processes cost, beside the same work by other libraries, and what it would cost with many more.

    python -m benchmarks.processes [--repeats 7] [beside memory change line alone]

Programs are timed in turn in the same two processes, so that a busy machine slows all; ratios are those of one round,
and stand with their least and greatest. Libraries that are not installed are left out. Two processes need two free
cores.
"""

import argparse
import inspect
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.processes_rivals import BATCH, PACKAGES, PROGRAMS

_ROWS = 4096
_STEPS = _ROWS // BATCH  # of an epoch


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Return networks with inputs and targets."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    def perceptron(width: int, dropout: float = 0.0) -> nn.Module:
        layers = [nn.Linear(40, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
        return nn.Sequential(*layers[:4], *([nn.Dropout(dropout)] if dropout else []), layers[4])

    classes = torch.randint(0, 10, (_ROWS,), generator=g)
    rows, images = torch.randn(_ROWS, 40, generator=g), torch.randn(_ROWS, 3, 16, 16, generator=g)
    convolutions = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    return {
        "perceptron 64": (perceptron(64), rows, classes),
        "perceptron 512": (perceptron(512), rows, classes),
        "perceptron 1024": (perceptron(1024), rows, classes),
        "convnet": (convolutions, images, classes),
        "perceptron 64, plain": (perceptron(64), rows, rows[:, :10].argmax(1)),
        "perceptron 64, dropout": (perceptron(64, 0.2), rows, rows[:, :10].argmax(1)),
    }


_TIMED = ("perceptron 64", "perceptron 512", "perceptron 1024", "convnet")


def seconds_of_a_step(program: str, name: str) -> float:
    """Return the seconds of an update in the second of two epochs, by when the network is called."""
    net, x, y = networks()[name]
    times: list[float] = []
    net.register_forward_pre_hook(lambda module, given: times.append(time.perf_counter()))
    PROGRAMS[program](net, x, y, 2, Path("none"), None)
    return (times[-1] - times[-_STEPS]) / (_STEPS - 1)


def installed() -> list[str]:
    """Return the programs whose library is there."""
    return [name for name in PROGRAMS if name not in PACKAGES or find_spec(PACKAGES[name])]


# Work of the processes


def time_beside(repeats: int) -> None:
    """Time all programs in turn, as one of the processes."""
    import torch.distributed as dist

    names = installed()
    if dist.get_rank() == 0:
        print(f"| two processes, ms a step | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}", flush=True)
    for network in _TIMED:
        rounds = []
        for repeat in range(repeats):
            mixed = random.Random(repeat).sample(names, len(names))
            rounds.append({name: seconds_of_a_step(name, network) for name in mixed})
        cells = []
        for name in names:
            ratios = [found[name] / found["DDP by hand"] for found in rounds]
            cells.append(f"{1e3 * statistics.median(found[name] for found in rounds):.2f}")
            if name != "DDP by hand":
                cells[-1] += f", {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        if dist.get_rank() == 0:
            print(f"| {network} | {' | '.join(cells)} |", flush=True)


def train_one(program: str, network: str, epochs: int, folder: str, stop: int) -> dict[str, Any]:
    """Train by one program; return the most memory of this process, and what the last weights are."""
    net, x, y = networks()[network]
    PROGRAMS[program](net, x, y, epochs, Path(folder), stop or None)
    net.eval()
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(net(x), y))
    weights = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    return {
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": loss,
        "weights": weights.tolist() if weights.numel() < 10_000 else [],
    }


def measure_line() -> dict[str, float]:
    """Return what two processes pay for messages: seconds of a short one, and bytes a second of long ones."""
    import torch.distributed as dist

    from luthier.core.processes import combined, find_group
    from luthier.core.signs import open_sockets

    group = find_group()
    assert group is not None
    found: dict[str, float] = {}

    def seconds(count: int, work: Any) -> float:
        times = []
        for _ in range(count):
            dist.barrier()
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    short, long = torch.zeros(128), torch.zeros(16 << 20)  # 512 bytes, and 64 MB
    found["gather_s"] = seconds(300, lambda: group.gathered(short))
    out = torch.empty_like(short)
    found["to_all_s"] = seconds(
        300, lambda: group._wait(dist.all_to_all_single(out, short, group=group.group, async_op=True))
    )
    half, whole = long[: len(long) // 2], torch.empty_like(long)
    sent = half.nbytes
    found["gather_bytes_s"] = sent / seconds(7, lambda: group.gathered(half, whole))
    found["to_all_bytes_s"] = sent / seconds(
        7, lambda: group._wait(dist.all_to_all_single(whole, long, group=group.group, async_op=True))
    )
    slices = {(0, i): torch.zeros(16 << 14) for i in range(64)}
    found["add_bytes_s"] = 64 * (16 << 16) / seconds(7, lambda: combined(slices, 64))
    store = dist.distributed_c10d._get_default_store()
    store.set("here", "x" * 100)
    found["store_s"] = seconds(300, lambda: store.get("here"))
    found["sockets"] = len(open_sockets())
    return found


# The tables


def launch(size: int, work: str, *arguments: Any) -> list[Any]:
    """Run some work in so many processes under torchrun; return what each returned."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
        command += ["-m", "benchmarks.processes", "--work", json.dumps([work, arguments, place])]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode()[-4000:])
        return [json.loads(Path(place, str(rank)).read_text()) for rank in range(size)]


def worker(work: str, arguments: list[Any], place: str) -> None:
    """Do the work of one process."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    if int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
    answer = globals()[work](*arguments)
    Path(place, os.environ["RANK"]).write_text(json.dumps(answer))


def beside(repeats: int) -> None:
    """Print the seconds of a step."""
    launch(2, "time_beside", repeats)


def memory(repeats: int) -> None:
    """Print lines, and the most memory of either process."""
    print("\n| program | lines | peak MB a process, perceptron 64 | 1024 |\n| --- | ---: | ---: | ---: |")
    for name in installed():
        peaks = []
        for network in ("perceptron 64", "perceptron 1024"):
            both = launch(2, "train_one", name, network, 2, "none", 0)
            peaks.append(max(answer["memory"] for answer in both))
        lines = [line for line in inspect.getsource(PROGRAMS[name.partition(",")[0]]).splitlines()[1:] if line.strip()]
        print(f"| {name} | {len(lines)} | {' | '.join(f'{peak:.0f}' for peak in peaks)} |", flush=True)


def change(repeats: int, names: tuple[str, ...] = ("perceptron 64, plain", "perceptron 64, dropout")) -> None:
    """Print what a run comes to that is stopped and goes on with the same number of processes, and with one."""
    print(
        "\n| network | program | stopped after | loss of 2 processes, never stopped | 2, then 2: difference of the "
        "loss, of a weight | 2, then 1 |\n| --- | --- | --- | ---: | ---: | ---: |"
    )
    for network in names:
        for name in installed():
            if name in ("DDP by hand", "fit, sharded", "fit over a DataLoader"):
                continue
            with tempfile.TemporaryDirectory() as place:
                whole = launch(2, "train_one", name, network, 4, f"{place}/whole", 0)[0]
            for stop, where in ((2 * _STEPS, "epoch 2"), (_STEPS + _STEPS // 2, "half of epoch 2")):
                with tempfile.TemporaryDirectory() as place:
                    Path(place, "two").mkdir()
                    launch(2, "train_one", name, network, 4, f"{place}/two", stop)
                    shutil.copytree(f"{place}/two", f"{place}/one")
                    cells = []
                    for size, folder in ((2, "two"), (1, "one")):
                        end = launch(size, "train_one", name, network, 4, f"{place}/{folder}", 0)[0]
                        off = max(abs(a - b) for a, b in zip(end["weights"], whole["weights"], strict=True))
                        cells.append(f"{abs(end['loss'] - whole['loss']):.1e}, {off:.1e}")
                print(f"| {network} | {name} | {where} | {whole['loss']:.6f} | {' | '.join(cells)} |", flush=True)


def line(repeats: int) -> None:
    """Print what messages cost, and what steps of many processes would by it."""
    answers = launch(2, "measure_line")
    at = {key: statistics.median(answer[key] for answer in answers) for key in answers[0]}
    short, slices = 1e6 * at["gather_s"], 1e6 * at["to_all_s"]
    long, long_slices = at["gather_bytes_s"] / 1e9, at["to_all_bytes_s"] / 1e9
    print(
        f"\nbetween two processes: a short all_gather {short:.0f} µs, all_to_all {slices:.0f} µs; long ones {long:.2f} "
        f"and {long_slices:.2f} GB/s; adding {at['add_bytes_s'] / 1e9:.1f} GB/s; "
        f"the store {1e6 * answers[1]['store_s']:.0f} µs a question; {at['sockets']:.0f} sockets a process"
    )
    print("\n| ms a step for messages | 2 | 8 | 64 | 512 |\n| --- | ---: | ---: | ---: | ---: |")
    for name, size, tail in (("1 MB of gradients", 1e6, 400), ("100 MB", 1e8, 2000), ("1 GB", 1e9, 4000)):
        cells = [f"{1e3 * on_paper(at, count, size, tail):.1f}" for count in (2, 8, 64, 512)]
        print(f"| {name} | {' | '.join(cells)} |")


def on_paper(at: dict[str, float], count: int, size: float, tail: float) -> float:
    """Return the seconds that the messages of a step take.

    A ring of count - 1 messages gathers the tails; then each process gives every other a slice, adds slices up, and a
    ring gathers the sums. Shards are as many as processes.

    Args:
        at: What messages take between two processes.
        count: Processes.
        size: Bytes of gradients.
        tail: Bytes of what else a process tells: its count, its loss, which parameters have a gradient.
    """
    others, share = count - 1, size * (count - 1) / count
    short = others * (at["gather_s"] + tail / at["gather_bytes_s"])
    slices = others * at["to_all_s"] + share / at["to_all_bytes_s"] + size / at["add_bytes_s"]
    return short + slices + others * at["gather_s"] + share / at["gather_bytes_s"]


def alone(repeats: int) -> None:
    """Print what shards cost in one process, and how far their losses are from those of none."""
    import luthier

    torch.set_num_threads(1)

    def epoch(name: str, shards: int | None) -> tuple[float, float]:
        net, x, y = networks()[name]
        settings: dict[str, Any] = {"batch_size": BATCH, "epochs": 2, "seed": 0, "lr": 0.01, "shards": shards}
        result = luthier.fit(
            net, (x, y), criterion="cross-entropy", optimizer="SGD", check=False, verbose=False, **settings
        )
        row = result.record.epochs[-1]
        return float(row["seconds"]), float(row["train_loss"])

    print("\n| one process | 2 shards | 4 | 8 | loss of 8, less that of none |\n| --- | ---: | ---: | ---: | ---: |")
    for name in _TIMED:
        found: dict[int, list[float]] = {2: [], 4: [], 8: []}
        off = math.nan
        for _ in range(repeats):
            plain, loss = epoch(name, None)
            for shards, ratios in found.items():
                seconds, of_shards = epoch(name, shards)
                ratios.append(seconds / plain)
                off = of_shards - loss
        cells = " | ".join(f"{statistics.median(ratios):.2f}" for ratios in found.values())
        print(f"| {name} | {cells} | {off:.1e} |", flush=True)


def main() -> None:
    """Print the tables that are asked for, or do the work of a process."""
    tables = {"beside": beside, "memory": memory, "change": change, "line": line, "alone": alone}
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=list(tables))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work")
    given = parser.parse_args()
    if given.work:
        worker(*json.loads(given.work))
        return
    for name in given.tables:
        tables[name](given.repeats)


if __name__ == "__main__":
    main()
