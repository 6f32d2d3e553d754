"""What is asked of the machine, where it cannot do it."""

import ctypes
from typing import Any

import pytest
import torch

from luthier.core.machine import give_back_memory


def test_memory_is_given_back_where_the_c_library_can_and_nothing_happens_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = [torch.zeros(1000, 100) for _ in range(100)]
    del held
    give_back_memory()

    def refuse(name: Any) -> Any:
        raise TypeError(name)

    asked: list[int] = []
    for library in (refuse, lambda name: object(), lambda name: type("C", (), {"malloc_trim": asked.append})):
        monkeypatch.setattr(ctypes, "CDLL", library)
        give_back_memory()
    assert asked == [0]
