"""Layers of torch.nn and the networks of scikit-learn, freshly built over plain data: nothing is called an error."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import luthier

ACTIVATIONS = [
    name for name in sorted(nn.modules.activation.__all__)
    if name not in ("MultiheadAttention", "Softmax", "Softmin", "LogSoftmax", "Softmax2d", "Threshold", "GLU")
]  # fmt: skip
LAYERS: dict[str, nn.Module] = {
    **{name: getattr(nn, name)() for name in ACTIVATIONS},
    "GLU": nn.Sequential(nn.Linear(16, 32), nn.GLU()),
    "Threshold": nn.Threshold(0.1, 0.0),
    "BatchNorm1d": nn.BatchNorm1d(16),
    "LayerNorm": nn.LayerNorm(16),
    "RMSNorm": nn.RMSNorm(16),
    "GroupNorm": nn.GroupNorm(4, 16),
    "Dropout": nn.Dropout(0.3),
    "AlphaDropout": nn.AlphaDropout(0.2),
    "LocalResponseNorm": nn.Sequential(
        nn.Unflatten(1, (16, 1, 1)), nn.LocalResponseNorm(3), nn.Flatten(), nn.ReLU()
    ),
}  # fmt: skip
PICTURES: dict[str, nn.Module] = {
    "Conv2d": nn.Conv2d(2, 8, 3),
    "grouped": nn.Conv2d(2, 8, 3, groups=2),
    "ConvTranspose2d": nn.ConvTranspose2d(2, 8, 3),
    "strided": nn.Conv2d(2, 8, 3, stride=2, padding=1, padding_mode="reflect"),
    "dilated": nn.Conv2d(2, 8, 3, dilation=2),
    "InstanceNorm2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.InstanceNorm2d(8, affine=True)),
    "BatchNorm2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)),
    "PixelUnshuffle": nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 8, 3)),
    "Upsample": nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 8, 3)),
    "MaxPool2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.MaxPool2d(2)),
    "AvgPool2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.AvgPool2d(2)),
    "LPPool2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.LPPool2d(2, 2)),
    "AdaptiveMaxPool2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.AdaptiveMaxPool2d(4)),
    "Dropout2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.Dropout2d(0.2)),
    "AdaptiveAvgPool2d": nn.Sequential(nn.Conv2d(2, 8, 3), nn.AdaptiveAvgPool2d(5)),
}


class Steps(nn.Module):
    """A layer over sequences, and a head on its mean."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.enter, self.layer, self.head = nn.Linear(6, 16), layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Any:
        h: Any = self.layer(self.enter(x))
        return self.head((h[0] if isinstance(h, tuple) else h).mean(1))


class Both(nn.Module):
    """nn.Transformer, whose decoder reads the same steps."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.body = nn.Linear(6, 16), nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.enter(x)
        return self.last(self.body(h, h).mean(1))


def sequences() -> dict[str, nn.Module]:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return {
        "RNN": Steps(nn.RNN(16, 12, batch_first=True), 12),
        "LSTM": Steps(nn.LSTM(16, 12, 2, batch_first=True, dropout=0.1), 12),
        "LSTM projected": Steps(nn.LSTM(16, 12, batch_first=True, proj_size=5), 5),
        "GRU both ways": Steps(nn.GRU(16, 12, batch_first=True, bidirectional=True), 24),
        "TransformerEncoder": Steps(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 16),
        "TransformerEncoderLayer": Steps(nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, batch_first=True), 16),
        "Transformer": Both(),
    }


def errors(net: nn.Module, data: tuple[Tensor, Tensor]) -> list[str]:
    optimizer = optim.Adam(net.parameters(), 1e-3)
    found = luthier.check(net, data, criterion=nn.CrossEntropyLoss(), optimizer=optimizer)
    return [str(finding) for finding in found if finding.severity == "error"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore")
def test_layers_over_rows(name: str) -> None:
    net = nn.Sequential(nn.Linear(8, 16), LAYERS[name], nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(120, 8)
    assert errors(net, (x, (x @ torch.randn(8, 3)).argmax(1))) == []


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.filterwarnings("ignore")
def test_layers_over_pictures(name: str) -> None:
    net = nn.Sequential(PICTURES[name], nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    x = torch.randn(120, 2, 12, 12)
    assert errors(net, (x, torch.randint(0, 3, (120,)))) == []


@pytest.mark.parametrize("name", sequences())
@pytest.mark.filterwarnings("ignore")
def test_layers_over_sequences(name: str) -> None:
    assert errors(sequences()[name], (torch.randn(120, 9, 6), torch.randint(0, 3, (120,)))) == []


@pytest.mark.parametrize("hidden", [(100,), (50, 50), (128, 64, 32), (10,)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_the_networks_of_scikit_learn(hidden: tuple[int, ...], activation: type[nn.Module]) -> None:
    """Of `MLPClassifier`: Glorot's uniform weights and biases, a factor of 2 less for the logistic function."""
    sizes = [12, *hidden, 4]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layer = nn.Linear(a, b)
        bound = ((2.0 if activation is nn.Sigmoid else 6.0) / (a + b)) ** 0.5
        nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(layer.bias, -bound, bound)
        layers += [layer, activation()]
    x = torch.randn(200, 12)
    assert errors(nn.Sequential(*layers[:-1]), (x, (x @ torch.randn(12, 4)).argmax(1))) == []
