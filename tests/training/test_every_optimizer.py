"""Every optimizer, in every flavour and variant, goes on after a kill with the same weights and the same state."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import luthier
from luthier.core.settings import CheckSettings
from luthier.core.tree import flatten
from luthier.errors import SettingError
from luthier.store.bundle import load_bundle
from luthier.store.checkpoint import checkpoints, load_checkpoint, step_of
from luthier.training.optimizers import optimizer_names
from luthier.training.result import Result
from tests.problems import mlp, same_weights, table
from tests.training.test_resume import CopyAt

FLAVOURS = {"default": None, "foreach": "foreach", "fused": "fused", "single": "foreach"}
"""What an optimizer's constructor has to know for each."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.9, "optimizer_args": {"dampening": 0.5}}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1, "decay_norm_and_bias": False}),
    ("SGD", {"momentum": 0.9, "optimizer_flavour": "fused"}),
    ("Adam", {"optimizer_args": {"amsgrad": True}}),
    ("Adam", {"optimizer_args": {"amsgrad": True}, "optimizer_flavour": "fused"}),
    ("Adam", {"optimizer_args": {"decoupled_weight_decay": True}, "weight_decay": 0.1}),
    ("AdamW", {"optimizer_args": {"amsgrad": True, "maximize": True}, "betas": (0.8, 0.9)}),
    ("RMSprop", {"optimizer_args": {"centered": True}, "momentum": 0.9}),
    ("Adagrad", {"optimizer_args": {"initial_accumulator_value": 0.5, "lr_decay": 0.1}}),
    ("Muon", {"nesterov": False}),
    ("NAdam", {"optimizer_args": {"momentum_decay": 0.1}}),
    ("ASGD", {"optimizer_args": {"t0": 3.0}}),
]


class Lookup(nn.Module):
    """Scores of three classes, looked up for each of a row's numbers: its gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Embedding(10, 3, sparse=True)

    def forward(self, numbers: Tensor) -> Tensor:
        scores: Tensor = self.scores(numbers).sum(dim=1)
        return scores


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, numbers: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mix(self.embedding(numbers).mean(dim=1)))
        return logits

    @property
    def is_tied(self) -> bool:
        return self.head.weight is self.embedding.weight


def matrices() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 3, bias=False))


def colour_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(288, 3)
    )  # fmt: skip


def numbers() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 10, (50, 4), generator=generator)
    return x, x[:, 0] % 3


def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(50, 3, 8, 8, generator=generator), torch.randint(0, 3, (50,), generator=generator)


def small_table() -> tuple[Tensor, Tensor]:
    return table(50)


Problem = tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]
PROBLEMS: dict[str, Problem] = {"SparseAdam": (Lookup, numbers), "Muon": (matrices, small_table)}


def problem_for(optimizer: str) -> Problem:
    return PROBLEMS.get(optimizer, (mlp, small_table))


def train(problem: Problem, folder: Path, callback: CopyAt, seed: int, **more: Any) -> tuple[nn.Module, Result]:
    make, data = problem
    torch.manual_seed(seed)
    module = make()
    result = luthier.fit(
        module, data(), criterion="cross-entropy", epochs=2, batch_size=8, seed=0, run=folder,
        checkpoint_every_steps=1, callbacks=[callback], check=CheckSettings(ignore=("check-loss-sign",)),
        **{"lr": 0.01, **more},
    )  # fmt: skip
    return module, result


def end_of(folder: Path) -> dict[str, Any]:
    """The run's last state, less what a clock says."""
    end: dict[str, Any] = load_checkpoint(folder / "checkpoints") or {}
    del end["epoch_seconds"], end["state"]["figures"]["seconds"], end["record"]
    return end


def killed_and_continued(problem: Problem, tmp_path: Path, **more: Any) -> tuple[nn.Module, Any]:
    """Hold the two lives of a run to the one; return its module and the optimizer's end state."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    module, result = train(problem, whole, CopyAt(10, cut), 1, **more)  # 7 steps an epoch
    torch.manual_seed(1)
    start = problem[0]()
    assert any(not torch.equal(a, b) for a, b in zip(module.parameters(), start.parameters(), strict=True))
    assert step_of(checkpoints(cut / "checkpoints")[0]) == 9
    again, continued = train(problem, cut, CopyAt(-1, tmp_path), 999, **more)

    assert result.global_step == continued.global_step == 14
    same_weights(again, module)
    ends = end_of(whole), end_of(cut)
    (one, tensors_one), (two, tensors_two) = map(flatten, ends)
    assert one == two
    assert list(tensors_one) == list(tensors_two)
    for name, value in tensors_one.items():
        assert torch.equal(value, tensors_two[name]), name
    return again, ends[0]["optimizer"]


def has(optimizer: str, flavour: str) -> bool:
    wanted = FLAVOURS[flavour]
    return wanted is None or wanted in inspect.signature(getattr(torch.optim, optimizer)).parameters


PAIRS = [(name, flavour) for name in optimizer_names() for flavour in FLAVOURS]


@pytest.mark.parametrize(("name", "flavour"), [pair for pair in PAIRS if has(*pair)])
def test_an_optimizer_goes_on_with_the_same_bits(name: str, flavour: str, tmp_path: Path) -> None:
    module, state = killed_and_continued(problem_for(name), tmp_path, optimizer=name, optimizer_flavour=flavour)
    assert len(state["state"]) == {"SGD": 0, "LBFGS": 1}.get(name, len(list(module.parameters())))


@pytest.mark.parametrize(("name", "flavour"), [pair for pair in PAIRS if not has(*pair)])
def test_a_flavour_that_an_optimizer_lacks_is_refused(name: str, flavour: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"optimizer {name} has no {flavour} update"):
        train(problem_for(name), tmp_path, CopyAt(-1, tmp_path), 1, optimizer=name, optimizer_flavour=flavour)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_variant_goes_on_with_the_same_bits(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    module, state = killed_and_continued(problem_for(name), tmp_path, optimizer=name, **settings)
    assert len(state["state"]) == len(list(module.parameters()))
    given = {key: value for key, value in settings.items() if key in ("momentum", "nesterov", "betas")}
    for key, value in {**given, **settings.get("optimizer_args", {})}.items():
        assert state["param_groups"][0][key] == value


def test_amsgrad_and_momentum_keep_their_own_tensors(tmp_path: Path) -> None:
    _, state = killed_and_continued(
        (mlp, small_table), tmp_path / "1", optimizer="Adam", optimizer_args={"amsgrad": True}
    )
    assert "max_exp_avg_sq" in state["state"][0]
    _, state = killed_and_continued((mlp, small_table), tmp_path / "2", optimizer="SGD", momentum=0.9)
    assert isinstance(state["state"][0]["momentum_buffer"], Tensor)


def test_an_own_optimizer_with_groups_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def grouped(parameters: Any) -> torch.optim.Optimizer:
        first, *others = parameters
        return torch.optim.AdamW([{"params": [first], "lr": 0.1, "weight_decay": 0.5}, {"params": others}], lr=0.01)

    _, state = killed_and_continued((mlp, small_table), tmp_path, optimizer=grouped, lr=None)
    assert [group["lr"] for group in state["param_groups"]] == [0.1, 0.01]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # what torch's own Adagrad does
@pytest.mark.parametrize(("name", "settings"), [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adagrad", {})])
def test_a_module_with_sparse_gradients_goes_on_with_the_same_bits(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    killed_and_continued((Lookup, numbers), tmp_path, optimizer=name, **settings)


def test_tied_weights_stay_one_tensor(tmp_path: Path) -> None:
    module, state = killed_and_continued((Tied, numbers), tmp_path, optimizer="Adam")
    assert isinstance(module, Tied)
    assert module.is_tied
    assert len(state["state"]) == 3  # embedding and head as one, the weight and bias between them

    _, result = train((Tied, numbers), tmp_path / "whole", CopyAt(-1, tmp_path), 2, optimizer="Adam")
    path = tmp_path / "model.safetensors"
    result.model.save(path)
    stored = load_bundle(path).weights["state"]
    assert stored["head.weight"] is stored["embedding.weight"]
    loaded = luthier.load(path, module=Tied())
    assert isinstance(loaded.module, Tied)
    assert loaded.module.is_tied
    same_weights(loaded.module, module)
    x, _ = numbers()
    assert torch.equal(loaded.predict(x), result.model.predict(x))


def strides(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: value.stride() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(("name", "settings"), [("SGD", {"momentum": 0.9}), ("AdamW", {}), ("AdamW", {"ema": 0.9})])
def test_channels_last_goes_on_with_the_same_bits_and_strides(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    channels_last = colour_convnet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in src
    module, state = killed_and_continued(
        (colour_convnet, pictures), tmp_path, optimizer=name, memory_format="channels_last", **settings
    )
    assert strides(module) == strides(channels_last) != strides(colour_convnet())
    shape = (4, 3, 3, 3)
    kept = [value for value in state["state"][0].values() if value is not None and value.shape == shape]
    assert kept
    assert all(value.stride() == strides(channels_last)["0.weight"] for value in kept)
