"""Kill runs at random instants, resume them, and compare with the run never stopped; and what checkpoints cost.

    python -m benchmarks.resume [adult|fashion] [--kills 25] [--small] [--cost]

Each net's lives are forked from one process. A life resumes the run's folder, with 0 or 2 loading workers by lot, and
is killed (SIGKILL) at an instant drawn at random: the next one in a phase that is drawn too (in an update, in a
validation, in the writing of a checkpoint, at the end of an epoch, between). When a life comes to the end, the SHA-256
over weights, average, best weights, optimizer, schedule, generators and the record less its clock times must be that of
the run never stopped; then a fresh run starts, until all kills are done. `--small` takes made-up data of the same
shapes, for CI.

The net on Adult is an MLP over an own DataLoader (two batches an update), that on Fashion-MNIST a ConvNet over a
Dataset whose `__getitem__` draws from `random`, NumPy and torch (micro-batches). Both have dropout, batch norm, a
one-cycle schedule, an average of the weights and early stopping.
"""

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import luthier
import luthier.store.checkpoint
import luthier.training.callbacks
import luthier.training.loop
from luthier.core.tree import flatten
from luthier.store.checkpoint import load_checkpoint

PHASES = ("start", "update", "validation", "checkpoint", "epoch end", "between")
Call = Callable[..., Any]


class Shaken(Dataset[Any]):
    """Images moved, mirrored and noisy by draws from all three global generators and one of its own."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = self.images[i]
        if random.random() < 0.5:
            image = image.flip(2)
        rows, columns = np.random.randint(-2, 3, 2)
        image = image.roll((int(rows), int(columns)), (1, 2))
        return image + 0.05 * float(self.generator.normal()) * torch.rand(1), self.labels[i]


def mlp() -> nn.Module:
    layers = [nn.Linear(108, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(128, 2))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip


def adult_data(*, small: bool) -> tuple[Tensor, Tensor]:
    if small:
        x = torch.randn(3000, 108, generator=torch.Generator().manual_seed(0))
        return x, (x[:, :5].sum(1) > 0).long()
    from benchmarks.data import adult

    frame = adult()
    y = torch.tensor((frame["loan"] == frame["loan"].max()).to_list()).long()
    numbers = torch.from_numpy(frame.drop("loan").to_dummies(
        [name for name in frame.columns if frame[name].dtype == pl.String and name != "loan"]
    ).to_numpy().astype(np.float32))  # fmt: skip
    return (numbers - numbers.mean(0)) / numbers.std(0).clamp(min=1e-6), y


def adult_call(*, small: bool) -> Call:
    x, y = adult_data(small=small)
    cut = len(x) * 4 // 5

    def call(folder: Path, workers: int, **more: Any) -> Any:
        torch.manual_seed(1)
        train = DataLoader(TensorDataset(x[:cut], y[:cut]), batch_size=128, shuffle=True, num_workers=workers)
        net = nn.Sequential(nn.Linear(x.shape[1], 108), mlp())
        return luthier.fit(
            net, train, (x[cut:], y[cut:]), criterion="cross-entropy", optimizer="AdamW", lr=0.005,
            scheduler="OneCycleLR", accumulate=2, ema=0.99, patience=3, clip_norm=1.0, run=folder,
            seed=7, threads=1, eval_batch_size=512, **{"checkpoint_every_steps": 7, "epochs": 4, **more},
        )  # fmt: skip

    return call


def fashion_call(*, small: bool) -> Call:
    if small:
        x = torch.rand(700, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        y = torch.randint(0, 10, (700,), generator=torch.Generator().manual_seed(1))
    else:
        from benchmarks.data import fashion_mnist

        pixels, labels = fashion_mnist("train")
        x, y = torch.from_numpy(pixels[:12000].astype(np.float32) / 255).unsqueeze(1), torch.from_numpy(labels[:12000])
    cut = len(x) * 5 // 6

    def call(folder: Path, workers: int, **more: Any) -> Any:
        torch.manual_seed(1)
        return luthier.fit(
            convnet(), Shaken(x[:cut], y[:cut]), (x[cut:], y[cut:]), criterion="cross-entropy", optimizer="SGD",
            momentum=0.9, lr=0.1, scheduler="OneCycleLR", ema=0.99, patience=3, batch_size=64,
            micro_batch_size=24, run=folder, seed=7, threads=1, num_workers=workers, eval_batch_size=500,
            **{"checkpoint_every_steps": 7, "epochs": 3, **more},
        )  # fmt: skip

    return call


CALLS = {"adult": adult_call, "fashion": fashion_call}


def fingerprint(folder: Path) -> str:
    """SHA-256 of the state that a run ended in and of its record, less clock times."""
    tree = load_checkpoint(folder / "checkpoints")
    assert tree is not None
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["event"] != "finding"]  # a monitor looks at what its own life computed
    for row in [*rows, tree["state"]["figures"]]:
        row.pop("seconds", None)
    for name in ("epoch_seconds", "record"):
        del tree[name]
    tree["arguments"]["recipe"].pop("num_workers")
    document, tensors = flatten(tree)
    sha256 = hashlib.sha256(json.dumps([document, rows], sort_keys=True).encode())
    for name in sorted(tensors):
        sha256.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def marked(shared: mmap.mmap) -> None:
    """Let what a life is doing be seen from outside, in one shared byte."""

    def wrap(owner: Any, name: str, phase: str) -> None:
        inner = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            before, shared[0] = shared[0], PHASES.index(phase)
            try:
                return inner(*args, **kwargs)
            finally:
                shared[0] = before or PHASES.index("between")

        setattr(owner, name, wrapper)

    wrap(luthier.training.loop, "train_step", "update")
    wrap(luthier.training.loop, "validate", "validation")
    wrap(luthier.training.loop, "finish_epoch", "epoch end")
    wrap(luthier.store.checkpoint.CheckpointWriter, "save", "checkpoint")


def life(call: Call, folder: Path, workers: int) -> int:
    """Fork a life; return its process number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        call(folder, workers)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(status)


def end_workers(life: int) -> None:
    """End the loading workers that a killed life left: one that was just starting would wait for work forever."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(life, signal.SIGKILL)


def kills(
    name: str, call: Call, number: int, lot: random.Random, place: Path, at_end: contextlib.ExitStack
) -> tuple[Counter[str], int, int]:
    """Kill `number` lives; return where they were, how many runs came to the end, and how many of them were equal."""
    shared = mmap.mmap(-1, 1)
    marked(shared)
    start = time.monotonic()
    assert os.waitpid(life(call, place / "whole", 0), 0)[1] == 0
    span = time.monotonic() - start
    expected = fingerprint(place / "whole")
    where: Counter[str] = Counter()
    finished = equal = 0
    folder = place / "run"
    while where.total() < number or not finished or folder.exists():
        shared[0] = 0
        child = life(call, folder, lot.choice((0, 2)))
        at_end.callback(end_workers, child)  # and not before: other lives go on beside them
        earliest = time.monotonic() + lot.uniform(0.1, span / 4 + 0.2)
        wanted = lot.choice((1, 1, 2, 3, 4, 5))
        is_last = where.total() >= number
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if not is_last and time.monotonic() > earliest and shared[0] == wanted:
                time.sleep(lot.uniform(0, 0.004))
                phase = PHASES[shared[0]]
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                if os.WIFSIGNALED(status):
                    where[phase] += 1
                break
            time.sleep(0.0005)
        if not os.WIFSIGNALED(status):
            assert status == 0, "a life ended in an error"
            finished += 1
            equal += fingerprint(folder) == expected
            shutil.rmtree(folder)
    counts = ", ".join(f"{count} in {phase}" for phase, count in where.most_common())
    print(f"{name}: {where.total()} kills ({counts}); {equal} of {finished} runs equal by hash", flush=True)
    return where, finished, equal


def cost(name: str, call: Call, place: Path) -> None:
    """Measure what writing a checkpoint costs the run, as a share of a minute."""
    spent: list[tuple[float, float]] = []
    inner = luthier.training.callbacks.Checkpointing._save

    def timed(self: Any, run: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        inner(self, run)
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))

    luthier.training.callbacks.Checkpointing._save = timed  # type: ignore[method-assign]  # to time it
    try:
        call(place / f"cost-{name}", 0, checkpoint_every_steps=10, epochs=1)
    finally:
        luthier.training.callbacks.Checkpointing._save = inner  # type: ignore[method-assign]
    path = max((place / f"cost-{name}" / "checkpoints").iterdir())
    wall, cpu = (statistics.median(column) for column in zip(*spent, strict=True))
    share = max(column[0] for column in spent) / 60
    size = path.stat().st_size / 1e6
    print(f"{name}: a checkpoint of {size:.2f} MB takes {wall * 1e3:.1f} ms ({cpu * 1e3:.1f} of CPU), median of "
          f"{len(spent)}; one a minute is {wall / 60:.3%} of it (the slowest {share:.3%})", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(CALLS), help="adult, fashion; both by default")
    parser.add_argument("--kills", type=int, default=25, help="for each net")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--cost", action="store_true", help="measure only what checkpoints cost")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    for name in options.nets:
        call = CALLS[name](small=options.small)
        with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as at_end:
            if not options.cost:
                _, finished, equal = kills(name, call, options.kills, random.Random(options.seed), Path(place), at_end)
                failed |= equal < finished or not finished
            cost(name, call, Path(place))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
