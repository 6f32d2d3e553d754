"""Room for decoded images: in memory, and where that is short in a file that goes with the process."""

import logging
import math
import os
import shutil
import tempfile

import numpy as np
from numpy.typing import NDArray

from luthier.core.machine import free_memory
from luthier.errors import DataError

SHARE = 0.5
"""Of the memory that is free: the rest is for training, and for the system's own keeping of files."""

_SMALL = 1 << 26
_AT_ONCE = 1024

_log = logging.getLogger("luthier")


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return zeros of uint8, in memory or, where they would take more than half of what is free, in a file.

    The file has no name, lies in the folder for temporary files (`TMPDIR`, else `/var/tmp`), and is gone when nothing
    refers to the array or the process ends.

    Raises:
        DataError: they fit neither in memory nor in that folder.

    >>> room_for((2, 3)).tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    size = math.prod(shape)
    if size <= _SMALL or size <= SHARE * (free := free_memory()):
        return np.zeros(shape, dtype=np.uint8)
    what = f"the decoded images take {size / 2**30:.1f} GiB, of which memory has {free / 2**30:.1f} free"
    place = "a folder for temporary files"
    try:
        place = _place()
        with tempfile.TemporaryFile(prefix="luthier-", dir=place) as file:
            if shutil.disk_usage(place).free < size:
                raise OSError("too little room")
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # else a disk that is full later on would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            found = np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{what}, and they cannot be kept in {place} either: {error.strerror or error}",
            hint="read them smaller with image_size=, or name a folder with space for temporary files: TMPDIR=…",
            code="data-no-room",
        ) from error
    _log.warning("%s: they are kept in a temporary file in %s", what, place)
    return found


def _place() -> str:
    """Return the folder for large temporary files: `TMPDIR`, whatever it is, else `/var/tmp`: `/tmp` may be memory."""
    if said := os.environ.get("TMPDIR"):
        return said
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()


def without(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return images without some of them, in the same memory: `pixels` is written over."""
    kept = np.delete(np.arange(len(pixels)), rows)
    if len(rows):
        for start in range(0, len(kept), _AT_ONCE):
            some = kept[start : start + _AT_ONCE]
            pixels[start : start + len(some)] = pixels[some]
    return pixels[: len(kept)]
