"""What a summary counts equals sums written out by hand; it leaves no trace; the drawing shows how tensors flow."""

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import luthier
from luthier.core.blueprint import Blueprint
from luthier.core.schema import Column, ImageInput, Schema, Target
from luthier.errors import SettingError
from luthier.networks.build import build
from luthier.networks.summary import Summary, summarise

SVG = "{http://www.w3.org/2000/svg}"
NETWORKS: dict[str, tuple[dict[str, Any], tuple[Tensor, ...]]] = {
    "mlp": (
        {"num_numbers": 3, "category_sizes": [4, 6], "embedding_sizes": [2, 3], "widths": [8, 5], "batch_norm": True},
        (torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64)),
    ),
    "convnet": ({"channels": 3, "widths": [4, 8, 8]}, (torch.zeros(2, 3, 16, 16),)),
    "resnet": ({"channels": 3, "widths": [4, 8], "blocks": 2}, (torch.zeros(2, 3, 16, 16),)),
    "mixed": (
        {"num_numbers": 3, "vocabulary_sizes": [20], "category_sizes": [4], "embedding_sizes": [2], "reader": "lstm"},
        (torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, 7, dtype=torch.int64)),
    ),
}


def network(family: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    arguments, inputs = NETWORKS[family]
    return build(Blueprint(family=family, arguments={"num_outputs": 2, **arguments})), inputs


def arrows(summary: Summary) -> set[tuple[str, str]]:
    return set(summary.edges)


@pytest.mark.parametrize("family", NETWORKS)
def test_every_family_is_counted_and_drawn(family: str) -> None:
    module, inputs = network(family)
    found = summarise(module, inputs)
    assert found.parameters == found.trainable == sum(parameter.numel() for parameter in module.parameters())
    assert sum(row.parameters for row in found.rows) == found.parameters
    assert found.buffers == sum(buffer.numel() for buffer in module.buffers())
    assert all(row.calls == 1 and row.is_used for row in found.rows)
    assert max(len(line) for line in str(found).splitlines()[:-1]) <= 100
    svg = ElementTree.fromstring(found.svg())
    boxes = [group.get("id") for group in svg.iter(f"{SVG}g") if group.get("class") == "layer"]
    assert sorted(map(str, boxes)) == sorted(row.name for row in found.rows)
    assert len([path for path in svg.iter(f"{SVG}path") if path.get("class") == "edge"]) == len(found.edges)


@pytest.mark.parametrize("family", NETWORKS)
def test_boxes_lie_apart_and_text_within(family: str) -> None:
    module, inputs = network(family)
    svg = ElementTree.fromstring(summarise(module, inputs).svg())
    places = []
    for group in svg.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        left, top, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert left + width <= float(svg.attrib["width"])
        assert top + height <= float(svg.attrib["height"])
        for text in group.iter(f"{SVG}text"):
            assert len(str(text.text)) * 7.3 <= width
            assert top < float(text.attrib["y"]) < top + height
        places.append((left, top, left + width, top + height))
    assert all(
        " L" not in path.attrib["d"] for path in svg.findall(f"{SVG}path")
    )  # that way round boxes was not needed
    for i, (left, top, right, bottom) in enumerate(places):
        for other in places[:i]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (nn.Linear(3, 4), torch.zeros(2, 3), 3 * 4),
        (nn.Linear(3, 4), torch.zeros(2, 5, 3), 5 * 3 * 4),
        (nn.Bilinear(3, 4, 5), (torch.zeros(2, 3), torch.zeros(2, 4)), 3 * 4 * 5),
        (nn.Conv1d(4, 6, 3, padding=1), torch.zeros(2, 4, 9), 9 * 6 * 4 * 3),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.zeros(2, 4, 9, 9), 5 * 5 * 8 * 2 * 9),
        (nn.Conv3d(2, 3, 2, dilation=2), torch.zeros(2, 2, 5, 5, 5), 27 * 3 * 2 * 8),
        (nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2), torch.zeros(2, 4, 9, 9), 9 * 9 * 4 * 4 * 9),
        (nn.Embedding(9, 4), torch.zeros(2, 5, dtype=torch.int64), 0),
        (nn.BatchNorm1d(4), torch.zeros(2, 4), 0),
        (nn.LSTM(5, 7, batch_first=True), torch.zeros(2, 3, 5), 3 * 4 * 7 * (5 + 7)),
        (
            nn.GRU(5, 7, num_layers=2, bidirectional=True, batch_first=True),
            torch.zeros(2, 3, 5),
            2 * 3 * 3 * 7 * (5 + 7 + 14 + 7),
        ),
        (nn.RNN(5, 7, bias=False, batch_first=True), torch.zeros(2, 3, 5), 3 * 7 * (5 + 7)),
        (nn.GRUCell(3, 4), torch.zeros(2, 3), 3 * 4 * (3 + 4)),
        (nn.LSTMCell(3, 4), torch.zeros(2, 3), 4 * 4 * (3 + 4)),
        (
            nn.MultiheadAttention(8, 2, batch_first=True),
            (torch.zeros(2, 5, 8), torch.zeros(2, 3, 8), torch.zeros(2, 3, 8)),
            2 * 5 * 64 + 2 * 3 * 64 + 2 * 5 * 3 * 8,
        ),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            torch.zeros(2, 5, 8),
            4 * 5 * 64 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_multiply_adds_by_hand(module: nn.Module, inputs: Any, expected: int) -> None:
    assert summarise(module, inputs).multiply_adds == expected


def test_packed_sequences_count_their_steps() -> None:
    packed = pack_padded_sequence(torch.zeros(2, 4, 5), torch.tensor([4, 2]), batch_first=True)
    found = summarise(nn.GRU(5, 7, batch_first=True), {"input": packed})
    assert found.multiply_adds == (4 + 2) * 3 * 7 * (5 + 7) // 2  # the mean of a row of 4 steps and one of 2
    assert found.rows[0].output == ("N", 4, 7)


class Functions(nn.Module):
    """Products that belong to no part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4))
        self.after = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("nd,dk->nk", x, self.weight) + x @ self.weight
        y = nn.functional.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None])[:, 0]
        out: Tensor = self.after(torch.addmm(y, x, self.weight))
        return out


def test_products_outside_layers_count_for_the_module_around() -> None:
    found = summarise(Functions(), torch.zeros(2, 3))
    rows = {row.name: (row.parameters, row.multiply_adds) for row in found.rows}
    assert rows == {"": (12, 3 * 12 + 2 * 4), "after": (10, 8)}


class Unruly(nn.Module):
    """Draws, writes into buffers, puts new ones in place of them, and may fail."""

    steps: Tensor
    mean: Tensor

    def __init__(self, fail: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))
        self.fail = fail

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.mean = self.mean + 1
        y: Tensor = self.first(x) + torch.randn(3)
        if self.fail:
            raise ValueError("no")
        return y


@pytest.mark.parametrize("fail", [False, True])
def test_no_trace_is_left(fail: bool) -> None:
    module = Unruly(fail)
    module(torch.randn(4, 3)).sum().backward() if not fail else None
    module.train()
    module.first[1].eval()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    buffers, modes = dict(module.named_buffers()), [part.training for part in module.modules()]
    state = torch.get_rng_state()
    if fail:
        with pytest.raises(ValueError, match="no"):
            summarise(module, torch.zeros(2, 3))
    else:
        summarise(module, torch.zeros(2, 3))
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in module.named_buffers())
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or (parameter.grad is not None and torch.equal(parameter.grad, gradient))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.is_grad_enabled()
    assert (torch.ones(2) + 1).tolist() == [2, 2]


class Shared(nn.Module):
    """One layer used twice, one never, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.twice = nn.Linear(4, 4)
        self.spare = nn.Linear(3, 3)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.words.weight
        self.twice.bias.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.twice(torch.relu(self.twice(self.words(tokens)))))
        return out


def test_shared_and_unused_parts() -> None:
    module = Shared()
    found = summarise(module, torch.zeros(2, dtype=torch.int64))
    rows = {row.name: row for row in found.rows}
    assert [row.name for row in found.rows] == ["words", "twice", "head", "spare"]
    assert (rows["twice"].calls, rows["twice"].multiply_adds) == (2, 2 * 16)
    assert (rows["spare"].calls, rows["spare"].is_used, rows["spare"].output) == (0, False, ())
    assert found.parameters == 9 * 4 + 20 + 12 == sum(p.numel() for p in module.parameters())
    assert found.trainable == found.parameters - 4
    assert "not used in this forward: spare" in str(found)
    assert "36 shared ones counted once" in str(found)
    assert found.svg().count('class="layer"') == 4


def test_weights_used_without_a_call_are_not_lost() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    found = summarise(attention, (torch.zeros(2, 5, 8),) * 3)
    assert [(row.name, row.calls, row.is_used) for row in found.rows] == [("", 1, True), ("out_proj", 0, True)]
    assert sum(row.parameters for row in found.rows) == found.parameters


def test_arrows_follow_the_tensors() -> None:
    module, inputs = network("resnet")
    found = arrows(summarise(module, inputs))
    assert {
        ("stem.2", "stages.0.conv1"), ("stem.2", "stages.0.shortcut"), ("stages.0.norm2", "stages.0 + 1"),
        ("stages.0.shortcut", "stages.0 + 1"), ("stages.0 + 1", "stages.1.conv1"), ("dropout", "head"),
        ("head", "its output"),
    } <= found  # fmt: skip
    module, inputs = network("mixed")
    found = arrows(summarise(module, inputs, names=("numbers", "categories", "tokens")))
    assert {
        ("input numbers", " cat 1"), ("embeddings.0", " cat 1"), ("input tokens", "readers.0.embedding"),
        ("readers.0.reader", "readers.0 cat 1"), ("readers.0.embedding", "readers.0 cat 1"),
        ("readers.0 cat 1", " cat 1"), (" cat 1", "hidden.0"),
    } <= found  # fmt: skip
    assert not any(start == "input tokens" and end != "readers.0.embedding" for start, end in found)


class Skip(nn.Module):
    """A shortcut past a layer that hands its input through in eval mode, and a loop."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.inner = nn.Linear(4, 4)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            x = x + self.inner(self.drop(x))
        return x


def test_a_shortcut_past_a_layer_that_does_nothing() -> None:
    assert arrows(summarise(Skip(1), torch.zeros(2, 4))) == {
        ("input x", "drop"), ("drop", "inner"), ("inner", " + 1"), ("input x", " + 1"), (" + 1", "its output"),
    }  # fmt: skip


def test_a_loop_is_drawn_once() -> None:
    found = summarise(Skip(50), torch.zeros(2, 4))
    assert len(found.edges) == 6
    assert found.rows[1].calls == 50
    ElementTree.fromstring(found.svg())


def test_drawings_escape_what_they_show() -> None:
    class Odd(nn.Linear):
        def extra_repr(self) -> str:
            return '<script> & "quotes"'

    svg = summarise(nn.Sequential(Odd(2, 2)), torch.zeros(1, 2)).svg()
    ElementTree.fromstring(svg)
    assert "<script>" not in svg


@pytest.mark.parametrize(
    "call",
    [
        lambda: luthier.summary(nn.Linear(3, 2)),
        lambda: luthier.summary(luthier.Model(nn.Linear(3, 2))),
        lambda: luthier.summary("model.safetensors"),  # type: ignore[arg-type]
        lambda: luthier.summary(nn.LazyLinear(2), torch.zeros(2, 3)),
    ],
)
def test_what_cannot_be_summed_up_is_said(call: Callable[[], Any]) -> None:
    with pytest.raises(SettingError, match=r"inputs=|luthier.load|lazy"):
        call()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(SettingError, match="traced"):
        luthier.summary(torch.jit.trace(nn.Linear(3, 2), torch.zeros(2, 3)), torch.zeros(2, 3))


def test_inputs_of_an_own_module() -> None:
    module = Shared()
    by_place, by_name = (
        luthier.summary(module, given) for given in (torch.zeros(3, dtype=torch.int64), {"tokens": torch.tensor([1])})
    )
    assert by_place.rows == by_name.rows
    assert by_place.rows[0].output == ("N", 4)


def test_a_schema_says_what_the_network_takes() -> None:
    target = Target(name="y", kind="number")
    image = ImageInput(channels=3, height=8, width=8, means=(0.5,) * 3, stds=(0.2,) * 3)
    number = Column(name="a", kind="number", means=(0.0,), stds=(1.0,))
    text = Column(name="b", kind="text", tokenizer="{}", vocabulary_size=9, max_tokens=5)
    series = Column(name="c", kind="series", max_steps=9)
    mixed = {"num_numbers": 1, "vocabulary_sizes": [9], "reader": "lstm", "series_channels": 1}
    for family, arguments, columns in (
        ("convnet", {"channels": 3, "widths": [4, 4]}, ()),
        ("mlp", {"num_numbers": 1, "widths": [4]}, (number,)),
        ("mixed", mixed, (number, text, series)),
    ):
        schema = Schema(
            task="regression", targets=(target,), columns=columns, image=image if family == "convnet" else None
        )
        module = build(Blueprint(family=family, arguments={"num_outputs": 1, **arguments}))
        found = luthier.summary(luthier.Model(module, schema=schema))
        assert found.rows[-1].output == ("N", 1)
        if family == "mixed":
            outputs = {row.name: row.output for row in found.rows}
            assert (outputs["readers.0.reader"], outputs["series.first"]) == (("N", 5, 64), ("N", 64, 9))
            assert {joint.label for joint in found.joints if joint.kind == "input"} >= {"tokens (N, 1, 5)"}
