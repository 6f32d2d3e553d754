"""Bodies that are files: a table, an image, or a form with some."""

from __future__ import annotations

import io

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_form

from luthier.core.schema import Schema
from luthier.errors import RequestError

_SUFFIXES = {
    "text/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "application/x-parquet": ".parquet",
    "application/parquet": ".parquet",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    "image/tiff": ".tif",
}


def read_files(content_type: str, body: bytes, schema: Schema) -> dict[str, bytes]:
    """Return the files in a body by names of our own, in order: `00000.png`.

    Args:
        content_type: The header.
        body: The bytes.
        schema: Of the model: tables and images are told apart by it.

    Raises:
        RequestError: the kind is not known, does not suit the model, or a form cannot be taken apart.
    """
    kind = content_type.partition(";")[0].strip().lower()
    files = _form(content_type, body) if kind == "multipart/form-data" else [(_suffix(kind, ""), body)]
    wants_images = schema.image is not None and not schema.columns
    suffixes = {suffix for suffix, _ in files}
    tables = {".csv", ".parquet"}
    if not files or (not wants_images and len(files) > 1):
        raise _unfit(f"the form has {len(files)} files", "send one table, or for a model of images one or more")
    if wants_images and suffixes & tables:
        raise _unfit("the body is a table, and the model takes images", "send an image, as image/png")
    if schema.image is not None and schema.columns:
        raise _unfit("the rows of the model hold images", "send rows as JSON, with each image in base64")
    if not wants_images and suffixes - tables:
        raise _unfit("the body is an image, and the model takes a table", "send rows as JSON, CSV or Parquet")
    return {f"{number:05d}{suffix}": content for number, (suffix, content) in enumerate(files)}


def _form(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []

    def keep(file: File) -> None:
        file.file_object.seek(0)
        name = (file.file_name or b"").decode("utf-8", "replace")
        found.append((_suffix((file.content_type or "").lower(), name), file.file_object.read()))

    try:
        parse_form({"Content-Type": content_type.encode("latin-1")}, io.BytesIO(body), None, keep)
    except (FormParserError, ValueError, KeyError) as error:
        raise RequestError(
            "the form cannot be read", status=400, hint="send multipart/form-data", code="request-unreadable"
        ) from error
    return found


def _suffix(kind: str, name: str) -> str:
    """Return the suffix of a file by its media type, or by its name where the type says nothing."""
    suffix = _SUFFIXES.get(kind.partition(";")[0].strip())
    suffix = suffix or next((own for own in _SUFFIXES.values() if name.lower().endswith(own)), None)
    suffix = suffix or (".jpg" if name.lower().endswith(".jpeg") else None)
    if suffix is None:
        raise RequestError(
            f"the body is {kind or 'of no known type'}",
            status=415,
            hint=f"send application/json, multipart/form-data, or one of {', '.join(_SUFFIXES)}",
            code="request-unreadable",
        )
    return suffix


def _unfit(message: str, hint: str) -> RequestError:
    return RequestError(message, status=415, hint=hint, code="request-unreadable")
