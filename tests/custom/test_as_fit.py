"""`fit` written anew with `run`, from public names alone: the same weights, losses and metrics, also after kills."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import luthier


class Killed(Exception):  # a kill is no error
    """Raised in the middle of a loop."""


def data(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=draw)
    return x, (x[:, :4] + 0.5 * torch.randn(rows, 4, generator=draw)).argmax(1)


def training(case: dict[str, Any]) -> Any:
    pair = data(0, 120)
    return DataLoader(TensorDataset(*pair), batch_size=SIZE, shuffle=True) if "accumulate" in case else pair


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))


CASES: dict[str, dict[str, Any]] = {
    "momentum and a cycle": {"momentum": 0.9, "lr": 0.1, "cycle": True, "clip": 1.0},
    "average": {"lr": 0.05, "ema": 0.9},
    "accumulate": {"lr": 0.05, "accumulate": 2},
    "half": {"lr": 0.05, "precision": "bf16"},
    "patience": {"lr": 2.0, "patience": 2},
}
EPOCHS, SIZE = 8, 24


def by_fit(case: dict[str, Any]) -> list[Any]:
    settings: dict[str, Any] = {
        "momentum": case.get("momentum", 0.0), "lr": case["lr"], "clip_norm": case.get("clip"), "ema": case.get("ema"),
        "accumulate": case.get("accumulate"), "batch_size": None if "accumulate" in case else SIZE, 
        "precision": case.get("precision"),
        "patience": case.get("patience"), "scheduler": "OneCycleLR" if case.get("cycle") else None,
    }  # fmt: skip
    net = network()
    result = luthier.fit(
        net, training(case), data(1, 60), criterion="cross-entropy", optimizer="SGD", epochs=EPOCHS,
        metrics=["accuracy"], seed=3, verbose=False, check=False, 
        **{name: value for name, value in settings.items() if value is not None},
    )  # fmt: skip
    rows = [[row[name] for name in ("train_loss", "valid_loss", "valid_accuracy")] for row in result.record.epochs]
    return [*rows, [value.tolist() for value in net.state_dict().values()]]


def by_run(case: dict[str, Any], folder: Path, at: int | None = None) -> list[Any]:
    train, valid, net = training(case), data(1, 60), network()
    optimizer = optim.SGD(net.parameters(), case["lr"], momentum=case.get("momentum", 0.0))
    over, steps = case.get("accumulate", 1), 5
    sizes: dict[str, Any] = {} if "accumulate" in case else {"batch_size": SIZE}
    parts: dict[str, Any] = {"net": net, "optimizer": optimizer, "waited": 0}
    move: Callable[[], Any] = lambda: None  # noqa: E731
    kept, update = net, move
    if case.get("cycle"):
        parts["cycle"] = optim.lr_scheduler.OneCycleLR(optimizer, case["lr"], total_steps=EPOCHS * steps)
        move = parts["cycle"].step
    if "ema" in case:
        average = parts["average"] = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(case["ema"]))
        kept, update = average.module, lambda: average.update_parameters(net)
    with luthier.run(
        folder, train=train, seed=3, verbose=False, watched=False, checkpoint_every_s=None, checkpoint_every_steps=3,
        **parts,
    ) as run:  # fmt: skip
        for _ in run.epochs(EPOCHS):
            net.train()
            for x, y in run.batches(train, **sizes):
                if run.global_step == at:
                    raise Killed
                with torch.autocast("cpu", torch.bfloat16, enabled="precision" in case):
                    loss = nn.functional.cross_entropy(net(x), y)
                if run.batch % over == 0:
                    optimizer.zero_grad()
                run.backward(loss / over)
                run.log(loss=loss.detach())
                if run.batch % over == over - 1 or run.batch == steps - 1:
                    if "clip" in case:
                        nn.utils.clip_grad_norm_(net.parameters(), case["clip"])
                    run.step(optimizer)
                    move()
                    update()

            def measured(module: nn.Module, *inputs: Tensor) -> Any:
                with torch.autocast("cpu", torch.bfloat16, enabled="precision" in case):
                    outputs = module(inputs[0])
                    return {
                        "loss": nn.functional.cross_entropy(outputs, inputs[1]), "outputs": outputs,
                        "targets": inputs[1],
                    }  # fmt: skip

            figures = run.validate(
                kept,
                valid,
                step=lambda module, batch: measured(module, *batch),
                metrics=["accuracy"],
                batch_size=32 if "accumulate" in case else SIZE,
            )
            run.waited = 0 if run.best.update(figures["loss"]) else run.waited + 1
            if run.waited == case.get("patience"):
                break
        run.best.restore()
    rows = [[row[name] for name in ("loss", "valid_loss", "valid_accuracy")] for row in run.record.epochs]
    return [*rows, [value.tolist() for value in kept.state_dict().values()]]


@pytest.mark.parametrize("name", CASES)
def test_fit_written_with_run_is_fit_by_the_bit(name: str, tmp_path: Path, caplog: Any) -> None:
    wanted = by_fit(CASES[name])
    assert by_run(CASES[name], tmp_path / "whole") == wanted
    with caplog.at_level(logging.ERROR):
        for at in (4, 17):
            with pytest.raises(Killed):
                by_run(CASES[name], tmp_path / "killed", at)
        assert by_run(CASES[name], tmp_path / "killed") == wanted
