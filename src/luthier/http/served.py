"""A model that is served: its file, its version, and what it says to bodies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from luthier.errors import SettingError
from luthier.http.answering import Answering, example
from luthier.http.gathering import Gathered
from luthier.http.limits import Limits
from luthier.serving.model import load
from luthier.store.urls import fetched, is_url

_GATHERED = 64  # rows of one call


def find_names(paths: Sequence[str]) -> dict[str, str]:
    """Return what models are called, each with its path: as their file or their run's folder.

    Raises:
        SettingError: two are called alike.
    """
    found: dict[str, str] = {}
    for path in paths:
        file = Path(path)
        name = (
            file.resolve().parent.name if file.name == "model.safetensors" else file.name.removesuffix(".safetensors")
        )
        if name in found:
            raise SettingError(
                f"{found[name]} and {path} are both called {name!r}",
                hint="rename one of them",
                code="setting-given-twice",
            )
        found[name] = path
    return found


class Served:
    """A model, and the file that it came from.

    Attributes:
        path: The bundle's file.
        name: What it is called in addresses.
        answering: What answers; another one where the file has changed.
    """

    def __init__(self, path: str, name: str, limits: Limits, network: str | None = None) -> None:
        with ExitStack() as kept:  # an address is fetched once
            file = kept.enter_context(fetched(path)) if is_url(path) else Path(path)
            self._kept = kept.pop_all()
        self.path = file / "model.safetensors" if file.is_dir() else file
        self.name, self.limits, self.network = name, limits, network
        self.read()

    def read(self) -> None:
        """Load the model, anew where it was loaded before.

        Raises:
            BundleError: it cannot be loaded.
            SettingError: it is not one that can be served.
        """
        self._seen = self._stamp()
        model = load(self.path, network=self.network)
        schema = model.schema
        assert schema is not None  # a model without one is not loaded without its module
        version = hashlib.sha256(self.path.read_bytes()).hexdigest()[:12]
        if self.limits.gather_s is not None:
            model._forward = Gathered(  # type: ignore[method-assign]  # of this model alone
                model._forward, wait_s=self.limits.gather_s, max_rows=_GATHERED
            )
        answering = Answering(model, limits=self.limits, version=version)
        if schema.image is None:  # so that the first client need not wait for what is made at the first row
            row = example(schema)
            answering.answer_row([row])
            answering.answer([row, row])
            if model._row is not None and model._row[3] is not None:
                model._row[3].is_watched = False  # nobody else has the network
        self.answering = answering

    @property
    def version(self) -> str:
        """The start of the SHA-256 of the file."""
        return self.answering.version

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:  # between two versions of it
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def has_changed(self) -> bool:
        """Whether the file is another one than was read last."""
        stamp = self._stamp()
        return stamp is not None and stamp != self._seen

    def facts(self) -> dict[str, Any]:
        """Return what the model is, in short."""
        schema = self.answering.schema
        targets = [{"name": target.name, "classes": list(target.classes)} for target in schema.targets]
        columns = self.answering.columns
        return {"name": self.name, "version": self.version, "task": schema.task, "columns": columns, "targets": targets}
