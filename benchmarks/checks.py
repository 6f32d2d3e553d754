# ruff: noqa: E501  (rows of a table)
"""What the checks find, what they say of sound programs, and what they cost.

    python -m benchmarks.checks [--seeds 5] [--ways plain,dict] [--quick] [--cost] [--memory]

Programs: the planted mistakes and field reports of tests/checks, each with its sound twin, and the sound programs that
look wrong. Ways: as they are; bfloat16 autocast; loaders with batches of 2 and of 64; dict batches.
`--cost`: seconds of the default checks before Fashion-MNIST and Adult, and of the monitors in a step.
`--memory`: what the default checks hold at most beyond the data and the network, and their CPU time, on large ones.
"""

import argparse
import inspect
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from tests.checks.corpus import EVERY_PAIR, EVERY_SOUND
from tests.checks.kit.program import Parts
from tests.checks.test_checks import CODES
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import luthier
from benchmarks.data import adult, fashion_mnist
from benchmarks.loops import WORKS, work
from benchmarks.speed import peak_mb
from luthier.checks.look import check
from luthier.checks.monitors import Monitors
from luthier.checks.watch import watch
from luthier.core.finding import Finding
from luthier.pipeline.plan import design
from luthier.pipeline.train import fit_arguments
from luthier.training.monitoring import Monitoring
from luthier.training.progress import Progress

WAYS = ("plain", "bfloat16", "batch 2", "batch 64", "dict")


class Named(Dataset[Any]):
    """Samples as dicts: the module's own argument names, and `target`."""

    def __init__(self, tensors: tuple[Tensor, ...], names: list[str]) -> None:
        self.tensors, self.names = tensors, [*names, "target"]

    def __len__(self) -> int:
        return len(self.tensors[-1])

    def __getitem__(self, i: int) -> Any:
        return {name: tensor[i] for name, tensor in zip(self.names, self.tensors, strict=True)}


def wrapped(data: Any, way: str, module: nn.Module, *, shuffle: bool) -> Any:
    """Return tensors in another container; anything else as it is."""
    if not (isinstance(data, tuple) and all(isinstance(x, Tensor) for x in data)) or way in ("plain", "bfloat16"):
        return data
    if way == "dict":
        names = [
            name for name, p in inspect.signature(module.forward).parameters.items() if p.kind is not p.VAR_POSITIONAL
        ]
        if len(names) < len(data) - 1:
            return data
        return DataLoader(Named(data, names[: len(data) - 1]), batch_size=16, shuffle=shuffle)
    size = int(way.split()[1])
    has_norm = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    return DataLoader(TensorDataset(*data), batch_size=size, shuffle=shuffle, drop_last=has_norm)


def findings_of(parts: Parts, way: str) -> list[Finding]:
    context: Any = torch.autocast("cpu", dtype=torch.bfloat16) if way == "bfloat16" else nullcontext()
    with context:
        if parts.loop is not None:
            with watch(parts.module, parts.optimizer) as seen:
                parts.loop()
            return seen.findings
        takes_whole = parts.step is not None
        train = parts.train if takes_whole else wrapped(parts.train, way, parts.module, shuffle=True)
        valid = parts.valid if takes_whole else wrapped(parts.valid, way, parts.module, shuffle=False)
        return check(
            parts.module,
            train,
            valid,
            criterion=parts.criterion,
            optimizer=parts.optimizer,
            step=parts.step,
            **parts.extra,
        )


def table(seeds: int, ways: tuple[str, ...]) -> None:
    """Print hits, right class first, and what is said of sound programs."""
    print(
        "| way | bugs | found | right class first | sound programs | with an error | with a warning | median s | 95 % s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    missed: Counter[str] = Counter()
    false: Counter[str] = Counter()
    unfit: Counter[str] = Counter()
    for way in ways:
        bugs = found = first = sound = errors = warned = 0
        seconds: list[float] = []
        for seed in range(seeds):
            programs = [
                (str(pair), pair.bug, pair.make(broken, seed), broken)
                for pair in EVERY_PAIR
                for broken in (True, False)
            ]
            programs += [(program.name, "", program.make(seed), False) for program in EVERY_SOUND]
            for name, bug, parts, broken in programs:
                start = time.perf_counter()
                try:
                    loud = [finding for finding in findings_of(parts, way) if finding.severity != "note"]
                except Exception as problem:  # a loop that does not run under autocast, for one
                    unfit[f"{name} ({way}): {type(problem).__name__}"] += 1
                    continue
                seconds.append(time.perf_counter() - start)
                if broken:
                    bugs += 1
                    found += bool(loud)
                    first += bool(loud) and loud[0].code.removeprefix("check-") in CODES[bug]
                    missed[f"{name} ({way})"] += not loud
                else:
                    sound += 1
                    errors += any(finding.severity == "error" for finding in loud)
                    warned += bool(loud) and not any(finding.severity == "error" for finding in loud)
                    false.update(f"{name} ({way}): {finding.code}" for finding in loud)
        print(
            f"| {way} | {bugs} | {found} ({found / bugs:.1%}) | {first} ({first / bugs:.1%}) | {sound} | {errors} | "
            f"{warned} ({warned / sound:.1%}) | {statistics.median(seconds):.2f} | {np.quantile(seconds, 0.95):.2f} |",
            flush=True,
        )
    print("\nmissed:", ", ".join(f"{name} x {count}" for name, count in missed.items() if count) or "none")
    print("said of sound programs:", ", ".join(f"{name} x {count}" for name, count in false.items()) or "nothing")
    print("did not run in that way:", ", ".join(f"{name} x {count}" for name, count in unfit.items()) or "none")


def cost() -> None:
    """Print what the default checks cost before a run, and the monitors in it."""
    with tempfile.TemporaryDirectory() as place:
        x, y = fashion_mnist("train")
        np.savez(f"{place}/fashion.npz", x=x, y=y)
        adult().write_csv(f"{place}/adult.csv")
        for name, target in (("fashion.npz", ()), ("adult.csv", "loan")):
            plan = design(f"{place}/{name}", target=target)
            arguments = fit_arguments(plan)[0]
            module = arguments["module"]
            times = []
            for _ in range(3):
                start = time.perf_counter()
                found = check(
                    module,
                    arguments["train"],
                    arguments["valid"],
                    criterion=luthier_criterion(plan, arguments),
                    optimizer=torch.optim.AdamW(module.parameters(), plan.recipe.lr or 1e-3),
                )
                times.append(time.perf_counter() - start)
            loud = [finding.code for finding in found if finding.severity != "note"]
            print(
                f"{name}: {statistics.median(times):.2f} s for the checks before the run; said: {', '.join(loud) or 'nothing'}"
            )
    for name in WORKS:
        share, seconds = monitored(name)
        print(f"monitors: {share:.2%} of the {seconds:.2f} CPU s of {work(name).name}")


def monitored(name: str) -> tuple[float, float]:
    """Return which share of a run's CPU time is spent in the monitors, and that time: by clocks around all they do."""
    spent, inside = 0.0, False

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent, inside
            if inside:
                return function(*args, **kwargs)
            start, inside = time.process_time(), True
            try:
                return function(*args, **kwargs)
            finally:
                spent, inside = spent + time.process_time() - start, False

        return call

    moments = {(Monitoring, moment) for moment in ("on_epoch_start", "on_validation_start", "on_epoch_end")}
    places: list[tuple[Any, str]] = [*moments, (Monitors, "_seen")]
    kept = [getattr(owner, name) for owner, name in places]
    watcher = Monitors._unit_watcher
    todo = work(name)
    try:
        for (owner, place), function in zip(places, kept, strict=True):
            setattr(owner, place, timed(function))
        Monitors._unit_watcher = lambda self, name: timed(watcher(self, name))  # type: ignore[method-assign]
        torch.manual_seed(0)
        start = time.process_time()
        luthier.fit(
            todo.make(), todo.train, todo.valid, criterion="cross-entropy", optimizer=todo.optimizer,
            epochs=todo.epochs, batch_size=todo.batch_size, seed=0, callbacks=[Progress(quiet=True)], fast=True,
            check=luthier.CheckSettings(select=("dynamics",)), **todo.settings,
        )  # fmt: skip
        seconds = time.process_time() - start
    finally:
        for (owner, place), function in zip(places, kept, strict=True):
            setattr(owner, place, function)
        Monitors._unit_watcher = watcher  # type: ignore[method-assign]
    return spent / seconds, seconds


def large(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and inputs, one of which is large."""
    torch.manual_seed(0)
    if name == "images":
        body = [nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
        return nn.Sequential(*body), torch.randn(600, 3, 224, 224)
    if name == "columns":
        return nn.Sequential(nn.Linear(30_000, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(2_000, 30_000)
    if name == "rows":
        return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(3_000_000, 10)
    body = [nn.Linear(100, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4)]
    return nn.Sequential(*body), torch.randn(20_000, 100)


LARGE = ("images", "columns", "rows", "network")


def memory(name: str) -> None:
    """Check a large program in this process; print its size, the growth of the memory at its peak, and the time."""
    import torch._dynamo  # any optimizer of torch would import it now

    module, x = large(name)
    y = torch.randint(0, 4, (len(x),))
    cut = len(x) * 4 // 5
    before, start = peak_mb(), time.process_time()
    check(
        module, (x[:cut], y[:cut]), (x[cut:], y[cut:]),
        criterion=nn.CrossEntropyLoss(), optimizer=torch.optim.Adam(module.parameters()),
    )  # fmt: skip
    seconds, weights = time.process_time() - start, sum(p.numel() for p in module.parameters())
    print(
        f"| {name}: {tuple(x.shape)} | {x.numel() / 2**18:.0f} | {weights / 2**18:.0f} | {peak_mb() - before:.0f} "
        f"| {seconds:.2f} |",
        flush=True,
    )


def luthier_criterion(plan: Any, arguments: dict[str, Any]) -> Any:
    from luthier.training.settings import choose_criterion

    return choose_criterion(None, None, plan.recipe, arguments["train"], torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, as they are")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--memory", nargs="?", const="", metavar="ONE", choices=("", *LARGE))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if given.memory:
        memory(given.memory)
    elif given.memory is not None:
        print("| | data MB | weights MB | beyond them MB | CPU s |\n|---|---|---|---|---|", flush=True)
        for name in LARGE:
            subprocess.run([sys.executable, "-m", "benchmarks.checks", "--memory", name], check=True)
    elif given.cost:
        cost()
    else:
        table(1 if given.quick else given.seeds, WAYS[:1] if given.quick else tuple(given.ways.split(",")))


if __name__ == "__main__":
    main()
