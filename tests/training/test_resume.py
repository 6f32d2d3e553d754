"""A run cut off at any instant and continued ends with the same bits as one never stopped."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import luthier
from luthier.errors import RunError, SettingError
from luthier.training.callbacks import Callback, View
from tests.problems import mlp, same_weights, table


class Noisy(Dataset[Any]):
    """Draws from all three global generators at each read."""

    def __init__(self) -> None:
        self.x, self.y = table(50)

    def __len__(self) -> int:
        return 50

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(6) + float(np.random.rand()) + random.random()
        return self.x[i] + 0.1 * noise, self.y[i]


class CopyAt(Callback):
    """Copy the run's folder after some step: what a kill at that instant would leave."""

    def __init__(self, step: int, to: Path) -> None:
        self.step, self.to = step, to

    def on_step_end(self, run: View) -> None:
        if run.global_step == self.step and run.folder is not None:
            # a large state is written beside the run: what has no name yet may be gone in the middle of the copy
            shutil.copytree(run.folder, self.to, ignore=shutil.ignore_patterns(".*"))


def tensors() -> Any:
    return table(50)


def noisy_loader() -> Any:
    return DataLoader(Noisy(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3))


def noisy_loader_with_workers() -> Any:
    return DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "tensors": (tensors, {"batch_size": 8}),
    "dataset that draws": (Noisy, {"batch_size": 8}),
    "own loader that draws": (noisy_loader, {}),
    "own loader with workers": (noisy_loader_with_workers, {}),
    "own loader, accumulating": (noisy_loader, {"accumulate": 2}),
}


def train(kind: str, folder: Path, callbacks: tuple[Any, ...] = (), **more: Any) -> tuple[nn.Module, Any]:
    make, settings = KINDS[kind]
    torch.manual_seed(1)
    module = mlp()
    valid = DataLoader(TensorDataset(*table(30, 4)), batch_size=8, shuffle=True)
    result = luthier.fit(
        module, make(), valid, criterion="cross-entropy", optimizer="AdamW", lr=0.02, scheduler="OneCycleLR",
        clip_norm=1.0, ema=0.9,   seed=7, run=folder, callbacks=callbacks,
        checkpoint_every_steps=3, **{"epochs": 4, "patience": 3, **settings, **more},
    )  # fmt: skip
    return module, result


def without_clock(record: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in record]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_cut_off_and_continued_has_the_same_bits(kind: str, tmp_path: Path) -> None:
    module, result = train(kind, tmp_path / "whole", (CopyAt(-1, tmp_path),))
    last = result.global_step
    steps = {5, last} if "workers" in kind else {1, 2, 5, 8, 11, last - 1, last}
    for step in sorted(steps):
        cut = tmp_path / f"cut {step}"
        train(kind, tmp_path / f"run {step}", (CopyAt(step, cut),))
        torch.manual_seed(999)  # another life starts with other generators
        again, continued = train(kind, cut, (CopyAt(-1, tmp_path),))

        same_weights(again, module)
        assert continued.best_epoch == result.best_epoch
        assert without_clock(continued.record) == without_clock(result.record)
        lines = (cut / "record.jsonl").read_text().splitlines()
        assert without_clock(map(json.loads, lines)) == without_clock(continued.record)


def test_the_end_states_are_equal_too(tmp_path: Path) -> None:
    """Not the weights alone: optimizer, schedule, average, generators."""
    train("tensors", tmp_path / "whole", (CopyAt(5, tmp_path / "cut"),))
    train("tensors", tmp_path / "cut", (CopyAt(-1, tmp_path),))
    from luthier.core.tree import flatten
    from luthier.store.checkpoint import load_checkpoint

    ends = [load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "cut")]
    for end in ends:
        assert end is not None
        del end["epoch_seconds"], end["state"]["figures"]["seconds"], end["record"]
    (one, tensors_one), (two, tensors_two) = map(flatten, ends)
    assert one == two
    assert all(torch.equal(tensors_one[name], tensors_two[name]) for name in tensors_one)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # 4 on a machine of 2 is meant
def test_workers_change_no_bit(tmp_path: Path) -> None:
    alone, _ = train("dataset that draws", tmp_path / "0")
    for workers in (1, 4):
        module, _ = train("dataset that draws", tmp_path / str(workers), num_workers=workers)
        same_weights(module, alone)


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run: View) -> None:
        if run.global_step == self.step:
            raise KeyboardInterrupt


def test_ctrl_c_saves_then_raises_and_the_same_call_continues(tmp_path: Path) -> None:
    module, _ = train("tensors", tmp_path / "whole", (Interrupt(-1),))
    with pytest.raises(KeyboardInterrupt):
        train("tensors", tmp_path / "cut", (Interrupt(10),))
    again, result = train("tensors", tmp_path / "cut", (Interrupt(-1),))

    assert result.is_done
    same_weights(again, module)


def test_a_finished_run_is_returned(tmp_path: Path) -> None:
    module, first = train("tensors", tmp_path)
    again, second = train("tensors", tmp_path)
    same_weights(again, module)
    assert second.global_step == first.global_step
    assert len(second.record) == len(first.record)


def test_more_epochs_go_on_from_the_end(tmp_path: Path) -> None:
    _, first = train("tensors", tmp_path, patience=None)
    _, more = train("tensors", tmp_path, patience=None, epochs=6)
    assert [row["epoch"] for row in more.record.epochs] == [0, 1, 2, 3, 4, 5]
    assert more.record.epochs[:4] == first.record.epochs
    with pytest.raises(RunError, match=r"epochs was 6 and is 5.*\n?.*more epochs"):
        train("tensors", tmp_path, patience=None, epochs=5)


def test_other_arguments_are_named(tmp_path: Path) -> None:
    train("tensors", tmp_path)
    with pytest.raises(RunError, match=r"recipe\.clip_value was None and is 2"):
        train("tensors", tmp_path, clip_value=2.0)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, _ = train("tensors", tmp_path / "whole", (CopyAt(-1, tmp_path),))
    train("tensors", tmp_path / "run", (CopyAt(10, tmp_path / "cut"),))
    newest = sorted((tmp_path / "cut" / "checkpoints").iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again, _ = train("tensors", tmp_path / "cut", (CopyAt(-1, tmp_path),))

    assert newest.name in caplog.text
    same_weights(again, module)


def test_nothing_starts_over_in_silence(tmp_path: Path) -> None:
    train("tensors", tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(RunError, match="record and no checkpoint"):
        train("tensors", tmp_path)


def test_state_that_is_no_data_is_named_at_the_start(tmp_path: Path) -> None:
    class Stateful(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"function": print}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(RunError, match=r"callbacks\.Stateful\.0\.function"):
        train("tensors", tmp_path, (Stateful(),))


def test_early_stopping_without_its_figure_is_an_error() -> None:
    with pytest.raises(SettingError, match="valid_f1"):
        luthier.fit(
            mlp(),
            table(),
            table(),
            criterion="cross-entropy",
            optimizer="SGD",
            patience=1,
            monitor="valid_f1",
            epochs=1,
        )


def test_a_run_killed_before_its_first_checkpoint_starts(tmp_path: Path) -> None:
    module, _ = train("tensors", tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    start = (tmp_path / "whole" / "record.jsonl").read_text().splitlines()[0]
    (tmp_path / "cut" / "record.jsonl").write_text(start + "\n")
    again, result = train("tensors", tmp_path / "cut")
    same_weights(again, module)
    assert [row["event"] for row in result.record][:3] == ["start", "checks", "epoch"]
