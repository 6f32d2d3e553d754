"""Which part of what a module gives is its answer, where that is more than one tensor."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from luthier.core.batch import describe
from luthier.errors import SettingError

OutputKey = str | int

_NAMES = ("logits", "prediction", "predictions", "output", "outputs", "out", "y_hat", "y_pred", "pred", "preds")


def answer_of(outputs: Any, key: OutputKey | None = None) -> Any:
    """Return the part of a module's outputs that is its answer: what metrics, `predict` and losses of torch.nn take.

    A tensor is its own answer. Of a dict, a tuple, a list, a dataclass or a `ModelOutput` it is the part called `key`.
    Without one it is found: the only tensor there is, the one called `logits` or another usual name, or the first of a
    tuple.

    Raises:
        SettingError: there is no part of that name, or several may be the answer.

    >>> import torch
    >>> answer_of({"logits": torch.zeros(2, 3), "features": torch.ones(2, 8)}).shape
    torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor) and key is None:
        return outputs
    parts = parts_of(outputs)
    if key is None:
        key = find_key(parts)
        if key is None:
            raise SettingError(
                f"the module gives {_shown(outputs, parts)}, and it is unclear which part is the answer",
                hint="name it with output_key=, or use your own functions of all outputs",
                code="setting-output-key",
            )
    elif key not in parts:
        raise SettingError(
            f"output_key is {key!r}, and the module gives {_shown(outputs, parts)}",
            hint="name one of its parts",
            code="setting-output-key",
        )
    return parts[key]


def parts_of(outputs: Any) -> dict[Any, Any]:
    """Return the parts of what a module gives, by name or place; none of a lone tensor."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if is_dataclass(outputs) and not isinstance(outputs, type):
        return {item.name: getattr(outputs, item.name) for item in fields(outputs)}
    if isinstance(outputs, tuple | list):
        names = getattr(outputs, "_fields", ())
        return dict(enumerate(outputs)) | dict(zip(names, outputs, strict=False))
    return {}


def is_torch_loss(criterion: Any) -> bool:
    """Whether a criterion is one of torch's own, which compare one tensor with the targets."""
    if isinstance(criterion, nn.Module):
        return type(criterion).__module__.startswith("torch.nn.")
    return criterion is not None and getattr(nn.functional, getattr(criterion, "__name__", ""), None) is criterion


def find_key(parts: Mapping[Any, Any]) -> Any:
    """Return which of a module's outputs is its answer, where one of several signs says so; else None."""
    tensors = [key for key, value in parts.items() if isinstance(value, Tensor) and value.ndim]
    named = [key for key in _NAMES if key in tensors]
    if named or len(tensors) == 1:
        return (named or tensors)[0]
    return tensors[0] if tensors and 0 in parts else None  # `outputs, hidden = rnn(x)`


def _shown(outputs: Any, parts: Mapping[Any, Any]) -> str:
    if not parts:
        return describe(outputs)
    inner = ", ".join(f"{key!r} ({describe(value)})" for key, value in list(parts.items())[:6])
    return f"a {type(outputs).__name__} of {inner}"


def answer_or_all(outputs: Any, key: OutputKey | None = None) -> Any:
    """Return the answer among the outputs, or all of them where it is not known which that is."""
    try:
        return answer_of(outputs, key)
    except SettingError:
        return outputs
