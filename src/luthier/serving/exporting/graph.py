"""The ONNX graph of a model: torch's own export of it, with look-ups of texts before it and of classes after it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from luthier.core.schema import Schema
from luthier.core.version import VERSION
from luthier.serving.answers import typed
from luthier.serving.exporting.inputs import RawInput, lookup
from luthier.serving.exporting.program import quiet

_ML = "ai.onnx.ml"


def onnx_graph(program: Any, names: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return a program as ONNX: inputs and outputs by these names, everything inside by others."""
    with quiet(), torch.no_grad():
        made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True).model_proto  # type: ignore[union-attr]
    given, found = ([value.name for value in side] for side in (made.graph.input, made.graph.output))
    renamed = {old: f"raw/{new}" for old, new in zip(given, names, strict=True)}
    renamed |= {old: f"answer/{new}" for old, new in zip(found, outputs, strict=True)}
    _rename(made.graph, renamed)
    del made.graph.value_info[:]
    return made


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Call what is in a graph, and in those of its nodes, by `names`, and what has none there by one of its own."""
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, f"net/{value.name}")
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, f"net/{name}") if name else "" for name in ends]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                _rename(inner, names)
                del inner.value_info[:]
        del node.metadata_props[:]  # where in our code it came from


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def with_texts(
    made: onnx.ModelProto, inputs: Sequence[RawInput], outputs: Sequence[str], schema: Schema | None
) -> None:
    """Let the graph take and give what users do: texts of categories and yes/no, and the classes' names. It is changed.

    Args:
        made: Whose inputs are `raw/NAME` and outputs `answer/NAME`.
        inputs: In order.
        outputs: The names of its outputs, in order.
        schema: From training; of a module without one, inputs and outputs are only named.
    """
    graph = made.graph
    before, after = [], []
    for value, given in zip(graph.input, inputs, strict=True):
        inner, value.name = value.name, given.name
        if not given.is_text or given.column is None:
            before.append(helper.make_node("Identity", [given.name], [inner]))
            continue
        value.type.tensor_type.elem_type = TensorProto.STRING
        table = lookup(given.column)
        keys: dict[str, Any] = {"keys_strings": list(table)}
        if given.dtype == torch.int64:
            codes: dict[str, Any] = {"values_int64s": list(map(int, table.values())), "default_int64": 0}
            before.append(helper.make_node("LabelEncoder", [given.name], [inner], domain=_ML, **keys, **codes))
            continue
        flags: dict[str, Any] = {"values_floats": list(table.values()), "default_float": float("nan")}
        found = f"text/{given.name}"
        before.append(helper.make_node("LabelEncoder", [given.name], [found], domain=_ML, **keys, **flags))
        before.append(helper.make_node("Cast", [found], [inner], to=TensorProto.DOUBLE))
    for value, name in zip(graph.output, outputs, strict=True):
        inner, value.name = value.name, name
        if schema is not None and name == outputs[0] and schema.task in ("binary", "multiclass"):
            classes = typed(schema.targets[0].classes, schema.targets[0].dtype)
            graph.initializer.append(numpy_helper.from_array(classes, "answer/classes"))
            value.type.tensor_type.elem_type = graph.initializer[-1].data_type
            after.append(helper.make_node("Gather", ["answer/classes", inner], [name]))
        else:
            after.append(helper.make_node("Identity", [inner], [name]))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    if any(node.domain == _ML for node in before):
        made.opset_import.append(helper.make_opsetid(_ML, 3))


def with_facts(made: onnx.ModelProto, facts: Mapping[str, Any]) -> bytes:
    """Return the file's bytes, with facts as JSON in its metadata under the key `luthier`."""
    helper.set_model_props(made, {"luthier": json.dumps(facts, ensure_ascii=False)})
    made.producer_name, made.producer_version = "luthier", VERSION
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def session(content: bytes, names: Sequence[str], outputs: Sequence[str]) -> Callable[..., list[NDArray[Any]]]:
    """Return how ONNX Runtime is asked: the inputs in order, to the outputs in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    loaded = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda given: loaded.run(list(outputs), dict(zip(names, given, strict=True)))


def reference(made: onnx.ModelProto, names: Sequence[str], outputs: Sequence[str]) -> Callable[..., list[NDArray[Any]]]:
    """Return how `onnx.reference` is asked, which defines what the operators mean."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # onnx's own fails beyond 64 columns
        def _run(self, data: NDArray[Any], indices: NDArray[Any], axis: int = 0) -> tuple[NDArray[Any]]:
            return (np.take_along_axis(data, indices, axis),)

    def ask(given: Sequence[Any]) -> list[NDArray[Any]]:
        found = ReferenceEvaluator(made, new_ops=[GatherElements]).run(
            list(outputs), dict(zip(names, given, strict=True))
        )
        return [np.asarray(part) for part in found]

    return ask
