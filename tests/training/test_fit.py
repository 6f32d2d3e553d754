"""What `fit` takes, and what it refuses."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import luthier
from luthier.errors import CheckError, DataError, SettingError, TrainingError
from luthier.training.optimizers import optimizer_names
from luthier.training.schedules import scheduler_names
from tests.problems import mlp, same_weights, table


def trained(data: Any, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    net = mlp()
    luthier.fit(net, data, **{"criterion": "cross-entropy", "optimizer": "Adam", "epochs": 2, "seed": 3, **settings})
    return net


class Items(Dataset[Any]):
    def __init__(self, kind: str) -> None:
        self.x, self.y = table()
        self.kind = kind

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        if self.kind == "dict":
            return {"input": self.x[i], "labels": self.y[i]}
        return self.x[i], int(self.y[i])


def test_the_same_data_in_any_form_gives_the_same_bits() -> None:
    x, y = table()
    expected = trained((x, y))
    names = [f"c{i}" for i in range(6)]
    forms: dict[str, Any] = {
        "a list": [x, y],
        "TensorDataset": TensorDataset(x, y),
        "Dataset": Items("tuple"),
        "Dataset of dicts": Items("dict"),
        "dict": {"input": x, "target": y},
        "NumPy": (x.double().numpy(), y.numpy()),
        "NumPy, backwards": (x.flip(0).numpy()[::-1], y.numpy()),
        "NumPy, bytes swapped": (x.numpy().astype(">f4"), y.numpy().astype(">i8")),
        "NumPy, objects": (x.double().numpy(), y.numpy().astype(object)),
        "pandas": (pd.DataFrame(x.numpy(), columns=names), pd.Series(y.numpy())),
        "polars": (pl.DataFrame(x.numpy(), schema=names), pl.Series(y.numpy())),
        "list of pairs": list(zip(x, y.tolist(), strict=True)),
    }
    for name, data in forms.items():
        assert all(torch.equal(a, b) for a, b in zip(trained(data).parameters(), expected.parameters(), strict=True)), (
            name
        )


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        out: Tensor = self.left(left) + self.right(right)
        return out


def test_numbers_of_numpy_are_numbers_and_half_floats_are_floats() -> None:
    x, y = (part.numpy() for part in table())
    given: dict[str, Any] = {"epochs": np.int64(2), "lr": np.float64(0.1)}
    rows = []
    for data in (x.astype(np.float16), x.astype(np.float16).astype(np.float32)):
        torch.manual_seed(0)
        done = luthier.fit(mlp(), (data, y), criterion="cross-entropy", optimizer="SGD", seed=0, **given)
        rows.append([row["train_loss"] for row in done.record.epochs])
    assert len(rows[0]) == 2
    assert rows[0] == rows[1]


def test_several_inputs_by_position_and_by_name() -> None:
    x, y = table()
    results = []
    for data in ((x, -x, y), {"right": -x, "left": x, "label": y}):
        torch.manual_seed(0)
        net = Two()
        luthier.fit(net, data, criterion="cross-entropy", optimizer="Adam", epochs=2, seed=0)
        results.append(net)
    same_weights(results[0], results[1])


def test_an_optimizer_by_name_class_callable_and_instance_is_the_same() -> None:
    def fitted(make: Any, **settings: Any) -> nn.Module:
        torch.manual_seed(0)
        net = mlp()
        optimizer = make(net) if callable(make) and getattr(make, "is_factory", False) else make
        luthier.fit(net, table(), criterion="cross-entropy", optimizer=optimizer, epochs=2, seed=3, **settings)
        return net

    def instance(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), lr=0.01)

    instance.is_factory = True  # type: ignore[attr-defined]
    expected = fitted("adam", lr=0.01)
    same_weights(fitted(torch.optim.Adam, lr=0.01), expected)
    same_weights(fitted(lambda parameters: torch.optim.Adam(parameters, lr=0.01)), expected)
    same_weights(fitted(instance), expected)


@pytest.mark.parametrize("name", sorted(set(optimizer_names()) - {"SparseAdam", "Muon"}))
def test_every_optimizer_of_torch_by_name(name: str) -> None:
    net = trained(table(), optimizer=name)
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


SCHEDULERS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 1}, "MultiStepLR": {"milestones": [1]}, "ConstantLR": {}, "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9}, "CosineAnnealingLR": {}, "PolynomialLR": {}, "OneCycleLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 2}, "CyclicLR": {"base_lr": 0.001, "max_lr": 0.01, "cycle_momentum": False},
    "ReduceLROnPlateau": {"patience": 0},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_by_name(name: str) -> None:
    torch.manual_seed(0)
    net = mlp()
    result = luthier.fit(
        net, table(), table(30, 9), criterion="cross-entropy", optimizer="Adam", lr=0.01, epochs=3, seed=3,
        scheduler=name, scheduler_args=SCHEDULERS[name], warmup_steps=2,
    )  # fmt: skip
    assert all(row["lr"] > 0 for row in result.record.epochs)


def test_all_schedulers_are_tried() -> None:
    assert set(SCHEDULERS) == set(scheduler_names())


def test_warm_up_rises_linearly_to_the_schedule() -> None:
    rates: list[float] = []

    class Watch(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    luthier.fit(
        mlp(), table(), criterion="cross-entropy", optimizer=lambda p: Watch(p, lr=0.4), warmup_steps=4, epochs=2
    )
    assert rates[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        x, y = table(24)
        return zip(x, y, strict=True)


def test_an_iterable_dataset_in_an_own_loader(caplog: pytest.LogCaptureFixture) -> None:
    result = luthier.fit(
        mlp(), DataLoader(Endless(), batch_size=8), criterion="cross-entropy", optimizer="SGD", epochs=2
    )
    assert result.global_step == 6
    assert "will not be exact" in caplog.text


def test_early_stopping_stops_and_says_why() -> None:
    x, y = table(40)
    result = luthier.fit(
        mlp(), (x, y), (x, 2 - y), criterion="cross-entropy", optimizer="Adam", lr=0.05, epochs=100, patience=3, seed=0
    )
    assert result.stopped == "no gain in valid_loss for 3 epochs"
    assert len(result.record.epochs) < 100


def test_a_limit_is_a_dry_run_of_every_part() -> None:
    result = luthier.fit(
        mlp(), table(), table(), criterion="cross-entropy", optimizer="Adam", batch_size=8, limit=1, epochs=1
    )
    assert result.global_step == 1
    assert "valid_loss" in result.record.epochs[0]


def test_nothing_is_written_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(table())
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_bf16_on_the_cpu_trains() -> None:
    assert torch.isfinite(trained(table(), precision="bf16", epochs=1)[0].weight).all()  # type: ignore[index]


def test_an_ema_of_a_module_and_its_resume_keep_tied_weights(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.b(self.a(x)))
            return out

    net = Tied()
    result = luthier.fit(net, table(), criterion="cross-entropy", optimizer="Adam", epochs=1, run=tmp_path / "r")
    result.model.save(tmp_path / "m.safetensors")
    fresh = Tied()
    luthier.load(tmp_path / "m.safetensors", module=fresh)
    assert fresh.a.weight is fresh.b.weight
    same_weights(fresh, net)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no criterion": ({"criterion": None}, SettingError, "no criterion"),
    "no optimizer": ({"optimizer": None}, SettingError, "no optimizer"),
    "an unknown field": ({"epoch": 3}, SettingError, "did you mean 'epochs'"),
    "lr beside an instance": (
        {"optimizer": lambda p: torch.optim.SGD(p), "lr": 0.1}, SettingError, "lr would be ignored"
    ),
    "LBFGS and a warm-up": ({"optimizer": torch.optim.LBFGS, "warmup_steps": 3}, SettingError, "several times a step"),
    "accumulate without a loader": ({"accumulate": 2}, SettingError, "micro_batch_size"),
    "batch_size beside a loader": (
        {"train": DataLoader(TensorDataset(*table())), "batch_size": 4}, SettingError, "DataLoader is used as it is"
    ),
    "twice": ({"recipe": luthier.Recipe(epochs=4), "epochs": 5}, SettingError, "given twice"),
    "smoothing an own criterion": (
        {"criterion": nn.CrossEntropyLoss(), "label_smoothing": 0.1}, SettingError, "would be ignored"
    ),
    "step and criterion": ({"step": lambda m, b: None}, SettingError, "both criterion and step"),
    "a class": ({"module": nn.ReLU}, SettingError, "the class ReLU"),
    "nothing": ({"train": None}, DataError, "no training data"),
    "a path": ({"train": "a.csv"}, DataError, "luthier.train"),
    "a tensor alone": ({"train": table()[0]}, DataError, r"no \(inputs, targets\)"),
    "a frame alone": ({"train": pd.DataFrame({"a": [1.0]})}, DataError, "none of its columns is named as the target"),
    "unequal lengths": ({"train": (table()[0], table(50)[1])}, DataError, "as many inputs as targets"),
    "text": ({"train": (np.array([["a"]]), np.array([1]))}, DataError, "read the table with luthier.train"),
    "two targets in a dict": (
        {"train": {"x": table()[0], "label": table()[1], "labels": table()[1]}}, DataError, "target_key="
    ),
    "an iterator": ({"train": iter([table()])}, DataError, "iterated only once"),
    "an iterable dataset": ({"train": Endless()}, DataError, "DataLoader"),
    "an optimizer of another module": (
        {"optimizer": torch.optim.SGD(mlp().parameters())}, CheckError, "moves none of the 6 parameters"
    ),
    "a broadcast": (
        {"module": nn.Linear(6, 1), "train": (table()[0], table()[0][:, 0]), "criterion": "mse"},
        CheckError, "every target",
    ),
    "no samples": ({"train": (torch.zeros(0, 6), torch.zeros(0).long())}, DataError, "no sample"),
    "nothing to train": ({"module": nn.ReLU()}, SettingError, "no parameter"),
    "a loss per sample": ({"criterion": nn.CrossEntropyLoss(reduction="none")}, TrainingError, "a loss is one number"),
    "an unknown metric": ({"metrics": ["rmsee"], "valid": table()}, SettingError, "rmse"),
    "too large a last batch left out": ({"batch_size": 500, "drop_last": True}, TrainingError, "no batch"),
    "fp16 on the CPU": ({"precision": "fp16"}, SettingError, "bf16"),
    "a schedule without a name": ({"scheduler_args": {"gamma": 1}}, SettingError, "without a scheduler"),
    "a schedule of another optimizer": (
        {"scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(mlp().parameters()), 1)},
        SettingError, "another optimizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said(case: str) -> None:
    given, kind, words = REFUSED[case]
    call: dict[str, Any] = {
        "module": mlp(),
        "train": table(),
        "criterion": "cross-entropy",
        "optimizer": "SGD",
        **given,
    }
    with pytest.raises(kind, match=words):
        luthier.fit(call.pop("module"), call.pop("train"), call.pop("valid", None), **call)


def test_checks_change_no_bit_and_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def part(net: Any) -> Any:
        return torch.optim.SGD(net[0].parameters(), lr=0.1)

    nets = []
    for check in (True, False):
        torch.manual_seed(0)
        net = mlp()
        result = luthier.fit(
            net, table(), criterion="cross-entropy", optimizer=part(net), epochs=1, seed=1, check=check
        )
        nets.append(net)
        assert [finding.code for finding in result.findings] == ["check-optimizer-coverage"] * check
    same_weights(nets[0], nets[1])
    assert "leaves out 4 of 6" in caplog.text


@pytest.mark.usefixtures("unchecked")
def test_a_loss_that_is_not_finite_names_the_place() -> None:
    x, y = table()
    x = x.clone()
    x[60] = float("nan")
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1, batch \d+"):
        luthier.fit(mlp(), (x, y), criterion="cross-entropy", optimizer="SGD", epochs=2, batch_size=8, seed=0)


def test_memory_that_is_used_up_is_answered_with_a_size_to_try() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            out: Tensor = self.net(x)
            return out

    with pytest.raises(TrainingError, match="micro_batch_size=16"):
        luthier.fit(Hungry(), table(), criterion="cross-entropy", optimizer="SGD", epochs=1)
    assert luthier.fit(
        Hungry(), table(), criterion="cross-entropy", optimizer="SGD", epochs=1, micro_batch_size=10
    ).global_step == 4  # fmt: skip


def test_a_state_dict_with_extra_state_and_hidden_buffers_survives(tmp_path: Path) -> None:
    class Odd(nn.Module):
        hidden: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            self.calls = 0
            self.register_buffer("hidden", torch.zeros(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.hidden += 1
            out: Tensor = self.net(x)
            return out

        def get_extra_state(self) -> Any:
            return OrderedDict(calls=self.calls)

        def set_extra_state(self, state: Any) -> None:
            self.calls = state["calls"]

    net = Odd()
    luthier.fit(net, table(), criterion="cross-entropy", optimizer="SGD", epochs=2).model.save(
        tmp_path / "m.safetensors"
    )
    fresh = Odd()
    luthier.load(tmp_path / "m.safetensors", module=fresh)
    assert fresh.calls == net.calls == 8
    assert torch.equal(fresh.hidden, net.hidden)
