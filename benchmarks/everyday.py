"""What surrounds training: a quick design, the first step, one answer, a CSV, a folder of JPEGs, a busy machine.

    python -m benchmarks.everyday [--repeats 5] [quick step prepare row csv cells jpeg busy]

Each figure is of a process of its own, in turn with what it is held against; the median of the repeats and of their
ratios is printed. Files are made in a temporary folder; photos are cut from those of scikit-learn.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.data import COMMAND, adult

_CLOCK = """
import json, os, sys, time
def done(start=(0.0, 0.0), **more):
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    print(json.dumps({"wall": wall, "cpu": cpu, **more}), flush=True)
    os._exit(0)
def now():
    return time.perf_counter(), time.process_time()
"""
TORCH = "import torch\ndone()"
RAW_STEP = """
import polars as pl, torch
from torch import nn
frame = pl.read_csv(sys.argv[1] + "/adult.csv")
numbers = frame.select(pl.selectors.numeric()).to_numpy()
x = torch.from_numpy(((numbers - numbers.mean(0)) / numbers.std(0)).astype("float32"))
y = torch.tensor((frame["loan"] == ">50K").to_list(), dtype=torch.float32)
net = nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, 1))
optimizer = torch.optim.AdamW(net.parameters())
nn.functional.binary_cross_entropy_with_logits(net(x[:256]).squeeze(1), y[:256]).backward()
optimizer.step()
done()
"""
STEP = """
from luthier.training.callbacks import Callback
from luthier.cli import show
from luthier.pipeline.train import train
class First(Callback):
    def on_step_end(self, run):
        done()
own = [First(), show.progress(quiet=True)]
train(sys.argv[1] + "/adult.csv", target="loan", run=sys.argv[2] + "/run", callbacks=own)
"""
ROW = """
import luthier
model = luthier.load(sys.argv[1] + "/run")
row = json.load(open(sys.argv[1] + "/row.json"))
model.predict(row)
cold = time.process_time()
best = min(measured(lambda: model.predict(row)) for _ in range(7))
done(cold=cold, row_us=best)
"""
ONNX_ROW = """
import torch
from torch import nn
net = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
x = torch.randn(1, 32)
torch.set_num_threads(1)
with torch.inference_mode():
    best = min(measured(lambda: net(x)) for _ in range(7))
done(row_us=best)
"""
_MEASURED = """
def measured(call, times=500):
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times * 1e6
"""
READERS = {
    "pandas": "import pandas\nt = now()\nf = pandas.read_csv(P)\n"
    "x = torch.from_numpy(f.drop(columns='y').to_numpy('float32', copy=True))\n"
    "y = torch.from_numpy(f[['y']].to_numpy('float32', copy=True))",
    "polars": "import polars\nt = now()\nf = polars.read_csv(P)\n"
    "x = torch.from_numpy(f.drop('y').to_numpy().astype('float32'))\n"
    "y = torch.from_numpy(f.select('y').to_numpy().astype('float32'))",
    "luthier": "from luthier.pipeline.plan import design\nt = now()\nplan = design(P, target='y')",
    "luthier, reading alone": "from pathlib import Path\nfrom luthier.data.tables import read_table\n"
    't = now()\ntable = read_table(Path(P), texts=(), targets=("y",))',
    "the same work by hand": """
import numpy as np, polars
t = now()
f = polars.read_csv(P)
x, y = f.drop('y').to_numpy(), f['y'].to_numpy()
order = np.random.default_rng(0).permutation(len(x))
train, valid, test = np.split(order, [len(x) * 7 // 10, len(x) * 17 // 20])
mean, std, grid = x[train].mean(0), x[train].std(0), np.linspace(-1, 1, 48)
knots = np.quantile(x[train], np.linspace(0, 1, 48), axis=0)
def part(rows):
    some = x[rows]
    scaled = ((some - mean) / std).clip(-4, 4)
    ranks = [np.interp(some[:, i], knots[:, i], grid) for i in range(x.shape[1])]
    return torch.from_numpy(np.column_stack([scaled, *ranks]).astype('float32')), torch.from_numpy(y[rows]).float()
parts = [part(rows) for rows in (train, valid, test)]
""",
}
FOLDERS = {
    "DataLoader and Pillow": """
from torch.utils.data import DataLoader, Dataset
class Images(Dataset):
    def __len__(self):
        return len(paths)
    def __getitem__(self, i):
        image = Image.open(paths[i]).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.25, 0
for _ in DataLoader(Images(), 64):
    pass
""",
    **{
        f"luthier, {decoder}": f"""
pixels, _ = decode_all(paths, channels=3, height=64, width=64, decoder={decoder!r})
for _ in source(pixels).batches(torch.randperm(len(paths)).split(64), 0, 0):
    pass
"""
        for decoder in ("pillow", "simplejpeg")
    },
    "luthier, in memory": """
held = source(torch.zeros(len(paths), 3, 64, 64, dtype=torch.uint8))
t = now()
for _ in held.batches(torch.randperm(len(paths)).split(64), 0, 0):
    pass
""",
}
_IMAGES = """
import numpy as np, torch
from pathlib import Path
from PIL import Image
from luthier.core.schema import ImageInput
from luthier.data.augment import ImageSource
from luthier.data.images import decode_all
paths = sorted(Path(P).rglob("*.jpg"))
def source(pixels):
    image = ImageInput(channels=3, height=64, width=64, means=(0.5,) * 3, stds=(0.25,) * 3)
    return ImageSource(torch.as_tensor(pixels), torch.zeros(len(paths), dtype=torch.long), image)
t = now()
"""


def run(code: str, *arguments: str, threads: int = 1, **environment: str) -> dict[str, float]:
    """Run a program in a process of its own; return what it printed last."""
    given = {**os.environ, "OMP_NUM_THREADS": str(threads), **environment}
    command = [sys.executable, "-c", _CLOCK + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=given, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(
    title: str, programs: Mapping[str, Callable[[], dict[str, float]]], repeats: int, keys: tuple[str, ...]
) -> None:
    """Print the medians of each program, and of its ratio to the first one repeat by repeat."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            rows[name].append(program())
    first = next(iter(programs))
    print(f"\n{title}\n\n| | {' | '.join(f'{key} | to the first [least, most]' for key in keys)} |")
    print("|---" * (1 + 2 * len(keys)) + "|")
    for name, found in rows.items():
        cells = []
        for key in keys:
            values = [row.get(key, float("nan")) for row in found]
            ratios = [value / base.get(key, float("nan")) for value, base in zip(values, rows[first], strict=True)]
            cells += [f"{statistics.median(values):.4g}"]
            cells += [f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def step(place: Path, repeats: int) -> None:
    """CPU seconds of a whole process to the first step on Adult."""
    adult().write_csv(place / "adult.csv")

    def luthier() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return run(STEP, str(place), folder)

    programs = {"import torch": lambda: run(TORCH), "raw script": lambda: run(RAW_STEP, str(place)), "luthier": luthier}
    compare("To the first step, Adult", programs, repeats, ("cpu",))


def prepare(place: Path, repeats: int) -> None:
    """CPU seconds from Adult's file to tensors: read, split, kinds and statistics, features."""
    adult().write_csv(place / "adult.csv")
    code = "from luthier.pipeline.plan import design\nt = now()\n"
    code += "design(sys.argv[1] + '/adult.csv', target='loan')\ndone(t)"
    compare("Adult to tensors", {"luthier": lambda: run(code, str(place))}, repeats, ("wall", "cpu"))


def row(place: Path, repeats: int) -> None:
    """Microseconds of one answer of Adult's network from a dict of raw values, and CPU seconds to the first one."""
    adult().write_csv(place / "adult.csv")
    (place / "row.json").write_text(json.dumps(adult().drop("loan").row(0, named=True)))
    code = (
        "import luthier\nluthier.train(sys.argv[1] + '/adult.csv', target='loan', epochs=1, run=sys.argv[1] + '/run')"
    )
    run(code + "\ndone()", str(place))
    programs = {
        "torch's eager MLP 32-128-128-10, no columns": lambda: run(_MEASURED + ONNX_ROW),
        "luthier, a dict of Adult's columns": lambda: run(_MEASURED + ROW, str(place)),
    }
    compare("One answer", programs, repeats, ("row_us", "cold"))


def csv(place: Path, repeats: int) -> None:
    """Seconds from a CSV of a million rows and 20 columns of numbers to tensors.

    Luthier splits the rows by what they hold, finds the columns' kinds and statistics, and makes a standardised value
    and a rank of each number; `the same work by hand` does so with a random split and no kinds, by polars and NumPy.
    """
    generator = np.random.default_rng(0)
    frame = pl.DataFrame({f"x{i}": generator.normal(size=1_000_000).round(4) for i in range(20)})
    frame.with_columns(y=(pl.col("x0") + pl.col("x1")).round(4)).write_csv(place / "m.csv")
    peak = "int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024"

    def reader(code: str) -> Callable[[], dict[str, float]]:
        whole = f"import torch\nP = sys.argv[1] + '/m.csv'\n{code}\ndone(t, peak_mb={peak})"
        return lambda: run(whole, str(place), threads=2)

    programs = {name: reader(code) for name, code in READERS.items()}
    compare("CSV of 1,000,000 x 21 to tensors", programs, repeats, ("wall", "cpu", "peak_mb"))


CELLS = """
import numpy as np, polars as pl
from luthier.data import cells
g = np.random.default_rng(0)
moments = (np.datetime64("2000-01-01T00:00:00") + g.integers(0, 10**9, 1_000_000).astype("timedelta64[s]")).astype(str)
made = {
    "plain": pl.Series(g.normal(size=1_000_000).round(4).astype(str)),
    "thousands": pl.Series([f"{value:,}" for value in g.integers(0, 10**7, 1_000_000).tolist()]),
    "dates": pl.Series(moments),
}
"""
SPELLINGS = {
    "plain numbers, polars' cast": "made['plain'].cast(pl.Float64, strict=False)",
    "plain numbers": "cells.to_numbers(made['plain'])",
    "1,234,567": "cells.to_numbers(made['thousands'], '1,234.5')",
    "dates with times, polars' to_datetime": "made['dates'].str.to_datetime('%Y-%m-%dT%H:%M:%S', strict=False)",
    "dates with times": "cells.to_seconds(made['dates'], 'YYYY-MM-DD')",
    "dates with times, their format found": "cells.find_date_format(made['dates'])",
}


def cells(place: Path, repeats: int) -> None:
    """Seconds to read a million different cells of text, by how they are written, on one thread."""
    programs = {
        name: partial(run, f"{CELLS}\nt = now()\n{code}\ndone(t)", str(place)) for name, code in SPELLINGS.items()
    }
    compare("A million cells", programs, repeats, ("wall", "cpu"))


def jpeg(place: Path, repeats: int) -> None:
    """Seconds from 5,000 JPEGs of 160 x 160 to normalised batches of 64 x 64."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos, generator = load_sample_images().images, np.random.default_rng(0)
    for i in range(5000):
        size = int(generator.integers(120, 400))
        top, left = int(generator.integers(0, 427 - size)), int(generator.integers(0, 640 - size))
        folder = place / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        cut = Image.fromarray(photos[i % 2][top : top + size, left : left + size])
        cut.resize((160, 160)).save(folder / f"{i:05}.jpg", quality=75)

    def program(code: str) -> Callable[[], dict[str, float]]:
        return lambda: run(f"P = sys.argv[1]\n{_IMAGES}{code}\ndone(t)", str(place))

    programs = {name: program(code) for name, code in FOLDERS.items()}
    compare("5,000 JPEGs of 160 x 160 to batches of 64 x 64", programs, repeats, ("wall", "cpu"))


def busy(place: Path, repeats: int) -> None:
    """Wall seconds of the command on Fashion-MNIST, 200 steps, beside a process that keeps one core busy."""
    from benchmarks.data import fashion_mnist

    x, y = fashion_mnist("train")
    np.savez(place / "f.npz", x=x[:12_000], y=y[:12_000])

    def command(threads: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            words = [
                COMMAND,
                "train",
                str(place / "f.npz"),
                "--epochs",
                "1",
                "--limit",
                "60",
                "--quiet",
                "--run",
            ]
            call = [*words, f"{folder}/run", "--threads", str(threads)]
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                return run("import subprocess\nt = now()\nsubprocess.run(sys.argv[1:], check=True)\ndone(t)", *call)
            finally:
                other.kill()
                other.wait()

    programs = {f"{threads} thread{'s' * (threads > 1)}": partial(command, threads) for threads in (1, 2)}
    compare("The command beside a busy process", programs, repeats, ("wall",))


def quick(place: Path, repeats: int) -> None:
    """Test accuracy and CPU seconds of `luthier train --effort quick` on Fashion-MNIST, a process a seed."""
    from benchmarks.data import fashion_mnist

    for part, name in (("train", "train"), ("t10k", "test")):
        x, y = fashion_mnist(part)
        np.savez(place / f"{name}.npz", x=x, y=y)
    rows = []
    for seed in range(repeats):
        words = [
            COMMAND,
            "train",
            str(place / "train.npz"),
            "--test",
            str(place / "test.npz"),
            "--effort",
            "quick",
        ]
        call = [*words, "--threads", "1", "--seed", str(seed), "--json", "--run", str(place / f"run{seed}")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rows.append((json.loads(done.stdout)["test"]["accuracy"], cpu))
        print(f"quick, seed {seed}: test accuracy {rows[-1][0]:.4f}, {cpu:.1f} CPU s", flush=True)
    accuracy, seconds = statistics.mean(row[0] for row in rows), statistics.median(row[1] for row in rows)
    print(f"mean {accuracy:.4f}, median {seconds:.1f} CPU s")


PARTS = {
    "quick": quick,
    "step": step,
    "prepare": prepare,
    "row": row,
    "csv": csv,
    "cells": cells,
    "jpeg": jpeg,
    "busy": busy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    for name in given.parts:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), given.repeats)


if __name__ == "__main__":
    main()
