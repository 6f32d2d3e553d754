"""What a GPU has to show: `./check --gpu`. With LUTHIER_GPU_LANE=cpu the same tests run on the processor.

None of them has run on a GPU yet: no machine with one was at hand.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import luthier

PLACE = os.environ.get("LUTHIER_GPU_LANE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(PLACE != "cpu" and not torch.cuda.is_available(), reason="there is no GPU"),
]


def data(rows: int = 2000) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 16, generator=draw)
    return x, (x[:, :5] + 0.3 * torch.randn(rows, 5, generator=draw)).argmax(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 5))


def fit(net: nn.Module, **more: Any) -> luthier.Result:
    x, y = data()
    settings: dict[str, Any] = {
        "criterion": "cross-entropy", "optimizer": "AdamW", "lr": 0.01, "epochs": 4, "batch_size": 100, "seed": 0,
        "metrics": ["accuracy"], "device": PLACE, "verbose": False,
    }  # fmt: skip
    return luthier.fit(net, (x[:1600], y[:1600]), (x[1600:], y[1600:]), **{**settings, **more})


def digest(net: nn.Module) -> str:
    found = hashlib.sha256()
    for value in net.state_dict().values():
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()


def test_fit_learns_there_and_its_losses_are_those_of_the_processor_to_rounding() -> None:
    there, here = network(), network()
    without = {"epochs": 1, "check": False}
    for net in (there, here):
        net[3] = nn.Identity()  # dropout draws otherwise on a GPU
    found, wanted = fit(there, **without), fit(here, **without, device="cpu")
    assert next(there.parameters()).device.type == PLACE
    row, other = found.record.epochs[0], wanted.record.epochs[0]
    assert row["train_loss"] == pytest.approx(other["train_loss"], rel=2e-3)
    assert row["valid_loss"] == pytest.approx(other["valid_loss"], rel=2e-2)
    assert fit(network()).record.epochs[-1]["valid_accuracy"] > 0.7


class Stopping(luthier.Callback):
    """Stop within an epoch."""

    def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
        return luthier.Stop("here", finished=False) if run.global_step == 21 else None


def test_a_run_that_was_stopped_within_an_epoch_comes_to_the_same_bits(tmp_path: Path) -> None:
    whole, again, resumed = network(), network(), network()
    fit(whole)
    fit(again)
    assert digest(again) == digest(whole)
    assert not fit(network(), run=tmp_path / "run", callbacks=[Stopping()]).is_done
    fit(resumed, run=tmp_path / "run")
    assert digest(resumed) == digest(whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_learns_and_resumes(precision: str, tmp_path: Path) -> None:
    if PLACE == "cpu" and precision == "fp16":
        pytest.skip("fp16 is for GPUs")
    whole, resumed = network(), network()
    assert fit(whole, precision=precision).record.epochs[-1]["valid_accuracy"] > 0.7
    fit(network(), precision=precision, run=tmp_path / "run", callbacks=[Stopping()])
    fit(resumed, precision=precision, run=tmp_path / "run")
    assert digest(resumed) == digest(whole)


def test_compiled_and_fast_learn() -> None:
    assert fit(network(), compile=True).record.epochs[-1]["valid_accuracy"] > 0.7
    assert fit(network(), fast=True).record.epochs[-1]["valid_accuracy"] > 0.7


def test_parts_of_a_batch_that_fit_give_its_update() -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
    assert fit(net, batch_size=1600, micro_batch_size="auto", epochs=2).record.epochs[-1]["train_loss"] > 0
    assert fit(net, batch_size=1600, micro_batch_size=64, epochs=2).record.epochs[-1]["train_loss"] > 0


def test_a_loop_of_ones_own_resumes_there(tmp_path: Path) -> None:
    def loop(folder: Path, at: int | None = None) -> str:
        net = network().to(PLACE)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        x, y = data()
        with luthier.run(
            folder, net=net, optimizer=optimizer, train=(x, y), seed=0, checkpoint_every_steps=7, verbose=False
        ) as run:
            for _ in run.epochs(2):
                for inputs, targets in run.batches((x, y), batch_size=100):
                    if run.global_step == at:
                        raise KeyboardInterrupt
                    loss = nn.functional.cross_entropy(net(inputs.to(PLACE)), targets.to(PLACE))
                    optimizer.zero_grad()
                    run.backward(loss)
                    run.step(optimizer)
                    run.log(loss=loss)
        return digest(net)

    wanted = loop(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path / "killed", 25)
    assert loop(tmp_path / "killed") == wanted


def test_a_table_is_trained_saved_reported_and_answers_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    age, city = rng.normal(40, 12, 800).round(2), rng.choice(["Ayr", "Bonn", "Cork"], 800)
    left = np.where((age - 40) / 8 + (city == "Cork") * 2 + rng.normal(size=800) > 0, "yes", "no")
    pl.DataFrame({"age": age, "city": city, "left": left}).write_csv("people.csv")
    result = luthier.train("people.csv", target="left", epochs=5, seed=0, device=PLACE, run="run")
    assert result.test["accuracy"] > 0.7
    model = luthier.load("run/model.safetensors")
    assert next(model.module.parameters()).device.type == "cpu"
    assert model.evaluate("people.csv")["accuracy"] > 0.7
    result.report("page.html")
    assert Path("page.html").stat().st_size > 10_000
    if PLACE == "cpu":
        luthier.eject("run", "project")
    else:
        with pytest.raises(luthier.LuthierError, match="only runs on the CPU"):
            luthier.eject("run", "project")
