"""`run.toml`: data, Blueprint and Recipe as plain text, with the reasons as comments."""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from luthier.core.blueprint import Blueprint
from luthier.core.names import did_you_mean
from luthier.core.plain import from_plain, to_plain
from luthier.core.recipe import Recipe
from luthier.core.schema import Schema
from luthier.core.settings import CheckSettings, DataSettings, FinishSettings
from luthier.data.files import with_paths
from luthier.errors import SettingError, printable
from luthier.networks.foreign import source_file
from luthier.store.files import read_plain

IN_MEMORY = "<in memory>"
"""The source of data that was passed as an object."""

PATHS = ("source", "valid", "test", "weights", "start")
"""The settings that name files and folders."""
_MOST = 200  # characters of a class's name in a comment
_ASKED = "# asked: "
_SECTIONS = ("data", "blueprint", "recipe", "finish", "check")


@dataclass(frozen=True)
class RunFile:
    """What a `run.toml` says."""

    data: DataSettings
    blueprint: Blueprint | None
    recipe: dict[str, Any]
    checks: CheckSettings = CheckSettings()
    finish: FinishSettings = FinishSettings()
    asked: str = ""


def read_run_file(path: Path) -> RunFile:
    """Read a run file; paths in it are relative to it.

    Raises:
        SettingError: no such file, no TOML, or a section, key or value that is not one; the line or key is said.
    """
    try:
        text = read_plain(path, most=1 << 24).decode()
        document = tomllib.loads(text)
    except FileNotFoundError as error:
        raise SettingError(
            f"there is no run file {path}", hint="make one: luthier design SOURCE --target COLUMN > run.toml",
            code="setting-no-run-file",
        ) from error  # fmt: skip
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(
            f"{path} is not valid TOML: {error}", hint="correct that line", code="setting-toml"
        ) from error
    for section in document:
        if section not in _SECTIONS:
            raise SettingError(
                f"{path} has a section or key {section!r}",
                hint=did_you_mean(section, _SECTIONS),
                code="setting-unknown",
            )
    if "data" not in document:
        raise SettingError(f"{path} has no [data]", hint='[data]\nsource = "…"', code="setting-missing")
    data = from_plain(DataSettings, document["data"], where=f"[data] of {path}")
    base = path.resolve().parent
    found = {name: getattr(data, name) for name in PATHS}
    paths: dict[str, Any] = {
        name: with_paths(value, lambda path: os.path.relpath(base / path)) for name, value in found.items() if value
    }
    data = replace(data, **paths)
    blueprint = None
    if "blueprint" in document:
        blueprint = from_plain(Blueprint, document["blueprint"], where=f"[blueprint] of {path}")
        blueprint = _with_file(blueprint, lambda file: os.path.relpath(base / file))
    recipe = document.get("recipe", {})
    if not isinstance(recipe, dict):
        raise SettingError(f"{path}: [recipe] is no section", hint="[recipe]\nepochs = 10", code="setting-wrong-type")
    recipe = {name: None if value == "none" else value for name, value in recipe.items()}
    from_plain(Recipe, recipe, where=f"[recipe] of {path}")
    checks = from_plain(CheckSettings, document.get("check", {}), where=f"[check] of {path}")
    finish = from_plain(FinishSettings, document.get("finish", {}), where=f"[finish] of {path}")
    return RunFile(data, blueprint, recipe, checks, finish, asked_in(text))


def asked_in(text: str) -> str:
    """Return the command or call that a run file was made by; "" where it does not say."""
    return text.partition("\n")[0].removeprefix(_ASKED) if text.startswith(_ASKED) else ""


def read_reasons(path: Path) -> dict[str, str]:
    """Return why the network is as it is: the comments beside [blueprint] in a run's file; none without a file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return {name: why for name, why in reasons_in(text, "blueprint").items() if why}


def reasons_in(text: str, part: str) -> dict[str, str]:
    """Return the reason beside each line of a section of a run file, and of those inside it; "" without one."""
    found = re.search(rf"^\[{part}\]$(.*?)(?=^\[(?!{part}\.)|\Z)", text, re.M | re.S)
    lines = re.findall(r"^(\w+) = .*?(?:  # (.*))?$", found[1], re.M) if found else []
    return dict(lines)


def write_run_file(
    data: DataSettings,
    schema: Schema,
    blueprint: Blueprint,
    recipe: Recipe,
    reasons: Mapping[str, str],
    checks: CheckSettings = CheckSettings(),  # noqa: B008  (frozen)
    finish: FinishSettings = FinishSettings(),  # noqa: B008
    *,
    asked: str = "",
    relative_to: Path | None = None,
) -> str:
    """Return a run file's text.

    Args:
        data: What is read.
        schema: The kinds of columns are written as overrides, with their reasons.
        blueprint: The network.
        recipe: How to train.
        reasons: Why, by field.
        checks: Which checks run.
        finish: What is done when training has ended.
        asked: The command or call that made the run.
        relative_to: The folder the file will lie in; without it paths stay as given.
    """
    if relative_to is not None:
        found = {name: getattr(data, name) for name in PATHS}
        base = relative_to.resolve()
        paths: dict[str, Any] = {
            name: with_paths(v, lambda path: os.path.relpath(Path(path).resolve(), base))
            for name, v in found.items()
            if v and v != IN_MEMORY
        }
        data = replace(data, **paths)
        blueprint = _with_file(blueprint, lambda file: os.path.relpath(file.resolve(), base))
    plain = DataSettings(source="")
    kept = {
        name: value
        for name, value in to_plain(data, drop_none=True).items()
        if name != "kind" and (name == "source" or value != to_plain(getattr(plain, name)))
    }
    lines = [f"{_ASKED}{_one_line(printable(asked))}"] if asked else []
    lines += [f"# {_one_line(line)}" for line in _schema_words(schema)]
    lines += ["", "[data]", *_lines(kept.items(), {})]
    if schema.columns:
        whys = {column.name: column.why for column in schema.columns}
        lines += ["", "[data.kind]", *_lines(((column.name, column.kind) for column in schema.columns), whys)]
    lines += ["", "[blueprint]", *_lines([("family", blueprint.family)], reasons)]
    lines += ["", "[blueprint.arguments]", *_lines(blueprint.arguments.items(), reasons)]
    lines += ["", "[recipe]", *_lines(_recipe_lines(recipe), reasons)]
    if finish != FinishSettings():
        lines += ["", "[finish]", *_lines(to_plain(finish, drop_none=True).items(), {})]
    if checks != CheckSettings():
        lines += ["", "[check]", *_lines(to_plain(checks).items(), {})]
    return _escaped("\n".join(lines)) + "\n"


def _with_file(blueprint: Blueprint, moved: Callable[[Path], str]) -> Blueprint:
    """Return the Blueprint with the file of a custom class named otherwise."""
    file = source_file(blueprint.family)
    if file is None:
        return blueprint
    return replace(blueprint, family=f"{moved(file)}:{blueprint.family.rpartition(':')[2]}")


def _recipe_lines(recipe: Recipe) -> Iterable[tuple[str, Any]]:
    """Yield the fields; one that is None against its default is "none", as TOML has no word for it."""
    plain = to_plain(Recipe())
    for name, value in to_plain(recipe).items():
        if value is not None or plain[name] is not None:
            yield name, "none" if value is None else to_plain(value, drop_none=True)


def _schema_words(schema: Schema) -> Iterable[str]:
    yield f"task: {schema.task}, from {schema.num_rows:,} training rows"
    for target in schema.targets:
        if target.kind == "number":
            scale = f"{'' if target.transform == 'none' else target.transform + ': '}mean {target.mean:.6g}"
            yield f"target {target.name!r}: {scale}, standard deviation {target.std:.6g}"
        else:
            names = [printable(name, most=_MOST) for name in target.classes]
            shown = ", ".join(f"{name} {count:,}" for name, count in zip(names, target.counts, strict=False))
            positive = f"; the positive one is {names[-1]}" if schema.task == "binary" and shown else ""
            yield f"target {target.name!r}: {len(target.classes)} classes: {shown}{positive}"
    if schema.image is not None:
        image = schema.image
        yield f"images of {image.channels} x {image.height} x {image.width}"


def _lines(pairs: Iterable[tuple[str, Any]], reasons: Mapping[str, str]) -> Iterable[str]:
    for name, value in pairs:
        text = tomli_w.dumps({name: {} if value == {} else value}, multiline_strings=False).strip()
        if isinstance(value, dict):
            inner = ", ".join(tomli_w.dumps({key: item}).strip() for key, item in value.items())
            text = f"{tomli_w.dumps({name: 0}).split('=')[0].strip()} = {{{' ' + inner + ' ' if inner else ''}}}"
        elif isinstance(value, list):
            text = f"{tomli_w.dumps({name: 0}).rsplit('=', 1)[0].strip()} = {_inline(value)}"
        why = _one_line(reasons.get(name, ""))
        yield f"{text}  # {why}" if why else text


def _escaped(text: str) -> str:
    """Return TOML with escapes for what a terminal would act on, all of which stands in quotes."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\U{ord(c):08x}" for c in text)


def _one_line(text: str) -> str:
    """Return text as a comment can hold it: a class may be called anything."""
    return "".join(char if char.isprintable() else " " for char in text)


def _inline(values: list[Any]) -> str:
    items = [tomli_w.dumps({"x": item}).strip().removeprefix("x = ") for item in values]
    return f"[{', '.join(items)}]"
