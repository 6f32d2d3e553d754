"""Nested values are walked and rebuilt in their form, and one tape hears what a module does."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import luthier
from luthier.core.leaves import leaves, map_leaves, move, num_rows, walk
from luthier.core.tape import Tape


class Pair(NamedTuple):
    x: Any
    n: int


class Output(OrderedDict[str, Any]):
    """A mapping with attributes, as other libraries' models give."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@dataclass(frozen=True)
class Answer:
    logits: Any
    words: str


X, Y = torch.arange(6.0).reshape(3, 2), torch.arange(3)


def test_leaves_come_in_the_order_in_which_they_stand() -> None:
    value = [{"b": Y, "a": Pair(X, 3)}, (UserDict(c=Y), "word", None, 4)]
    assert [id(x) for x in leaves(value)] == [id(Y), id(X), id(Y)]
    packed = pack_sequence([X[0], X[1]])
    assert list(walk({"a": [packed]}, PackedSequence)) == [packed]


def test_rows_are_counted_by_the_first_tensor_that_has_some() -> None:
    assert num_rows((torch.tensor(1.0), {"x": X}, Y[:2])) == 3
    assert num_rows(["word", torch.tensor(1.0)]) is None


@pytest.mark.parametrize("value", [{"a": X}, [X, 1], (X, "word"), Pair(X, 2), {"a": [Pair((X,), 1)]}], ids=repr)
def test_a_nested_value_keeps_its_form(value: Any) -> None:
    made = map_leaves(lambda x: x + 1, value)
    assert type(made) is type(value)
    assert torch.equal(leaves(made)[0], X + 1)
    assert torch.equal(leaves(move(value, torch.device("cpu")))[0], X)
    assert type(move(value, torch.device("cpu"))) is type(value)


def test_of_batches_what_has_a_class_of_its_own_is_kept_and_of_outputs_it_is_made_anew() -> None:
    packed, answer = pack_sequence([X[0], X[1]]), Answer(X, "yes")
    assert map_leaves(torch.neg, packed) is packed
    assert map_leaves(torch.neg, answer) is answer
    assert type(map_leaves(torch.neg, Output(logits=X))) is dict
    assert torch.equal(map_leaves(Tensor.double, packed, inside=True).data, packed.data)
    assert torch.equal(map_leaves(torch.neg, answer, inside=True).logits, -X)
    made = map_leaves(torch.add, Output(logits=X, words="yes"), Output(logits=X, words="no"), inside=True)
    assert type(made) is Output
    assert torch.equal(made.logits, X + X)
    assert made.words == "yes"


def test_a_batch_goes_to_a_device_by_its_own_method_where_it_has_one() -> None:
    class Own(UserDict[str, Any]):
        def to(self, device: torch.device) -> str:
            return f"on {device}"

    assert move([Own(), UserDict(x=X)], torch.device("cpu")) == ["on cpu", {"x": X}]


class Names(Tape):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        self.names.append(name)
        return func(*args, **kwargs)

    def entered(self, name: str, part: nn.Module, args: Any, kwargs: Any) -> None:
        self.names.append(f"> {name}")

    def left(self, name: str, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.names.append(f"< {name}")


def test_a_tape_hears_layers_and_functions_and_leaves_no_hook() -> None:
    net, tape = nn.Sequential(nn.Linear(2, 1)), Names()
    with tape.of(net):
        net(X)
        tape.is_off = True
        torch.relu(X)
    assert tape.names == ["> ", "> 0", "linear", "< 0", "< "]
    with pytest.raises(RuntimeError), Names().of(net) as heard:
        net(X[:, :1])
    assert heard.names[-2:] == ["< 0", "< "]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_there_is_one_tracer() -> None:
    own = Path(luthier.__file__).parent
    found = [path.relative_to(own) for path in own.rglob("*.py") if "TorchFunctionMode" in path.read_text("utf-8")]
    assert found == [Path("core/tape.py")]
