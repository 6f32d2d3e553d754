"""What `tune` may change: a range or a list of values for each setting, which follows from the design."""

import inspect
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.core.blueprint import Blueprint
from luthier.core.names import did_you_mean
from luthier.core.plain import from_plain, to_plain
from luthier.core.recipe import Recipe
from luthier.errors import SettingError
from luthier.networks.build import FAMILIES

_FACTORS = {"lr": 5.0, "weight_decay": 30.0}  # a trial's is between the design's divided by this and times it
_HALVED = ("batch_size", "token_size", "num_pieces", "members", "width", "hidden_size")  # half, as it is, or twice
_LAYERS = ("tabm", "mlp")  # whose layers may be one more or one less


@dataclass(frozen=True)
class Setting:
    """What values a setting may take: a list of them, or a range.

    Attributes:
        choices: The values.
        low: The least of a range.
        high: The greatest.
        log: Whether the range is searched by factors and not by differences.
        whole: Whether it is of whole numbers.
    """

    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False


Space = dict[str, dict[str, Setting]]  # by family: the settings of its recipe and its arguments


def design_space(family: str, blueprint: Blueprint, recipe: Recipe, *, fixed: Mapping[str, Any]) -> dict[str, Setting]:
    """Return what a design may be changed in: rate, regularisation, sizes, and the length where a schedule needs it.

    Args:
        family: The network's.
        blueprint: As designed.
        recipe: As designed.
        fixed: What was asked for, and stays.
    """
    found: dict[str, Setting] = {}
    for name, factor in _FACTORS.items():
        if value := getattr(recipe, name):
            found[name] = Setting(low=_round(value / factor), high=_round(value * factor), log=True)
    known = {**blueprint.arguments, "batch_size": recipe.batch_size}
    for name in _HALVED:
        if isinstance(size := known.get(name), int) and size > 1:
            found[name] = Setting(choices=(size // 2, size, 2 * size))
    if "dropout" in blueprint.arguments:
        found["dropout"] = Setting(low=0.0, high=0.5)
    if widths := blueprint.arguments.get("widths"):
        layers = {len(widths), *((len(widths) + 1, max(1, len(widths) - 1)) if family in _LAYERS else ())}
        scaled = [[max(8, round(width * by)) for width in widths] for by in (0.5, 1, 2)]
        several = [_layered(each, count) for each in scaled for count in sorted(layers)]
        found["widths"] = Setting(choices=tuple(map(tuple, several)))
    if isinstance(depth := blueprint.arguments.get("depth"), int) and family == "inception":
        found["depth"] = Setting(choices=(max(3, depth - 3), depth, depth + 3))
    if recipe.scheduler is not None and recipe.max_steps is None:
        found["epochs"] = Setting(choices=tuple(sorted({max(2, round(recipe.epochs * by)) for by in (0.5, 1, 2)})))
    return {name: setting for name, setting in found.items() if name not in fixed}


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _layered(widths: list[int], count: int) -> list[int]:
    return widths[:count] + widths[-1:] * max(0, count - len(widths))


def write_space(space: Space) -> str:
    """Return a search space as TOML, which `read_space` takes."""
    lines = [
        "# A section for each network that is tried. A setting has choices = […], or low and high:",
        "# log = true searches by factors, whole = true takes whole numbers. Delete a setting to keep its value.",
        "",
    ]
    for family, settings in space.items():
        head = family if family.isidentifier() else json.dumps(family)
        lines += [f"[{head}]", *(f"{name} = {{ {_inline(setting)} }}" for name, setting in settings.items()), ""]
    return "\n".join(lines)


def _inline(setting: Setting) -> str:
    if setting.choices is not None:
        return f"choices = {json.dumps(setting.choices, ensure_ascii=False)}"
    said = {name: value for name, value in to_plain(setting, drop_none=True).items() if value is not False}
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in said.items())


def read_space(path: Path, designed: Mapping[str, tuple[Blueprint, Recipe]]) -> Space:
    """Return the search space that a file of TOML describes.

    Args:
        path: The file.
        designed: Of each network that takes the data, its design.

    Raises:
        SettingError: no such file, no TOML, or a network, a setting or a range that there is not.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(
            f"the search space {path} cannot be read: {error}",
            hint="to start from one, use search.toml in the folder of a study",
            code="setting-toml",
        ) from error
    space: Space = {}
    for family, settings in tree.items():
        if family not in designed or not isinstance(settings, dict):
            raise SettingError(
                f"{path}: no network {family!r} takes this data", hint=did_you_mean(family, designed),
                code="setting-unknown-choice",
            )  # fmt: skip
        blueprint, recipe = designed[family]
        known = [*to_plain(recipe), *_arguments(family, blueprint)]
        for name, value in settings.items():
            where = f"[{family}] {name} of {path}"
            if name not in known:
                raise SettingError(
                    f"{where}: there is no such setting", hint=did_you_mean(name, known), code="setting-unknown"
                )
            space.setdefault(family, {})[name] = _checked(from_plain(Setting, value, where=where), where)
        space.setdefault(family, {})
    if not space:
        raise SettingError(f"{path} names no network", hint="give a section such as [tabm]", code="setting-missing")
    return space


def _arguments(family: str, blueprint: Blueprint) -> list[str]:
    found = inspect.signature(FAMILIES[family].module).parameters if family in FAMILIES else blueprint.arguments
    return list(found)


def _checked(setting: Setting, where: str) -> Setting:
    is_range = setting.low is not None and setting.high is not None
    if setting.choices is not None and not is_range and setting.low is setting.high is None:
        if not setting.choices:
            raise SettingError(
                f"{where}: choices is empty", hint="give at least one value", code="setting-out-of-range"
            )
        return setting
    if not is_range or setting.choices is not None:
        raise SettingError(
            f"{where} needs either choices, or low and high", hint="give one of them", code="setting-missing"
        )
    assert setting.low is not None
    assert setting.high is not None
    if not (math.isfinite(setting.low) and math.isfinite(setting.high) and setting.low <= setting.high):
        raise SettingError(
            f"{where} goes from {setting.low:g} to {setting.high:g}", hint="low must be at most high",
            code="setting-out-of-range",
        )  # fmt: skip
    if setting.log and setting.low <= 0:
        raise SettingError(
            f"{where} starts at {setting.low:g}, and log = true needs more than 0", hint="raise low, or leave log out",
            code="setting-out-of-range",
        )  # fmt: skip
    return setting


def with_values(blueprint: Blueprint, recipe: Recipe, values: Mapping[str, Any]) -> tuple[Blueprint, Recipe]:
    """Return a design with other values of some settings."""
    fields = to_plain(recipe)
    arguments = {name: value for name, value in values.items() if name not in fields}
    changed = {name: value for name, value in values.items() if name in fields}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return replace(blueprint, arguments={**blueprint.arguments, **plain}), recipe.updated(**changed)
