"""Each layer of the textbook, in a network of the command's, learns real data that comes with scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

import luthier


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Breast cancer: 569 rows of 30 numbers, and one of them in three words, so that there is an embedding."""
    x, y = load_breast_cancer(return_X_y=True)
    frame = pl.DataFrame(x, schema=[f"x{i}" for i in range(30)]).with_columns(
        size=pl.Series(np.array(["small", "middle", "large"])[np.digitize(x[:, 0], [12, 16])]),
        y=pl.Series(np.array(["malignant", "benign"])[y]),
    )
    path = tmp_path_factory.mktemp("cells") / "cells.csv"
    frame.write_csv(path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, x=x.reshape(-1, 8, 8), y=y)
    return path


def has(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    return all(any(isinstance(part, kind) for part in module.modules()) for kind in kinds)


@pytest.mark.parametrize(("activation", "layer"), [("relu", nn.ReLU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)])
def test_linear_embedding_and_activations(activation: str, layer: type[nn.Module], cells: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {} if activation == "relu" else {"activation": activation}
    result: Any = luthier.train(cells, target="y", run=tmp_path / "run", batch_norm=activation != "relu", **more)
    assert has(result.module, nn.Linear, nn.Embedding, nn.Dropout, layer)
    assert activation == "relu" or has(result.module, nn.BatchNorm1d)
    assert result.test["accuracy"] > 0.93


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_layers_read_images_row_by_row(cell: str, digits: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"arrays": "series", "network": "recurrent", "epochs": 10, "lr": 0.006}
    result: Any = luthier.train(digits, run=tmp_path / "run", network_args={"cell": cell}, **settings)
    assert has(result.module, {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell], nn.Dropout)
    assert result.test["accuracy"] > 0.93


def test_convolution_batch_norm_and_softmax_at_inference(digits: Path, tmp_path: Path) -> None:
    result: Any = luthier.train(digits, run=tmp_path / "run", epochs=6)
    assert has(result.module, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Linear)
    assert not has(result.module, nn.Softmax)  # the loss takes logits; probabilities come at the end
    assert result.test["accuracy"] > 0.96
    chances = torch.from_numpy(luthier.load(tmp_path / "run").predict_proba(digits))
    torch.testing.assert_close(chances.sum(dim=1), torch.ones(1797, dtype=torch.float64))
    assert chances.min() >= 0
