"""Text alone and beside other columns: learnt, kept, resumed, and read the same whoever its neighbours are."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.core.schema import Column
from luthier.data.text import encode_texts, is_spaceless, learn_tokenizer
from luthier.errors import DataError, LuthierError, MissingPackageError
from luthier.networks.families.mixed import Mixed
from tests.problems import same_weights
from tests.training.test_resume import CopyAt

GOOD = ["lovely", "fine", "bright", "warm", "kind", "sweet"]
BAD = ["awful", "grim", "dull", "cold", "mean", "sour"]
OTHER = [
    "the",
    "film",
    "was",
    "on",
    "a",
    "day",
    "in",
    "may",
    "with",
    "its",
    "old",
    "friends",
    "and",
    "some",
    "of",
    "their",
    "dogs",
]


def reviews(n: int = 300, seed: int = 0) -> pl.DataFrame:
    lot = random.Random(seed)
    rows = []
    for i in range(n):
        is_good = lot.random() < 0.5
        words = lot.choices(OTHER, k=lot.randrange(4, 14)) + lot.choices(GOOD if is_good else BAD, k=2)
        lot.shuffle(words)
        stars = lot.gauss(1.0 if is_good else -1.0, 1.5)
        rows.append({
            "review": " ".join(words) + f", {i}.", "stars": round(stars, 3), "shop": lot.choice(["a", "b", "c"]),
            "liked": "yes" if is_good else "no",
        })  # fmt: skip
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("text")
    reviews().write_csv(place / "d.csv")
    return place, luthier.train(place / "d.csv", target="liked", run=place / "run", seed=0)


def test_words_are_learnt(trained: Any) -> None:
    _, result = trained
    assert result.model.blueprint.family == "mixed"
    kinds = {column.name: column.kind for column in result.model.schema.columns}
    assert kinds == {"review": "text", "stars": "number", "shop": "category"}
    assert result.test["accuracy"] > 0.95
    alone = luthier.train(reviews().select("review", "liked"), target="liked", run=trained[0] / "alone")
    assert alone.test["accuracy"] > 0.95


def test_a_loaded_model_reads_new_text_whatever_the_order(trained: Any) -> None:
    place, result = trained
    new = reviews(60, seed=9)
    again = luthier.load(place / "run")
    expected = result.model.predict_proba(new)
    assert np.array_equal(again.predict_proba(new), expected)
    turned = new.reverse().select("shop", "review", "stars")
    np.testing.assert_allclose(again.predict_proba(turned)[::-1], expected, rtol=1e-5)
    assert (again.predict(new) == new["liked"].to_numpy()).mean() > 0.95
    odd = pl.DataFrame({"review": ["", None, "zzz qqq", "LOVELY  Ｆine!!"], "stars": [None] * 4, "shop": ["x"] * 4})
    assert np.isfinite(again.predict_proba(odd)).all()


@pytest.mark.parametrize("reader", ["mean", "conv", "lstm", "gru"])
def test_longer_neighbours_change_no_row(reader: str) -> None:
    torch.manual_seed(0)
    net = Mixed(2, 3, [50], [4], [2], token_size=8, reader=reader, widths=[6]).eval()
    tokens = torch.zeros(5, 1, 30, dtype=torch.int64)
    for row, length in enumerate((1, 4, 0, 30, 7)):
        tokens[row, 0, :length] = torch.randint(1, 50, (length,))
    inputs = (torch.randn(5, 2), torch.randint(0, 4, (5, 1)), tokens)
    whole = net(*inputs)
    for row in range(5):
        alone = net(*(value[row : row + 1] for value in inputs))
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-5, atol=1e-6)
    wider = (*inputs[:2], torch.cat([tokens, torch.zeros(5, 1, 9, dtype=torch.int64)], dim=2))
    torch.testing.assert_close(net(*wider), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reader", ["conv", "gru"])
def test_a_run_over_text_goes_on_with_the_same_bits(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    reviews(120).write_csv(path)
    settings: dict[str, Any] = {"target": "liked", "epochs": 3, "reader": reader, "checkpoint_every_steps": 2}
    whole = luthier.train(path, run=tmp_path / "whole", callbacks=[CopyAt(9, tmp_path / "cut")], **settings)
    again = luthier.resume(tmp_path / "cut")
    same_weights(again.module, whole.module)
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_vocabularies_come_from_training_rows_alone() -> None:
    frame = reviews(100)
    plan = luthier.design(frame, target="liked")
    column = next(column for column in plan.schema.columns if column.kind == "text")
    rows = plan.prepared.parts["train"].rows
    changed = frame.with_columns(
        pl.when(pl.int_range(pl.len()).is_in(rows.tolist()))
        .then("review")
        .otherwise(pl.lit("new words new"))
        .alias("review")
    )
    plain = learn_tokenizer(frame["review"][rows].to_list())
    assert (column.tokenizer, column.vocabulary_size, column.max_tokens) == plain
    assert learn_tokenizer(changed["review"][rows].to_list()) == plain
    shuffled = frame["review"][rows].to_list()
    random.Random(1).shuffle(shuffled)
    assert all(learn_tokenizer(shuffled) == plain for _ in range(3))


def test_scripts_without_spaces_are_read_by_characters() -> None:
    texts = ["今日は良い天気です", "明日は雨です", "今日は雨です"]
    assert is_spaceless(texts)
    tokenizer, size, longest = learn_tokenizer(texts)
    assert (size, longest) == (2 + len({"今", "日", "は", "で", "す", "雨"}), 9)
    column = Column(name="t", kind="text", tokenizer=tokenizer, vocabulary_size=size, max_tokens=longest)
    tokens = encode_texts(pl.Series(["今日 は晴", None]), column)
    assert (tokens[0, :3] > 1).all()
    assert tokens[0, 3] == 1
    assert not tokens[1].any()


def test_without_the_package_text_is_left_out_or_named(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    plan = luthier.design(reviews(), target="liked")
    column = plan.schema.columns[0]
    assert column.kind == "text"
    assert not column.is_input
    assert "luthier[text]" in column.doubt
    with pytest.raises(MissingPackageError, match="missing-package"):
        luthier.design(reviews(), target="liked", kind={"review": "text"})
    with pytest.raises(DataError, match="no column is left"):
        luthier.design(reviews().select("review", "liked"), target="liked")
    with pytest.raises(LuthierError, match=r"luthier\[text\]"):
        luthier.load(trained[0] / "run").predict(reviews(5))
