"""Own loops: what `luthier.run` adds to a script in lines and in time, beside Lightning Fabric and Accelerate.

`python -m benchmarks.custom` prints three tables; libraries that are not installed are left out. Lines are compared
without their indentation. Fabric and Accelerate get the lines for a checkpoint a minute and for going on from it too;
whether they go on with the same bits is not measured here.
"""

import difflib
import importlib
import inspect
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tests.custom.programs import NAMES
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

import luthier

CLOSE = 400  # steps that are looked at
STEPS, REPEATS = 1600, 7


class Timed:
    """A criterion that notes when it was called, in CPU time: other work on the machine does not count."""

    def __init__(self, criterion: Callable[..., Tensor]) -> None:
        self.criterion, self.times = criterion, list[float]()

    def __call__(self, *args: Tensor) -> Tensor:
        self.times.append(time.process_time())
        return self.criterion(*args)


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def make_loader(width: int) -> DataLoader[Any]:
    x = torch.randn(6400, width, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x[:, :10].argmax(1)), batch_size=64, shuffle=True)


# A classifier


def mlp_plain(folder: Path, criterion: Timed, epochs: int) -> None:
    torch.manual_seed(0)
    net, loader = mlp(32, 10), make_loader(32)
    optimizer = optim.Adam(net.parameters())
    for _ in range(epochs):
        for x, y in loader:
            loss = criterion(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def mlp_luthier(folder: Path, criterion: Timed, epochs: int) -> None:
    torch.manual_seed(0)
    net, loader = mlp(32, 10), make_loader(32)
    optimizer = optim.Adam(net.parameters())
    with luthier.run(folder, net=net, optimizer=optimizer, loader=loader) as run:
        for _ in run.epochs(epochs):
            for x, y in run.batches(loader):
                loss = criterion(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)


def mlp_fabric(folder: Path, criterion: Timed, epochs: int) -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0, verbose=False)
    net, loader = mlp(32, 10), fabric.setup_dataloaders(make_loader(32))
    net, optimizer = fabric.setup(net, optim.Adam(net.parameters()))
    state = {"net": net, "optimizer": optimizer, "epoch": 0, "batch": 0}
    if (folder / "last.ckpt").exists():
        fabric.load(folder / "last.ckpt", state)
    saved = time.monotonic()
    for epoch in range(state["epoch"], epochs):
        for i, (x, y) in enumerate(loader):
            if i < state["batch"]:
                continue
            loss = criterion(net(x), y)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            if time.monotonic() - saved > 60:
                state |= {"epoch": epoch, "batch": i + 1}
                fabric.save(folder / "last.ckpt", state)
                saved = time.monotonic()
        state["batch"] = 0


def mlp_accelerate(folder: Path, criterion: Timed, epochs: int) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    net, loader = mlp(32, 10), make_loader(32)
    optimizer = optim.Adam(net.parameters())
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    place = Place()
    accelerator.register_for_checkpointing(place)
    if (folder / "last").exists():
        accelerator.load_state(str(folder / "last"))
    saved = time.monotonic()
    for epoch in range(place.epoch, epochs):
        batches = accelerator.skip_first_batches(loader, place.batch) if place.batch else loader
        for i, (x, y) in enumerate(batches, place.batch):
            loss = criterion(net(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            if time.monotonic() - saved > 60:
                place.epoch, place.batch = epoch, i + 1
                accelerator.save_state(str(folder / "last"))
                saved = time.monotonic()
        place.batch = 0


class Place:
    """Where a loop stands, for Accelerate."""

    epoch, batch = 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]


# A GAN


def gan_plain(folder: Path, criterion: Timed, epochs: int) -> None:
    torch.manual_seed(0)
    generator, discriminator, loader = mlp(16, 32), mlp(32, 1), make_loader(32)
    opt_g, opt_d = optim.Adam(generator.parameters(), 2e-4), optim.Adam(discriminator.parameters(), 2e-4)
    for _ in range(epochs):
        for real, _ in loader:
            ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            fake = generator(torch.randn(len(real), 16))
            loss_d = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
            opt_d.zero_grad()
            loss_d.backward()
            opt_d.step()
            loss_g = criterion(discriminator(fake), ones)
            opt_g.zero_grad()
            loss_g.backward()
            opt_g.step()


def gan_luthier(folder: Path, criterion: Timed, epochs: int) -> None:
    torch.manual_seed(0)
    generator, discriminator, loader = mlp(16, 32), mlp(32, 1), make_loader(32)
    opt_g, opt_d = optim.Adam(generator.parameters(), 2e-4), optim.Adam(discriminator.parameters(), 2e-4)
    with luthier.run(
        folder, generator=generator, discriminator=discriminator, opt_g=opt_g, opt_d=opt_d, loader=loader
    ) as run:
        for _ in run.epochs(epochs):
            for real, _ in run.batches(loader):
                ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
                fake = generator(torch.randn(len(real), 16))
                loss_d = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
                opt_d.zero_grad()
                loss_d.backward()
                opt_d.step()
                loss_g = criterion(discriminator(fake), ones)
                opt_g.zero_grad()
                loss_g.backward()
                opt_g.step()
                run.log(loss_d=loss_d, loss_g=loss_g)


def gan_fabric(folder: Path, criterion: Timed, epochs: int) -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0, verbose=False)
    generator, discriminator, loader = mlp(16, 32), mlp(32, 1), fabric.setup_dataloaders(make_loader(32))
    opt_g, opt_d = optim.Adam(generator.parameters(), 2e-4), optim.Adam(discriminator.parameters(), 2e-4)
    generator, opt_g = fabric.setup(generator, opt_g)
    discriminator, opt_d = fabric.setup(discriminator, opt_d)
    state = {"g": generator, "d": discriminator, "opt_g": opt_g, "opt_d": opt_d, "epoch": 0, "batch": 0}
    if (folder / "last.ckpt").exists():
        fabric.load(folder / "last.ckpt", state)
    saved = time.monotonic()
    for epoch in range(state["epoch"], epochs):
        for i, (real, _) in enumerate(loader):
            if i < state["batch"]:
                continue
            ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            fake = generator(torch.randn(len(real), 16))
            loss_d = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
            opt_d.zero_grad()
            fabric.backward(loss_d)
            opt_d.step()
            loss_g = criterion(discriminator(fake), ones)
            opt_g.zero_grad()
            fabric.backward(loss_g)
            opt_g.step()
            if time.monotonic() - saved > 60:
                state |= {"epoch": epoch, "batch": i + 1}
                fabric.save(folder / "last.ckpt", state)
                saved = time.monotonic()
        state["batch"] = 0


def gan_accelerate(folder: Path, criterion: Timed, epochs: int) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    generator, discriminator, loader = mlp(16, 32), mlp(32, 1), make_loader(32)
    opt_g, opt_d = optim.Adam(generator.parameters(), 2e-4), optim.Adam(discriminator.parameters(), 2e-4)
    generator, discriminator, opt_g, opt_d, loader = accelerator.prepare(generator, discriminator, opt_g, opt_d, loader)
    place = Place()
    accelerator.register_for_checkpointing(place)
    if (folder / "last").exists():
        accelerator.load_state(str(folder / "last"))
    saved = time.monotonic()
    for epoch in range(place.epoch, epochs):
        batches = accelerator.skip_first_batches(loader, place.batch) if place.batch else loader
        for i, (real, _) in enumerate(batches, place.batch):
            ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            fake = generator(torch.randn(len(real), 16))
            loss_d = criterion(discriminator(real), ones) + criterion(discriminator(fake.detach()), zeros)
            opt_d.zero_grad()
            accelerator.backward(loss_d)
            opt_d.step()
            loss_g = criterion(discriminator(fake), ones)
            opt_g.zero_grad()
            accelerator.backward(loss_g)
            opt_g.step()
            if time.monotonic() - saved > 60:
                place.epoch, place.batch = epoch, i + 1
                accelerator.save_state(str(folder / "last"))
                saved = time.monotonic()
        place.batch = 0


FORMS: dict[str, dict[str, Callable[[Path, Timed, int], None]]] = {
    "MLP": {"plain": mlp_plain, "luthier.run": mlp_luthier, "Fabric": mlp_fabric, "Accelerate": mlp_accelerate},
    "GAN": {"plain": gan_plain, "luthier.run": gan_luthier, "Fabric": gan_fabric, "Accelerate": gan_accelerate},
}
MODULES = {"Fabric": "lightning", "Accelerate": "accelerate"}


def lines_of(function: Callable[..., Any]) -> list[str]:
    """Return the lines of a function's body, without indentation and blank lines."""
    lines = [line.strip() for line in inspect.getsource(function).splitlines()]
    return [line for line in lines[1:] if line]


def count_changes(before: Callable[..., Any], after: Callable[..., Any]) -> tuple[int, int, int]:
    """Return how many lines stand before, and how many were added and removed."""
    old, new = lines_of(before), lines_of(after)
    changes = [line[0] for line in difflib.ndiff(old, new)]
    return len(old), changes.count("+"), changes.count("-")


def time_steps(form: Callable[[Path, Timed, int], None], criterion: nn.Module, calls: int) -> tuple[float, float]:
    """Return the mean CPU microseconds of the first steps, and of those after them."""
    timed = Timed(criterion)
    with tempfile.TemporaryDirectory() as place:
        form(Path(place) / "run", timed, STEPS // 100)
    starts = timed.times[::calls]
    first = (starts[CLOSE] - starts[1]) / (CLOSE - 1)
    later = (starts[-1] - starts[CLOSE + 1]) / (len(starts) - CLOSE - 2)
    return first * 1e6, later * 1e6


# The loop alone


def alone(form: str, folder: Path, batches: int = 4000) -> float:
    """Return the CPU microseconds a batch of a loop whose body does nothing but log a figure, where `form` says so."""
    loss, is_loader = torch.tensor(1.0), form.startswith("DataLoader")
    x = torch.randn(64 * batches, 32, generator=torch.Generator().manual_seed(0))
    data: Any = DataLoader(TensorDataset(x), batch_size=64, shuffle=True) if is_loader else (x,)
    sizes: dict[str, Any] = {} if is_loader else {"batch_size": 64}
    times: list[float] = []
    if form.endswith("plain"):
        indices = torch.randperm(len(x)).split(64)
        for batch in data if is_loader else ((x[index],) for index in indices):
            times.append(time.process_time())
            del batch
    else:
        net = nn.Linear(32, 1)
        with luthier.run(folder, net=net, data=data, seed=0, watched=False, verbose=False) as run:
            for _ in run.epochs(1):
                for batch in run.batches(data, **sizes):
                    times.append(time.process_time())
                    if form.endswith("log"):
                        run.log(loss=loss)
                    del batch
    return (times[-1] - times[CLOSE]) / (len(times) - 1 - CLOSE) * 1e6


def print_alone() -> None:
    """Print what the loop itself takes, without a network."""
    print(
        "\n| data | plain loop, CPU µs a batch | run.batches | run.batches and run.log |\n| --- | ---: | ---: | ---: |"
    )
    for kind in ("tensors", "DataLoader"):
        seen: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            for form in ("plain", "run", "run and log"):
                with tempfile.TemporaryDirectory() as place:
                    seen.setdefault(form, []).append(alone(f"{kind} {form}", Path(place, "run")))
        print(f"| {kind} | {' | '.join(f'{statistics.median(times):.1f}' for times in seen.values())} |")


def main() -> None:
    torch.set_num_threads(1)
    print("| program | lines of plain | added | removed |\n| --- | ---: | ---: | ---: |")
    for name in NAMES:
        program = importlib.import_module(f"tests.custom.programs.{name}")
        print(f"| {name} | {' | '.join(map(str, count_changes(program.plain, program.with_run)))} |")
    print(
        "\n| program | by | lines added | removed | first 400: CPU µs a step | over plain | later steps | over plain |"
        "\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for program_name, forms in FORMS.items():
        there = [name for name in forms if name not in MODULES or find_spec(MODULES[name])]
        criterion, calls = (nn.CrossEntropyLoss(), 1) if program_name == "MLP" else (nn.BCEWithLogitsLoss(), 3)
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in there}
        for repeat in range(REPEATS):
            for name in random.Random(repeat).sample(there, len(there)):
                seen[name].append(time_steps(forms[name], criterion, calls))
        plain = [statistics.median(times) for times in zip(*seen["plain"], strict=True)]
        for name in there:
            first, later = (statistics.median(times) for times in zip(*seen[name], strict=True))
            _, added, removed = count_changes(forms["plain"], forms[name])
            figures = f"{first:.0f} | {first - plain[0]:+.0f} | {later:.0f} | {later - plain[1]:+.0f}"
            print(f"| {program_name} | {name} | {added} | {removed} | {figures} |")
    print_alone()


if __name__ == "__main__":
    main()
