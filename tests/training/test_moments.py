"""Steps in place of epochs, validation between, closures, callbacks that see and add, state that is kept."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Optimizer
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import luthier
from luthier.errors import RunError, SettingError
from luthier.training.callbacks import Callback, Stop, View

from ..problems import mlp, same_weights, table

X, Y = table(70)
V, W = table(31, seed=5)


def fitted(module: nn.Module, **more: Any) -> Any:
    settings: dict[str, Any] = {
        "criterion": "cross-entropy", "optimizer": "SGD", "lr": 0.3, "epochs": 3, "batch_size": 16, "seed": 0, **more,
    }  # fmt: skip
    if "step" in more:
        del settings["criterion"]
    torch.manual_seed(1)
    module.load_state_dict(mlp().state_dict())
    return luthier.fit(module, (X, Y), (V, W), **settings)


class StopAt(Callback):
    def __init__(self, step: int, *, finished: bool = False) -> None:
        self.step, self.finished = step, finished

    def on_step_end(self, run: View) -> Stop | None:
        return Stop("so", finished=self.finished) if run.global_step == self.step else None


def batches(epochs: int) -> Iterator[Tensor]:
    for epoch in range(epochs):
        yield from luthier.order(len(X), 0, epoch).split(16)


def test_max_steps_ends_within_an_epoch_with_its_row_and_the_bits_of_the_loop() -> None:
    torch.manual_seed(1)
    theirs = mlp()
    torch.manual_seed(1)
    module = mlp()
    result = luthier.fit(
        module, (X, Y), (V, W), criterion="cross-entropy", optimizer="SGD", lr=0.3, batch_size=16, seed=0, max_steps=7,
        restore_best=False, scheduler="OneCycleLR", scheduler_args={"max_lr": 0.3},
    )  # fmt: skip
    torch.manual_seed(0)
    optimizer = SGD(theirs.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=7)
    for rows, _ in zip(batches(2), range(7), strict=False):
        optimizer.zero_grad()
        F.cross_entropy(theirs(X[rows]), Y[rows]).backward()
        optimizer.step()
        schedule.step()
    same_weights(module, theirs)
    assert result.global_step == 7
    assert result.is_done
    assert [row["step"] for row in result.record.epochs] == [5, 7]
    with pytest.raises(SettingError, match="both epochs and max_steps"):
        fitted(mlp(), max_steps=3)


def test_validation_between_writes_rows_keeps_the_best_and_moves_no_bit() -> None:
    plain = fitted(mlp(), restore_best=False)
    between = fitted(mlp(), restore_best=False, valid_every_steps=2, log_every_steps=3)
    same_weights(between.module, plain.module)
    rows = [row for row in between.record if row["event"] == "validation"]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 12, 14]  # step 10 ends an epoch
    assert [row["step"] for row in between.record if row["event"] == "step"] == [3, 6, 9, 12, 15]
    best = fitted(mlp(), valid_every_steps=2)
    everything = [row for row in best.record if row["event"] in ("validation", "epoch")]
    least = min(everything, key=lambda row: row["valid_loss"])
    assert best.evaluate((V, W))["loss"] == pytest.approx(least["valid_loss"], rel=1e-6)
    assert best.model.metrics["valid"]["loss"] == least["valid_loss"]


def test_validation_between_goes_on_over_a_stop(tmp_path: Path) -> None:
    more: dict[str, Any] = {"valid_every_steps": 2, "log_every_steps": 1}
    whole = fitted(mlp(), run=tmp_path / "whole", **more)
    fitted(mlp(), run=tmp_path / "cut", callbacks=[StopAt(6)], **more)
    again = fitted(mlp(), run=tmp_path / "cut", **more)
    same_weights(again.module, whole.module)
    ours, theirs = ([{**row, "seconds": 0} for row in run.record] for run in (again, whole))
    assert ours == theirs
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


class Sharp(Optimizer):
    """Sharpness-aware minimisation (Foret et al. 2021): up the gradient, down from there, with torch's closure."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
            for p in group["params"]:
                self.state[p]["old"] = p.clone()
                p.add_(p.grad * group["rho"] / norm)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
                p.sub_(p.grad * group["lr"])

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.first_step()
        closure()
        self.second_step()


@pytest.mark.parametrize("kind", ["LBFGS", "Sharp"])
def test_an_optimizer_with_a_closure_gives_the_bits_of_the_loop(kind: str) -> None:
    def make(parameters: Any) -> Optimizer:
        return LBFGS(parameters, lr=0.5, max_iter=4) if kind == "LBFGS" else Sharp(parameters)

    result = fitted(module := mlp(), optimizer=make, lr=None, restore_best=False, clip_norm=1.0)
    torch.manual_seed(1)
    theirs = mlp()
    torch.manual_seed(0)
    optimizer, losses = make(theirs.parameters()), []
    for rows in batches(3):
        seen: list[float] = []

        def closure(rows: Tensor = rows, seen: list[float] = seen) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(theirs(X[rows]), Y[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            seen.append(float(loss.detach()) * len(rows))
            return loss

        if kind == "Sharp":
            closure()
        optimizer.step(closure)  # type: ignore[arg-type]
        losses.append(seen[0])
    same_weights(module, theirs)
    assert result.record.epochs[-1]["train_loss"] == pytest.approx(sum(losses[-5:]) / len(X))


class Told(DistributedSampler[Any]):
    def __init__(self) -> None:
        super().__init__(TensorDataset(X, Y), num_replicas=1, rank=0, shuffle=True)


def test_a_sampler_hears_the_epoch() -> None:
    data = TensorDataset(X, Y)
    torch.manual_seed(1)
    ours, theirs = mlp(), mlp()
    theirs.load_state_dict(ours.state_dict())
    loader = DataLoader(data, batch_size=16, sampler=Told())
    luthier.fit(ours, loader, criterion="cross-entropy", optimizer="SGD", lr=0.3, epochs=3, seed=0)
    sampler = Told()
    optimizer = SGD(theirs.parameters(), lr=0.3)
    torch.manual_seed(0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for x, y in DataLoader(data, batch_size=16, sampler=sampler):
            optimizer.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            optimizer.step()
    same_weights(ours, theirs)


class Sees(Callback):
    figures = ("half",)

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rows: list[dict[str, Any]] = []

    def on_forward_end(self, run: View) -> None:
        assert run.passed is not None
        assert run.passed.outputs.shape[1] == 3
        assert len(run.passed.targets) == len(run.passed.outputs)
        self.losses.append(float(run.passed.measured.loss.detach()))

    def on_validation_end(self, run: View) -> dict[str, float]:
        return {"half": run.figures["valid_accuracy"] / 2}

    def on_epoch_end(self, run: View) -> None:
        assert run.passed is None
        self.rows.append(dict(run.figures))


def test_a_callback_sees_losses_and_outputs_and_adds_figures_that_can_be_watched() -> None:
    callback = Sees()
    result = fitted(mlp(), callbacks=[callback], metrics=["accuracy"], monitor="half", log_every_steps=1)
    assert [row["train_loss"] for row in result.record if row["event"] == "step"] == callback.losses
    assert "valid_accuracy" in callback.rows[0]
    for row in result.record.epochs:
        assert row["half"] == row["valid_accuracy"] / 2
    last = fitted(mlp(), callbacks=[Sees()], metrics=["accuracy"], restore_best=False)
    same_weights(last.module, fitted(mlp(), restore_best=False).module)


def test_a_stop_within_the_first_epoch_leaves_its_row() -> None:
    result = fitted(mlp(), callbacks=[StopAt(2, finished=True)])
    assert result.is_done
    assert result.best_epoch == 0
    assert [row["step"] for row in result.record.epochs] == [2]
    assert result.model.metrics["valid"]["loss"] == result.record.epochs[0]["valid_loss"]


class Follows:
    """A step with a slow copy of the network, which learns beside it: a mean teacher."""

    def __init__(self, module: nn.Module) -> None:
        self.slow = [p.detach().clone() for p in module.parameters()]

    def __call__(self, module: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        pull = torch.stack([(p - q).square().sum() for p, q in zip(module.parameters(), self.slow, strict=True)]).sum()
        for p, q in zip(module.parameters(), self.slow, strict=True):
            q.lerp_(p.detach(), 0.1)
        return F.cross_entropy(module(x), y) + 0.01 * pull


class Kept(Follows):
    def state_dict(self) -> dict[str, Any]:
        return {"slow": list(self.slow)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, value in zip(self.slow, state["slow"], strict=True):
            own.copy_(value)


def test_the_state_of_a_step_is_kept(tmp_path: Path) -> None:
    def run(folder: str, *callbacks: Any) -> Any:
        module = mlp()
        torch.manual_seed(1)
        module.load_state_dict(mlp().state_dict())
        return fitted(module, step=Kept(module), run=tmp_path / folder, callbacks=callbacks, check=False)

    whole = run("whole")
    run("cut", StopAt(7))
    same_weights(run("cut").module, whole.module)


def test_state_that_is_not_kept_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, teacher, still = mlp(), nn.Linear(6, 3), nn.Linear(6, 3).requires_grad_(False)

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y) + F.mse_loss(model(x), teacher(x) + still(x))

    with caplog.at_level(logging.WARNING, "luthier"):
        fitted(module, step=step, run=tmp_path / "a", check=False)
        assert "does not save teacher of the step (a Linear):" in caplog.text
        caplog.clear()
        fitted(module, step=Kept(module), run=tmp_path / "b", check=False)
        fitted(module, run=tmp_path / "c", check=False)
        assert "does not save" not in caplog.text


def test_a_rate_of_zero_for_a_whole_epoch_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warm = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(epoch, 1))  # noqa: E731
    with caplog.at_level(logging.WARNING, "luthier"):
        fitted(mlp(), scheduler=warm, scheduler_interval="epoch")
    said = [record.message for record in caplog.records if "learnt nothing" in record.message]
    assert said == ["the learning rate was 0 for all of epoch 1, so it learnt nothing: see scheduler_interval"]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


class Shared(Stream):
    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        for i, sample in enumerate(super().__iter__()):
            if worker is None or i % worker.num_workers == worker.id:
                yield sample


def test_a_stream_that_every_worker_reads_is_a_finding() -> None:
    def codes(loader: Any) -> set[str]:
        return {finding.code for finding in luthier.check(mlp(), loader, criterion=nn.CrossEntropyLoss())}

    assert "check-repeated-samples" in codes(DataLoader(Stream(), batch_size=8, num_workers=2))
    assert "check-repeated-samples" not in codes(DataLoader(Stream(), batch_size=8, num_workers=1))
    assert "check-repeated-samples" not in codes(DataLoader(Shared(), batch_size=8, num_workers=2))
    assert "check-repeated-samples" not in codes(
        DataLoader(Stream(), batch_size=8, num_workers=2, worker_init_fn=lambda number: None)
    )


def test_a_teacher_without_gradients_that_moves_is_named_after_an_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, teacher = mlp(), mlp().requires_grad_(False)

    class Teaches(Callback):
        def on_step_end(self, run: View) -> None:
            for slow, fast in zip(teacher.parameters(), run.module.parameters(), strict=True):
                slow.lerp_(fast.detach(), 0.1)

    with caplog.at_level(logging.WARNING, "luthier"):
        fitted(module, callbacks=[Teaches()], run=tmp_path, check=False)
    assert caplog.text.count("does not save teacher of Teaches.0 (a Sequential):") == 1


def test_more_steps_go_on_and_fewer_are_refused(tmp_path: Path) -> None:
    def run(steps: int) -> Any:
        torch.manual_seed(1)
        return luthier.fit(
            mlp(), (X, Y), (V, W), criterion="cross-entropy", optimizer="SGD", lr=0.3, batch_size=16, seed=0,
            max_steps=steps, run=tmp_path / "run",
        )  # fmt: skip

    assert run(5).global_step == 5
    assert run(9).global_step == 9
    with pytest.raises(RunError, match=r"recipe\.max_steps was 9 and is 4") as caught:
        run(4)
    assert "recipe.epochs" not in caught.value.message


def test_a_lambda_goes_by_steps_where_the_run_does() -> None:
    result = fitted_by_steps(scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step))
    assert result.record.epochs[-1]["lr"] == pytest.approx(0.3 * 0.5**6)


def fitted_by_steps(**more: Any) -> Any:
    return luthier.fit(
        mlp(), (X, Y), (V, W), criterion="cross-entropy", optimizer="SGD", lr=0.3, batch_size=16, seed=0, max_steps=7,
        **more,
    )  # fmt: skip
