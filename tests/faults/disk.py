"""A disk that is soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Give a folder that holds so much, as `400k`; skip the test where none can be made."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here (it needs root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(file: Path) -> None:
    """Fill the disk with a file."""
    with file.open("wb", buffering=0) as opened, pytest.raises(OSError, match="No space left"):
        _write_forever(opened)


def _write_forever(file: Any) -> None:
    while True:
        file.write(b"\0" * 512)
