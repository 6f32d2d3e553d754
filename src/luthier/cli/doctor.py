"""`luthier doctor`: what is installed, what this machine has, and a short training that proves that it works."""

import platform
import re
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from luthier.core.version import OLDEST_TORCH, VERSION

_EXTRAS = {
    "text": "columns of text",
    "timm": "pretrained networks for images",
    "jpeg": "a faster decoder of JPEG",
    "excel": "Excel workbooks",
    "sql": "databases other than SQLite",
    "onnx": "export to ONNX",
    "tensorboard": "tracking by TensorBoard",
    "mlflow": "tracking by MLflow",
    "wandb": "tracking by Weights & Biases",
    "trackio": "tracking by Trackio",
    "aim": "tracking by Aim",
    "optuna": "luthier tune",
}


def examine() -> dict[str, Any]:
    """Return what is installed and what works; `problems` has what is wrong, with what to do about it."""
    found: dict[str, Any] = {"luthier": VERSION, "python": platform.python_version(), "system": platform.platform()}
    problems: list[str] = []
    packages, extras = _requirements()
    found["packages"] = {name: _version(name) for name in packages}
    for name, oldest in packages.items():
        version = found["packages"][name]
        if version is None:
            problems.append(f"{name} is not installed: pip install '{name}>={oldest}'")
        elif _numbers(version) < _numbers(oldest):
            problems.append(f"{name} {version} is too old: pip install --upgrade '{name}>={oldest}'")
    found["extras"] = {
        extra: {"for": _EXTRAS[extra], "missing": [name for name in extras.get(extra, {}) if _version(name) is None]}
        for extra in _EXTRAS
        if extra in extras
    }
    try:
        import torch

        from luthier.core.machine import available_devices

        found["devices"] = available_devices()
        found["threads"] = torch.get_num_threads()
        found["training"] = _try_training()
    except Exception as error:  # whatever a broken installation raises is what is to be shown
        found["training"] = None
        problems.append(
            f"a short training failed: {type(error).__name__}: {error}\n"
            f"  make a new environment, pip install torch in it, then luthier; this Python is {sys.executable}"
        )
    found["problems"] = problems
    return found


def _requirements() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the oldest version of each package that Luthier needs, and of those that each extra needs."""
    needed: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    for line in metadata.requires("luthier") or ():
        package = re.match(r"([\w.-]+)(?:.*?>=\s*([\d.]+))?", line)
        assert package is not None
        extra = re.search(r"extra\s*==\s*['\"](\w+)", line)
        oldest = package[2] or (OLDEST_TORCH if package[1] == "torch" else "0")
        (needed if extra is None else extras.setdefault(extra[1], {}))[package[1]] = oldest
    return needed, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _try_training() -> dict[str, Any]:
    """Train, save, load and predict a small table; raise where the answers are not what they must be."""
    import luthier

    start = time.perf_counter()
    rows = {
        "size": [i % 17 for i in range(300)],
        "kind": ["abc"[i % 3] for i in range(300)],
        "y": ["high" if i % 17 + 4 * (i % 3) > 11 else "low" for i in range(300)],
    }
    result = luthier.train(rows, target="y", epochs=20, verbose=False, check=False, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        result.save(path := Path(folder) / "model.safetensors")
        again = luthier.load(path)
    if list(again.predict(rows)) != list(result.predict(rows)):
        raise RuntimeError("a saved model does not predict what it did before")
    if (accuracy := result.test["accuracy"]) < 0.8:
        raise RuntimeError(f"the test accuracy of a simple table is {accuracy:.2f}, and should be above 0.8")
    return {"accuracy": accuracy, "seconds": round(time.perf_counter() - start, 1)}


def in_words(found: dict[str, Any]) -> str:
    """Return what was found as lines for people."""
    lines = [f"luthier {found['luthier']}, Python {found['python']}, {found['system']}"]
    lines += [f"  {name:20} {version or 'missing'}" for name, version in found["packages"].items()]
    for extra, state in found["extras"].items():
        lines.append(
            f"  [{extra}]".ljust(23)
            + (f"pip install 'luthier[{extra}]' for {state['for']}" if state["missing"] else "yes")
        )
    if found["training"]:
        lines.append(f"devices: {', '.join(found['devices'])}; threads: {found['threads']}")
        lines.append("a table was trained, saved, loaded and predicted in {seconds} s".format(**found["training"]))
    return "\n".join(lines)
