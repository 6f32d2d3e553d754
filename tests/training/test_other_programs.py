"""What people bring along: schedules of their own, optimizers of two modes, wrapped weights, threads, pickles."""

import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, SequentialLR

import luthier
from luthier.core.recipe import Recipe
from luthier.errors import SettingError
from luthier.store.weights import without_prefixes

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
TABLE = {"x": [i % 7 for i in range(90)], "z": [i % 5 for i in range(90)], "y": ["a", "b", "a"] * 30}


def warm_up(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    return min(step / num_warmup_steps, (num_training_steps - step) / num_training_steps)


SCHEDULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a lambda, as said": (lambda o: LambdaLR(o, lambda step: 0.9**step), {"scheduler_interval": "step"}),
    "a cosine over all steps": (lambda o: CosineAnnealingLR(o, T_max=12), {}),
    "warm-up by a partial": (
        lambda o: LambdaLR(o, functools.partial(warm_up, num_warmup_steps=3, num_training_steps=12)),
        {},
    ),
    "two after each other": (
        lambda o: SequentialLR(o, [LambdaLR(o, lambda step: 0.1), CosineAnnealingLR(o, T_max=8)], milestones=[4]),
        {},
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_made_for_steps_moves_each_step(name: str) -> None:
    make, given = SCHEDULES[name]
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 2), nn.Linear(4, 2)
    theirs.load_state_dict(ours.state_dict())
    luthier.fit(
        ours, (X, Y), criterion="cross-entropy", optimizer="SGD", lr=0.5, scheduler=make, epochs=3, batch_size=16,
        seed=0, **given,
    )  # fmt: skip
    optimizer = SGD(theirs.parameters(), lr=0.5)
    scheduler: LRScheduler = make(optimizer)
    for epoch in range(3):
        for rows in luthier.order(64, 0, epoch).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(X[rows]), Y[rows]).backward()
            optimizer.step()
            scheduler.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_a_schedule_for_fewer_steps_than_epochs_moves_each_epoch() -> None:
    rates = luthier.fit(
        nn.Linear(4, 2), (X, Y), criterion="cross-entropy", optimizer="SGD", lr=0.5, epochs=3, batch_size=16, seed=0,
        scheduler=lambda optimizer: CosineAnnealingLR(optimizer, T_max=3),
    ).record.epochs  # fmt: skip
    assert rates[0]["lr"] == 0.5
    with pytest.raises(SettingError, match="without a scheduler"):
        luthier.fit(
            nn.Linear(4, 2), (X, Y), criterion="cross-entropy", recipe=Recipe(optimizer="SGD", scheduler=None, lr=0.1),
            scheduler_interval="step",
        )  # fmt: skip


class TwoSets(SGD):
    """An optimizer that has to be told what its weights are wanted for."""

    heard: list[str]

    def train(self) -> None:
        self.heard = [*getattr(self, "heard", []), "train"]

    def eval(self) -> None:
        self.heard.append("eval")

    def step(self, closure: Any = None) -> Any:
        assert self.heard[-1] == "train"
        return super().step(closure)


def test_an_optimizer_with_two_sets_of_weights_is_told_which() -> None:
    net = nn.Linear(4, 2)
    optimizer = TwoSets(net.parameters(), lr=0.1)
    luthier.fit(net, (X, Y), (X, Y), criterion="cross-entropy", optimizer=optimizer, epochs=2, seed=0)
    assert optimizer.heard == ["train", "eval"] * 2


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_wrapped_modules_have_their_own_names(prefix: str) -> None:
    own = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict()
    given: dict[str, Tensor] = {prefix + name: value for name, value in own.items()}
    assert without_prefixes(given, own).keys() == own.keys()
    named = {"model.w": torch.ones(1)}
    assert without_prefixes(named, named) == named


def test_threads_are_as_before_and_models_can_be_pickled() -> None:
    before = torch.get_num_threads()
    model = luthier.train(TABLE, target="y", epochs=1, seed=0, threads=before + 1, check=False).model
    assert torch.get_num_threads() == before
    row = {"x": 3, "z": 1}
    answer = model.predict_proba(row)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(row), answer)


def test_many_threads_ask_one_model() -> None:
    net = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 2))
    model = luthier.fit(net, (X, Y), criterion="cross-entropy", optimizer="Adam", epochs=1, seed=0, check=False).model
    assert net.training
    expected, mean = model.predict_proba(X), net.get_buffer("1.running_mean").clone()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: model.predict_proba(X), range(64)))
    assert all(torch.equal(answer, expected) for answer in answers)
    assert torch.equal(net.get_buffer("1.running_mean"), mean)
    assert net.training
