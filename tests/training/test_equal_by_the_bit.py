"""`fit` equals the loop you would have written: weights, buffers and losses, to the last bit."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

import luthier
from tests.problems import convnet, images, mlp, same_weights, table
from tests.reference.loops import hand_written_loop

EPOCHS = 3
PROBLEMS = {"mlp": (mlp, table), "convnet": (convnet, images)}
# Each optimizer as a caller makes it, and as run.toml spells it.
OPTIMIZERS: dict[str, tuple[Callable[[Any], Optimizer], dict[str, Any]]] = {
    "sgd": (
        lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
        {"optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True},
    ),
    "adam": (
        lambda p: Adam(p, lr=0.01, betas=(0.8, 0.99)),
        {"optimizer": "Adam", "lr": 0.01, "betas": (0.8, 0.99)},
    ),
    "fused adam": (
        lambda p: Adam(p, lr=0.01, fused=True),
        {"optimizer": "Adam", "lr": 0.01, "optimizer_flavour": "fused"},
    ),
}
SCHEDULES: dict[str, tuple[Callable[[Optimizer, int], Any] | None, bool, dict[str, Any]]] = {
    "constant": (None, False, {}),
    "step each epoch": (
        lambda o, _: StepLR(o, 1, gamma=0.5),
        False,
        {"scheduler": "StepLR", "scheduler_args": {"step_size": 1, "gamma": 0.5}},
    ),
    "cosine each epoch": (lambda o, _: CosineAnnealingLR(o, EPOCHS), False, {"scheduler": "CosineAnnealingLR"}),
    "one cycle each step": (
        lambda o, steps: OneCycleLR(o, max_lr=o.param_groups[0]["lr"], total_steps=steps),
        True,
        {"scheduler": "OneCycleLR"},
    ),
}


def run_both(
    problem: str, optimizer: str, schedule: str, clip: float | None, *, own_loader: bool
) -> tuple[nn.Module, nn.Module, list[tuple[float, float]], Any]:
    make, data = PROBLEMS[problem]
    torch.manual_seed(3)
    ours = make()
    theirs = copy.deepcopy(ours)
    train, valid = data(101, 1), data(40, 2)
    build, spelled = OPTIMIZERS[optimizer]
    plan, per_step, plan_spelled = SCHEDULES[schedule]

    def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
        shuffled = DataLoader(TensorDataset(*train), batch_size=16, shuffle=True)
        return shuffled, DataLoader(TensorDataset(*valid), batch_size=16)

    def addressed(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in luthier.order(len(train[0]), 11, epoch).split(16):
            yield train[0][indices], train[1][indices]

    shuffled, plain = loaders()
    their_optimizer = build(theirs.parameters())
    torch.manual_seed(11)
    losses = hand_written_loop(
        theirs,
        (lambda epoch: shuffled) if own_loader else addressed,
        lambda: plain if own_loader else zip(valid[0].split(16), valid[1].split(16), strict=True),
        criterion=nn.CrossEntropyLoss(),
        optimizer=their_optimizer,
        scheduler=plan(their_optimizer, EPOCHS * 7) if plan else None,
        per_step=per_step,
        clip_norm=clip,
        epochs=EPOCHS,
    )

    shuffled, plain = loaders()
    common: dict[str, Any] = {"epochs": EPOCHS, "clip_norm": clip, "restore_best": False}
    if own_loader:
        torch.manual_seed(11)
        our_optimizer = build(ours.parameters())
        scheduler = plan(our_optimizer, EPOCHS * 7) if plan else None
        result = luthier.fit(
            ours,
            shuffled,
            plain,
            criterion=nn.CrossEntropyLoss(),
            optimizer=our_optimizer,
            scheduler=scheduler,
            **common,
        )
    else:
        result = luthier.fit(
            ours, train, valid, criterion="cross-entropy", seed=11, batch_size=16, **common, **spelled, **plan_spelled
        )
    return ours, theirs, losses, result


@pytest.mark.parametrize("own_loader", [True, False], ids=["own DataLoader", "luthier.order"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("schedule", "clip"), [("constant", None), ("step each epoch", 0.5), ("one cycle each step", 1.0)]
)
def test_fit_equals_the_loop_you_would_write(
    problem: str, optimizer: str, schedule: str, clip: float | None, own_loader: bool
) -> None:
    ours, theirs, losses, result = run_both(problem, optimizer, schedule, clip, own_loader=own_loader)

    same_weights(ours, theirs)
    assert [(row["train_loss"], row["valid_loss"]) for row in result.record.epochs] == losses
    assert losses[0] != losses[1]  # something was trained


class Drawing(Dataset[Any]):
    """A dataset that adds noise: it draws from torch's global generator at each read."""

    def __init__(self) -> None:
        self.x, self.y = table(50)

    def __len__(self) -> int:
        return 50

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.1 * torch.randn(6), self.y[i]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_own_loader_that_draws_is_iterated_as_it_is(workers: int) -> None:
    torch.manual_seed(0)
    ours = mlp()
    theirs = copy.deepcopy(ours)
    loader = DataLoader(Drawing(), batch_size=8, shuffle=True, num_workers=workers)
    valid = DataLoader(TensorDataset(*table(20, 5)), batch_size=8)
    torch.manual_seed(4)
    losses = hand_written_loop(
        theirs, lambda epoch: loader, lambda: valid, criterion=nn.CrossEntropyLoss(),
        optimizer=SGD(theirs.parameters(), lr=0.1), epochs=2,
    )  # fmt: skip
    torch.manual_seed(4)
    result = luthier.fit(
        ours, loader, valid, criterion=nn.CrossEntropyLoss(), optimizer=SGD(ours.parameters(), lr=0.1), epochs=2,
        restore_best=False,
    )  # fmt: skip

    same_weights(ours, theirs)
    assert [(row["train_loss"], row["valid_loss"]) for row in result.record.epochs] == losses


def test_a_seed_leaves_the_callers_generators_as_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    luthier.fit(mlp(), table(), criterion="cross-entropy", optimizer="SGD", epochs=1, seed=9)
    after_building = torch.get_rng_state()
    torch.set_rng_state(before)
    mlp()

    assert torch.equal(torch.get_rng_state(), after_building)
