"""`find_lr`: a rate that learns, found on a copy that leaves nothing behind."""

import math
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luthier
from luthier.errors import DataError, SettingError

X = torch.randn(512, 6, generator=torch.Generator().manual_seed(0))
DATA = (X, X.sum(1, keepdim=True))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))


def loss_after(lr: float) -> float:
    result = luthier.fit(
        net(), DATA, criterion="mse", optimizer="SGD", lr=lr, epochs=2, seed=0, verbose=False, check=False
    )
    return float(result.record.epochs[-1]["train_loss"])


def test_the_suggestion_learns_and_what_is_far_from_it_does_not() -> None:
    found = luthier.find_lr(net(), DATA, criterion="mse", optimizer="SGD")
    assert found.suggestion < found.highest
    assert loss_after(found.suggestion) < 0.5 * loss_after(found.suggestion / 300)
    assert list(found.rates) == sorted(found.rates)
    assert len(found.rates) == len(found.losses) <= 100
    assert "suggestion" in found._repr_html_()


@pytest.mark.parametrize("data", [DATA, DataLoader(TensorDataset(*DATA), batch_size=32, shuffle=True)])
def test_it_leaves_no_trace(data: Any) -> None:
    module = net()
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    first = luthier.find_lr(module, data, criterion="mse", optimizer=torch.optim.Adam, seed=3)
    assert first == luthier.find_lr(module, data, criterion="mse", optimizer=torch.optim.Adam, seed=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert random.getstate() == states[2]
    assert not module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in module.parameters())


def test_an_own_step_and_what_is_wrong() -> None:
    found = luthier.find_lr(net(), DATA, step=lambda m, b: (m(b[0]) - b[1]).square().mean())
    assert math.isfinite(found.suggestion)
    for given in ({"low": 1.0, "high": 0.1}, {"steps": 3}, {"low": 0.0}, {"high": math.inf}):
        with pytest.raises(SettingError, match="the rates go from"):
            luthier.find_lr(net(), DATA, criterion="mse", **given)
    module = net()
    with pytest.raises(SettingError, match="is an instance"):
        luthier.find_lr(module, DATA, criterion="mse", optimizer=torch.optim.SGD(module.parameters(), 0.1))
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(SettingError, match="cannot be copied"):
        luthier.find_lr(module, DATA, criterion="mse")
    with pytest.raises(SettingError, match="LBFGS evaluates the loss several times"):
        luthier.find_lr(net(), DATA, criterion="mse", optimizer="LBFGS")
    with pytest.raises(SettingError, match="the module is a function"):
        luthier.find_lr(lambda x: x, DATA, criterion="mse")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as caught:
        luthier.find_lr(nn.Linear(9, 1), DATA, criterion="mse")
    assert "it takes in_features=9" in " ".join(caught.value.__notes__)
    with pytest.raises(DataError, match="the loss falls at no learning rate"):
        luthier.find_lr(net(), DATA, step=lambda m, b: -(m(b[0]) * 0).sum() + 1)
