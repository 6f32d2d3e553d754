"""Families give the shapes they promise, and the design follows its rules."""

from typing import Any

import pytest
import torch

from luthier.core.blueprint import Blueprint
from luthier.core.schema import ImageInput, InputSizes, Schema, Target
from luthier.core.settings import NetworkSettings
from luthier.errors import NetworkError
from luthier.networks.build import build
from luthier.networks.choose import choose
from luthier.networks.families.mlp import ACTIVATIONS, MLP


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [True, False])
def test_mlp(activation: str, batch_norm: bool) -> None:
    arguments = {
        "num_numbers": 3, "num_outputs": 2, "category_sizes": [4, 6], "embedding_sizes": [2, 3], "widths": [8, 5],
        "activation": activation, "batch_norm": batch_norm, "dropout": 0.1,
    }  # fmt: skip
    net = build(Blueprint(family="mlp", arguments=arguments))
    out = net(torch.randn(7, 3), torch.randint(0, 4, (7, 2)))
    assert out.shape == (7, 2)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


TABM: dict[str, Any] = {"num_numbers": 4, "num_outputs": 3, "category_sizes": [4, 6], "ranks": [1, 3], "widths": [8]}


@pytest.mark.parametrize("task", ["regression", "multiclass", "multilabel"])
def test_tabm(task: str) -> None:
    torch.manual_seed(0)
    net = build(Blueprint(family="tabm", arguments={**TABM, "task": task}))
    numbers, codes = torch.randn(16, 4), torch.randint(0, 4, (16, 2))
    out = net(numbers, codes)
    assert out.shape == (16, 3)
    (out * torch.randn(16, 3)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def members(net: Any, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the outputs of each member alone, `(M, N, K)`."""
    found = []
    for i in range(len(net.scale)):
        one: Any = build(Blueprint(family="tabm", arguments={**TABM, "members": 1})).eval()
        state = net.state_dict()
        one.load_state_dict({k: v[i : i + 1] if k.startswith(("scale", "head")) else v for k, v in state.items()})
        found.append(one(numbers, codes))
    return torch.stack(found)


def test_tabm_answers_with_the_mean_of_its_members_and_trains_each_on_its_turn() -> None:
    torch.manual_seed(0)
    nets: dict[str, Any] = {
        task: build(Blueprint(family="tabm", arguments={**TABM, "task": task}))
        for task in ("regression", "multiclass", "binary")
    }
    for net in nets.values():
        net.load_state_dict(nets["regression"].state_dict())
        net.eval()
    numbers, codes = torch.randn(16, 4), torch.randint(0, 4, (16, 2))
    with torch.no_grad():
        each = members(nets["regression"], numbers, codes)
        torch.testing.assert_close(nets["regression"](numbers, codes), each.mean(dim=0))
        torch.testing.assert_close(nets["multiclass"](numbers, codes).exp(), each.softmax(dim=2).mean(dim=0))
        torch.testing.assert_close(nets["binary"](numbers, codes).sigmoid(), each.sigmoid().mean(dim=0))
        out = nets["regression"].train()(numbers, codes)
        distances = (out - each).abs().sum(dim=2)  # (M, N)
    assert distances.min(dim=0).values.max() < 1e-5
    turns = distances.argmin(dim=0)
    assert torch.equal(turns, (turns[0] + torch.arange(16)) % 8)


def test_tabm_is_flat_beyond_the_ranks_of_training_rows() -> None:
    torch.manual_seed(0)
    net = build(Blueprint(family="tabm", arguments={**TABM, "category_sizes": []})).eval()
    nowhere = torch.zeros(3, 0, dtype=torch.int64)
    far = torch.tensor([[0.0, value, 0.0, 0.0] for value in (1.0, 2.0, 99.0)])
    with torch.no_grad():
        answers = net(far, nowhere)
    # some processors round a row of a product by its place
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(answers[2], answers[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["convnet", "resnet"])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 47)])
def test_networks_for_images(family: str, stride: int, size: tuple[int, int]) -> None:
    arguments = {"channels": 3, "num_outputs": 4, "widths": [4, 8, 8], "stem_stride": stride}
    net = build(Blueprint(family=family, arguments=arguments)).eval()
    assert net(torch.randn(2, 3, *size)).shape == (2, 4)


def test_an_unseen_category_starts_without_an_opinion() -> None:
    net = build(Blueprint(family="mlp", arguments={
        "num_numbers": 1, "num_outputs": 1, "category_sizes": [4], "embedding_sizes": [2], "widths": [4],
    }))  # fmt: skip
    weight = net.state_dict()["embeddings.0.weight"]
    assert torch.equal(weight[0], torch.zeros(2))
    assert weight[1:].abs().min() > 0


@pytest.mark.parametrize(("rows", "widths"), [(500, [64, 64]), (5_000, [128, 128]), (50_000, [256, 256, 256])])
def test_the_size_of_an_mlp_follows_from_the_rows(rows: int, widths: list[int]) -> None:
    schema = Schema(task="regression", targets=(Target(name="y", kind="number"),), num_rows=rows)
    choice = choose(schema, NetworkSettings(network="mlp"), {}, sizes=InputSizes(num_numbers=4))
    assert choice.blueprint.arguments["widths"] == widths
    assert set(choice.reasons) >= {"family", "widths", "dropout", "epochs", "batch_size", "lr", "criterion"}


@pytest.mark.parametrize(("side", "family"), [(28, "convnet"), (96, "resnet")])
def test_the_family_follows_from_the_images(side: int, family: str) -> None:
    image = ImageInput(channels=3, height=side, width=side, means=(0.5,) * 3, stds=(0.2,) * 3)
    target = Target(name="class", kind="category", classes=("a", "b", "c"))
    schema = Schema(task="multiclass", targets=(target,), image=image, num_rows=2_000)
    choice = choose(schema, NetworkSettings(), {})
    assert choice.blueprint.family == family
    assert build(choice.blueprint)(torch.randn(2, 3, side, side)).shape == (2, 3)


def test_sizes_that_cannot_be_are_named() -> None:
    with pytest.raises(NetworkError, match="cannot be built"):
        build(Blueprint(family="mlp", arguments={"num_numbers": 3, "num_outputs": 2, "widths": [-1]}))


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("mlp", {"num_numbers": 3, "num_outputs": 2, "widths": [10**8, 10**8]}),
        ("convnet", {"channels": 1, "num_outputs": 2, "widths": [10**7, 10**7]}),
        ("resnet", {"channels": 1, "num_outputs": 2, "widths": [10**7]}),
        ("inception", {"channels": 2, "num_outputs": 2, "width": 10**7}),
        ("recurrent", {"channels": 2, "num_outputs": 2, "hidden_size": 10**7}),
        ("mixed", {"num_numbers": 3, "num_outputs": 2, "widths": [10**8, 10**8]}),
    ],
)
def test_weights_that_no_memory_holds_are_refused_before_they_are_made(family: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=r"[0-9,]{15,} weights: [0-9,.]+ GiB, and [0-9,.]+ GiB of memory are free"):
        build(Blueprint(family=family, arguments=arguments))


def test_what_training_keeps_has_to_fit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = Blueprint(family="mlp", arguments={"num_numbers": 3, "num_outputs": 2, "widths": [9_000]})
    monkeypatch.setattr("luthier.networks.build.free_memory", lambda: 400_000.0)
    torch.manual_seed(0)
    made = build(blueprint)  # 54,002 weights
    torch.manual_seed(0)
    assert torch.equal(
        made.state_dict()["head.weight"], MLP(**blueprint.arguments).state_dict()["head.weight"]
    )  # counting draws nothing
    with pytest.raises(NetworkError, match="with what training keeps for each"):
        build(blueprint, times=2)
