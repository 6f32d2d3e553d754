"""The CLI's options, made from the settings' own definitions: one field, one option, one line of `run.toml`."""

import re
import tomllib
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from luthier.core.recipe import Recipe
from luthier.core.settings import NO_ROWS, ONLY_IMAGE_ROWS, CheckSettings, DataSettings, FinishSettings, NetworkSettings

Command = Callable[..., Any]
_SHORT = {"target": "-t"}
_FLAGS = {"start": "--from"}  # `from` is a word of Python's


class Pair(click.ParamType[Any]):
    """`name=value`, with the value read as TOML where it is TOML, else as text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return `(name, value)`."""
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is no name=value", param, ctx)
        return name, _toml_value(text)


class Items(click.ParamType[Any]):
    """Values with commas between."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.name = f"{kind.__name__},…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a tuple."""
        try:
            items = tuple(self.kind(item) for item in str(value).split(",") if item)
        except ValueError:
            items = ()
        if not items:
            self.fail(f"{value!r} is not {self.kind.__name__} values with commas between", param, ctx)
        return items


class Weights(click.ParamType[Any]):
    """`balanced`, or numbers with commas between."""

    name = "balanced|float,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word or a tuple."""
        return value if value == "balanced" else Items(float).convert(value, param, ctx)


class OrNone(click.ParamType[Any]):
    """`none` to switch off what the design would choose; else another type's value."""

    def __init__(self, inner: Any, *, off: Any) -> None:
        self.inner = click.types.convert_type(inner)
        self.name = f"{self.inner.name}|none"
        self.off = off

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value, or what stands for none."""
        return _Off(self.off) if value == "none" else self.inner.convert(value, param, ctx)


class Auto(click.ParamType[Any]):
    """A whole number, or `auto`."""

    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or the word."""
        try:
            return value if value == "auto" else int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor auto", param, ctx)


@dataclass(frozen=True)
class _Off:
    """A setting that was switched off on the command line, and its value then."""

    value: Any


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:  # which wants a digit on both sides of a point
        return float(text) if re.fullmatch(r"[+-]?(\.\d+|\d+\.)", text) else text


_COMMON = (
    "target", "network", "effort", "test", "time", "epochs", "batch_size", "lr", "patience", "seed", "device", "run",
)  # fmt: skip
_TITLES = {"criterion": "Loss", "optimizer": "Optimizer", "schedule": "Learning rate over time", "loop": "Training",
           "regularisation": "Against overfitting", "stopping": "Stopping", "machine": "Machine",
           "checkpoints": "Saving the run"}  # fmt: skip


def _titles() -> dict[str, str]:
    """Return under which title each setting stands in the help, in the order of the titles."""
    found = dict.fromkeys(_COMMON, "Common options")
    kinds = {DataSettings: "Data", NetworkSettings: "Network", Recipe: "", FinishSettings: "After training",
             CheckSettings: "Checks"}  # fmt: skip
    for kind, title in kinds.items():
        for item in fields(kind):
            found.setdefault(item.name, title or _TITLES[item.metadata["group"]])
    return found


class GroupedCommand(click.Command):
    """A command whose help has its options in groups, those that most people need first."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their titles."""
        titles = _titles()
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in dict.fromkeys(titles.values())}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(titles.get(str(param.name), "Output"), []).append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def settings_options(command: Command) -> Command:
    """Add an option for each field of the settings."""
    # click shows the last decorator first
    for cls in (CheckSettings, FinishSettings, Recipe, NetworkSettings, DataSettings):
        command = _options_of(cls, command)
    return command


def rows_options(command: Command) -> Command:
    """Add an option for each field of the data's settings that a store of rows goes with."""
    return _options_of(DataSettings, command, but=("sheet", "query", *(set(NO_ROWS) - set(ONLY_IMAGE_ROWS))))


def _options_of(cls: type, command: Command, but: Sequence[str] = ()) -> Command:
    hints = get_type_hints(cls)
    for item in reversed(fields(cls)):
        if item.name not in ("source", *but):
            command = _option(item.name, hints[item.name], item.metadata["help"])(command)
    return command


def _option(name: str, hint: Any, words: str) -> Callable[[Command], Command]:
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    names = [name, flag, *([_SHORT[name]] if name in _SHORT else [])]
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if _is_union(hint) else [hint]
    kind = kinds[-1] if name != "micro_batch_size" else Auto()
    more: dict[str, Any] = {"help": words, "default": None}
    if kind is bool:
        return click.option(name, f"{flag}/--no-{flag[2:]}", **more)
    if name == "class_weights":
        return click.option(*names, type=Weights(), **more)
    if get_origin(kind) is Literal:
        return click.option(*names, type=click.Choice(get_args(kind)), **more)
    if get_origin(kind) is dict:
        return click.option(*names, type=Pair(), multiple=True, help=words)
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if inner is str and name != "augment":
            return click.option(*names, multiple=True, help=words)
        off = OrNone(Items(inner), off=None if _is_union(hint) else ())
        return click.option(*names, type=off, **more)
    return click.option(*names, type=OrNone(kind, off=None) if len(kinds) < len(get_args(hint)) else kind, **more)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def given_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were given on the command line."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == ():
            continue
        if isinstance(value, _Off):
            given[name] = value.value
            continue
        is_pairs = isinstance(value, tuple) and isinstance(value[0], tuple)
        given[name] = dict(value) if is_pairs else value
    return given
