"""How many rows are looked at: fewer where each is large, or where layers make much of each."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import luthier
from luthier.checks.look import check, chosen_rules, look
from luthier.checks.rows import Table, some_columns
from luthier.checks.rules.data import channels
from luthier.checks.subject import Subject
from luthier.core import machine
from luthier.core.batch import Batch

IMAGES = torch.randn(200, 1, 16, 16), torch.randint(0, 2, (200,))


class OnlySixtyFour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 64
        return x


def net(channels: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)
    )


@pytest.mark.parametrize(
    ("module", "train", "rows"),
    [
        (net(4), IMAGES, 47),
        (net(900), IMAGES, 17),
        (net(900), (IMAGES[0][:20], IMAGES[1][:20]), 7),
        (net(900, OnlySixtyFour()), DataLoader(TensorDataset(*IMAGES), batch_size=64), 64),
    ],
)
def test_networks_that_make_much_of_a_row_are_looked_at_with_fewer_rows(
    module: nn.Module, train: Any, rows: int
) -> None:
    assert len(Subject(module, train, criterion=nn.CrossEntropyLoss()).batch) == rows


def test_a_mistake_in_a_large_network_is_found_with_fewer_rows() -> None:
    found = check(nn.Sequential(net(900, nn.ReLU()), nn.Softmax(dim=1)), IMAGES, criterion=nn.CrossEntropyLoss())
    assert "check-double-softmax" in {finding.code for finding in found}


def test_of_large_images_in_memory_few_are_looked_at() -> None:
    x, y = torch.randn(1500, 3, 96, 96), torch.randint(0, 2, (1500,))
    s = Subject(nn.Sequential(nn.Flatten(), nn.Linear(27648, 2)), (x, y), criterion=nn.CrossEntropyLoss())
    assert s.rows is not None
    asked: list[int] = []
    read = s.rows.batch

    def batch(numbers: Sequence[int], seed: int = 0) -> Batch:
        asked.append(len(numbers))
        return read(numbers, seed)

    s.rows.batch = batch  # type: ignore[method-assign]
    assert not look(s, chosen_rules("check-labels-misaligned"))
    assert max(asked) == 128


def wide(n: int, width: int = 40_000) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


def test_wide_rows_are_hashed_whole_and_reckoned_with_by_some_columns() -> None:
    x = wide(40)
    table = Table(list(range(40)), [x[:, :30_000].reshape(40, 3, 100, 100), x[:, 30_000:]], None)
    some = some_columns(40_000)
    assert some is not None
    assert table.width == 40_000
    assert torch.equal(table.features, x[:, some].double())
    assert table.column(3) == f"input column {int(some[3])}"
    assert 0.4 < float((some % 2).double().mean()) < 0.6
    middle, spread = table.middle_and_spread
    assert torch.allclose(middle, x.double().mean(0))
    assert torch.allclose(spread, x.double().std(0))
    twin = x.clone()
    left_out = next(i for i in range(40_000) if i not in some)
    twin[0, left_out] += 1.0
    other = Table(list(range(40)), [twin], None)
    assert torch.equal(other.hashes == table.hashes, torch.arange(40) > 0)
    assert some_columns(8_192) is None


def test_mistakes_in_wide_data_are_found() -> None:
    x, y = wide(200, 30_000), torch.arange(200) % 2
    x[:, :10_000] += 0.5 * y[:, None]
    net = nn.Sequential(nn.Linear(30_000, 2))

    def codes(train: Any, valid: Any) -> set[str]:
        return {finding.code for finding in check(net, train, valid, criterion=nn.CrossEntropyLoss(), select="data")}

    train, valid = (x[:140], y[:140]), (x[140:], y[140:])
    assert not codes(train, valid)
    assert "check-split-overlap" in codes(train, (torch.cat([x[140:], x[:30]]), torch.cat([y[140:], y[:30]])))
    assert "check-valid-shift" in codes(train, (3 * x[140:] + 2, y[140:]))
    pixels = torch.rand(160, 3, 224, 224)
    pixels[10, 1, 2, 3] = float("nan")
    picture_net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    found = check(picture_net, (pixels, torch.arange(160) % 2), criterion=nn.CrossEntropyLoss())
    assert "check-data-not-finite" in {finding.code for finding in found}


def test_sorted_wide_data_and_inputs_of_no_columns_are_sound() -> None:
    y = (torch.arange(426) >= 126).long()  # of the first rows nearly all are of one class
    x = wide(426, 10_000)
    x[:, :2_000] += y[:, None]
    mixed = torch.randperm(426, generator=torch.Generator().manual_seed(0))[:130]
    held = x[mixed] + 0.1 * wide(130, 10_000)
    net = nn.Sequential(nn.Linear(10_000, 2))
    found = check(net, (x, y), (held, y[mixed]), criterion=nn.CrossEntropyLoss(), select="check-labels-misaligned")
    assert not found
    shifted = check(net, (x, y.roll(126)), (held, y[mixed]), criterion=nn.CrossEntropyLoss(), select="data")
    assert not any(finding.code == "check-partly" for finding in shifted)
    assert channels(torch.zeros(5, 0)).shape == (5, 0)
    assert channels(torch.zeros(5, 0, 8, 8)).shape == (320, 0)


def subject_of(net: nn.Module, **more: Any) -> Subject:
    return Subject(net, (torch.randn(200, 600), torch.arange(200) % 2), **more)


def places(s: Subject) -> tuple[int, int]:
    """Where two copies that only read hold the large weight."""
    assert s.batch is not None
    a, b = s.fresh(training=True, only_read=True), s.fresh(training=True, only_read=True)
    return a.get_parameter("0.weight").data_ptr(), b.get_parameter("0.weight").data_ptr()


def test_copies_that_only_read_share_large_parameters_and_nothing_else() -> None:
    net = nn.Sequential(nn.Linear(600, 600), nn.BatchNorm1d(600), nn.Linear(600, 2))
    s = subject_of(net, criterion=nn.CrossEntropyLoss())
    assert s.template is not None
    assert s.batch is not None
    before = [p.detach().clone() for p in s.template.parameters()]
    a, b = s.fresh(training=True, only_read=True), s.fresh(training=True, only_read=True)
    assert a.get_parameter("0.weight").data_ptr() == b.get_parameter("0.weight").data_ptr()
    assert a.get_parameter("2.weight").data_ptr() != b.get_parameter("2.weight").data_ptr()
    assert a.get_parameter("0.weight").data_ptr() != net.get_parameter("0.weight").data_ptr()
    assert s.fresh(training=True).get_parameter("0.weight").data_ptr() != a.get_parameter("0.weight").data_ptr()
    loss = s.pass_over(a, s.batch).loss
    assert loss is not None
    loss.backward()
    assert a.get_parameter("0.weight").grad is not None
    assert b.get_parameter("0.weight").grad is None
    s.steps(3, lr=0.1)
    look(s, chosen_rules())
    assert all(torch.equal(p, q) for p, q in zip(before, s.template.parameters(), strict=True))


class Clamped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


def test_what_writes_into_its_weights_or_has_its_own_step_shares_nothing() -> None:
    clamped = subject_of(nn.Sequential(Clamped(600, 600), nn.Linear(600, 2)), criterion=nn.CrossEntropyLoss())
    stepped = subject_of(nn.Sequential(nn.Linear(600, 600)), step=lambda module, batch: module(batch[0]).sum())
    for s in (clamped, stepped):
        a, b = places(s)
        assert a != b


class Grown(nn.Module):
    """Makes parameters in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(600, 600)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "head"):
            self.head = nn.Linear(600, 2)
        answer: Tensor = self.head(self.body(x))
        return answer


def test_parameters_that_forward_makes_stop_no_rule() -> None:
    assert len(subject_of(Grown(), criterion=nn.CrossEntropyLoss()).batch) == 47


class Redrawn(nn.Module):
    """Is copied by being made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(600, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(x)
        return answer

    def __deepcopy__(self, memo: Any) -> "Redrawn":
        made = Redrawn()
        made.load_state_dict(self.state_dict())
        return made


@pytest.mark.parametrize(
    "make",
    [
        Redrawn,
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(600, 600)), nn.Linear(600, 2)),
    ],
)
def test_looking_moves_no_generator_and_no_power_iteration(make: Any) -> None:
    torch.manual_seed(0)
    net = make()
    x, y = torch.randn(200, 600), torch.arange(200) % 2
    before = {name: value.clone() for name, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    check(net, (x, y), criterion=nn.CrossEntropyLoss(), optimizer=torch.optim.Adam(net.parameters()))
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_network_whose_copies_find_no_room_is_not_copied_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.Linear(4096, 2), nn.Softmax(dim=1))
    train = torch.randn(64, 4), torch.randint(0, 2, (64,))
    arguments: dict[str, Any] = {"criterion": "cross-entropy"}
    assert "check-double-softmax" in {finding.code for finding in check(module, train, **arguments)}
    monkeypatch.setattr(machine, "free_memory", lambda device: 500 * 2.0**20)
    found = check(module, train, **arguments)
    assert [finding.code for finding in found] == ["check-partly"]
    assert "Sequential takes 0.063 GiB of cpu memory" in found[0].what
    fit = luthier.fit(module, train, criterion="cross-entropy", optimizer="SGD", epochs=1)
    assert len(fit.record.epochs) == 1
