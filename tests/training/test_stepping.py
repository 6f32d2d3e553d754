"""An update as torch writes it, without what torch wraps around it: the same weights, hooks called, no compiler."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import luthier
from luthier.core.stepping import averager, backward, updater
from luthier.training.optimizers import optimizer_class, optimizer_names
from tests.problems import mlp, same_weights, table


def stepped(name: str, *, plain: bool, **arguments: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3))) if name == "Muon" else mlp()
    optimizer = optimizer_class(name)(net.parameters(), **arguments)
    update = updater(optimizer) if plain else optimizer.step
    x, y = table()
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        update()
    return net, optimizer


@pytest.mark.parametrize("name", [name for name in optimizer_names() if name not in ("SparseAdam", "LBFGS")])
def test_both_ways_give_equal_weights_and_state(name: str) -> None:
    ours, theirs = (stepped(name, plain=plain) for plain in (True, False))
    same_weights(ours[0], theirs[0])
    for one, two in zip(ours[1].state.values(), theirs[1].state.values(), strict=True):
        for key, value in one.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(two[key])), key


FUSED = [
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}), ("Adam", {"weight_decay": 0.1}),
    ("AdamW", {}), ("AdamW", {"amsgrad": True}), ("Adam", {"maximize": True}), ("SGD", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), FUSED)
@pytest.mark.parametrize("fused", [True, False])
def test_a_kernel_called_at_once_follows_whatever_changes_between_updates(
    name: str, arguments: dict[str, Any], fused: bool
) -> None:
    results = []
    for plain in (True, False):
        torch.manual_seed(0)
        net, (x, y) = mlp(), table()
        parameters = list(net.parameters())
        made: Any = optimizer_class(name)
        optimizer = made(parameters[:2], lr=0.1, fused=fused, **arguments)
        if name == "SGD" and not arguments and fused:
            optimizer.param_groups[0]["fused"] = False
        update = updater(optimizer) if plain else optimizer.step
        for i in range(14):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            if i == 2:
                optimizer.param_groups[0]["lr"] = 0.05
            elif i == 4:
                parameters[0].grad = None
            elif i == 6:
                optimizer.add_param_group({"params": parameters[2:], "lr": 0.02})
            elif i == 8:
                optimizer.load_state_dict(optimizer.state_dict())
            elif i == 10:
                optimizer.param_groups[0]["weight_decay"] = 0.3
            elif i == 12:
                optimizer.param_groups[0]["maximize"] = not optimizer.param_groups[0]["maximize"]
            update()
        results.append((net, optimizer))
    same_weights(results[0][0], results[1][0])
    for one, two in zip(results[0][1].state.values(), results[1][1].state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in two)


def _clear(optimizer: Any, kept: dict[str, Any]) -> None:
    optimizer.state.clear()


def _clear_one(optimizer: Any, kept: dict[str, Any]) -> None:
    if isinstance(optimizer, torch.optim.SGD):
        pytest.skip("torch's own fused step raises")
    optimizer.state.pop(optimizer.param_groups[0]["params"][0])


def _new_tensors(optimizer: Any, kept: dict[str, Any]) -> None:
    for entry in optimizer.state.values():
        entry |= {name: torch.zeros_like(value) for name, value in entry.items() if isinstance(value, torch.Tensor)}


def _one_of_another_type(optimizer: Any, kept: dict[str, Any]) -> None:
    entry = optimizer.state[optimizer.param_groups[0]["params"][0]]
    if "step" in entry:
        entry["step"] = entry["step"].double()


def _another_group(optimizer: Any, kept: dict[str, Any]) -> None:
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.3}


def _load_what_was_kept(optimizer: Any, kept: dict[str, Any]) -> None:
    optimizer.load_state_dict(kept["copy"])


def _load_into_another(optimizer: Any, kept: dict[str, Any]) -> None:
    other = type(optimizer)([p for group in optimizer.param_groups for p in group["params"]], lr=0.1, fused=True)
    other.load_state_dict(optimizer.state_dict())
    update = updater(other) if kept["plain"] else other.step
    for _ in range(3):
        update()


@pytest.mark.parametrize(("name", "arguments"), [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {})])
@pytest.mark.parametrize(
    "change",
    [
        _clear, _clear_one, _new_tensors, _one_of_another_type, _another_group, _load_what_was_kept, _load_into_another,
    ],
)  # fmt: skip
def test_what_a_callback_does_to_the_optimizer_is_followed(name: str, arguments: dict[str, Any], change: Any) -> None:
    results = []
    for plain in (True, False):
        torch.manual_seed(0)
        net, (x, y) = mlp(), table()
        made: Any = optimizer_class(name)
        optimizer = made(net.parameters(), lr=0.05, fused=True, **arguments)
        update = updater(optimizer) if plain else optimizer.step
        kept: dict[str, Any] = {"plain": plain}
        for i in range(12):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            update()
            if i == 3:
                kept["copy"] = copy.deepcopy(optimizer.state_dict())
            if i in (5, 8):
                change(optimizer, kept)
        results.append((net, optimizer))
    same_weights(results[0][0], results[1][0])
    for one, two in zip(results[0][1].state.values(), results[1][1].state.values(), strict=True):
        for key, value in one.items():
            assert torch.equal(value, two[key]), key
            assert value.dtype == two[key].dtype


def test_the_kernels_are_called_at_once_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, arguments in (("SGD", {}), ("SGD", {"momentum": 0.9, "fused": True}), ("Adam", {"fused": True})):
        net, (x, y) = mlp(), table()
        made: Any = optimizer_class(name)
        optimizer = made(net.parameters(), lr=0.1, **arguments)
        update = updater(optimizer)
        for _ in range(2):
            nn.functional.cross_entropy(net(x), y).backward()
            update()
        with monkeypatch.context() as patch:
            patch.setattr(type(optimizer), "_init_group", None)  # which `step` cannot do without
            update()


def test_backward_gives_the_gradients_of_loss_backward() -> None:
    x, y = table()
    wraps: list[Any] = [lambda loss: loss, lambda loss: loss.double(), lambda loss: loss[None].sum() * 0.5]
    for wrap in wraps:
        ours, theirs = mlp().eval(), mlp().eval()  # no dropout
        theirs.load_state_dict(ours.state_dict())
        for _ in range(2):  # gradients add up
            backward(wrap(nn.functional.cross_entropy(ours(x), y)))
            wrap(nn.functional.cross_entropy(theirs(x), y)).backward()
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.grad is not None
            assert two.grad is not None
            assert torch.equal(one.grad, two.grad)
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(torch.zeros(()))
    with pytest.raises(RuntimeError, match="scalar outputs"):
        backward(torch.zeros(2, requires_grad=True))
    calls: list[Any] = []

    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(function)
            return function(*args, **(kwargs or {}))

    with Seen():
        backward(nn.functional.cross_entropy(mlp()(x), y))
    assert torch.Tensor.backward in calls


def test_hooks_are_called_whenever_they_were_registered() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    update, seen = updater(optimizer), []
    optimizer.register_step_post_hook(lambda *_: seen.append("own"))
    update()
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("everyone's"))
    update()
    handle.remove()
    assert seen == ["own", "own", "everyone's"]


def test_what_others_put_in_its_place_is_called() -> None:
    class Own(torch.optim.SGD):
        count = 0

        def step(self, closure: Any = None) -> Any:
            self.count += 1
            return super().step(closure)

    own = Own([nn.Parameter(torch.zeros(1))], lr=0.1)
    updater(own)()
    assert own.count == 1
    patched, seen = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), []
    patched.step = lambda *_: seen.append(1)  # type: ignore[method-assign]  # as some libraries do
    updater(patched)()
    assert seen == [1]


def test_a_scheduler_sees_that_a_step_was_done() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = StepLR(optimizer, 1)
    updater(optimizer)()
    scheduler.step()  # it would warn, and warnings are errors here


def test_a_fit_imports_no_compiler_and_leaves_torch_as_it_was() -> None:
    program = """
import sys, torch, luthier
from torch import nn
x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
for name in ("AdamW", "SGD"):
    luthier.fit(nn.Linear(4, 2), (x, y), criterion="cross-entropy", optimizer=name, lr=0.1, epochs=2, seed=0,
                scheduler="OneCycleLR", clip_norm=1.0, ema=0.9, run=f"{sys.argv[1]}/{name}")
assert "torch._dynamo" not in sys.modules
assert not any(hasattr(method.__wrapped__, "__dynamo_disable")
               for method in (torch.optim.Optimizer.zero_grad, torch.optim.Optimizer.state_dict))
torch.compile(nn.Linear(4, 2))
"""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, "-c", program, place], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_where_torch_calls_its_marks_otherwise_it_is_imported_and_all_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.core.stepping._MARKED", ("gone", "zero_grad"))
    monkeypatch.delattr(sys.modules["torch.optim.optimizer"], "_global_optimizer_pre_hooks")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert updater(optimizer) == optimizer.step
    monkeypatch.undo()
    assert luthier.fit(mlp(), table(), criterion="cross-entropy", optimizer="SGD", lr=0.1, epochs=1).is_done


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(3, 2),
        lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double()),
    ],
)
def test_an_average_of_weights_is_that_of_torch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    averages = [AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for _ in range(2)]
    move = averager(averages[1], module)
    for _ in range(4):
        for value in (*module.parameters(), *module.buffers()):
            value.data.copy_(torch.randn(value.shape))
        averages[0].update_parameters(module)
        move()
    for (name, one), (_, two) in zip(averages[0].state_dict().items(), averages[1].state_dict().items(), strict=True):
        assert torch.equal(one, two), name
