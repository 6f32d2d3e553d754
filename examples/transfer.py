"""Transfer: learn all digits, then odd or even from ten images (`pip install scikit-learn`).

Prints:
    from new weights 0.63
    from the weights of the digits 0.68
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import luthier

pixels, digit = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(digit)


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64 * 2 * 2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(images))


def train(net: nn.Module, data: tuple, epochs: int, **more) -> luthier.Result:
    given = {"criterion": "cross-entropy", "optimizer": "Adam", "lr": 0.003, "seed": 0, "verbose": False}
    return luthier.fit(net, data, epochs=epochs, **given, **more)


torch.manual_seed(0)
base = Net(10)
train(base, (images[:1200], labels[:1200]), epochs=4)

few, test = slice(1200, 1210), slice(1210, None)
for name, start in (("new weights", None), ("the weights of the digits", base.trunk)):
    torch.manual_seed(1)
    net = Net(2)
    if start is not None:  # by command: luthier train photos --weights base.safetensors --freeze trunk
        net.trunk.load_state_dict(start.state_dict())
    result = train(net, (images[few], labels[few] % 2), epochs=20, freeze=() if start is None else ("trunk",))
    accuracy = (result.predict(images[test]) == labels[test] % 2).float().mean()
    print(f"from {name} {accuracy:.2f}")
