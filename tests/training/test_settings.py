"""What a call's settings become, what a folder accepts, and what a hash of the data sees."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luthier
from luthier.core.recipe import Recipe
from luthier.data.sources import TensorSource
from luthier.errors import RunError, SettingError, TrainingError
from luthier.training import folder as folders
from luthier.training.folder import hash_source, open_folder
from luthier.training.optimizers import optimizer_arguments, parameter_groups
from luthier.training.settings import class_counts, criterion_arguments, make_feed, steps_per_epoch
from tests.problems import mlp, table

X, Y = table(70)


def fitted(module: nn.Module | None = None, **more: Any) -> Any:
    settings: dict[str, Any] = {
        "criterion": "cross-entropy", "optimizer": "SGD", "lr": 0.3, "epochs": 2, "batch_size": 16, "seed": 0, **more,
    }  # fmt: skip
    torch.manual_seed(1)
    return luthier.fit(module or mlp(), settings.pop("train", (X, Y)), settings.pop("valid", None), **settings)


# Classes and their weights


def test_balanced_weights_are_those_of_scikit_learn_and_a_ratio_for_yes_and_no() -> None:
    balanced = Recipe(class_weights="balanced")
    assert criterion_arguments("cross-entropy", balanced, [10, 30, 60])["weight"] == pytest.approx(
        [100 / 30, 100 / 90, 100 / 180]
    )
    assert criterion_arguments("bce", balanced, [30, 10])["pos_weight"] == pytest.approx([3.0])
    said = Recipe(class_weights=(2.0, 5.0))
    assert criterion_arguments("bce", said, None)["pos_weight"] == [2.5]
    assert criterion_arguments("NLLLoss", said, None)["weight"] == [2.0, 5.0]
    for name, weights in (("bce", (1.0, 2.0, 3.0)), ("bce", (0.0, 1.0)), ("mse", (1.0, 2.0))):
        with pytest.raises(SettingError):
            criterion_arguments(name, Recipe(class_weights=weights), None)
    with pytest.raises(SettingError, match="a class without a sample"):
        criterion_arguments("cross-entropy", balanced, [3, 0])


def test_label_smoothing_is_for_cross_entropy() -> None:
    smooth = Recipe(label_smoothing=0.25)
    assert criterion_arguments("cross-entropy", smooth, None) == {"label_smoothing": 0.25}
    assert criterion_arguments("cross-entropy", Recipe(), None) == {}
    with pytest.raises(SettingError, match="MSELoss does not have it"):
        criterion_arguments("mse", smooth, None)
    with pytest.raises(SettingError, match="would be ignored"):
        fitted(criterion=nn.CrossEntropyLoss(), label_smoothing=0.1)


def test_classes_are_counted_from_nought_without_those_that_are_ignored() -> None:
    y = torch.tensor([0, 2, 2, -100, 1, 2])
    assert class_counts((torch.zeros(6, 1), y)) == [1, 1, 3]
    assert class_counts((torch.zeros(6, 1), torch.where(y < 0, 5, y)), ignored=5) == [1, 1, 3]
    assert class_counts((torch.zeros(6, 1), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]))) == [2, 4]
    for wrong in (torch.tensor([0, -1, 1, 1, 1, 1]), torch.tensor([0.5] * 6)):
        with pytest.raises(SettingError):
            class_counts((torch.zeros(6, 1), wrong))
    with pytest.raises(SettingError, match="not in memory"):
        class_counts(DataLoader(TensorDataset(torch.zeros(6, 1), y)))


# Batches


def test_batches_have_32_rows_and_those_to_validate_on_stand_in_order() -> None:
    def feed(is_train: bool, **recipe: Any) -> list[int]:
        made = make_feed((X, Y), Recipe(**recipe), 0, None, False, is_train=is_train)
        batches = list(made.batches(0, 0))
        indices: Any = torch.cat([batch.indices for batch in batches if batch.indices is not None])
        assert (indices.tolist() == list(range(len(indices)))) == (not is_train)
        return [len(batch) for batch in batches]

    assert feed(True) == [32, 32, 6]
    assert feed(True, drop_last=True, batch_size=16) == [16] * 4
    assert feed(False) == [32, 32, 6]
    assert feed(False, batch_size=16) == [16] * 4 + [6]
    assert feed(False, batch_size=16, eval_batch_size=50) == [50, 20]
    with pytest.raises(SettingError, match="accumulate is for your own DataLoader") as caught:
        feed(True, accumulate=2)
    assert "batch_size=64, micro_batch_size=32" in caught.value.hint
    assert feed(False, accumulate=2) == [32, 32, 6]


def test_updates_of_an_epoch_are_counted_with_limit_and_accumulate() -> None:
    loader = DataLoader(TensorDataset(X, Y), 8)  # 9 batches

    def steps(**recipe: Any) -> int | None:
        made = Recipe(**recipe)
        return steps_per_epoch(make_feed(loader, made, 0, None, False, is_train=True), made)

    assert [steps(), steps(accumulate=2), steps(accumulate=9), steps(limit=4), steps(limit=99)] == [9, 5, 1, 4, 9]
    assert fitted(train=loader, batch_size=None, accumulate=2).global_step == 10


def test_a_loss_that_is_not_finite_is_named_by_its_epoch_and_batch() -> None:
    class Spoil(luthier.Callback):
        def on_step_end(self, run: Any) -> None:
            if run.epoch == 1 and run.batch == 2:
                run.module[0].weight.data.fill_(math.nan)

    with pytest.raises(TrainingError, match=r"in epoch 2, batch 3 \(learning rate 0\.3\)"):
        fitted(callbacks=[Spoil()], check=False)


# Parameters


def test_norms_and_biases_have_a_group_without_decay_and_layers_their_own_rates() -> None:
    module = mlp()  # 0: linear, 1: batch norm, 4: linear

    def groups(**recipe: Any) -> list[tuple[int, Any, Any]]:
        made = parameter_groups(module, Recipe(lr=0.5, **recipe), torch.optim.AdamW)
        return [(len(group["params"]), group.get("lr"), group.get("weight_decay")) for group in made]

    assert groups(decay_norm_and_bias=False) == [(2, None, None), (4, None, 0.0)]
    assert groups(lr_scale={"4": 0.5}) == [(4, None, None), (2, 0.25, None)]
    assert groups(lr_scale={"4": 0.5}, decay_norm_and_bias=False) == [
        (1, None, None), (3, None, 0.0), (1, 0.25, None), (1, 0.25, 0.0),
    ]  # fmt: skip
    assert groups(lr_scale={"1": 1.0, "0": 2.0}) == [(4, None, None), (2, 1.0, None)]
    module[0].requires_grad_(False)
    assert groups(lr_scale={"4": 0.5}) == [(2, None, None), (2, 0.25, None)]


def test_the_flavour_of_an_update_is_one_argument() -> None:
    found = [
        optimizer_arguments(torch.optim.Adam, Recipe(optimizer_flavour=name)) for name in ("foreach", "fused", "single")
    ]
    assert found == [{"foreach": True}, {"fused": True}, {"foreach": False}]
    assert optimizer_arguments(torch.optim.Adam, Recipe()) == {}


# Folders and what is compared


def test_a_folder_of_other_things_is_not_taken(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "run"
    assert open_folder(place) == place
    assert open_folder(place) == place  # it is there, and empty
    for name in "dcba":
        (place / name).touch()
    with pytest.raises(RunError, match=r"has other files \(a, b, c\)"):
        open_folder(place)
    (place / "run.toml").touch()
    assert open_folder(place) == place
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        open_folder(tmp_path / "file")


def test_a_run_goes_on_with_the_same_call_more_epochs_and_nothing_else(tmp_path: Path) -> None:
    fitted(run=tmp_path / "run")
    for other in ({"lr": 0.1}, {"epochs": 1}, {"train": (X + 1, Y)}, {"seed": 1}):
        with pytest.raises(RunError):
            fitted(run=tmp_path / "run", **other)
    more = fitted(run=tmp_path / "run", epochs=4)
    assert (len(more.record.epochs), more.is_done) == (4, True)
    many: dict[str, Any] = {
        "lr": 0.1,
        "batch_size": 8,
        "momentum": 0.5,
        "clip_norm": 1.0,
        "ema": 0.5,
        "drop_last": True,
        "shuffle": False,
    }
    with pytest.raises(RunError) as caught:
        fitted(run=tmp_path / "run", **many, epochs=4, warmup_steps=2)
    assert str(caught.value).count(" was ") == 6 + 1  # six differences, and the sentence
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "gone")
    with pytest.raises(RunError, match="a record and no checkpoint"):
        fitted(run=tmp_path / "run", epochs=4)


def test_the_hash_of_data_in_memory_sees_every_number_its_type_and_shape() -> None:
    x, y = torch.arange(24.0).reshape(6, 4), torch.arange(6)
    base = hash_source(TensorSource((x,), y))
    assert len(base) == 16
    assert hash_source(TensorSource((x.clone(),), y.clone())) == base
    seen = {base}
    for i in range(24):
        changed = x.clone()
        changed.view(-1)[i] += 1
        seen.add(hash_source(TensorSource((changed,), y)))
    for target in range(6):
        other = y.clone()
        other[target] += 1
        seen.add(hash_source(TensorSource((x,), other)))
    seen.add(hash_source(TensorSource((x.reshape(6, 2, 2),), y)))
    seen.add(hash_source(TensorSource((x,), y, weights=torch.ones(6))))
    seen.add(hash_source(TensorSource((x.int().view(torch.float32),), y)))
    assert len(seen) == 1 + 24 + 6 + 3


def test_of_very_large_data_samples_are_hashed_evenly_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.arange(400.0).reshape(100, 4), torch.zeros(100, dtype=torch.uint8)
    source, whole = TensorSource((x,), y), hash_source(TensorSource((x,), y))
    monkeypatch.setattr(folders, "_AT_ONCE", 48)
    assert hash_source(source) == whole  # the pieces are no part of it

    def seen(most: int) -> list[int]:
        monkeypatch.setattr(folders, "_MOST_BYTES", most)
        base = hash_source(source)
        found = []
        for i in range(100):
            other = x.clone()
            other[i] += 1
            if hash_source(TensorSource((other,), y)) != base:
                found.append(i)
        return found

    assert seen(1_700) == list(range(100))  # 1,700 bytes: all of it
    assert seen(850) == list(range(0, 100, 2))
    assert seen(849) == list(range(0, 100, 3))
    assert np.all(np.diff(seen(300)) == 6)
    assert (folders.__dict__["_MOST_BYTES"], 1 << 30) == (300, 2**30)
