"""Options of fit together: what one alone does right, two must too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luthier
from luthier.errors import RunError, SettingError
from luthier.metrics.named import as_metrics
from luthier.store.bundle import module_weights
from luthier.training import state
from luthier.training.record import read_record

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]]) + 1
CLASSES = (X.sum(1) > 0).long()


def net(outputs: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs))


def fit(module: nn.Module, train: Any, valid: Any = None, **given: Any) -> Any:
    options = {"criterion": "mse", "optimizer": "SGD", "lr": 0.05, "epochs": 3, "seed": 0, "check": False, **given}
    return luthier.fit(module, train, valid, **options)


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def assert_close(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=1e-4, atol=1e-5)


class Cut(luthier.Callback):
    """Interrupt after some updates."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, run: Any) -> None:
        if run.global_step == self.after:
            raise KeyboardInterrupt


def test_micro_batches_within_accumulated_ones_give_the_gradient_of_all() -> None:
    whole, cut = net(), net()
    for module, more in ((whole, {}), (cut, {"micro_batch_size": 3})):
        loader = DataLoader(TensorDataset(X, Y), batch_size=16)
        fit(module, loader, accumulate=2, **more)
    assert_close(cut, whole)


@pytest.mark.parametrize("size", [1, 4])
def test_micro_batches_of_which_one_weighs_nothing(size: int) -> None:
    table = {f"x{i}": X[:, i].tolist() for i in range(5)} | {"y": Y[:, 0].tolist(), "w": [0.0] * 24 + [1.0] * 40}
    plain: dict[str, Any] = {"target": "y", "weight": "w", "seed": 0, "batch_size": 32, "widths": (8,), "check": False}
    plain["network"] = "mlp"  # tabm draws once a micro-batch whose turn it is
    more: list[dict[str, Any]] = [{}, {"micro_batch_size": size}]
    found = [luthier.train(table, epochs=2, shuffle=False, **plain, **options) for options in more]
    losses = [[row["train_loss"] for row in result.record.epochs] for result in found]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5)


def test_samples_whose_class_weighs_nothing_in_micro_batches() -> None:
    whole, cut = net(2), net(2)
    for module, more in ((whole, {}), (cut, {"micro_batch_size": 1})):
        fit(module, (X, CLASSES), criterion="cross-entropy", class_weights=(0.0, 1.0), batch_size=16, **more)
    assert weights_of(cut).isfinite().all()
    assert_close(cut, whole)


def test_lists_of_samples_are_counted_and_cut_by_sample() -> None:
    def collate(samples: list[Any]) -> Any:
        return [x for x, _ in samples], torch.stack([y for _, y in samples])

    def step(module: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(torch.stack([module(x).mean(0) for x in batch[0]]), batch[1])

    sequences = [(X[i : i + 2 + i % 4], Y[i]) for i in range(41)]
    losses = []
    for size in (1, 8, 41):
        valid: DataLoader[Any] = DataLoader(sequences, batch_size=size, collate_fn=collate)  # type: ignore[arg-type]  # a list will do
        result = fit(net(), valid, valid, criterion=None, step=step, lr=0.0, epochs=1)
        losses.append(result.record.epochs[0]["valid_loss"])
    assert max(losses) - min(losses) < 1e-5
    whole, cut = net(), net()
    same = [(X[i : i + 4], Y[i]) for i in range(16)]
    for module, more in ((whole, {}), (cut, {"micro_batch_size": 3})):
        loader: DataLoader[Any] = DataLoader(same, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]
        fit(module, loader, criterion=None, step=step, **more)
    assert_close(cut, whole)


def test_a_criterion_that_learns_is_cut_and_resumed(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s = nn.Parameter(torch.zeros(()))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().mean() * torch.exp(-self.s) + self.s

    def go(folder: Path | None = None, cut: int = 0, **more: Any) -> tuple[nn.Module, Scaled]:
        module, criterion = net(), Scaled()
        optimizer = torch.optim.SGD([*module.parameters(), *criterion.parameters()], 0.05)
        callbacks = [Cut(cut)] if cut else []
        options = {"criterion": criterion, "optimizer": optimizer, "lr": None, "callbacks": callbacks}
        fit(module, (X, Y), run=folder, **options, **more)
        return module, criterion

    whole, scale = go()
    assert_close(go(micro_batch_size=5)[0], whole)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", cut=3)
    module, criterion = go(tmp_path / "run")
    assert torch.equal(criterion.s, scale.s)
    assert torch.equal(weights_of(module), weights_of(whole))


def test_gradients_of_what_no_optimizer_holds_do_not_add_up(tmp_path: Path) -> None:
    def go(folder: Path | None = None, cut: int = 0, **more: Any) -> nn.Module:
        module = net()
        optimizer = torch.optim.SGD(module[2].parameters(), 0.05)  # type: ignore[index]  # a Sequential
        callbacks = [Cut(cut)] if cut else []
        fit(module, (X, Y), optimizer=optimizer, lr=None, clip_norm=0.5, run=folder, callbacks=callbacks, **more)
        return module

    whole = go()
    assert_close(go(micro_batch_size=5), whole)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", cut=3)
    assert torch.equal(weights_of(go(tmp_path / "run")), weights_of(whole))


def test_a_plateau_goes_by_the_direction_of_its_metric() -> None:
    options = {"scheduler": "ReduceLROnPlateau", "scheduler_args": {"patience": 0}, "epochs": 6, "lr": 0.01}
    result = fit(nn.Linear(5, 1), (X, Y), (X, Y), metrics=["rmse"], monitor="valid_rmse", **options)
    assert {row["lr"] for row in result.record.epochs} == {0.01}
    result = fit(nn.Linear(5, 1), (X, Y), (X, Y), metrics=["r2"], monitor="valid_r2", **options)
    assert {row["lr"] for row in result.record.epochs} == {0.01}


@pytest.mark.parametrize("scheduler", ["CosineAnnealingLR", "OneCycleLR"])
def test_added_epochs_start_at_each_layers_own_rate(scheduler: str, tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Look(luthier.Callback):
        def on_step_end(self, run: Any) -> None:
            rates.append([group["lr"] for group in run.optimizer.param_groups])

    for epochs in (2, 4):
        fit(net(), (X, Y), run=tmp_path, epochs=epochs, lr_scale={"0": 0.01}, scheduler=scheduler, callbacks=[Look()])
    half = len(rates) // 2
    assert half == 4
    torch.testing.assert_close(torch.tensor(rates[half:]), torch.tensor(rates[:half]))
    assert all(small == pytest.approx(large / 100) for large, small in rates)
    assert max(rates)[0] > 0.04


def test_added_epochs_of_a_schedule_that_cannot_start_anew_are_refused_and_not_noted(tmp_path: Path) -> None:
    def make(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)

    fit(net(), (X, Y), run=tmp_path, epochs=2, scheduler=make)
    with pytest.raises(RunError, match="OneCycleLR was made for 4 steps"):
        fit(net(), (X, Y), run=tmp_path, epochs=4, scheduler=make)
    assert not [row for row in read_record(tmp_path / "record.jsonl") if row["event"] == "extended"]


def test_one_cycle_rises_in_a_single_step_too() -> None:
    """Torch divides by nought where `pct_start` of the steps is exactly one."""
    rates = {}
    for epochs, rise in ((5, 0.2), (5, 0.21)):
        result = fit(
            net(), (X, Y), epochs=epochs, batch_size=len(X), lr=0.1, scheduler="OneCycleLR",
            scheduler_args={"pct_start": rise},
        )  # fmt: skip
        rates[rise] = [row["lr"] for row in result.record.epochs]
    assert rates[0.2] == pytest.approx(rates[0.21], rel=0.1)
    assert rates[0.2][0] < rates[0.2][1] > rates[0.2][-1]


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_a_schedule_that_would_ignore_the_rates_of_layers_is_refused(name: str) -> None:
    arguments = {"base_lr": 0.001, "max_lr": 0.1} if name == "CyclicLR" else {"max_lr": 0.1}
    with pytest.raises(SettingError, match="lr_scale would be ignored"):
        fit(net(), (X, Y), lr_scale={"0": 0.01}, scheduler=name, scheduler_args=arguments)


class Figures:
    """A metric that gives what it is told."""

    name, higher_is_better = "told", False

    def __init__(self, *values: float) -> None:
        self.values = iter(values)

    def update(self, outputs: Any, targets: Any) -> None: ...

    def reset(self) -> None: ...

    def value(self) -> float:
        return next(self.values)


def test_a_figure_that_is_no_number_is_no_best_and_no_end_of_patience() -> None:
    told = {"metrics": [Figures(3.0, 1.0, float("nan"))], "monitor": "valid_told"}
    assert fit(net(), (X, Y), (X, Y), **told).best_epoch == 1
    told = {"metrics": [Figures(float("nan"), 3.0, 2.0, 1.0)], "monitor": "valid_told"}
    result = fit(net(), (X, Y), (X, Y), **told, patience=2, epochs=4)
    assert (result.best_epoch, result.stopped) == (3, None)


def test_the_best_training_loss_counts_where_it_is_asked_for() -> None:
    result = fit(net(), (X, Y), monitor="train_loss", lr=0.3, epochs=8, momentum=0.95)
    losses = [row["train_loss"] for row in result.record.epochs]
    assert result.best_epoch == losses.index(min(losses)) < 7


def test_metrics_of_one_name_are_refused() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> float:
        return 0.0

    for metrics in ([loss], {"loss": F.l1_loss}, [nn.L1Loss(), nn.L1Loss()], ["rmse", "rmse"]):
        with pytest.raises(SettingError, match="is called"):
            as_metrics(metrics)


def test_losses_as_metrics_are_better_low_and_other_functions_are_said_to_be_better_high(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    low = as_metrics([nn.L1Loss(), F.mse_loss, "rmse"])
    assert not any(metric.higher_is_better for metric in low)
    assert fit(net(), (X, Y), (X, Y), metrics={"l1": F.l1_loss}, monitor="valid_l1").best_epoch == 2
    assert "higher_is_better" not in caplog.text
    fit(net(), (X, Y), (X, Y), metrics=[error], monitor="valid_error")
    assert "valid_error counts as better high: error.higher_is_better = False says otherwise" in caplog.text
    error.higher_is_better = False  # type: ignore[attr-defined]
    assert fit(net(), (X, Y), (X, Y), metrics=[error], monitor="valid_error").best_epoch == 2


def test_metrics_by_name_take_several_targets_and_two_classes() -> None:
    two = torch.cat([Y, -2 * Y], dim=1)
    row = fit(net(2), (X, two), (X, two), metrics=["rmse", "mae", "r2"], epochs=1).record.epochs[0]
    single = fit(net(2), (X, two), (X, two), metrics={"mse": F.mse_loss}, epochs=1).record.epochs[0]
    assert row["valid_rmse"] ** 2 <= single["valid_mse"] < 4 * row["valid_rmse"] ** 2
    options: dict[str, Any] = {"criterion": "cross-entropy", "metrics": ["auc"], "epochs": 20}
    assert fit(net(2), (X, CLASSES), (X, CLASSES), **options).record.epochs[-1]["valid_auc"] > 0.9
    with pytest.raises(SettingError, match="auc ranks the samples of two classes"):
        fit(net(3), (X, CLASSES), (X, CLASSES), **options)


@pytest.mark.parametrize(("ignored", "more"), [(-100, {}), (255, {"criterion_args": {"ignore_index": 255}})])
def test_balanced_weights_do_not_count_what_is_ignored(ignored: int, more: dict[str, Any]) -> None:
    targets = CLASSES.clone()
    targets[::5] = ignored
    options = {"criterion": "cross-entropy", **more}
    balanced, given = net(2), net(2)
    counts = torch.bincount(targets[targets != ignored])
    fit(balanced, (X, targets), class_weights="balanced", **options)
    fit(given, (X, targets), class_weights=tuple((counts.sum() / 2 / counts).tolist()), **options)
    assert_close(balanced, given)
    if ignored == 255:
        with pytest.raises(SettingError, match="a target is -1"):
            fit(net(2), (X, -targets.clamp(max=1)), class_weights="balanced", criterion="cross-entropy")


class LeNet(nn.Module):
    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.deep = nn.Conv3d(1, 1, 1) if dims == 3 else nn.Identity()
        self.head = nn.Linear(4 * 6 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return self.head(found.view(-1, 4 * 6 * 6))  # type: ignore[no-any-return]  # a Tensor


@pytest.mark.parametrize("make", [LeNet, lambda: LeNet(3)])
def test_tune_leaves_networks_as_they_are_that_do_not_run_in_its_layout(make: Callable[[], nn.Module]) -> None:
    images = torch.randn(32, 1, 8, 8)
    found = []
    for fast in (False, True):
        torch.manual_seed(0)
        module = make()
        fit(module, (images, CLASSES[:32]), criterion="cross-entropy", fast=fast)
        found.append(weights_of(module))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_tune_goes_with_a_loader_to_validate_on_and_with_a_flavour_of_ones_own() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=10)
    plain, tuned = net(), net()
    for module, fast in ((plain, False), (tuned, True)):
        fit(module, (X, Y), loader, optimizer="Adam", optimizer_args={"foreach": True}, fast=fast)
    assert_close(tuned, plain)


def test_micro_batches_are_bound_by_the_loaders_own_batches() -> None:
    whole, cut = net(), net()
    for module, more in ((whole, {}), (cut, {"micro_batch_size": 40})):
        fit(module, DataLoader(TensorDataset(X, Y), batch_size=64), **more)
    assert_close(cut, whole)
    with pytest.raises(SettingError, match="at most batch_size"):
        fit(net(), (X, Y), batch_size=8, micro_batch_size=9)


class Stopper(luthier.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_start(self, run: Any) -> luthier.Stop | None:
        return luthier.Stop("enough") if run.epoch == self.epoch else None


def test_a_stop_at_an_epochs_start_ends_the_run_and_keeps_its_folder(tmp_path: Path) -> None:
    result = fit(net(), (X, Y), callbacks=[Stopper(2)], epochs=5)
    assert (result.stopped, len(result.record.epochs)) == ("enough", 2)
    table = {f"x{i}": X[:, i].tolist() for i in range(5)} | {"y": Y[:, 0].tolist()}
    result = luthier.train(table, target="y", epochs=5, callbacks=[Stopper(2)], run=tmp_path / "run", seed=0)
    assert result.stopped == "enough"
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_setting_that_turns_out_wrong_after_an_epoch_leaves_the_folder(tmp_path: Path) -> None:
    class Late(luthier.Callback):
        def on_epoch_start(self, run: Any) -> None:
            if run.epoch == 2:
                raise SettingError("too late", code="setting-wrong-type")

    table = {f"x{i}": X[:, i].tolist() for i in range(5)} | {"y": Y[:, 0].tolist()}
    with pytest.raises(SettingError, match="too late"):
        luthier.train(table, target="y", epochs=5, callbacks=[Late()], run=tmp_path / "run", seed=0)
    assert len([row for row in read_record(tmp_path / "run" / "record.jsonl") if row["event"] == "epoch"]) == 2


def test_what_stopped_a_run_is_known_to_the_call_after(tmp_path: Path) -> None:
    told: dict[str, Any] = {"monitor": "valid_told", "patience": 1, "run": tmp_path}
    for _ in range(2):
        result = fit(net(), (X, Y), (X, Y), metrics=[Figures(1.0, 2.0)], **told)
        assert result.stopped == "no gain in valid_told for 1 epochs"


def test_added_epochs_that_were_cut_off_are_resumed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [",".join(f"{value:.4f}" for value in [*x, *y]) for x, y in zip(X.tolist(), Y.tolist(), strict=True)]
    path.write_text("\n".join(["a,b,c,d,e,y", *rows]))
    luthier.train(path, target="y", epochs=2, run=tmp_path / "run", seed=0)
    with pytest.raises(KeyboardInterrupt):
        luthier.resume(tmp_path / "run", epochs=5, callbacks=[Cut(3)])
    result = luthier.resume(tmp_path / "run")
    assert (result.is_done, len(result.record.epochs)) == (True, 5)


def test_best_weights_and_best_epoch_are_of_one_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"monitor": "valid_told", "epochs": 4}
    whole = net()
    fit(whole, (X, Y), (X, Y), metrics=[Figures(4.0, 2.0, 3.0, 3.0)], **told)
    calls: list[nn.Module] = []

    def cut(module: nn.Module, **named: Any) -> Any:
        calls.extend([module] if named["copy"] else [])  # else it is for a checkpoint
        if named["copy"] and len(calls) == 2:
            raise KeyboardInterrupt
        return module_weights(module, **named)

    monkeypatch.setattr(state, "module_weights", cut)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), (X, Y), (X, Y), metrics=[Figures(4.0, 2.0, 3.0, 3.0)], run=tmp_path, **told)
    module = net()
    result = fit(module, (X, Y), (X, Y), metrics=[Figures(4.0, 2.0, 3.0, 3.0)], run=tmp_path, **told)
    assert (result.is_done, result.best_epoch, len(result.record.epochs)) == (True, 1, 4)
    assert torch.equal(weights_of(module), weights_of(whole))


def test_an_interrupt_leaves_gradients_on() -> None:
    class Off(luthier.Callback):
        def on_step_end(self, run: Any) -> None:
            torch._C._set_grad_enabled(False)  # as an interrupt between the lines of no_grad leaves it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net(), (X, Y), callbacks=[Off()])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("what", ["inputs", "targets", "valid"])
def test_one_changed_number_among_many_rows_is_noticed_on_resume(what: str, tmp_path: Path) -> None:
    x, y = torch.randn(12_000, 2), torch.randn(12_000, 1)
    with pytest.raises(KeyboardInterrupt):
        fit(net_of_two(), (x, y), (x, y), run=tmp_path, batch_size=4000, callbacks=[Cut(2)])
    changed = {"inputs": x.clone(), "targets": y.clone(), "valid": x.clone()}
    changed[what][7001, 0] += 1e-3
    part = "validation" if what == "valid" else "training"
    with pytest.raises(RunError, match=f"the {part} data has changed"):
        fit(net_of_two(), (changed["inputs"], changed["targets"]), (changed["valid"], y), run=tmp_path, batch_size=4000)


def net_of_two() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(2, 1)


def test_other_weights_and_other_rows_in_a_part_are_noticed_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def write(start: int, weight: float) -> None:
        rows = [f"{i % 17},{i},{i % 2},{weight if i == 40 else 1}" for i in range(start, start + 120)]
        path.write_text("\n".join(["a,b,y,w", *rows]))

    write(0, 1.0)
    luthier.train(path, target="y", weight="w", epochs=1, run=tmp_path / "run", seed=0, check=False)
    write(0, 2.0)
    with pytest.raises(RunError, match="data has changed"):
        luthier.resume(tmp_path / "run", epochs=2)
    write(60, 1.0)
    with pytest.raises(RunError, match=r"t\.csv has changed since .* began: the rows have changed in"):
        luthier.resume(tmp_path / "run", epochs=2)
    (tmp_path / "run" / "split.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="remove the file, then write it again"):
        luthier.resume(tmp_path / "run", epochs=2)


def test_another_test_file_is_noticed_on_resume(tmp_path: Path) -> None:
    rows = [f"{i % 17},{i},{i % 2}" for i in range(160)]
    train, test = tmp_path / "t.csv", tmp_path / "late.csv"
    train.write_text("\n".join(["a,b,y", *rows[:120]]))
    test.write_text("\n".join(["a,b,y", *rows[120:]]))
    luthier.train(train, target="y", test=str(test), epochs=1, run=tmp_path / "run", seed=0, check=False)
    test.write_text("\n".join(["a,b,y", *rows[120:-1], "1,2,0"]))
    with pytest.raises(RunError, match=r"late\.csv has changed since .* began: its test rows have changed"):
        luthier.resume(tmp_path / "run", epochs=2)
    test.write_text("\n".join(["a,b,y", *rows[120:]]))
    assert luthier.resume(tmp_path / "run", epochs=2).test.keys() >= {"accuracy"}


@pytest.mark.parametrize("epochs", [None, 4])
def test_a_damaged_record_is_written_anew_by_a_resume(epochs: int | None, tmp_path: Path) -> None:
    path, record = tmp_path / "t.csv", tmp_path / "run" / "record.jsonl"
    path.write_text("\n".join(["a,b,y", *(f"{i % 7},{i % 5},{i % 2}" for i in range(120))]))
    luthier.train(path, target="y", epochs=2, run=tmp_path / "run", seed=0, check=False)
    rows = record.read_text().splitlines()
    record.write_text("\n".join([rows[0], "{broken", *rows[2:]]) + "\n")
    result = luthier.resume(tmp_path / "run", epochs=epochs)
    assert (result.is_done, len(read_record(record).epochs)) == (True, epochs or 2)
