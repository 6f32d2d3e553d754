"""What is asked of the machine, where it cannot do it."""

import ctypes
from typing import Any

import pytest
import torch
from torch import nn

from luthier.core import machine
from luthier.core.machine import check_torch, give_back_memory, short_of_memory
from luthier.errors import MissingPackageError


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0+cu124", "1.13.1"])
def test_a_torch_that_is_too_old_is_refused_with_what_to_type(version: str) -> None:
    with pytest.raises(MissingPackageError, match=r"pip install --upgrade 'torch>="):
        check_torch(version)


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


def test_a_network_is_too_large_where_some_times_its_size_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    large = nn.Linear(4096, 4097)  # 64 MiB and a little
    assert short_of_memory(large, 9) == ""
    monkeypatch.setattr(machine, "free_memory", lambda device: 500 * 2.0**20)
    assert short_of_memory(large, 9).startswith("Linear takes 0.063 GiB of cpu memory, and 9 times as much")
    assert short_of_memory(large, 7) == ""
    assert short_of_memory(nn.Linear(2, 2), 9) == ""
    assert short_of_memory(nn.Linear(4096, 4097, device="meta"), 9) == ""
    assert short_of_memory(nn.LazyLinear(3), 9) == ""
