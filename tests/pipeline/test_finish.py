"""What is done when training has ended: folds, one more training on all rows, thresholds, temperatures, intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn import metrics as reference

import luthier
from luthier.core.answering import Answering
from luthier.core.schema import Schema, Target
from luthier.core.settings import FinishSettings
from luthier.errors import RunError, SettingError
from luthier.metrics.finishing import measure_answering, temperature_of, threshold_of
from luthier.pipeline.train import read_split
from luthier.training.callbacks import Callback, Stop
from luthier.training.record import Record

CLASSES = Schema(
    task="binary", targets=(Target(name="y", kind="category", classes=("no", "yes"), counts=(50, 50)),)
)  # fmt: skip


def table(n: int = 240, seed: int = 0) -> pl.DataFrame:
    g = np.random.default_rng(seed)
    x, z = g.normal(size=n), g.normal(size=n)
    return pl.DataFrame(
        {
            "x": x,
            "z": z,
            "colour": [("red", "green", "blue")[i] for i in g.integers(0, 3, n)],
            "price": 3 * x + g.normal(size=n),
            "kind": [("no", "yes")[int(v)] for v in (x + g.normal(size=n) > 0.8)],
        }
    )


SMALL: dict[str, Any] = {"epochs": 4, "threads": 1, "verbose": False}


@pytest.mark.parametrize("rule", ["f1", "youden", "cost=4", "cost=0.5"])
def test_a_threshold_is_the_best_there_is_on_its_rows(rule: str) -> None:
    g = np.random.default_rng(1)
    chances = g.uniform(size=300).round(2)  # many are equal
    true = g.uniform(size=300) < chances**2

    def gain(threshold: float) -> float:
        decided = chances > threshold
        if rule == "f1":
            return float(reference.f1_score(true, decided))
        if rule == "youden":
            return float(reference.balanced_accuracy_score(true, decided))
        cost = float(rule.removeprefix("cost="))
        return -float(cost * (true & ~decided).sum() + (~true & decided).sum())

    found = threshold_of(rule, chances, true)
    assert gain(found) == pytest.approx(max(map(gain, np.linspace(-0.005, 1.005, 102))))


def test_a_temperature_undoes_logits_that_are_too_sure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert temperature_of(3 * logits, targets, "multiclass") == pytest.approx(3, rel=0.1)
    classes = Target(name="y", kind="category", classes=("a", "b", "c"), counts=(1, 1, 1))
    schema = Schema(task="multiclass", targets=(classes,))
    wanted = FinishSettings(calibrate=True)
    assert measure_answering(3 * logits, targets, schema, wanted)[0].temperature == pytest.approx(3, rel=0.1)
    odd = torch.tensor([[3.0], [3.0]] * 20), torch.tensor([[1.0], [0.0]] * 20)  # half is right, the other half wrong
    answering, words = measure_answering(*odd, CLASSES, wanted)
    assert answering.temperature == 1
    assert "no temperature improves them" in words[0]


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_and_sets_hold_as_many_of_new_rows_as_they_say(level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    number = Schema(task="regression", targets=(Target(name="y", kind="number", mean=5.0, std=2.0),))
    outputs = torch.randn(20_000, 1, generator=generator)
    targets = outputs + torch.randn(20_000, 1, generator=generator)
    answering, _ = measure_answering(outputs[:1000], targets[:1000], number, FinishSettings(interval=level))
    held = ((outputs - targets).abs() <= answering.margins[0]).double().mean().item()
    assert held == pytest.approx(level, abs=0.03)

    from luthier.core.units import class_sets

    classes = Schema(task="multiclass", targets=(Target(name="y", kind="category", classes=tuple("abcd")),))
    logits = torch.randn(20_000, 4, generator=generator)
    true = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    answering, _ = measure_answering(logits[:1000], true[:1000], classes, FinishSettings(interval=level))
    assert answering.least_probability is not None
    sets = class_sets(logits.double().softmax(1), answering.least_probability)
    assert sets.gather(1, true[:, None]).double().mean().item() == pytest.approx(level, abs=0.03)


def test_folds_validate_on_each_row_once_and_answer_with_their_mean(tmp_path: Path) -> None:
    frame = table()
    result = luthier.train(frame, target="kind", run=tmp_path / "run", folds=3, **SMALL, kind={"price": "ignored"})
    split = read_split(tmp_path / "run")
    folds = split["folds"].numpy()
    assert sorted(np.unique(folds)) == [0, 1, 2]
    assert len(folds) == len(split["train"]) == len(frame) - len(split["test"])
    shares = [(frame["kind"].to_numpy()[split["train"].numpy()[folds == fold]] == "yes").mean() for fold in range(3)]
    assert max(shares) - min(shares) < 0.03  # each fold has as many of each class

    module: Any = result.module
    plan = luthier.design(frame, target="kind", folds=3, kind={"price": "ignored"})
    inputs = next(iter(plan.prepared.parts["train"].source.batches([torch.arange(5)], 0, 0))).inputs
    module.eval()
    with torch.no_grad():
        alone = torch.stack([member(*inputs).sigmoid() for member in module.members]).mean(0)
        assert torch.allclose(module(*inputs).sigmoid(), alone, atol=1e-6)
    again = luthier.load(tmp_path / "run").predict_proba(frame)
    assert np.array_equal(again, result.predict_proba(frame))
    one = {name: frame[name][0] for name in frame.columns}
    assert luthier.load(tmp_path / "run").predict_proba(one)[0] == pytest.approx(again[0], abs=1e-6)
    assert {"accuracy", "auc", "log_loss"} <= result.model.metrics["valid"].keys()


def test_a_run_of_folds_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    frame = table()
    frame.write_csv(tmp_path / "d.csv")
    settings: dict[str, Any] = {"target": "price", "folds": 3, **SMALL, "kind": {"kind": "ignored"}}
    luthier.train(tmp_path / "d.csv", run=tmp_path / "whole", **settings)

    class Enough(Callback):
        def __init__(self) -> None:
            self.epochs = 0

        def on_epoch_end(self, view: Any) -> Stop | None:
            self.epochs += 1
            return Stop("enough", finished=False) if self.epochs == 6 else None  # in the second fold

    stopped = luthier.train(tmp_path / "d.csv", run=tmp_path / "cut", callbacks=[Enough()], **settings)
    assert not stopped.is_done
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    done = luthier.resume(tmp_path / "cut", verbose=False)
    assert done.is_done
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    with pytest.raises(SettingError, match="only a run without folds can get more epochs"):
        luthier.resume(tmp_path / "cut", epochs=9)


def test_refit_trains_on_all_but_the_test_rows_for_the_length_found(tmp_path: Path) -> None:
    frame = table()
    result = luthier.train(frame, target="price", run=tmp_path / "run", refit=True, **SMALL)
    plan = luthier.design(frame, target="price", epochs=4, threads=1)
    parts = plan.prepared.parts
    first = luthier.train(frame, target="price", **SMALL)
    assert first.best_epoch is not None
    whole = parts["train"].joined(parts["valid"]).source
    from luthier.pipeline.train import make_module

    module = make_module(plan)
    luthier.fit(
        module, whole, recipe=plan.recipe.updated(epochs=first.best_epoch + 1, patience=None), verbose=False
    )  # fmt: skip
    ours, theirs = result.module.state_dict(), module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "trained once more on 204 training and validation rows" in "\n".join(result.notes)
    assert result.test["rows"] == len(parts["test"].rows)


def test_a_thorough_run_is_refitted_unless_its_validation_rows_are_needed() -> None:
    frame = table()
    assert luthier.design(frame, target="price", effort="thorough").finish.refit
    assert not luthier.design(frame, target="price", effort="thorough", refit=False).finish.refit
    assert not luthier.design(frame, target="price", effort="thorough", interval=0.9).finish.refit


def test_a_run_of_few_rows_is_refitted_unless_its_length_or_its_rows_were_chosen() -> None:
    frame = table()
    plan = luthier.design(frame, target="price")
    assert plan.finish.refit
    assert "training and validation rows" in plan.reasons["refit"]
    chosen: list[dict[str, Any]] = [
        {"epochs": 3}, {"max_steps": 9}, {"max_time_s": 5}, {"patience": 4}, {"valid": table(90, seed=1)},
        {"interval": 0.9}, {"effort": "quick"}, {"refit": False}, {"folds": 3}, {"valid_fraction": 0},
        {"calibrate": True},
    ]  # fmt: skip
    for more in chosen:
        target = "kind" if "calibrate" in more else "price"
        assert not luthier.design(frame, target=target, **more).finish.refit, more


def test_a_refitted_run_that_gets_more_epochs_is_refitted_anew(tmp_path: Path) -> None:
    frame = tmp_path / "d.csv"
    table().write_csv(frame)
    more = {"target": "price", "refit": True, **SMALL}
    whole = luthier.train(frame, run=tmp_path / "whole", **{**more, "epochs": 6})
    short = luthier.train(frame, run=tmp_path / "short", **{**more, "epochs": 3})
    assert whole.best_epoch != short.best_epoch
    again = luthier.resume(tmp_path / "short", epochs=6, verbose=False)
    assert again.test == whole.test
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "short")]
    assert models[0] == models[1]


def test_a_refit_stays_where_the_run_cannot_go_on(tmp_path: Path) -> None:
    source, kept = tmp_path / "d.csv", tmp_path / "run" / "refit" / "record.jsonl"
    table().write_csv(source)
    luthier.train(source, target="price", refit=True, run=tmp_path / "run", **SMALL)
    other = Record(kept)
    other.open()
    with pytest.raises(RunError, match="another process is training"):
        luthier.resume(tmp_path / "run", epochs=6, verbose=False)
    other.close()
    assert kept.exists()
    table(seed=1).write_csv(source)
    with pytest.raises(RunError):
        luthier.resume(tmp_path / "run", epochs=6, verbose=False)
    assert kept.exists()


def test_what_was_measured_is_in_the_answers_and_kept(tmp_path: Path) -> None:
    frame = table(400)
    result = luthier.train(
        frame.drop("price"), target="kind", run=tmp_path / "run", threshold="cost=5", calibrate=True, interval=0.8,
        **SMALL,
    )  # fmt: skip
    answering = result.model.answering
    assert answering.thresholds[0] < 0.5
    model = luthier.load(tmp_path / "run")
    assert model.answering == answering
    chances, decided = model.predict_proba(frame)[:, 1], model.predict(frame)
    assert ((chances > answering.thresholds[0]) == (decided == "yes")).all()
    row = {name: frame[name][3] for name in ("x", "z", "colour")}
    assert model.predict(row)[0] == decided[3]
    streamed = pl.concat(model.stream(frame))
    assert streamed["prediction"].to_list() == decided.tolist()
    assert set(streamed["prediction_set"].unique()) <= {"no", "yes", "no|yes"}
    assert {"coverage", "set_size"} <= result.test.keys()
    sets = model.predict_interval(frame)
    assert [("no|yes" if a and b else "yes" if b else "no") for a, b in sets] == streamed["prediction_set"].to_list()


@pytest.mark.parametrize("more", [{}, {"refit": True}, {"valid_fraction": 0.0}, {"calibrate": True}, {"folds": 2}])
def test_a_threshold_that_is_said_is_used(more: dict[str, Any]) -> None:
    frame = table(120).drop("price")
    result = luthier.train(frame, target="kind", threshold=0.2, **more, **SMALL)
    chances = result.predict_proba(frame)[:, 1]
    assert ((chances > 0.2) == (result.predict(frame) == "yes")).all()
    assert result.model.answering.thresholds == (0.2,)


def test_intervals_of_numbers_stand_beside_them(tmp_path: Path) -> None:
    frame = table(400)
    result = luthier.train(frame, target="price", run=tmp_path / "run", interval=0.9, **SMALL)
    streamed = pl.concat(luthier.load(tmp_path / "run").stream(frame))
    assert (streamed["prediction_low"] <= streamed["prediction"]).all()
    assert (streamed["prediction"] <= streamed["prediction_high"]).all()
    assert result.test["coverage"] > 0.75
    ends = result.predict_interval(frame)
    assert np.array_equal(ends, streamed.select("prediction_low", "prediction_high").to_numpy())
    plain = luthier.train(frame, target="price", **SMALL)
    with pytest.raises(luthier.LuthierError, match="has no intervals"):
        plain.predict_interval(frame)


def test_a_skewed_target_is_learnt_by_its_logarithm_and_answered_in_its_units() -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=400)
    frame = pl.DataFrame({"x": x, "y": np.exp(2 * x + 0.1 * g.normal(size=400))})
    found = luthier.train(frame, target="y", threads=1, verbose=False)
    plain = luthier.train(frame, target="y", threads=1, verbose=False, target_transform="none")
    assert found.model.schema is not None
    assert found.model.schema.targets[0].transform == "log"
    assert found.test["mae"] < plain.test["mae"]
    answers = found.predict(frame)
    assert answers.min() > 0
    assert answers.max() <= frame["y"].max()


def test_counts_are_answered_as_what_is_expected() -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=600)
    frame = pl.DataFrame({"x": x, "n": g.poisson(np.exp(1 + x))})
    result = luthier.train(frame, target="n", task="regression", criterion="poisson", threads=1, verbose=False)
    assert result.predict(frame).mean() == pytest.approx(frame["n"].mean(), rel=0.1)
    assert result.predict(frame).min() >= 0


def test_a_quantile_is_above_so_many_of_the_rows() -> None:
    g = np.random.default_rng(0)
    frame = pl.DataFrame({"x": g.normal(size=1500), "y": g.normal(size=1500)})
    result = luthier.train(
        frame, target="y", criterion="quantile", criterion_args={"quantile": 0.8}, threads=1, verbose=False
    )
    assert (frame["y"].to_numpy() <= result.predict(frame)).mean() == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "price", "threshold": "f1"}, "the task is regression"),
        ({"target": "price", "calibrate": True}, "the task is regression"),
        ({"target": "price", "refit": True, "interval": 0.9}, "refit trains on the validation rows"),
        ({"target": "price", "refit": True, "folds": 3}, "both"),
        ({"target": "price", "folds": 3, "time": "x"}, "both"),
        ({"target": "price", "interval": 1.5}, "interval is 1.5"),
        ({"target": "price", "interval": 0.999}, "takes 999 validation rows"),
        ({"target": "price", "refit": True, "valid_fraction": 0}, "need validation rows"),
        ({"target": "price", "criterion": "poisson"}, "below 0"),
        ({"target": "price", "target_transform": "count"}, "the criterion is not poisson"),
        ({"target": "kind", "target_transform": "log"}, "the target is not a number"),
        ({"target": "kind", "threshold": "half"}, "threshold is 'half'"),
        ({"target": "kind", "folds": 1}, "folds is 1"),
        ({"target": "kind", "folds": 99}, "one would be empty"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(luthier.LuthierError, match=words):
        luthier.train(table(90), **settings, **SMALL)


@pytest.mark.parametrize(
    "other",
    [
        {"thresholds": (0.2, 0.3)},
        {"margins": (1.0,), "level": 0.9},
        {"level": 0.9},
        {"least_probability": 0.2},
    ],
)
def test_a_model_whose_answers_are_not_of_its_targets_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    result = luthier.train(table(90).drop("price"), target="kind", **SMALL)
    result.model.answering = Answering(**other)
    result.save(tmp_path / "model.safetensors")
    with pytest.raises(luthier.LuthierError, match="the answers"):
        luthier.load(tmp_path / "model.safetensors")
