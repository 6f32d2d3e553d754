"""Networks that Luthier did not design: a class in a file of the user's, or a model of the package timm."""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from luthier.core.names import did_you_mean
from luthier.errors import MissingPackageError, NetworkError

_TIMM = "timm:"
_LEAST_TIMM = (1, 0)
# What shapes a network. Others reach files and the network: checkpoint_path, pretrained_cfg, cache_dir.
_TIMM_ARGUMENTS = (
    "num_classes", "in_chans", "global_pool", "img_size", "patch_size", "embed_dim", "depth", "depths", "num_heads",
    "mlp_ratio", "window_size", "output_stride", "drop_rate", "drop_path_rate", "drop_block_rate", "attn_drop_rate",
    "proj_drop_rate", "pos_drop_rate", "patch_drop_rate", "qkv_bias", "init_values", "class_token", "act_layer",
    "norm_layer", "dynamic_img_size", "stem_type", "base_width", "cardinality", "layers", "channels",
)  # fmt: skip


def is_foreign(family: str) -> bool:
    """Whether a family is `timm:NAME` or `FILE.py:NAME`."""
    return ":" in family


def is_own_file(family: str) -> bool:
    """Whether a family is a class in a file, `FILE.py:NAME`."""
    return is_foreign(family) and not family.startswith(_TIMM)


def maker(family: str) -> Callable[..., nn.Module]:
    """Return what makes a network: the class that the user named, or timm's function for a model. Runs their code.

    Raises:
        NetworkError: no such file, class or model, or the file cannot be run.
        MissingPackageError: timm is not installed.
    """
    return _timm_maker(family.removeprefix(_TIMM)) if family.startswith(_TIMM) else _own_class(family)


def asked_arguments(family: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments to make a network with: those of `known` that it asks for, and those given.

    Raises:
        NetworkError: it asks for one that is neither, or has none of a name that is given.
    """
    if family.startswith(_TIMM):
        maker(family)  # an unknown model is said now
        _check_timm_arguments(given)
        sizes = {"num_classes": known["num_outputs"], "in_chans": known.get("channels", 3)}
        return {**sizes, **given}
    parameters = inspect.signature(maker(family)).parameters
    takes_all = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())
    for name in given:
        if name not in parameters and not takes_all:
            raise NetworkError(
                f"{family} has no {name!r}", hint=did_you_mean(name, parameters), code="network-unknown-argument"
            )
    arguments = {name: known[name] for name in parameters if name in known} | dict(given)
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [
        name
        for name, item in parameters.items()
        if item.default is item.empty and item.kind in plain and name not in arguments
    ]
    if missing:
        raise NetworkError(
            f"{family} needs {', '.join(missing)}, and the data provides {', '.join(known)}",
            hint=f"give it with network_args={{{missing[0]!r}: …}}, or rename the argument to one of these sizes",
            code="network-unknown-argument",
        )
    return arguments


def normalisation(family: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the means and standard deviations that a model of timm was trained with, of pixels in [0, 1]."""
    if not family.startswith(_TIMM):
        return None
    settings = getattr(_timm().get_pretrained_cfg(family.removeprefix(_TIMM)), "__dict__", {})
    return (tuple(settings["mean"]), tuple(settings["std"])) if "mean" in settings else None


def source_file(family: str) -> Path | None:
    """Return the file of a custom class; None for a model of timm."""
    return Path(family.rpartition(":")[0]) if is_own_file(family) else None


def _own_class(family: str) -> Callable[..., nn.Module]:
    file, _, name = family.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file() or not name:
        beside = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise NetworkError(
            f"{family} does not name a class in a Python file" + ("" if path.is_file() else f": there is no {file}"),
            hint=f"write network='my_nets.py:Net'; {did_you_mean(path.name, beside)}",
            code="network-no-file",
        )
    module = _run_file(path.resolve(), path.stat().st_mtime_ns)
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)]
        raise NetworkError(f"{path} has no {name}", hint=did_you_mean(name, names), code="network-no-file")
    made: Callable[..., nn.Module] = found
    return made


@lru_cache(maxsize=8)
def _run_file(path: Path, changed_ns: int) -> ModuleType:
    """Run a file of Python once, and again where it has changed; return what it defines."""
    called = f"_luthier_{path.stem}_{changed_ns:x}"
    spec = importlib.util.spec_from_file_location(called, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[called] = module
    sys.path.insert(0, str(path.parent.resolve()))  # a file may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise NetworkError(
            f"{path} cannot be run: {type(error).__name__}: {error}", hint=f"try: python {path}", code="network-no-file"
        ) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _timm() -> Any:
    try:
        timm: Any = importlib.import_module("timm")  # no stub of it is there
    except ImportError as error:
        raise MissingPackageError(
            f"a model of timm needs the package timm, which cannot be imported: {error}",
            hint="pip install 'luthier[timm]', with the torch and torchvision that go together",
            code="missing-package",
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", timm.__version__)[:2]) < _LEAST_TIMM:
        raise MissingPackageError(
            f"timm {timm.__version__} is installed, and Luthier needs timm 1.0 or newer",
            hint="pip install 'luthier[timm]', with the torch and torchvision that go together",
            code="missing-package",
        )
    return timm


def _check_timm_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that do more than shape a network.

    Raises:
        NetworkError: there is one.
    """
    for name in arguments:
        if name not in _TIMM_ARGUMENTS:
            raise NetworkError(
                f"a model of timm takes no {name!r} here: only arguments that shape the network are passed on",
                hint=did_you_mean(name, _TIMM_ARGUMENTS),
                code="network-unknown-argument",
            )


def _timm_maker(name: str) -> Callable[..., nn.Module]:
    timm = _timm()
    if name not in timm.list_models():  # so that no name reaches a hub
        raise NetworkError(
            f"timm has no model {name!r}", hint=did_you_mean(name, timm.list_models()), code="network-unknown-family"
        )

    def make(**arguments: Any) -> nn.Module:
        _check_timm_arguments(arguments)
        made: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        return made

    return make
