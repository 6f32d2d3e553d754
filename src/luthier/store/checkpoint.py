"""Checkpoints of a run: to go on from, by the bit, after a kill at any instant."""

import logging
from pathlib import Path
from typing import Any

from luthier.core.tree import flatten, unflatten
from luthier.errors import RunError
from luthier.store.files import pack, unpack, write_whole

_log = logging.getLogger("luthier")
_KEY = "luthier-checkpoint"
FORMAT = 1


def save_checkpoint(folder: Path, tree: Any, *, global_step: int, keep: int = 2) -> Path:
    """Write a run's state; then remove all but the newest `keep` checkpoints.

    Args:
        folder: The run's `checkpoints` folder; it is made where it is not there.
        tree: Nested plain values and tensors.
        global_step: The step it was taken after; it names the file.
        keep: How many stay. The one before stays until the new one is proven.

    Raises:
        RunError: it cannot be written, or holds what is no data.
    """
    document, tensors = flatten(tree, where="the run's state")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{global_step:010d}.safetensors"
    write_whole(path, pack(tensors, {"format": FORMAT, "tree": document}, _KEY))
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> Any | None:
    """Return the newest whole checkpoint's tree, or None where there is none at all.

    A damaged one is named in the log and the one before is used.

    Raises:
        RunError: there are checkpoints, and none is whole; or a newer Luthier wrote them.
    """
    paths = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in paths:
        try:
            tensors, document = unpack(path, _KEY)
        except (ValueError, OSError) as error:
            _log.warning("checkpoint %s is damaged: %s; the one before is used", path, error)
            continue
        if document["format"] > FORMAT:
            raise RunError(
                f"checkpoint {path} has format {document['format']}, and this Luthier reads up to {FORMAT}",
                hint="update luthier",
                code="run-newer-format",
            )
        return unflatten(document["tree"], tensors)
    if paths:
        raise RunError(
            f"all {len(paths)} checkpoints in {folder} are damaged",
            hint="start a new run, or put back a copy of one of them",
            code="run-checkpoints-damaged",
        )
    return None
