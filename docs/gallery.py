"""Make the reports of the gallery from data that is in packages: `python docs/gallery.py FOLDER`.

With `--pictures` also the pictures of docs/pictures, by Chromium.
"""

import os
import pkgutil
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from torch import nn

import luthier

PENGUINS = Path(__file__).parents[1] / "examples" / "penguins.csv"


def _train(source: Any, **given: Any) -> luthier.Result:
    return luthier.train(source, verbose=False, **given)


def classes() -> luthier.Result:
    """A table whose answer is a class."""
    shutil.copy(PENGUINS, "penguins.csv")
    return _train("penguins.csv", target="species", epochs=40)


def numbers() -> luthier.Result:
    """A table whose answer is a number."""
    load_diabetes(as_frame=True, scaled=False).frame.to_csv("diabetes.csv", index=False)
    return _train("diabetes.csv", target="target", epochs=40)


def images() -> luthier.Result:
    """Pictures of digits."""
    digits = load_digits()
    np.savez("digits.npz", x=(digits.images * 15).astype(np.uint8), y=digits.target)
    return _train("digits.npz", arrays="images", epochs=8)


def text() -> luthier.Result:
    """The first lines of docstrings: from which package are they?"""
    rows = {}
    for package in ("numpy", "torch", "polars", "sklearn"):
        root = import_module(package)
        names = [info.name for info in pkgutil.iter_modules(root.__path__, f"{package}.") if "._" not in info.name]
        modules = [sys.modules[name] for name in names if name in sys.modules]
        for value in [value for module in (root, *modules) for value in vars(module).values() if callable(value)]:
            said = getattr(value, "__doc__", None)
            if isinstance(said, str) and len(said) > 60:
                rows[" ".join(said.split())[:300]] = package
    pl.DataFrame({"docstring": list(rows), "package": list(rows.values())}).write_parquet("docstrings.parquet")
    return _train("docstrings.parquet", target="package", kind={"docstring": "text"}, epochs=15)


def series() -> luthier.Result:
    """Waves of three forms, of unequal length."""
    rng = np.random.default_rng(0)
    forms: dict[str, Any] = {
        "sine": np.sin,
        "square": lambda t: np.sign(np.sin(t)),
        "saw": lambda t: (t / np.pi) % 2 - 1,
    }
    rows = []
    for i in range(360):
        form = list(forms)[i % 3]
        steps = np.arange(int(rng.integers(40, 80))) * rng.uniform(0.1, 0.4) + rng.uniform(0, 6)
        rows.append({"wave": (forms[form](steps) + rng.normal(0, 0.7, len(steps))).round(3).tolist(), "form": form})
    pl.DataFrame(rows).write_parquet("waves.parquet")
    return _train("waves.parquet", target="form", epochs=10)


def module() -> luthier.Result:
    """A module of one's own, trained by `fit`."""
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))
    return luthier.fit(
        net, (x[:1400], y[:1400]), (x[1400:], y[1400:]), criterion="cross-entropy", optimizer="Adam", lr=0.003,
        epochs=20, metrics=["accuracy", "f1"], seed=0, verbose=False,
    )  # fmt: skip


PICTURES = Path(__file__).resolve().parent / "pictures"
PARTS: dict[str, dict[str, Any]] = {
    "classes": {"top": 1800, "scheme": "light"},
    "numbers": {"top": 3100, "scheme": "dark"},
    "images": {"top": 3700, "scheme": "light"},
    "text": {"top": 3000, "scheme": "dark"},
    "series": {"top": 1700, "scheme": "light"},
    "module": {"top": 0, "scheme": "dark"},
}
REPORTS = {make.__name__: make for make in (classes, numbers, images, text, series, module)}


def picture(page: Path, output: Path, *, top: int, scheme: str) -> None:
    """Write a part of a page as a small picture."""
    frame = page.with_suffix(".frame.html")
    frame.write_text(
        f'<body style="margin:0"><iframe src="{page.name}" style="border:0;width:1000px;height:6000px;'
        f'color-scheme:{scheme}"></iframe>'
    )
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    shot = page.with_suffix(".png")
    command += ["--window-size=1000,6000", f"--screenshot={shot}", frame.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    part = Image.open(shot).convert("RGB").crop((0, top, 1000, top + 1500)).resize((600, 900), Image.Resampling.LANCZOS)
    part.quantize(128).save(output, optimize=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for name, make in REPORTS.items():
        make().report(f"{name}.html")
        print(folder / f"{name}.html")
        if "--pictures" in sys.argv:
            picture(folder / f"{name}.html", PICTURES / f"{name}.png", **PARTS[name])
