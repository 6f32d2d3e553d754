"""A compiled run: clean names, an exact resume, and the caller's module as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn

import luthier
from tests.problems import same_weights
from tests.training.test_resume import CopyAt


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


@pytest.mark.filterwarnings("ignore")  # torch's compiler imports what torch itself deprecates
def test_a_compiled_run(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(70, 8)
    y = (x.sum(1) > 0).long()
    counts: list[int] = []

    def train(module: nn.Module, place: str, **more: Any) -> Any:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        result = luthier.fit(
            module, (x, y), (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.1, momentum=0.9, seed=0, epochs=4,
            batch_size=32, run=tmp_path / place, compile=True, checkpoint_every_steps=1, **more,
        )  # fmt: skip
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        return result

    whole = net()
    result = train(whole, "whole", callbacks=[CopyAt(5, tmp_path / "cut")])
    assert list(whole.state_dict()) == list(net().state_dict())
    assert whole._compiled_call_impl is None
    cut = net()
    train(cut, "cut")
    same_weights(cut, whole)
    assert min(counts) >= 2  # it was compiled, in training and in evaluation
    eager = luthier.fit(
        net(), (x, y), (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.1, momentum=0.9, seed=0, epochs=4,
        batch_size=32,
    )  # fmt: skip
    assert abs(result.record.epochs[-1]["valid_loss"] - eager.record.epochs[-1]["valid_loss"]) < 0.1  # other dropout


@pytest.mark.filterwarnings("ignore")
def test_what_torch_compile_wraps_is_saved_by_its_own_names(tmp_path: Path) -> None:
    module = net()
    wrapped: Any = torch.compile(module, backend="eager")
    result = luthier.fit(
        wrapped, (torch.randn(32, 8), torch.zeros(32, dtype=torch.long)), criterion="cross-entropy", optimizer="SGD",
        lr=0.1, epochs=1, check=False,
    )  # fmt: skip
    result.model.save(tmp_path / "m.safetensors")
    loaded = luthier.load(tmp_path / "m.safetensors", module=net())
    same_weights(loaded.module, module)
