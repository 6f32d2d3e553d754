"""Public programs run up to their training loop, with packaged data in place of what they download."""

import contextlib
import importlib.util
import io
import linecache
import os
import pydoc_data.topics
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

Space = SimpleNamespace


def digits(side: int = 28, channels: int = 1, n: int = 600) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's handwritten digits as images in [0, 1], `(n, channels, side, side)`, and their classes."""
    pixels, classes = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels[:n]).float().reshape(-1, 1, 8, 8) / 16
    x = F.interpolate(x, size=(side, side), mode="bilinear").expand(-1, channels, -1, -1).contiguous()
    return x, torch.from_numpy(classes[:n])


def english(n: int = 60_000) -> str:
    """Return English text that comes with Python: its reference manual."""
    return "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))[:n]


def words(n: int, most: int = 400) -> tuple[Tensor, list[str]]:
    """Return the numbers of the first n words, from 1 on, and the words; rare ones are number 1."""
    found = [word for word in english(n * 12).lower().split() if word.isalpha()][:n]
    kinds = ["<unk>", *sorted({word for word in found if found.count(word) > 3})][:most]
    known = {word: i + 1 for i, word in enumerate(kinds)}
    return torch.tensor([known.get(word, 1) for word in found]), kinds


def characters(length: int, n: int = 400) -> tuple[Tensor, Tensor, int]:
    """Return pieces of text and the same one character on, `(n, length)` each, and how many characters there are."""
    text = english()
    kinds = sorted(set(text))
    ids = torch.tensor([kinds.index(c) for c in text])
    starts = torch.arange(n) * (len(ids) // (n + 1))
    pieces = torch.stack([ids[i : i + length + 1] for i in starts.tolist()])
    return pieces[:, :-1], pieces[:, 1:], len(kinds)


def cancer() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's breast cancer data, standardised, and its two classes."""
    x, y = load_breast_cancer(return_X_y=True)
    x = torch.from_numpy(x).float()
    return (x - x.mean(0)) / x.std(0), torch.from_numpy(y)


def halves(*columns: Any, share: float = 0.75) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the first rows to train on, and the others."""
    cut = int(len(columns[0]) * share)
    return tuple(x[:cut] for x in columns), tuple(x[cut:] for x in columns)


def loaders(*columns: Tensor, size: int = 32) -> tuple[Any, Any]:
    """Return shuffled batches to train on, and others in order."""
    train, valid = halves(*columns)
    return DataLoader(TensorDataset(*train), size, shuffle=True), DataLoader(TensorDataset(*valid), size)


class _Digits(Dataset[Any]):
    """What stands for torchvision's MNIST and its like."""

    side, channels = 28, 1

    def __init__(self, root: Any = "", train: bool = True, transform: Any = None, download: bool = False) -> None:
        x, y = digits(self.side, self.channels, 1000)
        x, y = (x[:800], y[:800]) if train else (x[800:], y[800:])
        self.images, self.targets, self.transform = x, y, transform
        self.train_data = self.test_data = self.data = (x[:, 0] * 255).to(torch.uint8)
        self.train_labels = self.test_labels = y

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = self.images[i]
        return (x if self.transform is None else self.transform(x)), int(self.targets[i])


class _Pictures(_Digits):
    side, channels = 32, 3


class _Compose:
    def __init__(self, parts: Any) -> None:
        self.parts = parts

    def __call__(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class _Normalize:
    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _as_it_is(*args: Any, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: x


def _stand_ins() -> dict[str, Any]:
    """Return modules in place of those that draw, or download: by name."""
    sets = SimpleNamespace(MNIST=_Digits, FashionMNIST=_Digits, CIFAR10=_Pictures, CIFAR100=_Pictures)
    transforms = SimpleNamespace(
        ToTensor=_as_it_is, Compose=_Compose, Normalize=_Normalize, RandomCrop=_as_it_is,
        RandomHorizontalFlip=_as_it_is, Pad=_as_it_is, Resize=_as_it_is,
    )  # fmt: skip
    vision = ModuleType("torchvision")
    vision.__dict__.update(datasets=sets, transforms=transforms, utils=mock.MagicMock())
    drawing = {
        name: mock.MagicMock()
        for name in ("matplotlib", "matplotlib.pyplot", "mpl_toolkits.mplot3d", "torch.utils.tensorboard")
    }
    drawing |= {name: mock.MagicMock() for name in ("mpl_toolkits", "matplotlib.cm", "visdom", "tensorboardX")}
    return {
        "torchvision": vision, "torchvision.datasets": sets, "torchvision.transforms": transforms,
        "torchvision.utils": mock.MagicMock(), "torchvision.models": mock.MagicMock(), **drawing,
    }  # fmt: skip


@contextlib.contextmanager
def _put_in(modules: dict[str, Any]) -> Iterator[None]:
    """Have these be imported by their names; what else is imported meanwhile stays."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def _place_of(module: ModuleType) -> str:
    """Return where a module lies: a package without `__init__.py` has only its folder."""
    return getattr(module, "__file__", None) or str(next(iter(getattr(module, "__path__", [])), ""))


Edit = tuple[str, str, str]


def put_once(text: str, old: str, new: str, where: str) -> str:
    """Return the text with new in place of old, which must be there exactly once."""
    if (times := text.count(old)) != 1:
        raise ValueError(f"{where} has this {times} times, not once: {old!r}")
    return text.replace(old, new)


class Sources:
    """Public repositories on this machine, each in `folder/owner/name`.

    Attributes:
        folder: Where they are.
        read: Which files were read, as `owner/name/path`.
        unused: Which files with an edit were not run yet.
    """

    def __init__(self, folder: Path, edits: Sequence[Edit] = ()) -> None:
        """Read what is edited: `(owner/name/path, old text, new text)`; the files themselves stay as they are."""
        self.folder = folder
        self.read: list[str] = []
        self._edited: dict[str, str] = {}
        self._script: tuple[list[str], int, dict[str, Any]] | None = None
        linecache.clearcache()  # of another program's edits
        for path, old, new in edits:
            place = str(folder / path)
            text = put_once(self._edited.get(place) or Path(place).read_text(), old, new, path)
            self._edited[place] = text
            linecache.cache[place] = len(text), None, text.splitlines(keepends=True), place
        self.unused = set(self._edited)

    def _text(self, place: Path) -> str:
        self.unused.discard(str(place))
        return self._edited.get(str(place)) or place.read_text()

    def _loading(self) -> Any:
        """Have imports take the edited text of a file in place of what lies there."""
        load = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str) -> Any:
            if loader.path not in self._edited:
                return load(loader, name)
            return compile(self._text(Path(loader.path)), loader.path, "exec", dont_inherit=True)

        return mock.patch.object(SourceFileLoader, "get_code", get_code)

    @contextlib.contextmanager
    def _in(self, repository: str) -> Iterator[Path]:
        place = self.folder / repository
        before, here, known = list(sys.path), os.getcwd(), set(sys.modules)
        sys.path.insert(0, str(place))
        try:
            with _put_in(_stand_ins()), self._loading(), contextlib.redirect_stdout(io.StringIO()):
                yield place
        finally:
            sys.path[:] = before
            os.chdir(here)
            places = {name: _place_of(sys.modules[name]) for name in set(sys.modules) - known}
            for name, at in places.items():  # `models` of one repository is not that of the next
                if at.startswith(str(self.folder)):
                    del sys.modules[name]

    def script(
        self, repository: str, path: str, *, until: str, put: dict[str, str] | None = None, folder: str = ""
    ) -> Space:
        """Run a script up to the line that begins with `until`, and return its names.

        Args:
            repository: `owner/name`.
            path: Of the script.
            until: How the first line begins that is not run: where training starts.
            put: Text to put in place of other text before: a download, `.cuda()`, a size.
            folder: Where it imports from beside the repository's root.
        """
        with self._in(repository) as place:
            text = self._text(place / path)
            self.read.append(f"{repository}/{path}")
            for old, new in (put or {}).items():
                assert old in text, f"{path} has no {old!r}"
                text = text.replace(old, new)
            lines = text.split("\n")
            end = next(i for i, line in enumerate(lines) if line.strip().startswith(until))
            if folder:
                sys.path.insert(0, str(place / folder))
            module = ModuleType("program")
            module.__dict__["__file__"] = str(place / path)
            module.__dict__["__name__"] = "__main__"
            kept = sys.argv
            sys.argv = ["program"]
            try:
                code = compile("\n".join(lines[:end]), str(place / path), "exec")
                with _put_in({"__main__": module}):
                    exec(code, module.__dict__)
            finally:
                sys.argv = kept
            self._script = lines, end, module.__dict__
            return SimpleNamespace(**{k: v for k, v in module.__dict__.items() if k.isidentifier()})

    def rest(self, until: str) -> Callable[[], None]:
        """Return what runs the last script on from where it stopped, up to the line that begins with `until`."""
        assert self._script is not None
        lines, start, names = self._script
        end = next(i for i in range(start, len(lines)) if lines[i].strip().startswith(until))
        text = "\n" * start + textwrap.dedent("\n".join(lines[start:end]))
        code = compile(text, names["__file__"], "exec")

        def loop() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, names)

        return loop

    def module(self, repository: str, path: str, *, folder: str = "", package: str = "") -> Any:
        """Import a file, with the repository (or a folder in it) on the path."""
        with self._in(repository) as place:
            if folder:
                sys.path.insert(0, str(place / folder))
            self.read.append(f"{repository}/{path}")
            name = package or "program_" + Path(path).stem
            if package:
                return importlib.import_module(package)
            spec = importlib.util.spec_from_file_location(name, place / path)
            assert spec is not None
            assert spec.loader is not None
            found = importlib.util.module_from_spec(spec)
            sys.modules[name] = found
            spec.loader.exec_module(found)
            return found


def series(n: int = 400, past: int = 48, ahead: int = 24, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return windows of waves with noise and what comes after: `(n, past, channels)`, `(n, ahead, channels)`."""
    generator = np.random.default_rng(0)
    time = np.arange(n * 8 + past + ahead)
    speeds = generator.uniform(0.05, 0.4, (channels, 3))
    whole = sum(np.sin(time[:, None] * speeds[None, :, i]) for i in range(3)) + 0.2 * generator.normal(
        size=(len(time), channels)
    )
    whole = (whole - whole.mean(0)) / whole.std(0)
    starts = np.arange(n) * 8
    x = np.stack([whole[i : i + past] for i in starts])
    y = np.stack([whole[i + past : i + past + ahead] for i in starts])
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()
