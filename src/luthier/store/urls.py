"""Bundles at addresses, such as s3://bucket/model.safetensors, by fsspec."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from luthier.errors import BundleError, MissingPackageError, RunError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(path: str | Path) -> bool:
    """Whether a path is an address with a protocol.

    >>> is_url("s3://bucket/model.safetensors"), is_url("runs/churn")
    (True, False)
    """
    return _URL.match(str(path)) is not None


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a file with the bundle at an address; one of `file://` is that file itself.

    Args:
        url: Of a bundle, or of a run's folder.

    Raises:
        BundleError: it cannot be fetched.
        MissingPackageError: the protocol needs a package that is not installed.
    """
    if (local := _local(url)) is not None:
        yield local
        return
    url = url if url.endswith(".safetensors") else f"{url.rstrip('/')}/model.safetensors"
    system, path = _system(url)
    with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
        file = Path(folder) / "model.safetensors"
        try:
            system.get_file(path, str(file))
        except Exception as error:  # each protocol has errors of its own
            raise BundleError(
                f"the model {url} cannot be fetched: {type(error).__name__}: {error}",
                hint="check the address and the right to read it",
                code="bundle-not-found",
            ) from error
        yield file


@contextmanager
def sent(url: str) -> Iterator[Path]:
    """Yield a file to write a bundle to, and send it to an address afterwards; one of `file://` is that file itself.

    Raises:
        RunError: it cannot be sent.
        MissingPackageError: the protocol needs a package that is not installed.
    """
    if (local := _local(url)) is not None:
        yield local
        return
    system, path = _system(url)
    with tempfile.TemporaryDirectory(prefix="luthier-") as folder:
        file = Path(folder) / "model.safetensors"
        yield file
        try:
            system.put_file(str(file), path)
        except Exception as error:
            raise RunError(
                f"cannot write {url}: {type(error).__name__}: {error}",
                hint="check the address and the right to write there",
                code="run-cannot-write",
            ) from error


def _local(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec  # which torch brings

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except ImportError as error:
        protocol = url.partition(":")[0]
        package = {"s3": "luthier[s3]", "s3a": "luthier[s3]", "hf": "huggingface-hub"}.get(
            protocol, f"fsspec[{protocol}]"
        )
        raise MissingPackageError(
            f"{protocol}:// needs a package that is not installed: {error}",
            hint=f"pip install {package!r}",
            code="missing-package",
        ) from error
    except ValueError as error:
        raise BundleError(
            f"{url} cannot be read: {error}",
            hint="give a file, or an address of a protocol that fsspec knows, such as s3://",
            code="bundle-not-found",
        ) from error
    return found
