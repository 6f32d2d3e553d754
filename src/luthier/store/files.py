"""Files that are whole or not there: written beside, flushed, read back, renamed."""

import errno
import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from luthier.core.names import did_you_mean
from luthier.errors import LuthierError, RunError, SettingError

_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
TRACKING_FILE = "tracking.json"
TEST_FILE, MEASURED_FILE = "test.safetensors", "measured.json"
TRIALS_FILE = "trials.json"  # of a study
RUN_FILES = (
    "run.toml", "record.jsonl", "split.safetensors", "model.safetensors", TEST_FILE, MEASURED_FILE, TRACKING_FILE,
    "tracking.csv",
)  # fmt: skip
_PART = re.compile(r"\.((run|split|model|test|measured|step-\d+)\.(toml|safetensors|json))\.\d+\.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that at any instant the old file or the new one is there, never a part.

    The bytes go to a file beside, are flushed to the disk, read back and compared; then it takes the name.

    Raises:
        RunError: the folder cannot be written, the disk is full, or what was read back differs.
    """
    digest = hashlib.sha256(content).digest()
    _replace(
        path,
        lambda beside: beside.write_bytes(content),
        lambda beside: hashlib.sha256(beside.read_bytes()).digest() == digest,
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], key: str) -> None:
    """Write a safetensors file that carries `document` (JSON), with a SHA-256 over all of it, under metadata `key`.

    Equal tensors and documents give equal bytes. It is written as `write_whole` writes, without a copy of the file in
    memory; other threads go on meanwhile.

    Raises:
        RunError: as `write_whole`.
    """
    kept = _apart(tensors)
    text = _text({**document, "sha256": _digest(kept, _text(document))})

    def write(beside: Path) -> None:
        beside.touch()
        mode = beside.stat().st_mode  # as the user's umask has it; the library would give it to the owner alone
        try:
            safetensors.torch.save_file(kept, beside, metadata={key: text})
        except safetensors.SafetensorError as error:
            raise as_os_error(error) from error
        beside.chmod(mode)

    def is_what_was_written(beside: Path) -> bool:
        try:
            unpack(beside, key)
        except ValueError:
            return False
        return True

    _replace(path, write, is_what_was_written)


def _replace(path: Path, write: Callable[[Path], Any], is_proven: Callable[[Path], bool]) -> None:
    beside = part_of(path)
    try:
        write(beside)
        _flush(beside, os.O_RDWR)
        if not is_proven(beside):
            raise RunError(
                f"{path} was written, but other bytes were read back",
                hint="check the disk; nothing was replaced",
                code="run-write-differs",
            )
        beside.replace(path)
        if os.name != "nt":  # Windows opens no folder
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Return where a file is written before it takes its name; what killed processes left there of it is removed."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = re.fullmatch(r"(\d{1,9})\.part", part.name[len(path.name) + 2 :])
        if number is not None and not _lives(int(number[1])):
            with suppress(OSError):
                part.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _lives(process: int) -> bool:
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def remove_parts(folder: Path) -> None:
    """Remove what a kill left half-written of a run in its folder; other files stay."""
    for part in folder.glob(".*.part"):
        if is_part(part):
            part.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether a file is one that a run writes and a kill left half-written."""
    return _PART.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def check_output(output: str, suffixes: Sequence[str], *, flag: str, sources: Sequence[str] = ()) -> Path:
    """Return the path of a file that a command may write.

    Args:
        output: The file that the user named.
        suffixes: Those it may have.
        flag: The option that named it, for messages.
        sources: Files and folders that are read.

    Raises:
        SettingError: another suffix, or the file is one that is read or one of a run's own.
    """
    path = Path(output)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise SettingError(
            f"{output} has the suffix {suffix!r}", hint=did_you_mean(suffix, suffixes), code="setting-output-format"
        )
    is_read = path.exists() and any(Path(source).exists() and path.samefile(source) for source in sources)
    is_of_run = path.name in RUN_FILES and path.exists()
    if is_read or is_of_run or path.is_dir():
        what = "is also the input" if is_read else "is a file of the run itself" if is_of_run else "is a folder"
        raise SettingError(f"{output} {what}", hint=f"choose another file with {flag}", code="setting-output-format")
    if path.exists() and not os.access(path, os.W_OK):
        raise SettingError(
            f"{output} must not be written to", hint=f"choose another file with {flag}", code="setting-output-format"
        )
    return path.resolve() if path.is_symlink() else path


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the error for a file that cannot be written, in the user's words."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return RunError(
        f"cannot write {path}: {error.strerror or error}",
        hint="free disk space, or choose another place"
        if is_full
        else "name a file in an existing folder that you may write to",
        code="run-cannot-write",
    )


def as_os_error(error: Exception) -> OSError:
    """Return what the system refused, where a library of another language says it in words: `… (os error 28)`."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a file or folder that may not be read just that: it is not damaged, and not gone.

    Raises:
        RunError: the system refuses it.
    """
    try:
        yield
    except PermissionError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror}",
            hint="check the permissions of it and of the folders above it",
            code="system-error",
        ) from error


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, contiguous, each with memory of its own, as safetensors wants them."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.nbytes() != value.nbytes or (value.numel() and storage.data_ptr() in seen):
            value = value.clone(memory_format=torch.contiguous_format)
        seen.add(value.untyped_storage().data_ptr())
        kept[name] = value
    return kept


def unpack(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and the document of a file that `pack` made.

    Raises:
        ValueError: the file is damaged, or no file of this kind; the message says how.
        OSError: it cannot be read.
        RunError: it may not be read.
    """
    with reading(path):
        if not path.is_file():
            raise ValueError("it is not an ordinary file")
        with path.open("rb") as plain:
            if not plain.read(1):
                raise ValueError("it is empty (0 bytes)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (safetensors.SafetensorError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is cut short or no safetensors file ({error})") from error
    if key not in metadata:
        raise ValueError(f"it is a safetensors file without a {key!r} document")
    try:
        document = json.loads(metadata[key])
        digest = document.pop("sha256", None) if isinstance(document, dict) else None
        is_whole = digest is not None and _digest(tensors, _text(document)) == digest
    except (RecursionError, RuntimeError, TypeError) as error:  # deep nesting, tensors that NumPy does not know
        raise ValueError(f"its document cannot be read ({error})") from error
    if not is_whole:
        raise ValueError("its bytes do not have the SHA-256 that was written with them")
    return tensors, document


@contextmanager
def decoding(refused: Callable[[Exception], Exception]) -> Iterator[None]:
    """Turn whatever a file of the right syntax and wrong contents raises, where it is taken apart, into one error.

    Args:
        refused: Makes the error from what was raised.
    """
    try:
        yield
    except LuthierError as error:
        if not isinstance(error, SettingError):
            raise
        raise refused(error) from error
    except _UNFIT as error:
        raise refused(error) from error


def read_plain(path: Path, *, most: int = 1 << 28) -> bytes:
    """Return the bytes of a file: of a pipe or a device reading might never end.

    Raises:
        OSError: there is none, or it is not an ordinary file or too large.
        RunError: it may not be read.
    """
    with reading(path):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not an ordinary file")
        if found.st_size > most:
            raise OSError(f"{path} has {found.st_size:,} bytes, more than such a file has")
        return path.read_bytes()


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
