"""The bundle: one safetensors file with the weights and, as JSON, all that a use of the model needs. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from luthier.core.answering import Answering
from luthier.core.blueprint import Blueprint
from luthier.core.names import near_file
from luthier.core.plain import from_plain, to_plain
from luthier.core.schema import Schema, Task
from luthier.core.sound import check_answering, check_schema
from luthier.core.tree import flatten, unflatten
from luthier.core.version import VERSION
from luthier.errors import BundleError, SettingError
from luthier.store.files import decoding, unpack, write_tensors

_KEY = "luthier"
_BUFFERS = "luthier.buffers."
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What one file holds.

    Attributes:
        weights: By name, as in the module's `state_dict`, with buffers that torch does not save beside them.
        module_name: The class of the module, to say which one is asked for.
        task: What kind of answer it gives, where that is known.
        blueprint: The network, where Luthier designed it; None for a custom module.
        schema: Inputs and targets, where they are known.
        metrics: Figures of the run that made it, by split.
        facts: Further plain values: versions, the split's fingerprint.
        output_key: Which part of what a custom module gives is its answer, where that was said.
        answering: What was measured of its answers on validation rows.
    """

    weights: dict[str, Any]
    module_name: str
    task: Task | None = None
    blueprint: Blueprint | None = None
    schema: Schema | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    output_key: str | int | None = None
    answering: Answering = Answering()


def without_wrapper(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile(module)` wraps, or the module itself: names are those of the user's own."""
    wrapped = getattr(module, "_orig_mod", None) if type(module).__name__ == "OptimizedModule" else None
    return wrapped if isinstance(wrapped, nn.Module) else module


def module_weights(module: nn.Module, *, copy: bool = True) -> dict[str, Any]:
    """Return a copy of the module's `state_dict`, and under `buffers` of the buffers that a state dict leaves out.

    Tied weights stay one tensor. With `copy=False` they are the module's own tensors, for a use at once.
    """
    module = without_wrapper(module)
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor) or not copy:
            return value
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if key not in copies:
            copies[key] = value.detach().clone()
        return copies[key] if value.numel() else value.detach().clone()

    state = module.state_dict()
    named = module.named_buffers(remove_duplicate=False)
    return {
        "state": {name: copied(value) for name, value in state.items()},
        "buffers": {name: copied(buffer) for name, buffer in named if name not in state},
    }


def load_weights(module: nn.Module, weights: Mapping[str, Any], *, where: str) -> None:
    """Put weights that `module_weights` gave into `module`, in place; nothing is changed where they do not fit.

    Raises:
        BundleError: names or shapes differ; the first few are said.
    """
    module = without_wrapper(module)
    given = weights["state"]
    check_weights(module, given, where=where)
    with decoding(lambda error: _unfit(where, module, str(error))):
        module.load_state_dict(given)
    buffers = dict(module.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, value in weights["buffers"].items():
            if name in buffers and buffers[name].shape == value.shape:
                buffers[name].copy_(value)


def check_weights(module: nn.Module, given: Mapping[str, Any], *, where: str) -> None:
    """Hold weights against a module, which may lie on the meta device.

    Raises:
        BundleError: names or shapes differ; the first few are said.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [f"{name} is not in the module" for name in given if name not in own]
    for name, value in given.items():
        if not isinstance(own.get(name), Tensor):
            continue
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            wrong.append(f"{name} is not a dense tensor")
        elif value.shape != own[name].shape:
            wrong.append(f"{name} is {tuple(value.shape)}, and {tuple(own[name].shape)} in the module")
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise _unfit(where, module, f"{'; '.join(wrong[:5])}{more}")


def _unfit(where: str, module: nn.Module, why: str) -> BundleError:
    return BundleError(
        f"the weights of {where} do not fit {type(module).__name__}: {why}",
        hint="build the module with the arguments it was trained with",
        code="bundle-does-not-fit",
    )


def save_bundle(bundle: Bundle, path: Path) -> None:
    """Write the bundle as one file.

    Raises:
        RunError: it cannot be written, or the module's extra state is no data.
    """
    state, tensors = flatten(bundle.weights["state"], where="the module's state")
    buffers, others = flatten(bundle.weights["buffers"], where="the module's buffers", prefix=_BUFFERS)
    written = {
        "format": FORMAT,
        "luthier": VERSION,
        "torch": torch.__version__,
        "module": bundle.module_name,
        "task": bundle.task,
        "blueprint": to_plain(bundle.blueprint),
        "schema": to_plain(bundle.schema),
        "metrics": bundle.metrics,
        "facts": bundle.facts,
        **({} if bundle.output_key is None else {"output_key": bundle.output_key}),
        **({} if bundle.answering == Answering() else {"answering": to_plain(bundle.answering)}),
        "state": state,
        "buffers": buffers,
    }
    write_tensors(path, {**tensors, **others}, written, _KEY)


def load_bundle(path: Path) -> Bundle:
    """Read a bundle. No code is run, and nothing is imported by a name in the file.

    Raises:
        BundleError: no such file, a pickle, a damaged file, a file of another kind or of a newer format.
    """
    if path.is_dir() and (path / "model.safetensors").exists():
        path = path / "model.safetensors"
    if not path.is_file():
        if (path / "run.toml").is_file() or (path / "checkpoints").is_dir():
            raise BundleError(
                f"the run {path} is not finished, and has no model yet",
                hint=f"finish it: luthier resume {path}",
                code="bundle-not-found",
            )
        what = f"the folder {path} holds no model.safetensors" if path.is_dir() else f"the model {path} does not exist"
        near = "" if path.is_dir() else f"; {near_file(path)}"
        raise BundleError(what, hint=f"give a run's folder, or the model's file{near}", code="bundle-not-found")
    try:
        tensors, document = unpack(path, _KEY)
    except (ValueError, OSError) as error:
        raise _unreadable(path, error) from error
    found = document.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise BundleError(
            f"{path} has format {found}, and this Luthier reads up to {FORMAT}",
            hint="update luthier",
            code="bundle-newer-format",
        )
    with decoding(lambda error: _not_ours(path, error)):
        read = from_plain(_Document, document, where=f"{path}")
        state, buffers = (unflatten(part, tensors) for part in (read.state, read.buffers))
        named = (isinstance(part, dict) and all(isinstance(name, str) for name in part) for part in (state, buffers))
        if not all(named) or not all(isinstance(value, Tensor) for value in buffers.values()):
            raise ValueError("its weights are not named tensors")
        if read.schema is not None:
            check_schema(read.schema)
            if read.task != read.schema.task:
                raise ValueError(f"its task is {read.task} and {read.schema.task}")
        check_answering(read.answering, read.schema)
        return Bundle(
            weights={"state": state, "buffers": buffers},
            module_name=read.module,
            task=read.task,
            blueprint=read.blueprint,
            schema=read.schema,
            metrics=read.metrics,
            facts=read.facts,
            output_key=read.output_key,
            answering=read.answering,
        )


def read_facts(path: Path) -> dict[str, Any]:
    """Return the document of a bundle without its weights, which are not read; empty where it is none.

    What it says is not held against its hash: for a look at many files.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


@dataclass(frozen=True, kw_only=True)
class _Document:
    """What a bundle's JSON holds."""

    format: int
    luthier: str
    torch: str
    module: str
    task: Task | None
    blueprint: Blueprint | None
    schema: Schema | None
    metrics: dict[str, dict[str, float]]
    facts: dict[str, Any]
    state: Any
    buffers: Any
    output_key: str | int | None = None
    answering: Answering = Answering()


def _not_ours(path: Path, error: Exception) -> BundleError:
    why = error.message if isinstance(error, SettingError) else f"{type(error).__name__}: {error}"
    return BundleError(
        f"{path} is not a bundle that Luthier wrote: {why}",
        hint="copy it again, or save the model again",
        code="bundle-damaged",
    )


def _unreadable(path: Path, error: Exception) -> BundleError:
    with path.open("rb") as file:
        start = file.read(9)
    is_safetensors = b"\0\0\0\0{".startswith(start[4:])  # a header's length may begin like a pickle
    if start[:2] == b"PK" or (start[:1] == b"\x80" and not is_safetensors):
        return BundleError(
            f"{path} is a pickle (a .pt or .pth file of torch); Luthier reads none, because loading it can run code",
            hint="save the model with model.save('model.safetensors')",
            code="bundle-is-pickle",
        )
    if "document" in str(error):
        return BundleError(
            f"{path} cannot be used: {error}",
            hint="it has weights only; load them with torch and safetensors",
            code="bundle-foreign",
        )
    return BundleError(
        f"{path} cannot be read: {error}",
        hint="copy it again, or take the checkpoint of its run"
        if path.suffix == ".safetensors"
        else "give a run's folder or its model.safetensors, and the data after it",
        code="bundle-damaged",
    )
