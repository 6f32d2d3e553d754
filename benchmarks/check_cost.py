# ruff: noqa: E501, D101, D102  (rows of a table; networks as they are)
# mypy: disable-error-code="no-any-return"
"""What the default checks cost over twelve architectures: CPU seconds and peak memory, beside those of training steps.

    python -m benchmarks.check_cost [NAME ...]

Each runs in a process of its own with one thread, twice: two training steps (forward, backward, Adam) at the batch size of
the row, and the checks before such a run. Memory is the growth of the process at its peak. `of a run` is the checks' part
of the time of the run of the row: its rows times its epochs, by the time of a step.
"""

import argparse
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed import peak_mb
from luthier.checks.look import check


class Block(nn.Module):
    """A residual block of ResNet, of two convolutions or a bottleneck of three."""

    def __init__(self, into: int, width: int, stride: int, grows: int) -> None:
        super().__init__()
        out = width * grows
        sizes = [(into, width, 3, stride), (width, out, 3, 1)]
        if grows > 1:
            sizes = [(into, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        layers: list[nn.Module] = []
        for a, b, size, step in sizes:
            layers += [nn.Conv2d(a, b, size, step, size // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        same = stride == 1 and into == out
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(depths: tuple[int, ...], grows: int, classes: int, stem: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, stem, 2 if stem > 3 else 1, stem // 2, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
    ]
    layers += [nn.MaxPool2d(3, 2, 1)] if stem > 3 else []
    into = 64
    for i, depth in enumerate(depths):
        for j in range(depth):
            layers.append(Block(into, 64 * 2**i, 2 if i and not j else 1, grows))
            into = 64 * 2**i * grows
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes))


class Text(nn.Module):
    """A transformer over tokens: an encoder with a head for classes, or a causal one for the next token."""

    def __init__(self, vocab: int, width: int, depth: int, heads: int, length: int, classes: int = 0) -> None:
        super().__init__()
        self.words, self.places, self.classes = nn.Embedding(vocab, width), nn.Embedding(length, width), classes
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.1, "gelu", batch_first=True, norm_first=not classes
        )
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        for part in self.body.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
        self.head = nn.Linear(width, classes or vocab)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        mask = None if self.classes else nn.Transformer.generate_square_subsequent_mask(t)
        h = self.body(0.02 * self.words(ids) + 0.02 * self.places(torch.arange(t)), mask)
        return self.head(h[:, 0] if self.classes else h)


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut, self.place = nn.Conv2d(3, 192, 16, 16), nn.Parameter(0.02 * torch.randn(1, 196, 192))
        layer = nn.TransformerEncoderLayer(192, 3, 768, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), nn.Linear(192, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.cut(x).flatten(2).transpose(1, 2) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(32, 256, 2, batch_first=True), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Ladder(nn.Module):
    """A U-Net of three steps."""

    def __init__(self) -> None:
        super().__init__()

        def two(a: int, b: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(a, b, 3, 1, 1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )

        self.down = nn.ModuleList([two(3, 32), two(32, 64), two(64, 128)])
        self.up, self.head = nn.ModuleList([two(192, 64), two(96, 32)]), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for part in self.down:
            x = part(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for part, beside in zip(self.up, kept[-2::-1], strict=True):
            x = part(torch.cat([F.interpolate(x, scale_factor=2.0), beside], 1))
        return self.head(x)


def mlp(*sizes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def pictures(n: int, side: int, classes: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % classes
    return torch.randn(n, 3, side, side) + torch.randn(classes, 3, 1, 1)[y], y


def text(n: int, length: int, vocab: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(vocab, (n, length + 1))
    return ids[:, :-1], ids[:, 1:]


@dataclass
class Row:
    """An architecture, its data, and the run that the checks come before.

    Attributes:
        make: The network.
        data: Rows that stand for the run's.
        batch_size: Of the run.
        rows: Of the run's training data.
        epochs: Of the run.
    """

    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    batch_size: int
    rows: int
    epochs: int


def tokens(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), y.flatten()) if out.ndim == 3 else F.cross_entropy(out, y)


ROWS = {
    "mlp": Row(lambda: mlp(30, 128, 128, 5), lambda: (torch.randn(4000, 30), torch.arange(4000) % 5), 64, 4_000, 20),
    "wide mlp": Row(lambda: mlp(100, 4096, 4096, 4), lambda: (torch.randn(4000, 100), torch.arange(4000) % 4), 256, 20_000, 20),
    "lenet": Row(lambda: nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), mlp(400, 120, 84, 10)), lambda: pictures(1000, 32, 10), 64, 50_000, 10),
    "resnet18": Row(lambda: resnet((2, 2, 2, 2), 1, 10, 3), lambda: pictures(400, 32, 10), 128, 50_000, 30),
    "resnet50": Row(lambda: resnet((3, 4, 6, 3), 4, 100, 7), lambda: pictures(64, 224, 100), 32, 20_000, 10),
    "u-net": Row(Ladder, lambda: (torch.randn(100, 3, 64, 64), torch.randint(4, (100, 64, 64))), 16, 2_000, 20),
    "vit-tiny": Row(Patches, lambda: pictures(64, 224, 100), 32, 20_000, 10),
    "tcn": Row(lambda: nn.Sequential(*[nn.Sequential(nn.Conv1d(a, 64, 3, padding=2**i, dilation=2**i), nn.ReLU()) for i, a in enumerate((8, 64, 64, 64))], nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5)), lambda: (torch.randn(1000, 8, 200), torch.arange(1000) % 5), 32, 5_000, 20),
    "lstm": Row(Recurrent, lambda: (torch.randn(1000, 50, 32), torch.arange(1000) % 10), 64, 10_000, 10),
    "small gpt": Row(lambda: Text(65, 128, 4, 4, 64), lambda: text(400, 64, 65), 32, 10_000, 5),
    "gpt of 10 M": Row(lambda: Text(65, 384, 6, 6, 256), lambda: text(100, 256, 65), 64, 4_000, 20),
    "bert-base": Row(lambda: Text(30522, 768, 12, 12, 128, 2), lambda: (torch.randint(30522, (200, 128)), torch.arange(200) % 2), 32, 5_000, 3),
}  # fmt: skip


def one(name: str, is_checked: bool) -> None:
    """Do the steps or the checks in this process; print seconds and megabytes."""
    import torch._dynamo  # any optimizer of torch would import it now

    row = ROWS[name]
    torch.manual_seed(0)
    module, (x, y) = row.make(), row.data()
    optimizer: Any = torch.optim.Adam(module.parameters(), 1e-4)
    before, start = peak_mb(), time.process_time()
    if is_checked:
        cut = len(x) * 3 // 4
        found = check(module, (x[:cut], y[:cut]), (x[cut:], y[cut:]), criterion=tokens, optimizer=optimizer)
        said = [str(item.code) for item in found if item.severity != "note"]
        print(time.process_time() - start, peak_mb() - before, ",".join(said))
        return
    n = min(row.batch_size, len(x))
    for _ in range(2):
        optimizer.zero_grad()
        tokens(module(x[:n]), y[:n]).backward()
        optimizer.step()
    print((time.process_time() - start) / 2 * row.batch_size / n, peak_mb() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--one", choices=("steps", "checks"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    if given.one:
        one(given.names[0], given.one == "checks")
        return
    print(
        "| network | weights M | s a step | s of checks | of a run | MB a step | MB of checks | times | said |",
        flush=True,
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.names or ROWS:
        told = []
        for what in ("steps", "checks"):
            command = [sys.executable, "-m", "benchmarks.check_cost", name, "--one", what]
            told.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        (step, step_mb), (seconds, mb, *said) = (tuple(part) for part in told)
        row = ROWS[name]
        run = float(step) * row.rows / row.batch_size * row.epochs
        weights = sum(p.numel() for p in row.make().parameters()) / 1e6
        print(
            f"| {name} | {weights:.1f} | {float(step):.3f} | {float(seconds):.2f} | {float(seconds) / run:.2%} | "
            f"{float(step_mb):.0f} | {float(mb):.0f} | {float(mb) / float(step_mb):.2f} | {''.join(said)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
