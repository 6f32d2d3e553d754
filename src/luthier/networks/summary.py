"""The layers of a network as one forward shows them: shapes, parameters, multiply-adds, and where tensors flow."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from luthier.core.html import concat, table, tag
from luthier.core.leaves import leaves, walk
from luthier.errors import SettingError
from luthier.networks.tracing import Joint, Tally, Watch, as_found, shape_of

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
# Of a layer's arguments, what is so by default or seen elsewhere in the row, and is left out where people read.
_USUAL = re.compile(
    r"bias=True|inplace=\w+|affine=True|elementwise_affine=True|track_running_stats=True|eps=1e-05|momentum=0.1|"
    r"dilation=1|ceil_mode=False|padding=0|approximate='none'"
)
_OUTPUT = "its output"  # no attribute has such a name
_WIDTH = 100
_MOST_ROWS = 100  # of a table in a notebook


@dataclass(frozen=True)
class Row:
    """One layer: a module without parts, or one that owns parameters or multiplies matrices beside its parts.

    Attributes:
        name: The path of attributes that leads to it; "" for the module itself.
        kind: Its class.
        arguments: What its `extra_repr` says.
        output: Shape of its (first) output, "N" for the rows of data; empty where it was never called.
        parameters: Numbers in parameters of its own, without its parts'.
        trainable: Of those, the ones that require a gradient.
        multiply_adds: For one row of data, over all calls.
        calls: How often the forward called it.
        is_used: Whether the forward called it or used its parameters.
        is_whole: Whether it called no other module, so that the drawing shows it as one box.
    """

    name: str
    kind: str
    arguments: str
    output: tuple[int | str, ...]
    parameters: int
    trainable: int
    multiply_adds: int
    calls: int
    is_used: bool
    is_whole: bool

    @property
    def brief(self) -> str:
        """Its arguments without what is usual: `3, 8, kernel_size=3, stride=2`."""
        text = re.sub(r"\((\d+)(?:, \1)*,?\)", r"\1", self.arguments)  # (3, 3) is 3 in each direction
        items = [item for item in re.split(r", (?![^(]*\))", text) if item and not _USUAL.fullmatch(item)]
        items = [item for item in items if not (item == "stride=1" and self.kind.startswith("Conv"))]
        return ", ".join(re.sub(r"^(in|out)_features=", "", item) for item in items)


@dataclass(frozen=True)
class Summary:
    """The layers of a network, its totals, and the tensors between them; `str()` gives the table.

    Attributes:
        rows: The layers in the order of their first call; then those that were never called.
        parameters: Numbers in parameters; a shared tensor counts once.
        trainable: Of those, the ones that require a gradient.
        buffers: Numbers in buffers.
        multiply_adds: For one row of data; see `luthier.networks.work`.
        weight_bytes: Of parameters and buffers.
        joints: Inputs, meeting places and the output.
        edges: From and to, by the names of rows and joints.
        kinds: The class of each module that was called, by its name.
        order: Names of whole rows and joints in the order of execution.
    """

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    buffers: int
    multiply_adds: int
    weight_bytes: int
    joints: tuple[Joint, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    @property
    def totals(self) -> str:
        """The totals in a sentence."""
        frozen = self.parameters - self.trainable
        shared = sum(row.parameters for row in self.rows) - self.parameters
        return (
            f"{self.parameters:,} parameters"
            + (f", {frozen:,} of them frozen" if frozen else "")
            + (f" ({shared:,} shared ones counted once)" if shared else "")
            + (f", {self.buffers:,} numbers in buffers" if self.buffers else "")
            + f", {size_words(self.weight_bytes)}; {self.multiply_adds:,} multiply-adds a row of data."
        )

    def svg(self) -> str:
        """Return the network drawn, as SVG text."""
        from luthier.networks.drawing import draw

        return draw(self)

    def _repr_html_(self) -> str:
        """Return the table for a notebook; of many layers the first hundred."""
        rows = [
            (row.name or "(itself)", row.kind, row.brief, shape_words(row.output), row.parameters, row.multiply_adds)
            for row in self.rows[:_MOST_ROWS]
        ]
        headings = ("layer", "class", "arguments", "output", "parameters", "multiply-adds")
        return concat([table(headings, rows), tag("p", self.totals)])

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [("layer", "", "output", "parameters", "multiply-adds")]
        for row in self.rows:
            what = f"{f'{row.calls}× ' * (row.calls > 1)}{row.kind}" + (f"({row.brief})" if row.brief else "")
            output = shape_words(row.output) if row.calls else "weights alone" if row.is_used else "not used"
            name = row.name or "(itself)"
            counts = (f"{row.parameters:,}", f"{row.multiply_adds:,}")
            cells.append((shorten(name, 28, left=True), what, output, *counts))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        widths[1] = min(widths[1], max(12, _WIDTH - sum(widths) + widths[1] - 2 * (len(widths) - 1)))
        lines = []
        for line in cells:
            padded = [shorten(cell, width).ljust(width) for cell, width in zip(line[:3], widths, strict=False)]
            padded += [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
            lines.append("  ".join(padded))
        unused = [row.name for row in self.rows if not row.is_used]
        note = f"\nnot used in this forward: {', '.join(unused)}" if unused else ""
        return "\n".join(lines) + f"\n{self.totals}{note}"


def shorten(text: str, width: int, *, left: bool = False) -> str:
    """Return text of at most `width` characters, cut at the right, or the left, with … for what is gone."""
    if len(text) <= width:
        return text
    return "…" + text[1 - width :] if left else text[: width - 1] + "…"


def shape_words(shape: Sequence[int | str]) -> str:
    """Return a shape as people write it: `(N, 3)`."""
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def size_words(size: float) -> str:
    """Return bytes in the unit that suits: `12.3 kB`."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def summarise(module: nn.Module, inputs: Inputs, *, names: Sequence[str] = ()) -> Summary:
    """Run one forward in eval mode, without gradients, and say what each layer did; the module is left as it was.

    Multiply-adds are those of matrix products, convolutions, recurrent layers and attention, for one row of data:
    half the FLOPs. Biases, normalisation, activations, pooling and look-ups count as none. What a function does
    outside any part counts for the module whose forward calls it.

    Args:
        module: Any network.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; the first dimension of the
            first tensor is N, the rows of data.
        names: What to call positional inputs; as `forward` calls them by default.

    Raises:
        SettingError: a parameter has no shape yet (a lazy module), or the module is a TorchScript.

    >>> import torch
    >>> summary = summarise(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3))
    >>> [(row.name, row.kind, row.output, row.parameters, row.multiply_adds) for row in summary.rows]
    [('0', 'Linear', ('N', 4), 16, 12), ('1', 'ReLU', ('N', 4), 0, 0)]
    """
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise SettingError(
                f"{name} of {type(module).__name__} has no shape yet: it is lazy",
                hint="first call the module once on a batch",
                code="setting-lazy-module",
            )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise SettingError(
            f"{type(module).__name__} is scripted or traced, so its layers cannot be listed",
            hint="pass the module that it was made from",
            code="setting-wrong-type",
        )
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    watch = Watch(module)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (_as_tuple(inputs), {})
    named = kwargs or dict(zip(names, args, strict=True)) if names or kwargs else _named_arguments(module, args)
    n = next((shape[0] for shape in map(shape_of, named.values()) if shape), 1)
    for name, value in named.items():
        watch.seen(f"input {name}")
        watch.flows.update((id(tensor), (tensor, f"input {name}")) for tensor in walk(value))
    with as_found(module), watch.of(module):
        outputs = module(*args, **kwargs)
    return _summary(watch, named, outputs, max(n, 1))


def _as_tuple(inputs: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs if type(inputs) is tuple else (inputs,)  # a PackedSequence is one input


def _named_arguments(module: nn.Module, args: tuple[Any, ...]) -> dict[str, Any]:
    """Return arguments by the names that `forward` gives them; those of `*others` are numbered."""
    try:
        parameters = [*signature(module.forward).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    named = [parameter for parameter in parameters if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD]
    names = [parameter.name for parameter in named]
    return {names[i] if i < len(names) else f"input {i + 1}": value for i, value in enumerate(args)}


def _summary(watch: Watch, inputs: dict[str, Any], outputs: Any, n: int) -> Summary:
    """Return what was seen."""

    def shape(found: tuple[int, ...]) -> tuple[int | str, ...]:
        return ("N", *found[1:]) if found and found[0] == n else found

    parts = dict(watch.module.named_modules())
    rows = []
    for name in [*watch.tallies, *(name for name in parts if name not in watch.tallies)]:
        part, tally = parts[name], watch.tallies.get(name, Tally())
        own = list(part.parameters(recurse=False))
        if not (own or tally.work or (tally.calls and not list(part.children()))):
            continue
        is_used = bool(tally.calls or watch.used & {id(parameter) for parameter in own})
        trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
        rows.append(
            Row(
                name, type(part).__name__, part.extra_repr().replace("\n", " "), shape(tally.output),
                sum(parameter.numel() for parameter in own), trainable, tally.work // n, tally.calls, is_used,
                tally.is_whole,
            )
        )  # fmt: skip
    edges = watch.edges | {(source, name): None for name, (_, sources) in watch.joins.items() for source in sources}
    watch.seen(_OUTPUT)
    edges |= dict.fromkeys((source, _OUTPUT) for source in watch.sources(leaves(outputs)))
    joints = [
        Joint(f"input {name}", "input", f"{name} {shape_words(shape(shape_of(value)))}")
        for name, value in inputs.items()
    ]
    joints += [joint for joint, _ in watch.joins.values()]
    joints.append(Joint(_OUTPUT, "output", f"output {shape_words(shape(shape_of(outputs)))}"))
    known = {joint.name for joint in joints} | {row.name for row in rows if row.is_whole}
    parameters, buffers = list(watch.module.parameters()), list(watch.module.buffers())
    return Summary(
        rows=tuple(rows),
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        buffers=sum(buffer.numel() for buffer in buffers),
        multiply_adds=sum(tally.work for tally in watch.tallies.values()) // n,
        weight_bytes=sum(tensor.nbytes for tensor in (*parameters, *buffers)),
        joints=tuple(joints),
        edges=tuple(edge for edge in edges if known.issuperset(edge) and edge[0] != edge[1]),
        kinds={name: type(parts[name]).__name__ for name in watch.tallies},
        order=tuple(sorted(known, key=lambda name: watch.places.get(name, len(watch.places)))),
    )
