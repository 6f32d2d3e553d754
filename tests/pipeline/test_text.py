"""Text alone and beside other columns: learnt, kept, resumed, and read the same whoever its neighbours are."""

import random
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import luthier
from luthier.core.blueprint import Blueprint
from luthier.core.schema import Column
from luthier.data.text import encode_texts, is_spaceless, learn_tokenizer
from luthier.errors import DataError, LuthierError, MissingPackageError
from luthier.networks.build import build
from luthier.networks.families.mixed import Mixed, NGrams
from luthier.plain.cells import character_codes
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


SCRIPTS = {  # words of a script that is written without spaces: good ones, bad ones, others
    "Chinese": (["很好", "喜欢", "漂亮"], ["糟糕", "讨厌", "难看"], ["今天", "电影", "我们", "天气", "这个", "朋友"]),
    "Japanese": (
        ["すてき", "大好き", "楽しい"],
        ["ひどい", "大嫌い", "退屈"],
        ["今日は", "映画", "友達の", "天気が", "私の"],
    ),
    "Thai": (["ดีมาก", "สวยงาม", "สนุก"], ["แย่มาก", "น่าเบื่อ", "เกลียด"], ["วันนี้", "หนัง", "เพื่อน", "อากาศ", "ของเรา"]),
}


def sentences(script: str, n: int, seed: int = 0) -> pl.DataFrame:
    lot = random.Random(seed)
    good, bad, other = SCRIPTS[script]
    rows = []
    for _ in range(n):
        is_good = lot.random() < 0.5
        words = [*lot.choices(other, k=lot.randrange(3, 9)), lot.choice(good if is_good else bad)]
        lot.shuffle(words)
        rows.append({"text": "".join(words), "liked": "yes" if is_good else "no"})
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


@pytest.mark.parametrize("script", [*SCRIPTS, "all in one column"])
def test_words_without_spaces_between_them_are_learnt(script: str) -> None:
    scripts = [script] if script in SCRIPTS else [*SCRIPTS]
    train, new = (pl.concat([sentences(name, 400 // len(scripts), seed) for name in scripts]) for seed in (0, 1))
    result = luthier.train(train, target="liked", seed=0, verbose=False)
    assert result.model.schema is not None
    (column,) = result.model.schema.inputs
    assert (column.name, column.kind) == ("text", "text")
    assert not result.findings
    assert (result.model.predict(new) == new["liked"].to_numpy()).mean() > 0.95


def test_one_row_is_answered_as_among_others(trained: Any) -> None:
    _, result = trained
    rows = [*reviews(5, seed=3).drop("liked").to_dicts(), {"review": "", "stars": 1.0, "shop": "a"}]
    rows += [{"review": text, "stars": None, "shop": "b"} for text in ("今日は良い天気", "Ｆine!!", "q" * 5000, "😀")]
    together = result.model.predict_proba(rows)
    for row, expected in zip(rows, together, strict=True):
        np.testing.assert_allclose(result.model.predict_proba(row)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reader", ["mean", "conv", "lstm", "gru"])
def test_longer_neighbours_change_no_row(reader: str) -> None:
    torch.manual_seed(0)
    net = Mixed(2, 3, [50], [4], [2], token_size=8, reader=reader, widths=[6], ngram_buckets=99).eval()
    nn.init.normal_(next(net.ngrams.parameters()))
    tokens = torch.zeros(5, 1, 30, dtype=torch.int64)
    for row, length in enumerate((1, 4, 0, 30, 7)):
        tokens[row, 0, :length] = torch.randint(1, 50, (length,))
    characters = torch.where(tokens > 0, tokens + 2**16, 0).to(torch.int32)
    inputs = (torch.randn(5, 2), torch.randint(0, 4, (5, 1)), tokens, characters)
    whole = net(*inputs)
    for row in range(5):
        alone = net(*(value[row : row + 1] for value in inputs))
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-5, atol=1e-6)
    wider = (*inputs[:2], *(torch.cat([part, part.new_zeros(5, 1, 9)], dim=2) for part in inputs[2:]))
    torch.testing.assert_close(net(*wider), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reader", ["mean", "conv", "gru"])
def test_a_run_over_text_goes_on_with_the_same_bits(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    reviews(120).write_csv(path)
    settings: dict[str, Any] = {
        "target": "liked",
        "epochs": 3,
        "reader": reader,
        "checkpoint_every_steps": 2,
        "batch_size": 16,
    }
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
    assert column.max_characters == max(frame["review"][rows].str.len_chars()) + 2
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


def ngrams_by_hand(text: str, tokens: list[int], buckets: int) -> set[int]:
    """Return the buckets of the n-grams of a text that is lower case, with one space between words."""
    pieces = {f" {text} "[i : i + n] for n in range(1, 6) for i in range(len(text) + 3 - n)}
    whole = {tuple(map(ord, piece)) for piece in pieces if " " not in piece[1:-1]}
    pairs = {(token,) for token in tokens} | {*pairwise(tokens)}
    found = set()
    for base, grams in ((1_000_003, whole), (998_244_353, pairs)):
        for gram in grams:
            number = 0
            for code in gram:
                number = (number * base + code) % 2**31
            found.add(number % (buckets - 1) + 1)
    return found


@pytest.mark.parametrize("text", ["a good, good day", "今日は良い天気です", "ok", "", "é 😀 ツ"])
def test_ngrams_by_hand(text: str) -> None:
    torch.manual_seed(0)
    ngrams = NGrams(10_007, 2)
    nn.init.normal_(ngrams.weight)
    tokens = [3, 1, 7, 3, 1][: len(text)]
    codes = torch.from_numpy(character_codes(pl.Series([text, "a longer neighbour"]), 30, 40))
    found = ngrams(codes, torch.tensor([tokens + [0] * (6 - len(tokens)), [1] * 6]))[0]
    buckets = sorted(ngrams_by_hand(text, tokens, 10_007)) if text else []
    expected = 3.0 * ngrams.weight[buckets].sum(dim=0) / max(len(buckets), 1) ** 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert 0 not in buckets


def test_characters_are_read_alike_however_a_text_is_written() -> None:
    plain, *others = character_codes(pl.Series(["fine day", "  Ｆine\t DAY\n", "ﬁne day"]), 20, 20)
    assert all(np.array_equal(plain, other) for other in others)
    assert plain[:10].tolist() == [*map(ord, " fine day ")]
    cut, missing, empty = character_codes(pl.Series(["abcdef", None, "   "]), 4, 6)
    assert cut.tolist() == [*map(ord, " abc"), 0, 0]
    assert not missing.any()
    assert not empty.any()


def test_a_model_of_before_ngrams_reads_tokens_alone(trained: Any, tmp_path: Path) -> None:
    schema = trained[1].model.schema
    columns = tuple(replace(column, max_characters=0) for column in schema.columns)
    old = replace(schema, columns=columns)
    assert old.blocks == ("numbers", "categories", "tokens")
    arguments = {**trained[1].model.blueprint.arguments}
    del arguments["ngram_buckets"]
    blueprint = Blueprint(family="mixed", arguments=arguments)
    model = luthier.Model(build(blueprint), schema=old, blueprint=blueprint)
    model.save(tmp_path / "old.safetensors")
    new = reviews(5)
    assert np.array_equal(luthier.load(tmp_path / "old.safetensors").predict_proba(new), model.predict_proba(new))


def test_characters_that_the_design_leaves_out_are_no_finding() -> None:
    draw = random.Random(0)
    note = [f"{draw.choice(GOOD + BAD)} {draw.choice(OTHER)} {draw.random():.3f} day {i}" for i in range(300)]
    size = [draw.gauss(0, 1) for _ in note]
    table = {"note": note, "size": size, "y": [2 * x + draw.gauss(0, 0.1) for x in size]}
    result = luthier.train(table, target="y", epochs=1, verbose=False)
    assert result.model.blueprint is not None
    assert result.model.blueprint.arguments["ngram_buckets"] == 0
    assert [finding.code for finding in result.findings] == []
