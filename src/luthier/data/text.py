"""Text to numbers: a tokenizer learnt from training rows, and rows of token numbers. Needs the `text` extra."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from luthier.core.schema import Column
from luthier.errors import MissingPackageError

PAD, UNKNOWN = "[PAD]", "[UNK]"  # tokens 0 and 1
MAX_TOKENS = 256
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


def encode_texts(texts: pl.Series, column: Column) -> NDArray[np.int64]:
    """Return token numbers, int64 `(N, column.max_tokens)`, filled up with 0; a missing cell is all 0.

    Raises:
        MissingPackageError: the package `tokenizers` is not there.
    """
    tokenizer = _package().Tokenizer.from_str(column.tokenizer)
    tokens = np.zeros((len(texts), column.max_tokens), dtype=np.int64)
    for i, encoded in enumerate(tokenizer.encode_batch(texts.fill_null("").to_list())):
        ids = encoded.ids[: column.max_tokens]
        tokens[i, : len(ids)] = ids
    return tokens


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
            hint="pip install 'luthier[text]', or leave the column out: --kind NAME=ignored",
            code="missing-package",
        ) from error
    return tokenizers
