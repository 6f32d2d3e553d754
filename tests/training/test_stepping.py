"""An update as torch writes it, without what torch wraps around it: the same weights, hooks called, no compiler."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook

import luthier
from luthier.core.stepping import updater
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


@pytest.mark.parametrize("name", [name for name in optimizer_names() if name != "SparseAdam"])
def test_both_ways_give_equal_weights_and_state(name: str) -> None:
    ours, theirs = (stepped(name, plain=plain) for plain in (True, False))
    same_weights(ours[0], theirs[0])
    for one, two in zip(ours[1].state.values(), theirs[1].state.values(), strict=True):
        for key, value in one.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(two[key])), key


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
