"""What several processes cost: a step beside DistributedDataParallel written by hand, spread weights, and shards alone.

    python -m benchmarks.processes [--repeats 5]

Each pair is timed in turn in the same two processes, so that a busy machine slows both; the ratio's median is printed
with its least and greatest. Two processes need two free cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_ROWS, _BATCH = 4096, 128


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Return networks with inputs and targets."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    def perceptron(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(40, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

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
    }


def by_luthier(name: str, shards: int | None, *, sharded: bool = False) -> float:
    """Return the seconds of an epoch of `fit`."""
    import luthier

    net, x, y = networks()[name]
    settings: dict[str, Any] = {"batch_size": _BATCH, "epochs": 2, "seed": 0, "lr": 0.01, "shards": shards}
    settings["sharded"] = sharded
    result = luthier.fit(
        net, (x, y), criterion="cross-entropy", optimizer="SGD", check=False, verbose=False, **settings
    )
    return float(result.record.epochs[-1]["seconds"])


def by_ddp(name: str) -> float:
    """Return the seconds of an epoch of the loop by hand, each process over its share of each batch."""
    import torch.distributed as dist

    from luthier.core.order import order

    net, x, y = networks()[name]
    rank, size = dist.get_rank(), dist.get_world_size()
    wrapped = nn.parallel.DistributedDataParallel(net)
    optimizer, criterion = torch.optim.SGD(net.parameters(), lr=0.01), nn.CrossEntropyLoss()
    seconds = 0.0
    for epoch in range(2):
        start = time.perf_counter()
        for chunk in order(len(x), 0, epoch).split(_BATCH):
            own = chunk.chunk(size)[rank]
            optimizer.zero_grad(set_to_none=True)
            criterion(wrapped(x[own]), y[own]).backward()
            optimizer.step()
        seconds = time.perf_counter() - start
    return seconds


def worker(repeats: int) -> None:
    """Time the pairs, as one of the processes."""
    import torch.distributed as dist

    from luthier.core.processes import find_group

    torch.set_num_threads(1)
    find_group()
    for name in networks():
        ratios, spread, steps = [], [], []
        for _ in range(repeats):
            ddp, ours = by_ddp(name), by_luthier(name, None)
            ratios.append(ours / ddp)
            spread.append(by_luthier(name, None, sharded=True) / ours)
            steps.append((1e3 * ddp * _BATCH / _ROWS, 1e3 * ours * _BATCH / _ROWS))
        if dist.get_rank() == 0:
            ddp, ours = (statistics.median(column) for column in zip(*steps, strict=True))
            print(
                f"| {name} | {ddp:.2f} | {ours:.2f} | {statistics.median(ratios):.2f} [{min(ratios):.2f}, "
                f"{max(ratios):.2f}] | {statistics.median(spread):.2f} [{min(spread):.2f}, {max(spread):.2f}] |",
                flush=True,
            )


def alone(repeats: int) -> None:
    """Print what shards cost in one process."""
    torch.set_num_threads(1)
    print("\n| one process | 2 shards | 4 | 8 |\n| --- | --- | --- | --- |")
    for name in networks():
        found: dict[int, list[float]] = {2: [], 4: [], 8: []}
        for _ in range(repeats):
            plain = by_luthier(name, None)
            for shards, ratios in found.items():
                ratios.append(by_luthier(name, shards) / plain)
        print(f"| {name} | " + " | ".join(f"{statistics.median(ratios):.2f}" for ratios in found.values()) + " |")


def main() -> None:
    """Start the processes, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    if "LUTHIER_GROUP" in os.environ:
        worker(repeats)
        return
    print(
        "| two processes | DDP, ms a step | fit | ratio [least, greatest] | sharded to fit |\n"
        "| --- | --- | --- | --- | --- |",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as place:
        env = {**os.environ, "LUTHIER_GROUP": str(Path(place) / "meet"), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.processes", "--repeats", str(repeats)]
        processes = [subprocess.Popen(command, env={**env, "RANK": str(rank)}) for rank in range(2)]
        for process in processes:
            process.wait()
    alone(repeats)


if __name__ == "__main__":
    main()
