"""Cost of a step: `luthier.fit` beside the loop a tutorial writes and the loop an expert writes, interleaved.

    python -m benchmarks.speed [--repeats 5] [--threads 1]

Each repeat runs the three one after the other in one process, after a warm-up; CPU seconds (user and system) and wall
seconds of training with validation each epoch. The table gives medians and, repeat by repeat, the ratio to the
tutorial's loop. `fit` runs with its defaults: checks on, record in memory, no run folder, nothing printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import luthier

Data = tuple[Tensor, Tensor]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def table(n: int, width: int, classes: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def tutorial(net: nn.Module, train: Data, valid: Data, batch_size: int, epochs: int) -> None:
    loader = DataLoader(TensorDataset(*train), batch_size=batch_size, shuffle=True)
    valid_loader = DataLoader(TensorDataset(*valid), batch_size=batch_size)
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(net.parameters())
    for _ in range(epochs):
        net.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        net.eval()
        with torch.no_grad():
            for x, y in valid_loader:
                criterion(net(x), y).item()


def expert(net: nn.Module, train: Data, valid: Data, batch_size: int, epochs: int) -> None:
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(net.parameters(), fused=True)
    for _ in range(epochs):
        net.train()
        order = torch.randperm(len(train[0]))
        x, y = train[0][order], train[1][order]
        for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True):
            optimizer.zero_grad(set_to_none=True)
            criterion(net(a), b).backward()
            optimizer.step()
        net.eval()
        with torch.inference_mode():
            for a, b in zip(valid[0].split(batch_size), valid[1].split(batch_size), strict=True):
                criterion(net(a), b)


def ours(net: nn.Module, train: Data, valid: Data, batch_size: int, epochs: int) -> None:
    luthier.fit(
        net, train, valid, criterion="cross-entropy", optimizer="Adam", epochs=epochs, batch_size=batch_size, seed=0
    )


LOOPS: dict[str, Callable[[nn.Module, Data, Data, int, int], None]] = {
    "tutorial": tutorial,
    "luthier.fit": ours,
    "expert": expert,
}
WORK: dict[str, tuple[Callable[[], nn.Module], Data, Data, int, int]] = {
    "MLP 32-128-128-10, 100,000 rows, batch 256": (mlp, table(100_000, 32, 10), table(10_000, 32, 10), 256, 2),
    "Linear 16-4, 16,000 rows, batch 8": (lambda: nn.Linear(16, 4), table(16_000, 16, 4), table(1_000, 16, 4), 8, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.repeats} repeats")
    for name, (make, train, valid, batch_size, epochs) in WORK.items():
        cpu: dict[str, list[float]] = {loop: [] for loop in LOOPS}
        wall: dict[str, list[float]] = {loop: [] for loop in LOOPS}
        for repeat in range(arguments.repeats + 1):
            for loop, run in LOOPS.items():
                start, clock = time.process_time(), time.perf_counter()
                run(make(), train, valid, batch_size, 1 if repeat == 0 else epochs)
                if repeat:
                    cpu[loop].append(time.process_time() - start)
                    wall[loop].append(time.perf_counter() - clock)
        print(f"\n{name}\n{'':14}{'CPU s':>8}{'wall s':>8}  ratio of CPU to the tutorial's: median [min, max]")
        for loop in LOOPS:
            ratios = [a / b for a, b in zip(cpu[loop], cpu["tutorial"], strict=True)]
            print(
                f"{loop:14}{statistics.median(cpu[loop]):8.2f}{statistics.median(wall[loop]):8.2f}"
                f"  {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            )


if __name__ == "__main__":
    main()
