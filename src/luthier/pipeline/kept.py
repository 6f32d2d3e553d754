"""What a run's folder keeps of its test rows: the answers to them, and what a report measured on them.

Both name the `model.safetensors` that they are of by its SHA-256, so that those of other weights are not used.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.errors import RunError
from luthier.pipeline.parts import Part
from luthier.store.files import MEASURED_FILE, TEST_FILE, read_plain, unpack, write_tensors, write_whole

_log = logging.getLogger("luthier")
_KEY = "luthier-test"
_FORMAT = 1  # of what a report measures; another one is measured anew


@dataclass(frozen=True)
class TestAnswers:
    """What a trained network gave for the test rows.

    Attributes:
        outputs: Before the temperature, `(N, C)`, float32.
        targets: As the criterion takes them.
        groups: Of each row, the group that it belongs to, from 0; None where rows stand alone.
        content: A hash of what the rows hold, equal for equal rows in equal order whatever a run made of them.
    """

    outputs: Tensor
    targets: Tensor
    groups: Tensor | None
    content: str


def test_answers(outputs: Tensor, targets: Tensor, part: Part) -> TestAnswers:
    """Return the answers for a part of the data with what says which rows these are."""
    groups = None if part.groups is None else torch.from_numpy(part.groups)
    return TestAnswers(outputs, targets, groups, part.content)


def write_test(run: Path, answers: TestAnswers) -> None:
    """Keep the answers for test rows beside the model that gave them.

    Raises:
        RunError: the folder cannot be written.
    """
    tensors = {"outputs": answers.outputs, "targets": answers.targets}
    tensors |= {} if answers.groups is None else {"groups": answers.groups}
    words = {"content": answers.content, "model": _hash_model(run)}
    write_tensors(run / TEST_FILE, {name: tensor.contiguous() for name, tensor in tensors.items()}, words, _KEY)


def read_test(run: Path) -> TestAnswers | None:
    """Return the answers for test rows that a run's folder has, or None where it has none of its present model."""
    if not (run / TEST_FILE).exists():
        return None
    try:
        tensors, words = unpack(run / TEST_FILE, _KEY)
        if words["model"] == _hash_model(run):
            return TestAnswers(tensors["outputs"], tensors["targets"], tensors.get("groups"), str(words["content"]))
    except (ValueError, KeyError, TypeError, OSError) as error:
        _log.warning("%s cannot be read, and its rows are answered again: %s", run / TEST_FILE, error)
    return None


def write_measured(run: Path, found: dict[str, Any], *, rows: bool) -> None:
    """Keep what a report measured on the test rows; where the folder cannot be written, log it and go on.

    A figure that means nothing is NaN in it, as Python's `json` writes and reads it.
    """
    document = {**_measured(run), "format": _FORMAT, "model": _hash_model(run), _with(rows): found}
    try:
        write_whole(run / MEASURED_FILE, json.dumps(document, ensure_ascii=False).encode())
    except RunError as error:
        _log.warning("what this report measured cannot be kept, so the next one measures again: %s", error.message)


def read_measured(run: Path, *, rows: bool) -> dict[str, Any] | None:
    """Return what a report measured on the test rows, with values of cells or without; None where none has."""
    found = _measured(run).get(_with(rows))
    return found if isinstance(found, dict) else None


def _with(rows: bool) -> str:
    return "with_rows" if rows else "without_rows"


def _measured(run: Path) -> dict[str, Any]:
    """Return the document of the present model, empty where there is none."""
    try:
        found = json.loads(read_plain(run / MEASURED_FILE))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        _log.warning("%s cannot be read, and is measured again: %s", run / MEASURED_FILE, error)
        return {}
    is_present = isinstance(found, dict) and (found.get("format"), found.get("model")) == (_FORMAT, _hash_model(run))
    return found if is_present else {}


def _hash_model(run: Path) -> str:
    with (run / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
