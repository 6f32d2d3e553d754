"""Series in every shape people bring them: learnt, kept, resumed, and read the same whoever their neighbours are."""

import math
import random
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.data.series import fold_channels, fold_steps, parse_arrays, to_lists
from luthier.errors import DataError, SettingError
from luthier.networks.families.inception import InceptionNet
from luthier.networks.families.mixed import Mixed
from luthier.networks.families.recurrent import CELLS, POOLINGS, RecurrentNet
from luthier.networks.families.rocket import RocketNet
from luthier.plain.cells import scale_rows
from tests.problems import same_weights
from tests.training.test_resume import CopyAt

FAST: dict[str, Any] = {"epochs": 12, "batch_size": 16, "threads": 1}


def waves(n: int = 120, seed: int = 0, gap: float = 0.0) -> list[dict[str, Any]]:
    """Return series of unequal length, slow or fast, with a steady column and a second channel of noise."""
    lot = random.Random(seed)
    rows = []
    for i in range(n):
        kind = lot.choice(["slow", "fast"])
        start, length = lot.random() * 6, lot.randrange(14, 30)
        values = [math.sin(start + step * (0.35 if kind == "slow" else 1.1)) for step in range(length)]
        rows.append({
            "id": f"s{i}", "kind": kind, "site": lot.choice(["a", "b"]), "length": length,
            "x": [None if lot.random() < gap else round(value, 4) for value in values],
            "z": [round(lot.gauss(0, 1), 4) for _ in values],
        })  # fmt: skip
    return rows


def uneven(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the series with `x` at five scales, from 1 to 10,000."""
    for i, row in enumerate(rows):
        row["x"] = [None if value is None else value * 10.0 ** (i % 5) for value in row["x"]]
    return rows


def long_table(rows: list[dict[str, Any]], shuffle: bool = True) -> pl.DataFrame:
    steps = [
        {"id": row["id"], "t": t, "x": x, "z": z, "site": row["site"], "kind": row["kind"]}
        for row in rows
        for t, (x, z) in enumerate(zip(row["x"], row["z"], strict=True))
    ]
    if shuffle:
        random.Random(1).shuffle(steps)
    return pl.DataFrame(steps)


def padded(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    x = np.full((len(rows), 2, 30), np.nan, dtype=np.float32)
    for place, row in zip(x, rows, strict=True):
        place[0, : len(row["x"])] = [np.nan if value is None else value for value in row["x"]]
        place[1, : len(row["z"])] = row["z"]
    return x


def bring(shape: str, rows: list[dict[str, Any]], place: Path) -> tuple[Path, dict[str, Any]]:
    """Write the same series in one of the shapes; return the file and the settings it needs."""
    if shape == "long":
        long_table(rows).drop("site").write_csv(place / "d.csv")
        return place / "d.csv", {"target": "kind", "series": "id", "order": "t"}
    if shape == "npz":
        np.savez(place / "d.npz", x=padded(rows), y=np.array([row["kind"] for row in rows]))
        return place / "d.npz", {}
    frame = pl.DataFrame([{name: row[name] for name in ("kind", "x", "z")} for row in rows])
    if shape == "lists":
        frame.write_parquet(place / "d.parquet")
        return place / "d.parquet", {"target": "kind"}
    if shape == "arrays in text":
        texts = [pl.Series(name, [str(row[name]) for row in rows]) for name in "xz"]
        frame.with_columns(texts).write_csv(place / "d.csv")
        return place / "d.csv", {"target": "kind"}
    x = padded(rows)
    wide = {f"{name}_{step}": x[:, i, step] for i, name in enumerate("xz") for step in range(30)}
    pl.DataFrame({"kind": frame["kind"], **wide}).fill_nan(None).write_csv(place / "d.csv")
    return place / "d.csv", {"target": "kind", "channel": ["x_*", "z_*"]}


SHAPES = ["long", "npz", "lists", "arrays in text", "wide"]


@pytest.mark.parametrize("shape", SHAPES)
def test_series_are_learnt_in_every_shape(shape: str, tmp_path: Path) -> None:
    source, settings = bring(shape, waves(gap=0.05), tmp_path)
    result: Any = luthier.train(source, run=tmp_path / "run", seed=0, **FAST, **settings)
    assert result.model.blueprint.family == "rocket"
    assert result.test["accuracy"] > 0.9
    new, _ = bring(shape, waves(40, seed=5, gap=0.05), tmp_path / ".")
    answers = luthier.load(tmp_path / "run").predict(new)
    assert answers.shape == (40,)
    expected = [row["kind"] for row in waves(40, seed=5)]
    if shape == "long":  # one a series, in the order in which they first appear
        steps = pl.read_csv(new)
        names = steps["id"].unique(maintain_order=True)
        kinds = dict(zip(steps["id"], steps["kind"], strict=True))
        expected = [kinds[name] for name in names]
        frame = next(luthier.load(tmp_path / "run").stream(new))
        assert frame["id"].to_list() == names.to_list()
        assert frame.columns == ["id", "prediction", "probability_fast", "probability_slow"]
    assert (answers == np.array(expected)).mean() > 0.9
    assert luthier.load(tmp_path / "run").evaluate(new)["accuracy"] > 0.9


def test_all_shapes_of_the_same_series_are_the_same_to_the_network(tmp_path: Path) -> None:
    rows = waves(60, gap=0.05)
    inputs: dict[str, Any] = {}
    for shape in SHAPES:
        (tmp_path / shape).mkdir()
        source, settings = bring(shape, rows, tmp_path / shape)
        plan = luthier.design(source, valid_fraction=0, test_fraction=0, **settings)
        part: Any = plan.prepared.parts["train"]
        values, lengths = part.source.inputs
        place = [int(name.split("s")[-1][:-1]) for name in part.names] if shape == "long" else part.rows
        inputs[shape] = (values[np.argsort(place)], lengths[np.argsort(place)])
    for shape, (values, lengths) in inputs.items():
        np.testing.assert_allclose(values, inputs["lists"][0], atol=1e-5, err_msg=shape)
        assert torch.equal(lengths, inputs["lists"][1]), shape


@pytest.mark.parametrize("family", ["rocket", "inception", "recurrent"])
def test_a_run_over_series_goes_on_with_the_same_bits(family: str, tmp_path: Path) -> None:
    source, settings = bring("long", waves(60, gap=0.1), tmp_path)
    more: dict[str, Any] = {**settings, **FAST, "epochs": 3, "network": family, "checkpoint_every_steps": 2}
    whole: Any = luthier.train(source, run=tmp_path / "whole", callbacks=[CopyAt(5, tmp_path / "cut")], **more)
    assert whole.model.blueprint.family == family
    same_weights(luthier.resume(tmp_path / "cut").module, whole.module)


def test_series_beside_other_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame(waves(300)).select(
        "x",
        "site",
        y=pl.when((pl.col("kind") == "slow") == (pl.col("site") == "a")).then(pl.lit("p")).otherwise(pl.lit("q")),
    )
    result: Any = luthier.train(frame, target="y", run=tmp_path / "run", epochs=20)
    assert result.model.blueprint.family == "mixed"
    assert result.test["accuracy"] > 0.9
    alone = luthier.load(tmp_path / "run").predict_proba(frame.head(1))  # with no longer neighbour
    np.testing.assert_allclose(alone, result.model.predict_proba(frame)[:1], rtol=1e-4)


def test_columns_that_do_not_change_within_a_series() -> None:
    steps = long_table(waves(80))  # `site` does not change within a series
    plan = luthier.design(steps, target="kind", series="id", order="t")
    assert {column.name: column.kind for column in plan.schema.columns} == {
        "x": "series", "z": "series", "site": "category",
    }  # fmt: skip
    assert plan.schema.blocks == ("numbers", "categories", "values", "lengths")


def test_series_of_uneven_scale_are_scaled_each_by_itself() -> None:
    plan = luthier.design(pl.DataFrame(uneven(waves(60))).select("x", "z", "kind"), target="kind")
    part: Any = plan.prepared.parts["train"]
    x, z = plan.schema.columns
    assert "each scaled by itself" in x.why
    assert "scaled" not in z.why
    values, lengths = part.source.inputs
    assert values.shape[1] == plan.blueprint.arguments["channels"] == 4
    for row, length in zip(values, lengths, strict=True):
        shape, level, spread = row[:3, :length]
        torch.testing.assert_close(shape.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
        torch.testing.assert_close(shape.std(correction=0), torch.tensor(1.0))
        assert len(level.unique()) == len(spread.unique()) == 1
        assert not row[:, length:].any()


def test_scaling_a_series_by_itself_holds_for_any_number() -> None:
    raw = np.array([[1e308, -1e308, np.nan], [np.nan, np.nan, np.nan], [7.0, 7.0, 7.0], [1e-300, 3e-300, np.nan]])
    scaled, levels = scale_rows(raw)
    np.testing.assert_allclose(scaled, [[1, -1, 0], [0, 0, 0], [0, 0, 0], [-1, 1, 0]], atol=1e-12)
    assert np.isfinite(levels).all()
    np.testing.assert_allclose(levels[3], [2, math.log(1e-300)])


def test_a_few_series_are_all_trained_on_unless_asked_otherwise() -> None:
    frame = pl.DataFrame(waves(60)).select("x", "kind")
    plan = luthier.design(frame, target="kind", test_fraction=0)
    assert len(plan.prepared.parts["train"].rows) == 60
    assert "valid" not in plan.prepared.parts
    assert any("no series are kept for validation" in note for note in plan.prepared.notes)
    for settings in ({"valid_fraction": 0.2}, {"patience": 3}, {"monitor": "valid_loss"}):
        assert "valid" in luthier.design(frame, target="kind", **settings).prepared.parts
    many = luthier.design(pl.DataFrame(waves(400)).select("x", "kind"), target="kind")
    assert len(many.prepared.parts["valid"].rows) >= 50
    assert many.recipe.patience is not None


def test_the_network_for_series_follows_from_their_number_and_their_steps() -> None:
    frames = [
        pl.DataFrame(waves(n)).select(pl.col("x").list.head(steps), "kind")
        for n, steps in ((60, 30), (60, 8), (2_000, 30))
    ]
    families = [luthier.design(frame, target="kind").blueprint.family for frame in frames]
    assert families == ["rocket", "inception", "inception"]


def test_the_checks_are_silent_on_rocket(tmp_path: Path) -> None:
    source, settings = bring("lists", uneven(waves(120)), tmp_path)
    result: Any = luthier.train(source, run=tmp_path / "run", network="rocket", threads=1, **settings)
    assert not result.findings
    assert result.test["accuracy"] == 1.0


def test_the_first_batch_sets_the_thresholds_of_rocket() -> None:
    torch.manual_seed(0)
    net: Any = RocketNet(2, 3, max_steps=31)
    values, lengths = torch.randn(8, 2, 31), torch.tensor([31, 30, 4, 9, 1, 17, 31, 31])
    values *= (torch.arange(31) < lengths[:, None])[:, None]
    net(values, lengths)
    kept = {name: value.clone() for name, value in net.state_dict().items() if "kernels" in name}
    assert all(value.any() for name, value in kept.items())
    features = torch.cat([part(values, lengths) for part in net.kernels], dim=1)
    torch.testing.assert_close(net.norm.mean, features.mean(dim=0), rtol=1e-4, atol=1e-5)
    net(3 * values, lengths)
    both = torch.cat([features, torch.cat([part(3 * values, lengths) for part in net.kernels], dim=1)])
    torch.testing.assert_close(net.norm.variance, both.var(dim=0, correction=0), rtol=1e-3, atol=1e-5)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in kept.items())
    assert [name for name, _ in net.named_parameters()] == ["head.weight", "head.bias"]


def networks() -> dict[str, torch.nn.Module]:
    made: dict[str, torch.nn.Module] = {
        "inception": InceptionNet(2, 3, width=4),
        "thinned": InceptionNet(2, 3, width=4, stride=3),
        "rocket": RocketNet(2, 3, max_steps=31),
        "rocket, thinned": RocketNet(2, 3, max_steps=31, max_places=10),
        "forward only": RecurrentNet(2, 3, num_layers=1, bidirectional=False, pooling="last"),
    }
    for cell, pooling in product(CELLS, POOLINGS):
        made[f"{cell} {pooling}"] = RecurrentNet(2, 3, cell=cell, hidden_size=5, pooling=pooling)
    for module in made.values():  # batch norm with statistics of its own
        module.train()
        for _ in range(3):
            module(torch.randn(6, 2, 31), torch.tensor([31, 30, 4, 9, 1, 17]))
    return made


@pytest.mark.parametrize("name", [*networks()])
def test_longer_neighbours_change_no_row(name: str) -> None:
    torch.manual_seed(0)
    net = networks()[name].eval()
    lengths = torch.tensor([31, 1, 0, 12, 5, 29])
    values = torch.randn(6, 2, 40)  # what stands after a row's end is not read, whatever it is
    whole = net(values, lengths)
    assert torch.isfinite(whole).all()
    for row in range(6):
        alone = net(values[row : row + 1, :, : max(int(lengths[row]), 1)], lengths[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-4, atol=1e-5)
    turned = torch.randperm(6)
    torch.testing.assert_close(net(values[turned], lengths[turned]), whole[turned], rtol=1e-4, atol=1e-5)


def test_longer_neighbours_change_no_row_of_mixed_columns() -> None:
    net = Mixed(1, 2, series_channels=2, widths=[4]).eval()
    lengths, values = torch.tensor([31, 1, 0, 12]), torch.randn(4, 2, 40)
    numbers, categories = torch.randn(4, 1), torch.zeros(4, 0, dtype=torch.int64)
    whole = net(numbers, categories, values, lengths)
    for row in range(4):
        part = slice(row, row + 1)
        alone = net(numbers[part], categories[part], values[part, :, : max(int(lengths[row]), 1)], lengths[part])
        torch.testing.assert_close(alone, whole[part], rtol=1e-4, atol=1e-5)


def test_statistics_of_batch_norm_are_those_of_real_steps() -> None:
    first, second = InceptionNet(2, 3, width=4), InceptionNet(2, 3, width=4)
    second.load_state_dict(first.state_dict())
    values, lengths = torch.randn(4, 2, 20), torch.tensor([20, 20, 20, 20])
    first(values, lengths)
    second(torch.cat([values, torch.full((4, 2, 9), 99.0)], dim=2), lengths)
    for (name, ours), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    uneven, plain = InceptionNet(1, 1, width=4), torch.randn(3, 1, 9)
    uneven(plain, torch.tensor([9, 4, 0]))
    shortcut: Any = uneven.shortcuts[0]
    real = torch.cat([plain[0, 0], plain[1, 0, :4]])
    expected = real.mean() * shortcut.convolution.weight.reshape(-1)
    torch.testing.assert_close(shortcut.norm.running_mean, 0.1 * expected.detach())


def test_steps_are_put_in_order_and_missing_ones_put_in() -> None:
    frame = pl.DataFrame({
        "id": ["b", "a", "b", "a", "b", "a"], "day": [f"2024-01-0{day}" for day in (4, 2, 1, 1, 2, 3)],
        "v": [4.0, 2.0, 1.0, 1.0, 2.0, 3.0], "y": ["p", "q", None, "q", "p", "q"],
    })  # fmt: skip
    folded = fold_steps(frame, "id", "day", scalars=["y"])
    assert folded.to_dict(as_series=False) == {
        "id": ["b", "a"], "y": ["p", "q"], "v": [[1.0, 2.0, None, 4.0], [1.0, 2.0, 3.0]],
    }  # fmt: skip
    assert fold_steps(frame, "id", None)["v"].to_list() == [[4.0, 1.0, 2.0], [2.0, 1.0, 3.0]]


def test_arrays_in_text_and_wide_columns() -> None:
    frame = pl.DataFrame({"a": ["[1, 2.5]", None, "[ 3 ; nan]", "[]"], "b": ["[x]", "1", "", "2"]})
    assert str(to_lists(parse_arrays(frame)["a"]).to_list()) == "[[1.0, 2.5], None, [3.0, nan], [None]]"
    assert parse_arrays(frame)["b"].dtype == pl.String
    wide, named = fold_channels(pl.DataFrame({"t10": [3], "t2": [2], "t1": ["1"], "y": [0]}), ["t*"])
    assert named == {"t*": ("t1", "t2", "t10")}
    assert wide["t*"].to_list() == [[1.0, 2.0, 3.0]]
    assert wide.columns == ["y", "t*"]


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"series": "name"}, "data-column-missing", "name"),
        ({"series": "id", "order": "word"}, "data-series-order", "neither numbers nor dates"),
        ({"series": "id", "order": "same"}, "data-series-order", "rows 1 and 2"),
        ({"series": "id", "order": "holes"}, "data-series-order", "row 2"),
        ({"series": "holes"}, "data-series-order", "row 2"),
        ({"series": "id", "target": "t"}, "data-series-target", "changes within"),
        ({"channel": "q*"}, "data-series-channel", "0 columns"),
        ({"series": "id", "kind": {"word": "series"}}, "data-kind-unmet", "changes within a series"),
    ],
)
def test_series_that_cannot_be_read_are_named(settings: dict[str, Any], code: str, words: str) -> None:
    n = 40
    frame = pl.DataFrame({
        "id": [i // 4 for i in range(n)], "t": list(range(n)), "word": ["x", "z"] * (n // 2), "same": [1] * n,
        "holes": [None if i == 1 else i for i in range(n)], "y": [i // 4 % 2 for i in range(n)],
    })  # fmt: skip
    with pytest.raises(DataError) as caught:
        luthier.design(frame, **{"target": "y", **settings})
    assert caught.value.code == code
    assert words in str(caught.value)


def test_settings_of_series_that_would_be_ignored_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="order"):
        luthier.design({"a": [1, 2], "y": [0, 1]}, target="y", order="a")
    with pytest.raises(SettingError, match="time"):
        luthier.design({"a": [1, 2], "y": [0, 1]}, target="y", series="a", time="y")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(40, 1, 20)), y=np.arange(40) % 2)
    with pytest.raises(SettingError, match="series"):
        luthier.design(tmp_path / "d.npz", series="a")
    assert luthier.design(tmp_path / "d.npz").blueprint.family == "rocket"
    assert luthier.design(tmp_path / "d.npz", arrays="images").blueprint.family == "convnet"
    flat = luthier.train(tmp_path / "d.npz", arrays="table", run=tmp_path / "flat", epochs=1)
    assert flat.predict(tmp_path / "d.npz").shape == (40,)


def test_two_dimensions_are_series_where_it_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=padded(waves(60))[:, 0], y=np.array([row["kind"] for row in waves(60)]))
    assert luthier.design(tmp_path / "d.npz").blueprint.family == "tabm"
    result: Any = luthier.train(tmp_path / "d.npz", arrays="series", run=tmp_path / "run", **FAST)
    assert result.model.blueprint.family == "rocket"
    assert luthier.load(tmp_path / "run").predict(tmp_path / "d.npz").shape == (60,)
    assert luthier.load(tmp_path / "run").predict(padded(waves(7))[:, :1]).shape == (7,)
