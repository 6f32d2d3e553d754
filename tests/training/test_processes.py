"""One of several processes does not train apart from the others."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import luthier
from luthier.errors import SettingError

TABLE = {"x": [i % 7 for i in range(60)], "y": ["a", "b"] * 30}


def test_under_torchrun_training_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    luthier.train(TABLE, target="y", epochs=1, run=tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    x = torch.randn(8, 2)
    calls: list[Callable[[], object]] = [
        lambda: luthier.fit(nn.Linear(2, 1), (x, x[:, :1]), criterion="mse", optimizer="SGD", lr=0.1, epochs=1),
        lambda: luthier.train(TABLE, target="y", epochs=1, run=tmp_path / "other"),
        lambda: luthier.resume(tmp_path / "run"),
    ]
    for call in calls:
        with pytest.raises(SettingError, match="one of 2 processes") as caught:
            call()
        assert caught.value.code == "setting-processes"
    assert not (tmp_path / "other").exists()


def test_a_group_of_one_process_trains(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        assert luthier.train(TABLE, target="y", epochs=1, check=False).is_done
    finally:
        torch.distributed.destroy_process_group()
