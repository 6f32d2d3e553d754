"""Text to numbers: a tokenizer learnt from training rows, and rows of token numbers. Needs the `text` extra."""

import json
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.schema import Column
from luthier.errors import BundleError, MissingPackageError

PAD, UNKNOWN = "[PAD]", "[UNK]"  # tokens 0 and 1
MAX_TOKENS, MAX_CHARACTERS = 256, 2048
VOCABULARY_SIZE = 16_000
_SPACELESS = re.compile("[぀-ヿ㐀-䶿一-鿿ก-๿ກ-໿က-႟ក-៿]")


def has_tokenizers() -> bool:
    """Whether the `tokenizers` package is installed."""
    try:
        import tokenizers  # noqa: F401  # asked for, not used
    except ImportError:
        return False
    return True


def is_spaceless(texts: Sequence[str]) -> bool:
    """Whether most letters are of scripts that are written without spaces: kana, Han, Thai, Lao, Burmese, Khmer.

    >>> is_spaceless(["今日は良い天気", "ok"]), is_spaceless(["a good day"])
    (True, False)
    """
    joined = "".join(texts)
    letters = sum(char.isalpha() for char in joined)
    return 2 * len(_SPACELESS.findall(joined)) > letters


def learn_tokenizer(texts: Sequence[str]) -> tuple[str, int, int]:
    """Return a tokenizer as JSON, how many tokens it knows, and how many a row may have, from training texts.

    Words and punctuation, lowercased and normalised (NFKC), of which those are known that occur at least twice; the
    commonest `VOCABULARY_SIZE`. Scripts without spaces are read by characters. Token 0 fills rows up, 1 is any other.

    Raises:
        MissingPackageError: the package `tokenizers` is not there.
    """
    tokenizers = _package()
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
    steps = tokenizers.normalizers
    usual = [steps.NFKC(), steps.Lowercase()]
    splitters = tokenizers.pre_tokenizers
    if is_spaceless(texts):
        made.normalizer = steps.Sequence([*usual, steps.Replace(tokenizers.Regex(r"\s"), "")])
        made.pre_tokenizer = splitters.Split(tokenizers.Regex(r"."), "isolated")
    else:
        made.normalizer = steps.Sequence(usual)
        made.pre_tokenizer = splitters.Whitespace()
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=VOCABULARY_SIZE, min_frequency=2, special_tokens=[PAD, UNKNOWN], show_progress=False
    )
    made.train_from_iterator(texts, trainer, length=len(texts))
    lengths = [len(encoded.ids) for encoded in made.encode_batch(list(texts))]
    longest = int(np.quantile(lengths, 0.99, method="higher")) if lengths else 1
    return made.to_str(), made.get_vocab_size(), max(1, min(MAX_TOKENS, longest))


def count_characters(texts: pl.Series) -> int:
    """Return how many characters are read of a row: those of all but one training text in a hundred."""
    longest = texts.str.len_chars().quantile(0.99, "higher") or 0
    return min(MAX_CHARACTERS, int(longest) + 2)  # and the spaces around them


def encode_texts(texts: pl.Series, column: Column) -> NDArray[np.int64]:
    """Return token numbers, int64 `(N, column.max_tokens)`, filled up with 0; a missing cell is all 0.

    Raises:
        MissingPackageError: the package `tokenizers` is not there.
        BundleError: the tokenizer is none that `learn_tokenizer` made.
    """
    _package()
    tokenizer = _tokenizer(column.tokenizer, column.vocabulary_size)
    tokens = np.zeros((len(texts), column.max_tokens), dtype=np.int64)
    for i, encoded in enumerate(tokenizer.encode_batch(texts.fill_null("").to_list())):
        ids = encoded.ids[: column.max_tokens]
        tokens[i, : len(ids)] = ids
    return tokens


@lru_cache(maxsize=8)
def _tokenizer(text: str, vocabulary_size: int) -> Any:
    """Return a tokenizer from a file, if it is of a form that `learn_tokenizer` makes: others may run without end."""
    try:
        made = _package().Tokenizer.from_str(text)
        form, vocabulary = _form(made.to_str())
        is_ours = form in _forms() and all(0 <= number < vocabulary_size for number in vocabulary.values())
    except Exception as error:  # the package raises nothing narrower
        if isinstance(error, MissingPackageError):
            raise
        is_ours = False
    if not is_ours:
        raise BundleError(
            "the model has a tokenizer that Luthier does not write, so Luthier does not use it",
            hint="copy the model again, or train a new one",
            code="bundle-damaged",
        )
    return made


@cache
def _forms() -> list[Any]:
    return [_form(learn_tokenizer([text] * 2)[0])[0] for text in ("a b", "今日")]


def _form(text: str) -> tuple[Any, dict[str, int]]:
    """Return a tokenizer's JSON without its words, and these."""
    form = json.loads(text)
    return form, form["model"].pop("vocab")


def _package() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise MissingPackageError(
            "a column of text needs the package tokenizers, which is not installed",
            hint="pip install 'luthier[text]', or leave the column out: kind={'NAME': 'ignored'}",
            code="missing-package",
        ) from error
    return tokenizers
