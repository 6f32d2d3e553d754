"""What a store of rows costs and holds: conversion, memory, rows a second beside data in memory and pyarrow.

    python -m benchmarks.rows pairs [--rows 1000000] [--repeats 3]     # in memory, from a store, by a plain DataLoader
    python -m benchmarks.rows large --gigabytes 20 --folder /tmp/large # written, encoded, an epoch trained, removed
    python -m benchmarks.rows many --rows 100000000 --folder /tmp/many # one process and two, the first step, a resume
    python -m benchmarks.rows images --rows 8000 --repeats 3           # batches of a folder, and by a plain DataLoader

Memory is RssAnon of /proc/self/status, sampled every 20 ms: what the process holds apart from the page cache. `large`
and `many` convert and train in processes whose private memory the system limits to 4 GB (RLIMIT_DATA).
"""

import argparse
import dataclasses
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

_LIMIT = 4 << 30
_BATCH = 4096
_ENOUGH_S = 120  # of reading by pyarrow: a rate needs no more
_TRAINING: dict[str, Any] = {
    "network": "mlp", "widths": (64, 64), "network_args": {"number_size": 0}, "batch_size": _BATCH, "seed": 0,
    "check": False,
}  # fmt: skip


def anonymous(process: str = "self") -> int:
    """Return the bytes of private memory that a process has in RAM."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


class Peak:
    """The most private memory held while the block runs, and its seconds."""

    def __enter__(self) -> "Peak":
        self.before = self.most = anonymous()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._start, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _watch(self) -> None:
        while not self._ends.wait(0.02):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._start, time.process_time() - self._cpu
        self._ends.set()
        self._thread.join()
        self.most = max(self.most, anonymous())

    def elapsed(self) -> float:
        """Return the seconds so far."""
        return time.perf_counter() - self._start

    def facts(self) -> dict[str, float]:
        """Return them."""
        words = {"seconds": round(self.seconds, 2), "cpu_s": round(self.cpu_s, 2)}
        return {**words, "anonymous_mb": round(self.most / 2**20)}


def table(rows: int, number: int, floats: int, *, is_narrow: bool = False) -> pl.DataFrame:
    """Return a piece of a table: floats, small whole numbers, words, dates, and a target that some of them explain."""
    g = np.random.default_rng(number)
    x = g.standard_normal((floats, rows))
    columns: dict[str, Any] = {f"x{i}": x[i] for i in range(floats)}
    columns |= {f"n{i}": g.integers(0, 100, rows) for i in range(1 if is_narrow else 4)}
    columns |= {f"w{i}": "w" + pl.Series(g.integers(0, 40, rows)).cast(pl.String) for i in range(1 if is_narrow else 3)}
    if not is_narrow:
        days = np.datetime64("2015-01-01") + g.integers(0, 3000, rows).astype("timedelta64[D]")
        columns["day"] = pl.Series(days).cast(pl.Date)
    columns["y"] = np.where(x[0] + x[1] * x[2] + g.standard_normal(rows) > 0, "yes", "no")
    return pl.DataFrame(columns)


def make(folder: Path, rows: int, floats: int, each: int = 250_000, *, is_narrow: bool = False) -> int:
    """Write a folder of Parquet files; return its bytes."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, each)):
        part = table(min(each, rows - start), number, floats, is_narrow=is_narrow)
        part.write_parquet(folder / f"part-{number:04d}.parquet", compression="snappy", row_group_size=65536)
    return sum(path.stat().st_size for path in folder.iterdir())


def in_child(name: str, *arguments: Any, limit: int | None = None) -> Any:
    """Return what a function of this module gives in a process of its own."""
    code = f"import sys, json; from benchmarks import rows; print(json.dumps(rows.{name}(*json.loads(sys.argv[1]))))"
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "LUTHIER_LIMIT": str(limit or "")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(arguments)], capture_output=True, text=True, env=env
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def _limit() -> None:
    if limit := os.environ.get("LUTHIER_LIMIT"):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))


def convert(source: str, output: str, most_bytes: int | None = None, held_out: float = 0.15) -> dict[str, Any]:
    """Encode a table; `most_bytes` of a store beyond it are read by windows."""
    from luthier.pipeline import rows

    _limit()
    if most_bytes is not None:
        rows.MOST_BYTES = most_bytes
    with Peak() as peak:
        store = rows.write_rows(source, output, target="y", valid_fraction=held_out, test_fraction=held_out)
    count = store.num_rows
    return {**peak.facts(), "rows": count, "bytes": store.kind.itemsize * count, "by_windows": store.by_windows}


def train(source: str, more: dict[str, Any], run: str | None = None, copy_at: int = 0) -> dict[str, Any]:
    """Train, or go on with the run of a folder; return seconds to the first step, those of epochs, and memory.

    With `copy_at` the run's folder is copied after that step, as a kill at that moment leaves it.
    """
    import luthier
    from luthier.training.callbacks import Callback

    _limit()
    first: list[float] = []
    start = time.perf_counter()

    class Watching(Callback):
        def on_step_end(self, run: Any) -> None:
            first[:] = first or [time.perf_counter() - start, run.global_step]
            if run.global_step == copy_at:
                shutil.copytree(run.folder, f"{run.folder}-copy", ignore=shutil.ignore_patterns(".*"))

    with Peak() as peak:
        if source:
            target = {} if source.endswith(".rows") else {"target": "y"}
            settings = {**_TRAINING, **target, **more}
            result = luthier.train(source, run=run, callbacks=[Watching()], verbose=False, **settings)
        else:
            result = luthier.resume(str(run), callbacks=[Watching()], verbose=False)
    epochs = result.record.epochs
    return {
        **peak.facts(), "first_step": first and [round(first[0], 2), first[1]],
        "epoch_s": epochs[-1]["seconds"], "losses": [row["train_loss"] for row in epochs],
    }  # fmt: skip


def in_processes(store: str, run: str, more: list[str]) -> dict[str, Any]:
    """Train by the command in two processes; return seconds, and the most private memory of each."""
    command = [sys.executable, "-W", "ignore", "-m", "luthier", "train", store, "--run", run, "--quiet", *more]
    start, most = time.perf_counter(), dict[int, int]()
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None:
        time.sleep(0.05)
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        for child in map(int, found.stdout.split()):
            status = Path(f"/proc/{child}/status")
            lines = status.read_text().splitlines() if status.exists() else []
            held = [int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon:")]
            most[child] = max([most.get(child, 0), *held])
    rows = [json.loads(line) for line in (Path(run) / "record.jsonl").read_text().splitlines()]
    losses = [row["train_loss"] for row in rows if row["event"] == "epoch"]
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "anonymous_mb": sorted(most.values())[-2:],
        "losses": losses,
    }


def read_only(source: str) -> dict[str, float]:
    """Read an epoch's batches and nothing else; return rows a second."""
    import luthier
    from luthier.data.feeds import AddressedFeed

    _limit()
    plan = luthier.design(source, **({} if source.endswith(".rows") else {"target": "y"}))
    part = plan.prepared.parts["train"].source
    feed = AddressedFeed(part, batch_size=_BATCH, seed=0, shuffle=True)
    with Peak() as peak:
        total = sum(len(batch) for batch in feed.batches(0))
    return {**peak.facts(), "rows_s": round(total / peak.seconds)}


class ByArrow(torch.utils.data.IterableDataset[Any]):
    """What a plain program does: pyarrow's batches in the order of the files, standardised, as tensors."""

    def __init__(self, folder: str, width: int) -> None:
        self.folder, self.width = folder, width

    def __iter__(self) -> Iterator[Any]:
        """Yield batches."""
        import pyarrow.dataset

        found = pyarrow.dataset.dataset(self.folder)
        names = [field.name for field in found.schema if str(field.type) in ("double", "int64")]
        words = [f"w{i}" for i in range(3)]
        for batch in found.to_batches(columns=[*names, *words, "y"], batch_size=_BATCH):
            numbers = np.stack([batch[name].to_numpy() for name in names], axis=1).astype(np.float32)
            filled = np.zeros((len(numbers), self.width), dtype=np.float32)
            filled[:, : numbers.shape[1]] = numbers
            codes = [[int(word[1:]) + 1 for word in batch[name].to_pylist()] for name in words]
            y = np.array([[float(word == "yes")] for word in batch["y"].to_pylist()], dtype=np.float32)
            yield torch.from_numpy(filled), torch.tensor(codes).T.contiguous(), torch.from_numpy(y)


def by_arrow(source: str, store: str, is_trained: bool) -> dict[str, float]:
    """Read by a DataLoader over pyarrow, and train the same network by a plain loop."""
    import luthier
    from luthier.pipeline.train import make_module

    plan = luthier.design(store, **_TRAINING)
    module = make_module(plan)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    criterion = torch.nn.BCEWithLogitsLoss()
    loader = torch.utils.data.DataLoader(ByArrow(source, plan.prepared.sizes.num_numbers), batch_size=None)
    total = 0
    with Peak() as peak:
        for numbers, codes, y in loader:
            if is_trained:
                optimizer.zero_grad()
                criterion(module(numbers, codes), y).backward()
                optimizer.step()
            total += len(y)
            if peak.elapsed() > _ENOUGH_S:
                break
    return {**peak.facts(), "rows_s": round(total / peak.seconds)}


def pairs(rows: int, repeats: int) -> None:
    """Print what the three ways read and train, in turn."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        source, kept, windows = (f"{place}/{name}" for name in ("table", "kept.rows", "windows.rows"))
        print(f"{rows:,} rows, {make(Path(source), rows, 32) / 2**20:.0f} MB of Parquet", flush=True)
        print("convert, order kept", in_child("convert", source, kept), flush=True)
        print("convert, by windows", in_child("convert", source, windows, 1), flush=True)
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(repeats):
            for name, data in (("in memory", source), ("store", kept), ("store by windows", windows)):
                one = {**in_child("read_only", data), **in_child("train", data, {"epochs": 2})}
                found.setdefault(name, []).append({**one, "trains": round(rows * 0.7 / one["epoch_s"])})
            read, trained = (in_child("by_arrow", source, kept, is_trained) for is_trained in (False, True))
            found.setdefault("pyarrow", []).append({**trained, "rows_s": read["rows_s"], "trains": trained["rows_s"]})
        for name, results in found.items():
            reads, trains = (statistics.median(item[key] for item in results) for key in ("rows_s", "trains"))
            ends = " to ".join(f"{end(item['trains'] for item in results):,}" for end in (min, max))
            memory, losses = max(item["anonymous_mb"] for item in results), results[0].get("losses")
            print(f"{name}: reads {reads:,.0f} rows/s, trains {trains:,.0f} rows/s ({ends}), {memory:,} MB; {losses}")


def large(gigabytes: float, folder: Path, epochs: int) -> None:
    """Write a table of that size, encode it, train an epoch, remove all."""
    floats = 100
    rows = int(gigabytes * 1e9 / (floats * 8 + 13))
    try:
        start = time.perf_counter()
        size = make(folder / "table", rows, floats)
        seconds = time.perf_counter() - start
        print(f"{rows:,} rows, {size / 1e9:.1f} GB of Parquet, written in {seconds:.0f} s", flush=True)
        found = in_child("convert", str(folder / "table"), str(folder / "table.rows"), limit=_LIMIT)
        print("convert", found, f"{found['seconds'] / rows * 1e6:.1f} s a million rows", flush=True)
        trained = in_child("train", str(folder / "table.rows"), {"epochs": epochs}, limit=_LIMIT)
        print("train", trained, f"{rows * 0.7 / trained['epoch_s']:,.0f} rows/s", flush=True)
        print("pyarrow", in_child("by_arrow", str(folder / "table"), str(folder / "table.rows"), True), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tile(store: str, output: str, times: int) -> dict[str, Any]:
    """Write a store whose parts are those of another so many times over: what a run holds does not depend on values."""
    from luthier.store.rows import RowWriter, open_rows

    _limit()
    small = open_rows(Path(store))
    parts, first = {}, 0
    for name, part in small.parts.items():
        parts[name] = dataclasses.replace(part, first=first, count=part.count * times)
        first += part.count * times
    large = dataclasses.replace(small, path=Path(output), parts=parts, num_rows=first, checksums=[], sha256="")
    writer = RowWriter(large)
    with Peak() as peak, writer.opened():
        for name, part in parts.items():
            records = small.source(name).records
            for number in range(times):
                writer.write(part.first + number * len(records), records)
        writer.finish()
    return {**peak.facts(), "rows": first, "bytes": first * large.kind.itemsize}


def many(rows: int, folder: Path) -> None:
    """Train some steps over a store of that many rows, on one process and on two; go on with a copy.

    The store holds the rows of a table of 1,000,000 again and again: to encode 100 million takes as long as a hundred
    times to encode one.
    """
    try:
        some = min(rows, 1_000_000)
        make(folder / "table", some, 3, is_narrow=True)
        small, store = str(folder / "small.rows"), str(folder / "table.rows")
        found = in_child("convert", str(folder / "table"), small, 1, 0.01, limit=_LIMIT)
        print("convert", found, f"{found['seconds'] / some * 1e6:.2f} s a million rows", flush=True)
        print("tiled", in_child("tile", small, store, rows // some, limit=_LIMIT), flush=True)
        most = min(400, rows // _BATCH // 4 * 4)
        steps = {"max_steps": most, "shards": 2, "threads": 1, "checkpoint_every_steps": most // 4}
        one = in_child("train", store, steps, str(folder / "one"), most * 3 // 4, limit=_LIMIT)
        print("one process", one, flush=True)
        again = in_child("train", "", {}, str(folder / "one-copy"), limit=_LIMIT)
        print("gone on from three quarters", again, flush=True)
        words = f"--shards 2 --processes 2 --max-steps {most} --threads 1 --seed 0 --no-check --network mlp"
        words += f" --widths 64,64 --network-args number_size=0 --batch-size {_BATCH}"
        print("two processes", in_processes(store, str(folder / "two"), words.split()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def crops(folder: Path, count: int) -> None:
    """Write JPEGs of 64 x 64, cut at drawn places out of the two photos of scikit-learn, one folder a photo."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    g = np.random.default_rng(0)
    for number, photo in enumerate(load_sample_images().images):
        (folder / f"photo {number}").mkdir(parents=True)
        for i in range(count // 2):
            y, x = g.integers(0, photo.shape[0] - 64), g.integers(0, photo.shape[1] - 64)
            Image.fromarray(photo[y : y + 64, x : x + 64]).save(folder / f"photo {number}" / f"{i:06d}.jpg", quality=90)


def convert_images(source: str, output: str, most_bytes: int | None) -> dict[str, Any]:
    """Decode a folder into a store."""
    from luthier.pipeline import image_rows, rows

    if most_bytes is not None:
        image_rows.MOST_BYTES = most_bytes
    with Peak() as peak:
        store = rows.write_rows(source, output)
    return {**peak.facts(), "images": store.num_rows, "bytes": store.kind.itemsize, "by_windows": store.by_windows}


def read_images(source: str) -> dict[str, Any]:
    """Design a run, and read two epochs of normalised training batches."""
    from luthier import design
    from luthier.data.feeds import AddressedFeed

    with Peak() as peak:
        train = design(source).prepared.parts["train"].source
        feed, ready = AddressedFeed(train, batch_size=64, seed=0, shuffle=True), peak.elapsed()
        starts = [peak.elapsed()]
        for epoch in range(2):
            for _ in feed.batches(epoch):
                pass
            starts.append(peak.elapsed())
    rates = [round(len(train) / (stop - start)) for start, stop in itertools.pairwise(starts)]
    return {**peak.facts(), "ready_s": round(ready, 2), "images_per_s": rates}


class Crops(torch.utils.data.Dataset[Any]):
    """A plain dataset over a folder: Pillow, then a normalised tensor."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).glob("*/*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Any:
        from PIL import Image

        with Image.open(self.paths[place]) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return (pixels.float() / 255 - 0.5) / 0.25, int(self.paths[place].parent.name[-1])


def load_images(source: str) -> dict[str, Any]:
    """Read two epochs of batches by a DataLoader with two workers; memory is that of the three processes together."""
    import multiprocessing

    loader = torch.utils.data.DataLoader(Crops(source), batch_size=64, shuffle=True, num_workers=2)
    rates, most = [], 0
    for _ in range(2):
        start = time.perf_counter()
        for number, _batch in enumerate(loader):
            if number % 20 == 10:
                children = [anonymous(f"{child.pid}") for child in multiprocessing.active_children()]
                most = max(most, anonymous() + sum(children))
        rates.append(round(len(loader.dataset) / (time.perf_counter() - start)))  # type: ignore[arg-type]
    return {"images_per_s": rates, "anonymous_mb": round(most / 2**20)}


def images(count: int, repeats: int, folder: Path) -> None:
    """Read a folder of images in memory, from a store (in the order of the folder, by windows), and by a DataLoader."""
    try:
        crops(folder / "photos", count)
        for name, most in (("store", None), ("windows", 1)):
            print(
                "convert", name, in_child("convert_images", str(folder / "photos"), str(folder / f"{name}.rows"), most)
            )
        sources = {"in memory": "photos", "store": "store.rows", "windows": "windows.rows"}
        for _ in range(repeats):
            for name, source in sources.items():
                print(name, in_child("read_images", str(folder / source)), flush=True)
            print("DataLoader", in_child("load_images", str(folder / "photos")), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pairs", "large", "many", "images"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/luthier-rows"))
    given = parser.parse_args()
    if given.what == "pairs":
        pairs(given.rows, given.repeats)
    elif given.what == "images":
        images(given.rows, given.repeats, given.folder)
    elif given.what == "large":
        large(given.gigabytes, given.folder, given.epochs)
    else:
        many(given.rows, given.folder)
