"""A module as a program of torch: exported, saved, and compiled ahead of time."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.serving.exporting.unpacked import Unpacked


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch says of its own deprecations, and of packages that are not there, to itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch._inductor", "torch.export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def program_of(module: nn.Module, examples: tuple[Tensor, ...], shapes: Any) -> torch.export.ExportedProgram:
    """Return a module as torch exports it."""
    if any(isinstance(part, Unpacked) for part in module.modules()):
        torch._dynamo.reset()  # what a scan was compiled for before would bound the lengths of this one
    with quiet(), torch.no_grad():
        return torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)


def saved(program: torch.export.ExportedProgram, facts: Mapping[str, Any], place: Path) -> tuple[bytes, Any]:
    """Return a program's file, and how it is asked once it is read back. `luthier.json` in it holds the facts."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={"luthier.json": json.dumps(facts, ensure_ascii=False)})
        loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), _asking(loaded, facts)


def compiled(program: torch.export.ExportedProgram, facts: Mapping[str, Any], place: Path) -> tuple[bytes, Any]:
    """Return a program's AOTInductor package for this machine, and how it is asked."""
    path = str(place / "model.pt2")
    options = {"aot_inductor.metadata": {"luthier": json.dumps(facts)}}
    with quiet(), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=options)
        loaded = torch._inductor.aoti_load_package(path)
    return Path(path).read_bytes(), _asking(loaded, facts)


def _asking(loaded: Any, facts: Mapping[str, Any]) -> Any:
    from luthier.plain.reader.reader import codes_of

    def ask(given: list[Any]) -> list[np.ndarray[Any, Any]]:
        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in codes_of(given, facts)]
        with torch.no_grad():
            found = loaded(*tensors)
        answers = [part.numpy() for part in (found if isinstance(found, list | tuple) else [found])]
        if facts["task"] in ("binary", "multiclass") and "classes" in facts:  # of a custom module they have no names
            answers[0] = np.array(facts["classes"][0], dtype=object)[answers[0]]
        return answers

    return ask
