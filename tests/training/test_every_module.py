"""Every module of torch.nn goes through fit, kill, resume, save, load and predict with the same bits.

The modules and their inputs are those of PyTorch's own tests; what is not among them is made by hand below.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

import luthier
from luthier.errors import SettingError
from luthier.store.checkpoint import checkpoints, step_of
from luthier.training.result import Result
from tests.problems import same_weights
from tests.training.test_resume import CopyAt

_profile = hypothesis.settings.get_current_profile_name()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db
# That import freezes torch.backends and loads a hypothesis profile of its own, for the whole process.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
hypothesis.settings.load_profile(_profile)

CANNOT: dict[str, str] = {}
"""Modules that PyTorch can build and luthier cannot train, and why."""

NOT_IN_DATABASE = {
    "Container": "a deprecated alias of Module, which warns when it is made",
    "NLLLoss2d": "a deprecated alias of NLLLoss, which warns when it is made",
    "RNNBase": "the base of RNN, LSTM and GRU, without a forward of its own",
    "RNNCellBase": "the base of the recurrent cells, without a forward",
    "SyncBatchNorm": "trains on a GPU only; its forward refuses CPU tensors in training",
}
"""Modules that nobody can train here, and why."""

SEVERAL = 2  # ways to make a module that are tried
SAMPLES, BATCH = 4, 2


@dataclass(frozen=True)
class Case:
    """A module and what one call of it takes."""

    make: Callable[[], nn.Module]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    arguments: str = ""  # of the module, in words


class Wrapped(nn.Module):
    """The case's module between a trained scale of its first float input and a trained head.

    A sample is a whole input of the module, which sees one at a time. The scale is in (0, 1), so that probabilities
    stay probabilities and positive numbers positive.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        leaves, self.structure = pytree.tree_flatten((case.args, case.kwargs))
        self.constants = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
        self.count = len(leaves)
        self.scaled = first_float(tensors_of(case))
        self.part = case.make()
        if any(map(is_lazy, (*self.part.parameters(), *self.part.buffers()))):
            with torch.no_grad():
                self.part(*case.args, **case.kwargs)  # PyTorch's way to give a lazy module its shapes
        self.scale = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(2, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack([self.one(list(sample)) for sample in zip(*inputs, strict=True)])

    def one(self, sample: list[Tensor]) -> Tensor:
        if self.scaled is not None:
            sample[self.scaled] = sample[self.scaled] * self.scale.sigmoid()
        tensors = iter(sample)
        leaves = [self.constants[i] if i in self.constants else next(tensors) for i in range(self.count)]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        features = [features_of(leaf) for leaf in pytree.tree_leaves(self.part(*args, **kwargs)) if is_float(leaf)]
        answer: Tensor = self.head(torch.stack(features).sum(dim=0))
        return answer


def features_of(output: Tensor) -> Tensor:
    """Two numbers that depend on each element, also where the elements have one sum, as those of a softmax do."""
    flat = output.to_dense().flatten()
    return torch.stack([(flat * torch.arange(flat.numel()).cos()).mean(), flat.square().mean()])


def is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def tensors_of(case: Case) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves((case.args, case.kwargs)) if isinstance(leaf, Tensor)]


def first_float(tensors: list[Tensor]) -> int | None:
    return next((i for i, value in enumerate(tensors) if is_float(value)), None)


def samples(case: Case) -> tuple[Tensor, ...]:
    """The case's input so many times, its first float tensor another each time; the targets come last."""
    generator = torch.Generator().manual_seed(5)
    found = tensors_of(case)
    stacked = [torch.stack([value.detach()] * SAMPLES) for value in found]
    changed = first_float(found)
    if changed is not None:
        stacked[changed] *= 0.5 + 0.5 * torch.rand(stacked[changed].shape, generator=generator)
    return (*stacked, torch.randn(SAMPLES, 1, generator=generator))


def is_trainable(case: Case) -> bool:
    """Whether plain PyTorch can train and evaluate it, without a warning and with gradients that say something.

    luthier has no part in this.
    """
    *inputs, targets = samples(case)
    if not inputs:
        return False
    torch.manual_seed(0)
    try:
        module = Wrapped(case)
        loss = (module(*inputs) - targets).square().mean()
        loss.backward()
        module.eval()(*inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError, Warning):
        return False
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    if not all(bool(value.isfinite().all()) for value in gradients.values()):
        return False
    del gradients["head.bias"]  # it has one whatever the module does
    return bool(gradients.pop("head.weight").any()) and any(bool(value.any()) for value in gradients.values())


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.gates = nn.ModuleDict({"tanh": nn.Tanh(), "norm": nn.LayerNorm(4)})
        self.scales = nn.ParameterList([torch.ones(4), torch.ones(4)])
        self.shifts = nn.ParameterDict({"one": torch.zeros(4), "other": torch.zeros(4)})

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate, name, scale in zip(self.layers, self.gates.values(), self.shifts, self.scales, strict=True):
            x = gate(layer(x)) * scale + self.shifts[name]
        return x


def pooled(dimensions: int) -> tuple[Tensor, Tensor]:
    pool = getattr(nn, f"MaxPool{dimensions}d")(2, return_indices=True)
    values, places = pool(tensor(1, 2, *[4] * dimensions))
    return values, places


def by_hand() -> dict[str, Case]:
    cases = {
        "AdaptiveLogSoftmaxWithLoss": Case(
            lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 6, cutoffs=[2]), (tensor(5, 4), torch.tensor([0, 1, 2, 4, 5]))
        ),
        "ChannelShuffle": Case(lambda: nn.ChannelShuffle(2), (tensor(1, 4, 3, 3),)),
        "CosineSimilarity": Case(nn.CosineSimilarity, (tensor(5, 4), tensor(5, 4).cos())),
        "CrossMapLRN2d": Case(lambda: nn.CrossMapLRN2d(3), (tensor(1, 5, 4, 4),)),
        "DataParallel": Case(lambda: nn.DataParallel(nn.Linear(4, 4)), (tensor(3, 4),)),
        "EmbeddingBag": Case(lambda: nn.EmbeddingBag(6, 4), (torch.tensor([0, 3, 3, 5]), torch.tensor([0, 1]))),
        "Flatten": Case(nn.Flatten, (tensor(2, 3, 4),)),
        "Fold": Case(lambda: nn.Fold((4, 4), (2, 2)), (tensor(1, 8, 9),)),
        "Hardsigmoid": Case(nn.Hardsigmoid, (tensor(3, 4),)),
        "Identity": Case(nn.Identity, (tensor(3, 4),)),
        "LazyLinear": Case(lambda: nn.LazyLinear(3), (tensor(3, 4),)),
        "PairwiseDistance": Case(nn.PairwiseDistance, (tensor(5, 4), tensor(5, 4).cos())),
        "PixelShuffle": Case(lambda: nn.PixelShuffle(2), (tensor(1, 4, 3, 3),)),
        "PixelUnshuffle": Case(lambda: nn.PixelUnshuffle(2), (tensor(1, 1, 4, 4),)),
        "RReLU": Case(nn.RReLU, (tensor(3, 4),)),
        "Sequential": Case(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GELU()), (tensor(3, 4),)),
        "TransformerDecoder": Case(
            lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 2), (tensor(3, 1, 4), tensor(2, 1, 4))
        ),
        "TripletMarginLoss": Case(nn.TripletMarginLoss, (tensor(3, 4), tensor(3, 4).cos(), tensor(3, 4).sin())),
        "TripletMarginWithDistanceLoss": Case(
            lambda: nn.TripletMarginWithDistanceLoss(distance_function=nn.CosineSimilarity()),
            (tensor(3, 4), tensor(3, 4).cos(), tensor(3, 4).sin()),
        ),
        "Unflatten": Case(lambda: nn.Unflatten(1, (2, 2)), (tensor(3, 4),)),
        "Unfold": Case(lambda: nn.Unfold((2, 2)), (tensor(1, 2, 4, 4),)),
        "Upsample": Case(lambda: nn.Upsample(scale_factor=2), (tensor(1, 2, 3, 3),)),
        "UpsamplingBilinear2d": Case(lambda: nn.UpsamplingBilinear2d(scale_factor=2), (tensor(1, 2, 3, 3),)),
        "UpsamplingNearest2d": Case(lambda: nn.UpsamplingNearest2d(scale_factor=2), (tensor(1, 2, 3, 3),)),
    }
    for d in (2, 3):  # the database gives these two float64 numbers for float32 inputs; without any they draw
        cases[f"FractionalMaxPool{d}d"] = Case(
            lambda d=d: getattr(nn, f"FractionalMaxPool{d}d")(2, output_ratio=0.5),  # type: ignore[misc]
            (tensor(1, 2, *[9] * d),),
        )
    for name in ("Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList"):
        cases[name] = Case(Containers, (tensor(3, 4),))
    for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "Dropout1d", "Dropout2d", "Dropout3d"):
        dimensions = int(name[-2]) if name.endswith("d") else 1
        cases[name] = Case(getattr(nn, name), (tensor(2, 4, *[3] * dimensions),))
    for d in (1, 2, 3):
        cases[f"MaxUnpool{d}d"] = Case(lambda d=d: getattr(nn, f"MaxUnpool{d}d")(2), pooled(d))  # type: ignore[misc]
        for kind in ("LazyBatchNorm", "LazyInstanceNorm"):
            cases[f"{kind}{d}d"] = Case(
                lambda kind=kind, d=d: getattr(nn, f"{kind}{d}d")(affine=True, track_running_stats=True),  # type: ignore[misc]
                (tensor(2, 4, *[3] * d),),
            )
    return cases


DATABASE = {info.module_cls.__name__: info for info in module_db}
BY_HAND = by_hand()
PUBLIC = {
    name for name, _ in inspect.getmembers(nn, lambda item: inspect.isclass(item) and issubclass(item, nn.Module))
}


def from_database(name: str) -> Iterator[Case]:
    """The database's inputs, evenly spread ones first."""
    info = DATABASE[name]
    torch.manual_seed(0)
    given = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    spread = [i * len(given) // SEVERAL for i in range(SEVERAL)]
    order = dict.fromkeys((*spread, *range(len(given))))
    for i in order:
        made, called = given[i].constructor_input, given[i].forward_input
        # The arguments may hold modules, and those of one life of a run must not be those of another.
        make = lambda made=made: info.module_cls(*copy.deepcopy(made.args), **copy.deepcopy(made.kwargs))  # noqa: E731
        yield Case(make, tuple(called.args), dict(called.kwargs), f"{made.args} {made.kwargs}")


def cases_of(name: str) -> list[Case]:
    found: dict[str, Case] = {}
    for case in [BY_HAND[name]] if name in BY_HAND else from_database(name):
        if len(found) < SEVERAL and case.arguments not in found and is_trainable(case):
            found[case.arguments] = case
    return list(found.values())


def another(case: Case) -> Wrapped:
    """A fresh module whose every float weight and buffer is off, so that what is not put back is seen."""
    torch.manual_seed(77)
    module = Wrapped(case)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value += 0.1 + torch.rand_like(value)
    return module


def train(module: nn.Module, case: Case, folder: Path, callback: CopyAt, every: int | None = None) -> Result:
    return luthier.fit(
        module, samples(case), criterion="mse", optimizer="Adam", lr=0.01, epochs=2, batch_size=BATCH, seed=0,
        run=folder, checkpoint_every_steps=every, callbacks=[callback],
    )  # fmt: skip


def same_buffers(ours: nn.Module, theirs: nn.Module) -> None:
    """Those too that a state dict leaves out."""
    expected = dict(theirs.named_buffers())
    assert list(dict(ours.named_buffers())) == list(expected)
    for name, value in ours.named_buffers():
        assert torch.equal(value, expected[name]), name


def answers(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    module.eval()
    torch.manual_seed(3)  # fractional pooling draws in eval mode too
    with torch.no_grad():
        found: Tensor = module(*inputs)
    return found


def go_through(case: Case, folder: Path) -> None:
    *inputs, _ = samples(case)
    torch.manual_seed(1)
    module = Wrapped(case)
    start = copy.deepcopy(module.state_dict())
    # An epoch has 2 steps. The copy is made after the second, before its checkpoint: the newest is of the first.
    result = train(module, case, folder / "whole", CopyAt(2, folder / "cut"), every=1)

    assert result.global_step == 4
    assert not torch.equal(module.head.weight, start["head.weight"])
    assert step_of(checkpoints(folder / "cut" / "checkpoints")[0]) == 1
    again = another(case)
    torch.manual_seed(999)
    continued = train(again, case, folder / "cut", CopyAt(-1, folder))
    assert continued.global_step == 4
    same_weights(again, module)
    same_buffers(again, module)

    path = folder / "model.safetensors"
    result.model.save(path)
    loaded = luthier.load(path, module=another(case))
    same_weights(loaded.module, module)
    same_buffers(loaded.module, module)
    expected = answers(module, tuple(inputs))
    assert torch.equal(answers(loaded.module, tuple(inputs)), expected)
    for model in (loaded, result.model):
        torch.manual_seed(3)
        assert torch.equal(model.predict(tuple(inputs)), expected)


@pytest.mark.parametrize("name", sorted((DATABASE.keys() | BY_HAND.keys()) - CANNOT.keys()))
def test_a_module_comes_through_with_the_same_bits(name: str, tmp_path: Path) -> None:
    cases = cases_of(name)
    assert cases, "PyTorch itself trains none of its inputs: say so in CANNOT"
    for i, case in enumerate(cases):
        assert any(isinstance(part, getattr(nn, name)) for part in case.make().modules())
        go_through(case, tmp_path / str(i))


def test_every_module_of_torch_is_accounted_for() -> None:
    tried = DATABASE.keys() | BY_HAND.keys()
    assert tried | NOT_IN_DATABASE.keys() == PUBLIC


def test_pytorch_s_test_module_leaves_the_process_as_it_was() -> None:
    assert hypothesis.settings.get_current_profile_name() == "luthier"
    assert not torch.backends.flags_frozen()


def test_no_exception_is_stale(tmp_path: Path) -> None:
    assert all(getattr(nn, name) is info.module_cls for name, info in DATABASE.items())
    assert not NOT_IN_DATABASE.keys() & (DATABASE.keys() | BY_HAND.keys())
    for name in BY_HAND.keys() & DATABASE.keys():
        assert not any(map(is_trainable, from_database(name))), f"{name}: take the database's inputs"
    for name in CANNOT:
        for i, case in enumerate(cases_of(name)):
            with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it is: the reason is in words above
                go_through(case, tmp_path / f"{name} {i}")


def test_a_lazy_module_without_shapes_is_refused_with_what_to_do() -> None:
    module = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1))
    with pytest.raises(SettingError, match=r"(?i)lazy|uninitialized"):
        luthier.fit(module, (tensor(8, 3), tensor(8, 1)), criterion="mse", optimizer="SGD", lr=0.1, epochs=1, seed=0)
