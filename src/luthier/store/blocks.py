"""Large tensors in blocks that are named by what they hold: a checkpoint writes those that changed since the last one.

So a replay buffer costs what was added to it, and data that was handed over is written once.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.store.files import cannot_write, write_whole

BLOCK_BYTES = 4 << 20


class Blocks:
    """The blocks of a folder, which is made where the first is written.

    Args:
        folder: Nothing else may be in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._there: set[str] | None = None

    def put(self, tensor: Tensor) -> dict[str, Any]:
        """Write the blocks of a dense tensor that are not there yet; return what `get` needs.

        Raises:
            RunError: one cannot be written.
        """
        if self._there is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._there = {name for name in os.listdir(self.folder) if not name.endswith(".part")}
            except OSError as error:
                raise cannot_write(self.folder, error) from error
        content = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
        names = []
        for start in range(0, len(content), BLOCK_BYTES):
            block = content[start : start + BLOCK_BYTES].data
            name = _name(block)
            if name not in self._there:
                write_whole(self.folder / name, bytes(block))
                self._there.add(name)
            names.append(name)
        return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "blocks": names}

    def get(self, facts: Mapping[str, Any]) -> Tensor:
        """Return a tensor that `put` wrote.

        Raises:
            ValueError: a block is gone or damaged.
        """
        tensor = torch.empty(facts["shape"], dtype=getattr(torch, facts["dtype"]))
        content, start = tensor.reshape(-1).view(torch.uint8).numpy(), 0
        for name in facts["blocks"]:
            try:
                block = (self.folder / name).read_bytes()
            except OSError as error:
                raise ValueError(f"block {name} cannot be read ({error})") from error
            if _name(block) != name or start + len(block) > len(content):
                raise ValueError(f"block {name} is damaged")
            content[start : start + len(block)] = bytearray(block)
            start += len(block)
        if start != len(content):
            raise ValueError("blocks are missing")
        return tensor

    def keep(self, used: Iterable[str]) -> None:
        """Remove the blocks that no checkpoint refers to."""
        used = set(used)
        for name in (self._there or set()) - used:
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        self._there = None if self._there is None else self._there & used


def _name(block: Any) -> str:
    return hashlib.blake2b(block, digest_size=20).hexdigest()
