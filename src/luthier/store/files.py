"""Files that are whole or not there: written beside, flushed, read back, renamed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from luthier.errors import RunError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that at any instant the old file or the new one is there, never a part.

    The bytes go to a file beside, are flushed to the disk, read back and compared; then it takes the name.

    Raises:
        RunError: the folder cannot be written, the disk is full, or what was read back differs.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if hashlib.sha256(beside.read_bytes()).digest() != hashlib.sha256(content).digest():
            raise RunError(
                f"{path} was written, and other bytes were read back",
                hint="check the disk; nothing was replaced",
                code="run-write-differs",
            )
        beside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the error for a file that cannot be written, in the user's words."""
    return RunError(
        f"cannot write {path}: {error.strerror or error}",
        hint="free some disk, or choose another place with --run or -o",
        code="run-cannot-write",
    )


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def pack(tensors: Mapping[str, Tensor], document: Any, key: str) -> bytes:
    """Return a safetensors file that carries `document` (JSON) and a SHA-256 over all of it under metadata `key`."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {key: text, "sha256": _digest(kept, text)}
    return safetensors.torch.save(kept, metadata=metadata)


def unpack(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and the document of a file that `pack` made.

    Raises:
        ValueError: the file is damaged, or no file of this kind; the message says how.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError("it is empty (0 bytes)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is cut short or no safetensors file ({error})") from error
    if key not in metadata:
        raise ValueError(f"it is a safetensors file without a {key!r} document")
    if _digest(tensors, metadata[key]) != metadata.get("sha256"):
        raise ValueError("its bytes do not have the SHA-256 that was written with them")
    return tensors, json.loads(metadata[key])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
