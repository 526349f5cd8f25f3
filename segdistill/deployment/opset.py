"""A graph in an older version of ONNX's operators, for runtimes and compilers that know no newer one.

Graphs are traced at `form.OPSET`. What later versions of an operator added is taken away again where it says nothing,
as an attribute at its default, or written as the older version has it. The rest is held against ONNX's own schemas.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from segdistill.errors import UsageError

Says = Callable[[Any], bool]
"""Whether an attribute of some value says nothing that the rest of its node does not say."""


def _is(default: object) -> Says:
    return lambda value: bool(value == default)


SAYS_NOTHING: dict[str, dict[str, Says]] = {
    "AveragePool": {"dilations": lambda value: set(value) == {1}},
    "BatchNormalization": {"training_mode": _is(0)},
    "Cast": {"saturate": _is(1)},
    "Reshape": {"allowzero": lambda value: True},  # no size of an image is 0
    "Resize": {"antialias": _is(0), "keep_aspect_ratio_policy": _is(b"stretch")},
    "Split": {"num_outputs": lambda value: True},  # the node's outputs are as many
}
"""Attributes that a later version of an operator brought, and when it computes what it did without."""
REDUCTIONS = frozenset({"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"})
"""Operators whose axes are an input since opset 18, and were an attribute before. ReduceSum's are since 13."""


def lower(model: ModelProto, opset: int) -> None:
    """Rewrite a graph in an older opset, in place.

    Args:
        model: at `form.OPSET` or below.
        opset: of the result.

    Raises:
        UsageError: if it has an operator that cannot be said in that opset.
    """
    (version,) = (entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= version.version:
        return
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [older for node in model.graph.node for older in _older(node, opset, constants, model.graph)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    version.version = opset
    for node in model.graph.node:
        problem = _unknown(node, opset)
        if problem:
            raise UsageError(
                f"The graph cannot be written in opset {opset}: {problem}.", "Choose a larger --opset, or none."
            )
    _drop_unused(model.graph)


def _older(node: NodeProto, opset: int, constants: dict[str, np.ndarray], graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes that say in an older opset what one says."""
    if node.op_type in REDUCTIONS and opset < 18:
        _axes_to_attribute(node, constants)
    elif node.op_type == "Pad" and opset < 18 and len(node.input) > 3:
        _pad_every_axis(node, constants, graph)
    elif node.op_type == "Shape" and opset < 15:
        yield from _slice_of_shape(node, graph)
        return
    known = _attributes_of(node.op_type, opset)
    for name, says_nothing in SAYS_NOTHING.get(node.op_type, {}).items():
        attribute = _attribute(node, name)
        if attribute is not None and name not in known and says_nothing(helper.get_attribute_value(attribute)):
            node.attribute.remove(attribute)
    yield node


def _axes_to_attribute(node: NodeProto, constants: dict[str, np.ndarray]) -> None:
    """Move the axes of a reduction from its second input into an attribute."""
    axes = _constant_input(node, 1, constants)
    if axes is None:
        return
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", axes.tolist()))
    unused = _attribute(node, "noop_with_empty_axes")
    if unused is not None:
        node.attribute.remove(unused)


def _pad_every_axis(node: NodeProto, constants: dict[str, np.ndarray], graph: GraphProto) -> None:
    """Give a pad of some axes the amounts of all four."""
    pads, axes = _constant_input(node, 1, constants), _constant_input(node, 3, constants)
    if pads is None or axes is None:
        return
    amounts = np.zeros((2, 4), np.int64)
    amounts[:, axes % 4] = pads.reshape(2, -1)
    name = f"{node.name or node.output[0]}_pads"
    graph.initializer.append(numpy_helper.from_array(amounts.reshape(-1), name))
    node.input[1] = name
    del node.input[3:]
    if len(node.input) == 3 and not node.input[2]:
        del node.input[2:]


def _slice_of_shape(node: NodeProto, graph: GraphProto) -> Iterator[NodeProto]:
    """Yield a shape as a whole, and the part of it that was asked for."""
    parts = {name: _attribute(node, name) for name in ("start", "end")}
    if all(attribute is None for attribute in parts.values()):
        yield node
        return
    bounds = {name: 0 if attribute is None else attribute.i for name, attribute in parts.items()}
    if parts["end"] is None:
        bounds["end"] = np.iinfo(np.int64).max
    whole, names = f"{node.output[0]}_whole", []
    for name, value in bounds.items():
        names.append(f"{node.output[0]}_{name}")
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), names[-1]))
    yield helper.make_node("Shape", node.input, [whole], name=node.name)
    yield helper.make_node("Slice", [whole, *names], node.output)


def _unknown(node: NodeProto, opset: int) -> str:
    """Return what of a node the schemas of an opset do not know; empty where they know all of it."""
    if not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return f"{node.op_type} came later"
    schema = onnx.defs.get_schema(node.op_type, opset)
    for attribute in node.attribute:
        if attribute.name not in schema.attributes:
            return f"{node.op_type} has no {attribute.name} there"
    if len(node.input) > schema.max_input:
        return f"{node.op_type} has at most {schema.max_input} inputs there"
    return ""


def _attributes_of(operator: str, opset: int) -> set[str]:
    if not onnx.defs.has(operator, max_inclusive_version=opset):
        return set()
    return set(onnx.defs.get_schema(operator, opset).attributes)


def _constant_input(node: NodeProto, index: int, constants: dict[str, np.ndarray]) -> np.ndarray | None:
    return constants.get(node.input[index]) if len(node.input) > index else None


def _attribute(node: NodeProto, name: str) -> AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _drop_unused(graph: GraphProto) -> None:
    """Remove constants that no node reads any more."""
    read = {name for node in graph.node for name in node.input} | {end.name for end in graph.output}
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)
