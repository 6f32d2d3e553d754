"""What a batch of requests would save: milliseconds a row of reading and of the network, for 1 to 32 rows at a time.

    python -m benchmarks.batching [--repeats 5]

A server could gather the rows of several clients into one batch of the network. Each client's rows must still be read
by themselves, so that no cell of one client changes how another's is read; only the network's time is shared.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import luthier
from luthier.serving.inputs import pieces

ROWS = 64


def models() -> dict[str, tuple[luthier.Model, Callable[[int], Any]]]:
    """Return a model of each kind, and what gives rows for it."""
    draw = np.random.default_rng(0)
    words = [" ".join(draw.choice(["good", "bad", "film", "plot", "end", "fine"], 30)) for _ in range(ROWS)]
    series = [draw.normal(size=100).tolist() for _ in range(ROWS)]
    classes = ["a", "b"] * (ROWS // 2)
    photos = draw.integers(0, 255, (ROWS, 3, 64, 64)).astype(np.uint8)
    found: dict[str, tuple[luthier.Model, Callable[[int], Any]]] = {}
    given: Any = {"epochs": 1, "seed": 0, "check": False, "verbose": False}
    model = luthier.train({"t": words, "y": classes}, target="y", kind={"t": "text"}, **given).model
    found["text"] = model, lambda count: [{"t": words[i]} for i in range(count)]
    model = luthier.train({"s": series, "y": classes}, target="y", **given).model
    found["series"] = model, lambda count: [{"s": series[i]} for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photos.npz"
        np.savez(path, x=photos, y=np.arange(ROWS) % 2)
        for network in ("convnet", "resnet"):
            model = luthier.train(path, network=network, **given).model
            found[network] = model, lambda count: photos[:count]
    return found


def best_ms(work: Callable[[], Any], repeats: int) -> float:
    """Return the least time of some repeats."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | rows at a time | reading, ms a row | network, ms a row |\n| --- | --- | --- | --- |")
    for name, (model, rows) in models().items():
        assert model.schema is not None
        for count in (1, 4, 16, 32):
            source, schema = rows(count), model.schema
            read = best_ms(lambda source=source, schema=schema: list(pieces(source, schema)), given.repeats)  # type: ignore[misc]
            inputs = next(iter(pieces(source, schema))).inputs
            forward = best_ms(lambda model=model, inputs=inputs: model._forward(inputs), given.repeats)  # type: ignore[misc]
            print(f"| {name} | {count} | {read / count:.2f} | {forward / count:.2f} |")


if __name__ == "__main__":
    main()
