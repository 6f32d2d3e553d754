"""The number is the number: losses and metrics do not depend on how the samples were cut into batches."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import luthier
from luthier.data.sources import TensorSource
from luthier.metrics.criteria import Measured, measure
from luthier.metrics.evaluation import LossMean
from tests.problems import mlp, table


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def frozen(**settings: Any) -> tuple[nn.Module, Any]:
    """Train with a learning rate of 0, so that an epoch's loss is that of one set of weights."""
    net = plain_net()
    result = luthier.fit(net, table(101), table(57, 3), optimizer="SGD", lr=0.0, epochs=1, seed=1, **settings)
    return net, result.record.epochs[0]


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 3.0]])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 101])
def test_an_epochs_loss_is_the_mean_over_all_samples(batch_size: int, weights: list[float] | None) -> None:
    given = None if weights is None else tuple(weights)
    net, row = frozen(batch_size=batch_size, criterion="cross-entropy", class_weights=given)
    x, y = table(101)
    whole = nn.CrossEntropyLoss(weight=None if weights is None else torch.tensor(weights))(net(x), y)
    assert row["train_loss"] == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("eval_batch_size", [1, 7, 57])
def test_validation_does_not_depend_on_its_batch_size(eval_batch_size: int) -> None:
    def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()

    net, row = frozen(criterion="cross-entropy", eval_batch_size=eval_batch_size, metrics=[accuracy])
    x, y = table(57, 3)
    assert row["valid_loss"] == pytest.approx(nn.functional.cross_entropy(net(x), y).item(), rel=1e-6)
    assert row["valid_accuracy"] == pytest.approx((net(x).argmax(1) == y).float().mean().item())


def test_ignored_targets_are_not_counted() -> None:
    x, y = table(50)
    y = y.clone()
    y[::3] = -100
    net = plain_net()
    result = luthier.fit(
        net, (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.0, epochs=1, batch_size=7, seed=0
    )
    whole = nn.functional.cross_entropy(net(x), y).item()
    assert result.record.epochs[0]["train_loss"] == pytest.approx(whole, rel=1e-6)


CRITERIA: dict[str, dict[str, Any]] = {
    "plain": {"criterion": "cross-entropy"},
    "class weights": {"criterion": "cross-entropy", "class_weights": (0.2, 1.0, 3.0)},
    "label smoothing": {"criterion": "cross-entropy", "class_weights": (0.2, 1.0, 3.0), "label_smoothing": 0.1},
    "a sum": {"criterion": nn.CrossEntropyLoss(reduction="sum")},
    "an own function": {"criterion": lambda outputs, targets: nn.functional.cross_entropy(outputs, targets)},
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("size", [1, 3, 16])
def test_micro_batches_give_the_gradient_of_the_whole_batch(criterion: str, size: int) -> None:
    whole, sliced = plain_net(), plain_net()
    settings: dict[str, Any] = {
        "optimizer": "SGD", "lr": 0.01, "batch_size": 17, "epochs": 2, "seed": 4, **CRITERIA[criterion],
    }  # fmt: skip
    first = luthier.fit(whole, table(101), **settings)
    second = luthier.fit(sliced, table(101), micro_batch_size=size, **settings)
    for one, two in zip(whole.parameters(), sliced.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert first.record.epochs[1]["train_loss"] == pytest.approx(second.record.epochs[1]["train_loss"], rel=1e-4)


def test_sample_weights_are_a_weighted_mean() -> None:
    x, y = table(40)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(0))
    net = plain_net()
    source = TensorSource((x,), y, weights=weights)
    result = luthier.fit(
        net, source, criterion="cross-entropy", optimizer="SGD", lr=0.0, epochs=1, batch_size=7, seed=0
    )
    losses = nn.functional.cross_entropy(net(x), y, reduction="none")
    expected = ((losses * weights).sum() / weights.sum()).item()
    assert result.record.epochs[0]["train_loss"] == pytest.approx(expected, rel=1e-6)


def test_a_step_that_says_its_count_is_averaged_by_it() -> None:
    x, y = table(50)
    net = plain_net()

    def step(module: nn.Module, batch: Any) -> tuple[Tensor, int]:
        inputs, targets = batch
        kept = targets > 0
        return nn.functional.cross_entropy(module(inputs[kept]), targets[kept]), int(kept.sum())

    result = luthier.fit(net, (x, y), step=step, optimizer="SGD", lr=0.0, epochs=1, batch_size=7, seed=0)
    kept = y > 0
    expected = nn.functional.cross_entropy(net(x[kept]), y[kept]).item()
    assert result.record.epochs[0]["train_loss"] == pytest.approx(expected, rel=1e-6)


def test_accumulation_over_an_own_loader_is_loss_over_k() -> None:
    from torch.utils.data import DataLoader, TensorDataset

    ours = mlp()
    theirs = copy.deepcopy(ours)
    loader = DataLoader(TensorDataset(*table(50)), batch_size=8)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    torch.manual_seed(2)
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        (nn.functional.cross_entropy(theirs(x), y) / 3).backward()
        if (i + 1) % 3 == 0 or i + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
    torch.manual_seed(2)
    luthier.fit(ours, loader, criterion="cross-entropy", optimizer="SGD", lr=0.1, accumulate=3, epochs=1)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two)


def test_validation_puts_every_submodule_back_as_it_was() -> None:
    net = mlp()
    seen = []

    class Frozen(luthier.Callback):
        def on_epoch_start(self, run: luthier.View) -> None:
            net[1].eval()  # a frozen batch norm, as people write it

        def on_epoch_end(self, run: luthier.View) -> None:
            seen.append([part.training for part in net.modules()])

    luthier.fit(net, table(), table(), criterion="cross-entropy", optimizer="SGD", epochs=2, callbacks=[Frozen()])
    assert seen == [[True, True, False, True, True, True]] * 2


def test_the_best_weights_are_what_you_get_back_whatever_ended_the_run() -> None:
    class Boom(luthier.Callback):
        def on_epoch_end(self, run: luthier.View) -> None:
            if run.epoch == 5:
                raise RuntimeError("boom")

    net = plain_net()
    valid = table(57, 3)
    rows: list[float] = []

    class Keep(luthier.Callback):
        def on_epoch_end(self, run: luthier.View) -> None:
            rows.append(run.figures["valid_loss"])

    with pytest.raises(RuntimeError, match="boom"):
        luthier.fit(
            net, table(30), valid, criterion="cross-entropy", optimizer="Adam", lr=0.5, epochs=20, seed=0,
            callbacks=[Keep(), Boom()],
        )  # fmt: skip
    assert min(rows) != rows[-1]
    assert nn.functional.cross_entropy(net(valid[0]), valid[1]).item() == pytest.approx(min(rows), rel=1e-6)


def test_the_average_of_the_weights_is_validated_and_kept() -> None:
    net = plain_net()
    valid = table(57, 3)
    result = luthier.fit(
        net, table(), valid, criterion="cross-entropy", optimizer="SGD", lr=0.5, epochs=3, ema=0.95, seed=0,
        restore_best=False,
    )  # fmt: skip
    loss = nn.functional.cross_entropy(net(valid[0]), valid[1]).item()
    assert result.record.epochs[-1]["valid_loss"] == pytest.approx(loss, rel=1e-6)


def test_class_weights_go_with_an_ignored_class_beyond_the_classes() -> None:
    x, y = torch.randn(12, 3), torch.arange(12) % 3
    y[::4] = 255
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), ignore_index=255)
    net = nn.Linear(3, 3)
    result = luthier.fit(
        net, (x, y), (x, y), criterion=criterion, optimizer="SGD", lr=0.1, epochs=1, batch_size=5, seed=0
    )
    whole = criterion(net(x), y).item()
    assert result.record.epochs[-1]["valid_loss"] == pytest.approx(whole, rel=1e-5)


def test_a_micro_batch_whose_every_target_is_ignored_counts_for_nothing() -> None:
    x, y = torch.randn(32, 4), torch.arange(32) % 3
    y[::3] = -100
    weights = []
    for size in (None, 1, 5):
        net = nn.Linear(4, 3)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).reshape(parameter.shape))
        luthier.fit(
            net, (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=3, batch_size=16,
            micro_batch_size=size, seed=0,
        )  # fmt: skip
        weights.append(net.weight.detach().clone())
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    assert torch.allclose(weights[0], weights[2], atol=1e-6)


def test_sample_weights_leave_ignored_samples_out() -> None:
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, -100, 1, 0])
    weights = torch.tensor([1.0, 2.0, 0.5, 9.0, 1.0, 3.0])
    for own in (None, torch.tensor([1.0, 2.0, 3.0])):
        criterion = nn.CrossEntropyLoss(weight=own)
        found = measure(criterion, outputs, targets, weights, 6)
        kept = targets != -100
        share = weights[kept] * (1.0 if own is None else own[targets[kept]])
        each = nn.functional.cross_entropy(outputs[kept], targets[kept], reduction="none")
        torch.testing.assert_close(found.loss, (share * each).sum() / share.sum())
        torch.testing.assert_close(found.count, share.sum())


def test_losses_are_copied_out_of_the_steps_memory_and_none_is_lost() -> None:
    mean = LossMean()
    losses = [torch.tensor(float(i), requires_grad=True) * 1.0 for i in range(150)]
    losses += [
        torch.tensor(7.0, dtype=torch.float64),
        torch.tensor([8.0]),
    ]
    for loss in losses:
        mean.add(Measured(loss, 2.0))
    kept = [item.loss for item in mean.pending]
    assert len({value.untyped_storage().data_ptr() for value in kept[:150]}) == 3
    assert not any(value.requires_grad for value in kept)
    for loss in losses[:150]:
        loss.detach().fill_(-1.0)
    assert mean.mean == (sum(range(150)) + 15.0) / 152
    mean.add(Measured(torch.tensor(100.0), 1.0))  # the places are used again
    assert mean.mean == (2 * (sum(range(150)) + 15.0) + 100.0) / 305
