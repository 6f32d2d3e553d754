"""`luthier check`: a program of the user's, a run, or data."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from luthier.checks.look import check, described
from luthier.core.finding import Finding
from luthier.errors import RunError, SettingError
from luthier.pipeline.plan import design
from luthier.pipeline.train import fit_arguments, open_run
from luthier.training.optimizers import make_optimizer
from luthier.training.settings import choose_criterion

_NAMES = (
    "module",
    "train",
    "valid",
    "criterion",
    "optimizer",
    "step",
    "metrics",
    "evaluate",
    "target_key",
    "output_key",
)


def check_source(
    source: str | Path, *, select: Iterable[str] = (), ignore: Iterable[str] = (), **given: Any
) -> list[Finding]:
    """Look for silent mistakes in a program (`FILE.py:FUNCTION`), a run's folder, a run file, or data.

    Args:
        source: `FILE.py:FUNCTION` where the function takes nothing and returns the arguments of `luthier.check` as a
            dict, or `(module, train, valid, criterion, optimizer)`; the file's code is run. Or what `train` and
            `resume` take.
        select: As in `check`.
        ignore: As in `check`.
        **given: As in `train`, for data.

    Raises:
        LuthierError: what cannot be read or built.
    """
    file, colon, name = str(source).rpartition(":")
    if colon and file.endswith(".py"):
        return check(**_program(Path(file), name), select=select, ignore=ignore)
    path = Path(source)
    if path.suffix == ".py":
        raise SettingError(
            f"{path} names no function", hint=f"name the function that builds the program: {path}:build",
            code="setting-no-program",
        )  # fmt: skip
    if (path / "checkpoints").is_dir() and not (path / "run.toml").exists():
        raise RunError(
            f"{path} is a run of luthier.fit, whose module and data are in your program and not in a file",
            hint="call luthier.check(module, train, valid, …) in that program",
            code="run-not-found",
        )
    plan = open_run(path, **given)[1] if (path / "run.toml").is_file() else design(source, **given)
    arguments = fit_arguments(plan)[0]
    module, recipe = arguments["module"], arguments["recipe"]
    return check(
        module,
        arguments["train"],
        arguments["valid"],
        criterion=choose_criterion(None, None, recipe, arguments["train"], next(module.parameters()).device),
        optimizer=make_optimizer(None, module, recipe),
        select=select or plan.checks.select,
        ignore=ignore or plan.checks.ignore,
    )


def _program(file: Path, name: str) -> dict[str, Any]:
    if not file.is_file():
        raise SettingError(f"there is no file {file}", hint="name one: my_program.py:build", code="setting-no-program")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            raise SettingError(
                f"{file} has no function {name!r}",
                hint="def build(): return {'module': …, 'train': …, 'criterion': …, 'optimizer': …}",
                code="setting-no-program",
            )
        made = function()
    except SettingError:
        raise
    except Exception as error:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == file.resolve()
        ]
        place = f"line {own[-1].lineno}" if own else name
        raise SettingError(
            f"{file}:{name} raises {type(error).__name__} at {place}: {error}", hint="first make it run by itself",
            code="setting-no-program",
        ) from error  # fmt: skip
    finally:
        sys.path.pop(0)
    return _arguments(made, f"{file}:{name}")


def _arguments(made: Any, where: str) -> dict[str, Any]:
    """Return what a function gave as the arguments of `check`: by name, or in their order."""
    why = f"it returns {described(made)}"
    if isinstance(made, Mapping):
        unknown = [repr(key) for key in made if key not in _NAMES]
        if "module" in made and not unknown:
            return dict(made)
        why = f"there is no {', '.join(unknown)}" if unknown else "it has no 'module'"
    elif isinstance(made, nn.Module):
        return {"module": made}
    elif isinstance(made, tuple | list) and made and isinstance(made[0], nn.Module):
        found: dict[str, Any] = {"module": made[0]}
        for item in made[1:]:
            if isinstance(item, Optimizer):
                found["optimizer"] = item
            elif callable(item) and not hasattr(item, "__len__"):
                found["criterion"] = item
            else:
                found["valid" if "train" in found else "train"] = item
        return found
    raise SettingError(
        f"{where} gives no program to check: {why}",
        hint=f"return a dict with some of: {', '.join(_NAMES)}",
        code="setting-no-program",
    )
