"""Frozen dataclasses to plain values (JSON, TOML) and back, with every key and type checked once."""

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from luthier.core.names import did_you_mean
from luthier.errors import SettingError

T = TypeVar("T")


def to_plain(value: Any, *, drop_none: bool = False) -> Any:
    """Return `value` as nested dicts, lists, strings, numbers, booleans and None.

    Args:
        value: A dataclass instance, or any nesting of plain values.
        drop_none: Leave out keys whose value is None (TOML has no null).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_plain(item, drop_none=drop_none) for name, item in pairs if not (drop_none and item is None)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, drop_none=drop_none) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, drop_none=drop_none) for item in value]
    return value


def finite_or_none(value: Any) -> Any:
    """Return nested plain values as strict JSON has them: a number that is not finite is None."""
    if isinstance(value, dict):
        return {str(key): finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dotted(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, whose keys are paths.

    >>> dotted({"recipe": {"lr": 0.1}, "seed": 0})
    {'recipe.lr': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= dotted(item, f"{name}.") if isinstance(item, Mapping) else {name: item}
    return flat


def from_plain(cls: type[T], document: Mapping[str, Any], *, where: str) -> T:
    """Build the dataclass `cls` from plain values.

    Args:
        cls: A frozen dataclass.
        document: Its fields; a field with a default may be absent.
        where: What the user calls this place, for messages: `[recipe] of run.toml`.

    Raises:
        SettingError: an unknown key, a missing key or a value of the wrong type.
    """
    if not isinstance(document, Mapping):
        raise SettingError(f"{where} is not a table of settings", code="setting-wrong-type")
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # any dataclass
    for key in document:
        if key not in fields:
            raise SettingError(
                f"{where} has no setting {key!r}", hint=did_you_mean(key, fields), code="setting-unknown"
            )
    values = {name: _convert(hints[name], document[name], f"{name} in {where}") for name in fields if name in document}
    for name, field in fields.items():
        if (
            name not in document
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise SettingError(f"{where} lacks {name!r}", code="setting-missing")
    return cls(**values)


def check_types(instance: Any, *, where: str) -> None:
    """Convert and check every field of a frozen dataclass in place: ints to floats, lists to tuples, and so on."""
    hints = _hints(type(instance))  # type: ignore[arg-type]  # likewise
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        converted = _convert(hints[field.name], value, f"{field.name} in {where}")
        if converted is not value:
            object.__setattr__(instance, field.name, converted)


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Return the types of a class's fields: half a millisecond for a Recipe, each time they are asked for."""
    return get_type_hints(cls)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "ndim", 1):
        value = value.item()  # a number of NumPy's is a number
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SettingError(
            f"{where} does not fit into 64 bits", hint="give a whole number below 2**63", code="setting-out-of-range"
        )
    if type(value) is hint:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise SettingError(
                f"{where} is {value!r}",
                hint=did_you_mean(str(value), (str(item) for item in arguments)),
                code="setting-unknown-choice",
            )
        return value
    if origin is tuple and arguments == (str, Ellipsis) and isinstance(value, str):
        value = (value,)  # one of several
    if origin is tuple and arguments == (float, ...) and type(value) is tuple and all(type(x) is float for x in value):
        return value  # as the statistics of a column are, of which a wide table has many
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, where) for item in value)
        if len(arguments) == len(value):
            return tuple(_convert(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {str(key): _convert(arguments[1], item, where) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(hint, type) and isinstance(value, hint):
            return value
        return from_plain(hint, value, where=where)  # type: ignore[arg-type]  # a dataclass type, as just asked
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None):
        if value is None:
            return None
    elif origin is None and isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    wanted = getattr(hint, "__name__", str(hint)) if origin is None else str(hint).replace("typing.", "")
    if origin is tuple and Ellipsis not in arguments:
        wanted = f"{len(arguments)} values, of types {', '.join(kind.__name__ for kind in arguments)}"
    raise SettingError(
        f"{where} is {value!r}, of type {type(value).__name__}; it takes {wanted}", code="setting-wrong-type"
    )


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not type(None)]
    for kind in kinds[:-1]:
        try:
            return _convert(kind, value, where)
        except SettingError:
            continue
    return _convert(kinds[-1], value, where)
