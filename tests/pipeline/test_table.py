"""A table to a network to a bundle to predictions, on real data and on made-up tables with known answers."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.errors import RunError, SettingError
from luthier.store.files import unpack
from luthier.training.progress import Progress

PENGUINS = Path(__file__).parents[2] / "examples" / "penguins.csv"
QUIET = Progress(quiet=True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made_up(n: int = 400, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    size = rng.normal(10, 3, n)
    colour = rng.choice(["red", "green", "blue"], n)
    return pl.DataFrame(
        {
            "size": size,
            "colour": colour,
            "big": np.where(size > 10, "yes", "no"),
            "level": np.where(size > 12, "high", np.where(size > 8, "middle", "low")),
            "weight": 3 * size + np.where(colour == "red", 20.0, 0.0),
            "double": 2000 + 200 * size,
            "is_red": (colour == "red").astype(int),
        }
    )


def test_penguins_from_csv_to_predictions(here: Path) -> None:
    result = luthier.train(PENGUINS, target="species", run=True, callbacks=[QUIET])
    assert result.test["accuracy"] > 0.9
    assert result.folder is not None
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "checkpoints", "model.safetensors", "record.jsonl", "refit", "run.toml", "split.safetensors",
        "test.safetensors",
    ]  # fmt: skip

    model = luthier.load(result.folder)
    predicted = model.predict(PENGUINS)
    assert list(predicted) == list(result.predict(PENGUINS))
    assert set(predicted) == {"Adelie", "Chinstrap", "Gentoo"}
    true = pl.read_csv(PENGUINS)["species"].to_numpy()
    assert (predicted == true).mean() > 0.95
    chances = model.predict_proba(PENGUINS)
    assert chances.shape == (344, 3)
    np.testing.assert_allclose(chances.sum(axis=1), 1)


def test_one_row_as_a_dict_of_raw_values(here: Path) -> None:
    result = luthier.train(PENGUINS, target="species", run=True, callbacks=[QUIET], epochs=20)
    row = {"island": "Biscoe", "bill_length_mm": 50.0, "bill_depth_mm": 15.2, "flipper_length_mm": 225,
           "body_mass_g": 5500, "sex": "male", "year": 2008}  # fmt: skip
    assert list(result.predict([row])) == ["Gentoo"]


TASKS: dict[str, tuple[dict[str, Any], str, str, float]] = {
    # the call, its task, the main figure, what it must beat
    "binary": ({"target": "big"}, "binary", "accuracy", 0.85),
    "multiclass": ({"target": "level"}, "multiclass", "accuracy", 0.9),
    "regression": ({"target": "weight"}, "regression", "r2", 0.9),
    "several numbers": ({"target": ["weight", "double"]}, "regression", "r2", 0.9),
    "several labels": ({"target": ["big", "is_red"]}, "multilabel", "accuracy", 0.85),
}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_learns_and_answers_in_the_users_terms(task: str, here: Path) -> None:
    call, expected, figure, least = TASKS[task]
    frame = made_up()
    result = luthier.train(frame, run=True, callbacks=[QUIET], epochs=40, **call)
    assert result.model.task == expected
    assert result.test[figure] > least
    loaded = luthier.load(here / "runs" / "in-memory")
    answers = pl.concat(loaded.stream(frame))
    targets = call["target"] if isinstance(call["target"], list) else [call["target"]]
    names = ["prediction"] if len(targets) == 1 else [f"prediction_{name}" for name in targets]
    for name, target in zip(names, targets, strict=True):
        if expected == "regression":
            error = (answers[name] - frame[target]).abs().mean()
            assert isinstance(error, float)
            assert error < 0.3 * float(frame[target].to_numpy().std())
        else:
            assert set(answers[name].unique()) <= {str(value) for value in frame[target].unique()}
            assert (answers[name] == frame[target].cast(pl.String)).mean() > 0.85


def test_a_run_over_data_in_memory_says_that_it_is_gone(here: Path) -> None:
    luthier.train(made_up(), run=True, callbacks=[QUIET], epochs=1, check=False, **TASKS["binary"][0])
    run = here / "runs" / "in-memory"
    assert 'source = "<in memory>"' in (run / "run.toml").read_text()
    for call in (luthier.resume, luthier.replay, lambda run: luthier.eject(run, here / "out")):
        with pytest.raises(
            RunError, match=r"in-memory/run\.toml describes a run over data in memory, which no longer exists"
        ):
            call(run)
    text = (run / "run.toml").read_text().replace('"<in memory>"', '"../../<in memory>"')  # as it was written before
    (run / "run.toml").write_text(text)
    with pytest.raises(RunError, match="over data in memory"):
        luthier.design(run / "run.toml")


def test_labels_in_one_cell(here: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    labels = [";".join(name for name, on in (("hot", a > 0), ("wet", b > 0)) if on) for a, b in x]
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "tags": labels})
    result = luthier.train(frame, target="tags", labels=";", run=True, callbacks=[QUIET], epochs=30)
    answers = pl.concat(result.model.stream(frame))
    assert answers.columns == ["prediction", "probability_hot", "probability_wet"]
    assert (answers["prediction"] == frame["tags"]).mean() > 0.85  # type: ignore[operator]


def test_the_order_of_columns_and_rows_changes_no_answer(here: Path) -> None:
    frame = made_up()
    model = luthier.train(frame, target="big", run=True, callbacks=[QUIET], epochs=2).model
    shuffled = frame.select(sorted(frame.columns)).sample(fraction=1, shuffle=True, seed=1).with_row_index()
    expected = model.predict_proba(frame.select(sorted(frame.columns)))
    order = frame.with_row_index("place").join(
        shuffled.select("size", "index"), on="size"
    ).sort("index")["place"].to_numpy()  # fmt: skip
    np.testing.assert_allclose(model.predict_proba(shuffled.drop("index")), expected[order], atol=1e-6)


def test_unseen_categories_and_missing_values_have_answers(here: Path) -> None:
    frame = made_up()
    model = luthier.train(frame, target="big", run=True, callbacks=[QUIET], epochs=2).model
    odd = pl.DataFrame(
        {
            "size": [None, 10.0],
            "colour": ["purple", None],
            "weight": [1e9, float("inf")],
            "double": [0, 0],
            "is_red": [1, 0],
            "level": ["low", "odd"],
        }
    )
    chances = model.predict_proba(odd)
    assert np.isfinite(chances).all()


def test_a_run_file_gives_the_same_network(here: Path) -> None:
    plan = luthier.design(PENGUINS, target="species", epochs=3)
    (here / "run.toml").write_text(str(plan))
    direct = luthier.train(PENGUINS, target="species", epochs=3, run=True, callbacks=[QUIET])
    by_file = luthier.train("run.toml", run=True, callbacks=[QUIET])
    again = luthier.train(direct.folder / "run.toml", run=True, callbacks=[QUIET])  # type: ignore[operator]
    for other in (by_file, again):
        for name, value in direct.module.state_dict().items():
            assert torch.equal(other.module.state_dict()[name], value), name


def test_more_epochs_and_a_start_from_a_bundle(here: Path) -> None:
    first = luthier.train(PENGUINS, target="species", epochs=4, run=True, callbacks=[QUIET])
    assert first.folder is not None
    more = luthier.resume(first.folder, epochs=7, callbacks=[QUIET])
    assert [row["epoch"] for row in more.record.epochs] == list(range(7))
    assert "epochs = 7" in (first.folder / "run.toml").read_text()
    start = luthier.train(PENGUINS, target="species", epochs=1, start=str(first.folder), run=True, callbacks=[QUIET])
    assert start.folder is not None
    assert luthier.resume(start.folder, epochs=2, callbacks=[QUIET]).model.schema == more.model.schema
    assert start.record.epochs[0]["train_loss"] < first.record.epochs[0]["train_loss"]


def test_a_stopped_run_resumes_to_the_same_bits(here: Path) -> None:
    class StopAt(luthier.Callback):
        def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
            return luthier.Stop("asked", finished=False) if run.global_step == 10 else None

    whole = luthier.train(PENGUINS, target="species", epochs=3, run=True, callbacks=[QUIET])
    cut = luthier.train(PENGUINS, target="species", epochs=3, run=True, callbacks=[QUIET, StopAt()])
    assert not cut.is_done
    assert cut.folder is not None
    assert not (cut.folder / "model.safetensors").exists()
    resumed = luthier.resume(cut.folder, callbacks=[QUIET])
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name


def test_statistics_come_from_training_rows_alone(here: Path) -> None:
    """Garbling every validation and test row leaves the Schema and the trained weights as they were."""
    frame = made_up(300)
    rng = np.random.default_rng(5)
    train, valid = frame[:200], frame[200:]
    train.write_csv("train.csv")
    results = []
    for i in range(2):
        other = (
            valid if i == 0 else valid.with_columns(size=pl.Series(rng.normal(1000, 500, 100)), colour=pl.lit("grey"))
        )
        other.write_csv(f"valid{i}.csv")
        plan = luthier.design("train.csv", target="big", valid=f"valid{i}.csv", test=f"valid{i}.csv")
        module = luthier.build(plan.blueprint)
        torch.manual_seed(0)
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
        parts = plan.prepared.parts
        luthier.fit(
            module, parts["train"].source, parts["valid"].source, criterion="bce", optimizer="Adam", epochs=2, seed=1,
            restore_best=False,
        )  # fmt: skip
        results.append((plan.schema, module.state_dict()))
    assert results[0][0] == results[1][0]
    for name, value in results[0][1].items():
        assert torch.equal(results[1][1][name], value), name


def test_sample_weights_enter_the_loss_and_not_the_network(here: Path) -> None:
    frame = made_up(200).with_columns(w=pl.Series(np.tile([1.0, 0.0], 100)))
    plan = luthier.design(frame, target="big", weight="w")
    assert "w" not in [column.name for column in plan.schema.columns]
    weights = plan.prepared.parts["train"].source.weights
    assert weights is not None
    assert sorted(weights.unique().tolist()) == [0.0, 1.0]


def test_the_split_is_kept_with_the_run(here: Path) -> None:
    result = luthier.train(PENGUINS, target="species", epochs=1, run=True, callbacks=[QUIET])
    assert result.folder is not None
    rows, _ = unpack(result.folder / "split.safetensors", "luthier-split")
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(344))


def test_groups_stay_together_and_time_goes_forward(here: Path) -> None:
    frame = made_up(300).with_columns(who=pl.Series(np.arange(300) // 10), day=pl.Series(np.arange(300)[::-1]))
    by_group = luthier.design(frame, target="big", group="who").prepared.parts
    groups = [set(frame["who"].to_numpy()[part.rows]) for part in by_group.values()]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    by_time = luthier.design(frame, target="big", time="day").prepared.parts
    days = frame["day"].to_numpy()
    assert days[by_time["train"].rows].max() < days[by_time["valid"].rows].min()
    assert days[by_time["valid"].rows].max() < days[by_time["test"].rows].min()


def test_a_stream_that_is_left_half_way_leaves_gradients_on(here: Path) -> None:
    """`no_grad` around a yield would rule the caller's code."""
    model = luthier.train(made_up(), target="big", epochs=1, run=True, callbacks=[QUIET]).model
    stream = model.stream(made_up())
    next(stream)
    assert torch.is_grad_enabled()


def test_without_validation_rows_the_last_weights_are_kept(here: Path) -> None:
    result = luthier.train(made_up(), target="big", valid_fraction=0.0, epochs=3, run=True, callbacks=[QUIET])
    assert result.best_epoch == 2
    assert "valid_loss" not in result.record.epochs[0]
    assert result.test["rows"] == 60


def test_batch_norm_does_without_a_last_batch_of_one(here: Path) -> None:
    frame = made_up(17)
    result = luthier.train(
        frame, target="weight", valid_fraction=0.0, test_fraction=0.0, batch_size=16, batch_norm=True, epochs=1,
        run=True, callbacks=[QUIET],
    )  # fmt: skip
    assert result.global_step == 1


def test_rows_in_reasons_are_those_of_the_file(tmp_path: Path) -> None:
    lines = [f"{i * 7 % 13}.5,{'' if i % 20 == 3 else i % 2}" for i in range(200)]
    lines[100] = "abc,1"
    (tmp_path / "odd.csv").write_text("\n".join(["x,y", *lines]) + "\n")
    plan = luthier.design(tmp_path / "odd.csv", target="y", valid_fraction=0.0, test_fraction=0.0)
    assert "'abc' in row 101" in plan.schema.columns[0].why


def test_a_file_cut_within_its_last_class_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "x,y\n" + "".join(f"{i},{'yes' if i % 2 else 'no'}\n" for i in range(59)) + "59,yes\n"
    for end, is_cut in (("", False), ("\n", False), ("s\n", True)):
        caplog.clear()
        (tmp_path / "d.csv").write_text(rows.removesuffix(end))
        luthier.design(tmp_path / "d.csv", target="y")
        assert ("is d.csv cut short?" in caplog.text) == is_cut


def test_a_run_that_is_counted_in_steps_is_stopped_resumed_replayed_and_used_again(here: Path) -> None:
    class StopAt(luthier.Callback):
        def on_step_end(self, run: luthier.View) -> luthier.Stop | None:
            return luthier.Stop("asked", finished=False) if run.global_step == 20 else None

    more: dict[str, Any] = {"target": "species", "max_steps": 37, "valid_every_steps": 5, "callbacks": [QUIET]}
    whole = luthier.train(PENGUINS, run="whole", **more)
    luthier.train(PENGUINS, run="cut", **{**more, "callbacks": [QUIET, StopAt()]})
    assert luthier.resume("cut", callbacks=[QUIET]).global_step == whole.global_step == 37
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert luthier.replay("whole").is_equal
    assert luthier.train("whole/run.toml", callbacks=[QUIET]).global_step == 37
    with pytest.raises(SettingError, match="both epochs and max_steps"):
        luthier.resume("whole", epochs=90)
