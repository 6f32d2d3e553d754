"""Steps done again: the same bits, and what made a number NaN or infinite."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import luthier
from luthier.cli.main import cli
from luthier.errors import LuthierError, TrainingError
from luthier.training.callbacks import Callback, View
from tests.problems import mlp, same_weights, table

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 4, generator=GENERATOR)
Y = (X.sum(1) > 0).long()


pytestmark = pytest.mark.usefixtures("unchecked")


class Body(nn.Module):
    """Linear, then what a case does to it, then linear."""

    def __init__(self, middle: Any, hidden: int = 8) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, hidden), middle, nn.Linear(hidden, 2)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.first(x)))


class Named(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def message(module: nn.Module, x: Tensor = X, y: Tensor = Y, **more: Any) -> str:
    settings = {"criterion": "cross-entropy", "optimizer": "SGD", "lr": 0.1, "epochs": 3, "batch_size": 32, "seed": 0}
    with pytest.raises(TrainingError, match="training-loss-not-finite") as caught:
        luthier.fit(module, (x, y), **{**settings, **more})
    return str(caught.value)


def lit(values: Tensor) -> Tensor:
    """Zero but for a few, by what the inputs are."""
    return values * (values > 1.6)


FORWARD = {
    "log": (lambda v: torch.log(torch.relu(v)), "log in middle (Named): from 0 it gave -inf"),
    "division": (lambda v: v / (v - v), "div in middle (Named)"),
    "sqrt of a negative": (lambda v: torch.sqrt(v), "sqrt in middle (Named): from -"),
    "overflow": (lambda v: torch.exp(v * 1000), "exp in middle (Named): from "),
    "masked row": (
        lambda v: torch.softmax(v.masked_fill((v.sum(1, keepdim=True) > 2).expand_as(v), -torch.inf), 1),
        "softmax in middle (Named): from -inf it gave nan",
    ),
    "power in place": (lambda v: v.mul_(1).pow_(0.5), "pow in middle (Named): from -"),
}


@pytest.mark.parametrize("name", FORWARD)
def test_the_operation_of_a_forward_pass_is_named(name: str) -> None:
    function, words = FORWARD[name]
    torch.manual_seed(0)
    said = message(Body(Named(function)))
    assert words in said
    assert "epoch 1, batch 1 (step 1)" in said
    assert "sample" in said


def test_the_samples_are_those_that_did_it() -> None:
    torch.manual_seed(0)
    odd = [3, 77, 140]

    def function(v: Tensor) -> Tensor:
        return torch.log(v.abs() + (v.abs() < 50))

    x = X.clone()
    first = nn.Linear(4, 8)
    nn.init.ones_(first.weight)
    nn.init.zeros_(first.bias)
    x[odd] = torch.tensor([3e38, 3e38, 3e38, 3e38])
    body = Body(Named(function))
    body.first = first
    said = message(body, x, batch_size=200, lr=0.0)
    assert "linear in first (Linear)" in said
    assert all(f"sample {i}" in said for i in odd)
    assert said.count("sample ") == len(odd)


@pytest.mark.parametrize("more", [{}, {"micro_batch_size": 5}])
def test_the_operation_of_a_backward_pass_is_named(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    said = message(Body(Named(lambda v: torch.sqrt((lit(v)).pow(2).sum(1, keepdim=True)).expand(-1, 8))), **more)
    assert "the gradient of middle (Named) by SqrtBackward0: from " in said
    assert "it gave" in said
    assert "in epoch 1, batch 1 (step 1)" in said


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient / 0


def test_an_autograd_function_is_named() -> None:
    said = message(Body(Named(Scaled.apply)))
    assert "the gradient of the autograd.Function Scaled by ScaledBackward" in said


class Buffered(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor([1.0, value]))

    def forward(self, x: Tensor) -> Any:
        return self.linear(x) * self.scale


def test_what_was_not_finite_before_is_named() -> None:
    assert "(step 1), buffer scale: it holds nan before the step" in message(Buffered(float("nan")))
    net = mlp_of_four()
    with torch.no_grad():
        net[2].bias[0] = float("nan")  # type: ignore[index]  # a Sequential of Linear
    assert "(step 1), parameter 2.bias: it is not finite before the step" in message(net)
    said = message(nn.Linear(4, 2), criterion_args={"weight": [float("inf"), 1.0]})
    assert "weight of the criterion (CrossEntropyLoss): it holds infinite" in said
    nan = float("nan")
    said = message(Body(Named(lambda v: torch.where(v[:, :1] > 1.2, torch.tensor(nan), v))))
    assert "where in middle (Named): a constant that is nan went in; samples: sample" in said


def test_an_iterable_dataset_tells_the_place() -> None:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Any:
            for i in range(40):
                yield X[i] * (torch.nan if i == 21 else 1), Y[i]

    with pytest.raises(TrainingError, match="samples: number 5 of the batch"):
        luthier.fit(
            mlp_of_four(),
            DataLoader(Rows(), batch_size=16),
            criterion="cross-entropy",
            optimizer="SGD",
            lr=0.1,
            epochs=1,
        )


def test_a_parameter_that_runs_away_is_named() -> None:
    class Far(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            with torch.no_grad():
                self.param_groups[0]["params"][0][0, 0] = torch.inf if self.state_steps() == 3 else 0

        def state_steps(self) -> int:
            self.count = getattr(self, "count", 0) + 1
            return self.count % 4

    net = nn.Linear(4, 2)
    said = message(net, optimizer=Far(net.parameters(), lr=0.1), lr=None)
    assert "Far.step of parameter weight" in said


def test_data_that_is_not_finite_is_named_by_sample() -> None:
    x = X.clone()
    x[17, 2] = float("nan")
    said = message(mlp_of_four(), x)
    assert "input 0 is not finite as the data gives it: nan at place [2] of the sample; samples: sample 17" in said
    y = X.sum(1, keepdim=True)
    y[3] = float("inf")
    said = message(nn.Linear(4, 1), X, y, criterion="mse")
    assert "the target is not finite as the data gives it: inf at place [0] of the sample; samples: sample 3" in said


@pytest.mark.parametrize("more", [{}, {"generator": torch.Generator()}, {"num_workers": 2}])
def test_a_loaders_samples_are_named_as_its_dataset_counts_them(more: dict[str, Any]) -> None:
    x = X.clone()
    x[171, 2] = float("nan")
    loader = DataLoader(TensorDataset(x, Y), batch_size=8, shuffle=True, **more)
    with pytest.raises(TrainingError, match=r"samples: sample 171 \["):
        luthier.fit(mlp_of_four(), loader, criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=2, accumulate=2)


def test_batches_without_numbers_tell_the_place() -> None:
    x = X.clone()
    x[17, 2] = float("nan")
    with pytest.raises(TrainingError, match="samples: number 17 of the batch"):
        luthier.fit(mlp_of_four(), Batches(x), criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=1)


class Batches:
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Any:
        yield self.x[:50], Y[:50]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
def test_a_compiled_module_is_looked_into() -> None:
    """Done again without compilation, under the names that the user wrote."""
    x = X.clone()
    torch.manual_seed(0)
    said = message(torch.compile(Body(Named(torch.log))), x)  # type: ignore[arg-type]  # torch types it as a callable
    assert "log in middle (Named)" in said


def test_what_goes_wrong_in_the_looking_hides_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr("luthier.training.fit.find_not_finite", broken)
    x = X.clone()
    x[17, 2] = float("nan")
    assert "the loss is nan" in message(mlp_of_four(), x)
    assert "could not be repeated" in caplog.text


def test_targets_that_are_all_ignored_are_seen() -> None:
    y = Y.clone()
    y[luthier.order(200, 0, 0)[32:64]] = -100
    said = message(nn.Linear(4, 2), X, y)
    assert "cross_entropy in the criterion (CrossEntropyLoss)" in said
    assert "all -100" in said


def mlp_of_four() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def test_with_a_folder_the_checkpoints_are_where_the_replay_starts(tmp_path: Path) -> None:
    x = X.clone()
    x[luthier.order(200, 0, 1)[90]] = float("nan")  # in the third batch of the second epoch
    row = luthier.order(200, 0, 1)[90].item()
    cases: list[dict[str, Any]] = [{"checkpoint_every_steps": 3}, {}]
    for more in cases:
        folder = tmp_path / str(len(more))
        with pytest.raises(TrainingError, match=rf"epoch 1, .*samples: sample {row} \["):
            luthier.fit(
                mlp_of_four(), (x, Y), criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=3, batch_size=32,
                seed=0, run=folder, **more,
            )  # fmt: skip
        last = list(luthier.read_record(folder / "record.jsonl"))[-1]
        assert last["event"] == "not-finite"
        assert f"sample {row}" in last["cause"]


def test_without_check_the_steps_are_not_done_again() -> None:
    x = X.clone()
    x[17, 2] = float("nan")
    assert "sample 17" not in message(mlp_of_four(), x, check=False)


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, y = table(60)
        return x[i] + 0.1 * torch.randn(6), y[i]


class Counting(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, run: View) -> None:
        self.steps.append(run.global_step)


@pytest.mark.parametrize("folder", [True, False])
def test_what_a_replay_did_leaves_no_trace(folder: bool, tmp_path: Path) -> None:
    """The module, the generators, the loader and the caller's callbacks are as the failure left them."""
    ends = []
    for check in (True, False):
        torch.manual_seed(3)
        net = nn.Sequential(mlp(), Named(lambda v: v / (v.abs().max() < Bound.size)))
        Bound.size, counting = 3.0, Counting()
        loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
        run = tmp_path / str(check) if folder else None
        with pytest.raises(LuthierError, match="not-finite"):
            luthier.fit(
                net, loader, table(20), criterion="cross-entropy", optimizer="Adam", lr=0.3, epochs=60, ema=0.9,
                callbacks=[counting], check=check, run=run, checkpoint_every_steps=4 if folder else None,
            )  # fmt: skip
        ends.append((net, torch.get_rng_state(), counting.steps))
    for name, value in ends[0][0].state_dict().items():  # as bytes: some are NaN
        assert value.numpy().tobytes() == ends[1][0].state_dict()[name].numpy().tobytes(), name
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]
    assert len(ends[0][2]) >= 4


class Bound:
    size = 3.0


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("replay")
    values = np.random.default_rng(0).normal(size=(120, 2))
    lines = ["a,b,y", *(f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}" for a, b in values)]
    (place / "d.csv").write_text("\n".join(lines))
    luthier.train(
        place / "d.csv", target="y", run=place / "run", epochs=4, widths=(8,), checkpoint_every_steps=9, batch_size=8
    )
    return place


def replayed(run: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    found = CliRunner().invoke(cli, ["replay", str(run), "--json", *arguments], standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return found.return_value, json.loads(found.stdout)


def test_the_command_does_a_run_again_and_compares(done: Path) -> None:
    before = {path: path.read_bytes() for path in (done / "run").rglob("*") if path.is_file()}
    status, answer = replayed(done / "run", "--from", "0")
    assert status == 0
    assert set(answer["equal"].values()) == {True}
    assert [name for name in answer["equal"] if "record" in name] == [f"epoch {i} of the record" for i in (1, 2, 3, 4)]
    assert sum("checkpoint" in name for name in answer["equal"]) == 2
    assert [row["step"] for row in answer["steps"]] == list(range(len(answer["steps"])))
    status, last = replayed(done / "run")
    assert last["from"] > 0
    assert last["steps"] == answer["steps"][last["from"] :]
    assert before == {path: path.read_bytes() for path in (done / "run").rglob("*") if path.is_file()}
    _, few = replayed(done / "run", "--from", "3", "--to", "5")
    assert few["steps"] == answer["steps"][3:5]


def test_without_checkpoints_a_run_is_done_again_from_its_start(done: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "all")
    _, whole = replayed(done / "run", "--from", "0")
    shutil.rmtree(tmp_path / "all" / "run" / "checkpoints")
    _, few = replayed(tmp_path / "all" / "run", "--from", "9", "--to", "12")
    assert few["from"] == 0
    assert few["steps"] == whole["steps"][9:12]


def test_what_differs_is_said(done: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "all")
    record = tmp_path / "all" / "run" / "record.jsonl"
    record.write_text(record.read_text().replace('"train_loss": 0.', '"train_loss": 1.', 1))
    status, answer = replayed(tmp_path / "all" / "run", "--from", "0")
    assert status == 1
    assert answer["equal"]["epoch 1 of the record"] is False


@pytest.mark.parametrize("arguments", [("--from", "9", "--to", "3"), ("--from", "-1"), ("--from", "100000")])
def test_steps_that_are_not_there_are_refused(done: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(LuthierError, match="cannot be repeated"):
        replayed(done / "run", *arguments)


def test_the_command_says_what_made_a_loss_not_finite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.random.default_rng(0).normal(size=120)
    (tmp_path / "d.csv").write_text("\n".join(["a,y", *(f"{a:.4f},{a * 2:.4f}" for a in values)]))
    with caplog.at_level(logging.CRITICAL, "luthier"), pytest.raises(TrainingError, match=r"row \d+ of d\.csv"):
        luthier.train(
            tmp_path / "d.csv", target="y", run=tmp_path / "run", optimizer="SGD", lr=1e30, scheduler=None,
            clip_norm=None, epochs=3,
        )  # fmt: skip
    status, answer = replayed(tmp_path / "run")
    assert status == 0
    last = list(luthier.read_record(tmp_path / "run" / "record.jsonl"))[-1]
    assert answer["not_finite"] == last["cause"]


# --- generators of one's own ------------------------------------------------------------------------------------------


class OwnGenerators(Dataset[Any]):
    """Draws from generators that it and its transforms hold."""

    def __init__(self) -> None:
        self.x, self.y = table(40)
        self.noise = np.random.default_rng(0)
        self.transforms = [Scale(), Scale()]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x = self.x[i] + float(self.noise.normal())
        for transform in self.transforms:
            x = transform(x)
        return x, self.y[i]


class Scale:
    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __call__(self, x: Tensor) -> Tensor:
        return x * torch.rand(1, generator=self.generator)


class Dropped(nn.Module):
    """Draws from a generator of its own in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.generator = mlp(), torch.Generator()

    def forward(self, x: Tensor) -> Any:
        kept = torch.rand(x.shape, generator=self.generator) > 0.2 if self.training else 1
        return self.net(x * kept)


def test_generators_that_a_dataset_or_a_module_holds_are_addressed_or_kept(tmp_path: Path) -> None:
    from tests.training.test_resume import CopyAt

    def train(folder: Path, *callbacks: Any, **more: Any) -> nn.Module:
        torch.manual_seed(1)
        net = Dropped()
        luthier.fit(
            net, OwnGenerators(), table(20), criterion="cross-entropy", optimizer="SGD", lr=0.1, seed=3, epochs=3,
            batch_size=8, run=folder, callbacks=callbacks, checkpoint_every_steps=2, **more,
        )  # fmt: skip
        return net

    whole = train(tmp_path / "whole", CopyAt(7, tmp_path / "cut"))
    same_weights(train(tmp_path / "cut"), whole)
    same_weights(train(tmp_path / "two", num_workers=2), whole)


# --- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_loader", [True, False])
def test_a_validation_loss_that_is_not_finite_is_traced_and_the_run_goes_on(
    own_loader: bool, caplog: pytest.LogCaptureFixture
) -> None:
    x = X.clone()
    x[13, 1] = float("inf")

    def train(check: bool) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        valid: Any = DataLoader(TensorDataset(x, Y), batch_size=16, shuffle=True) if own_loader else (x, Y)
        result = luthier.fit(
            net, DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True), valid, criterion="cross-entropy",
            optimizer="SGD", lr=0.1, epochs=3, check=check, patience=3,
        )  # fmt: skip
        return net, result

    net, result = train(check=True)
    assert len(result.record.epochs) == 3
    rows = [row for row in result.record if row["event"] == "not-finite"]
    assert len(rows) == 1
    assert "in the validation of epoch 1" in rows[0]["cause"]
    assert "input 0 is not finite as the data gives it: inf at place [1]" in rows[0]["cause"]
    assert "samples: sample 13" in rows[0]["cause"]
    assert "sample 13" in caplog.text
    same_weights(train(check=False)[0], net)


def test_it_is_said_once_over_all_lives(tmp_path: Path) -> None:
    from tests.training.test_resume import CopyAt, without_clock

    x = X.clone()
    x[13, 1] = float("nan")

    def train(folder: Path, *callbacks: Any) -> Any:
        torch.manual_seed(0)
        return luthier.fit(
            mlp_of_four(), (X, Y), (x, Y), criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=4, batch_size=50,
            run=folder, callbacks=callbacks, checkpoint_every_steps=3, seed=0,
        )  # fmt: skip

    whole = train(tmp_path / "whole", CopyAt(11, tmp_path / "cut"))
    assert sum(row["event"] == "not-finite" for row in whole.record) == 1
    assert repr(without_clock(train(tmp_path / "cut").record)) == repr(without_clock(whole.record))
    read = luthier.read_record(tmp_path / "cut" / "record.jsonl")
    assert np.isnan([row["valid_loss"] for row in read.epochs]).all()


def test_the_command_traces_a_validation_again(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=60)
    (tmp_path / "d.csv").write_text("\n".join(["a,y", *(f"{a:.4f},{a * 2:.4f}" for a in values)]))
    (tmp_path / "v.csv").write_text("a,y\n0.1,0.2\n0.3,1e300\n")
    luthier.train(
        tmp_path / "d.csv", target="y", valid=str(tmp_path / "v.csv"), test_fraction=0.0, run=tmp_path / "run",
        epochs=3, widths=(4,), kind={"a": "number"},
    )  # fmt: skip
    rows = list(luthier.read_record(tmp_path / "run" / "record.jsonl"))
    cause = next(row["cause"] for row in rows if row["event"] == "not-finite")
    assert "row 2 of v.csv" in cause
    status, answer = replayed(tmp_path / "run")
    assert status == 0
    assert answer["not_finite"] == cause
