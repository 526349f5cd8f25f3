"""The size of an ONNX file's content, counted before a library builds it: the cost of a byte has no bound in general.

An empty node of two bytes takes a hundred in protobuf and a thousand in onnxruntime, whose passes over a graph take
time with the square of its nodes; with functions that call one another twice each line doubles them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import onnx

from segdistill.deployment.wire_format import Field, iterate_fields

MAX_FIELDS = 1 << 20
"""Fields of a file, and integers in its lists: a node has up to 60, with all that exporters note about it."""
MAX_NODES = 1 << 14
"""Nodes of a graph once its functions are expanded: large networks have some thousands."""
MAX_DEPTH = 32
"""Levels of nested messages, or of functions that call others: a graph in a graph adds three."""
LIMITS = {
    "fields": MAX_FIELDS,
    "NodeProto": MAX_NODES,
    "TensorProto": 1 << 15,
    "FunctionProto": 1 << 12,
    "NodeProto.input": 1 << 17,
    "NodeProto.output": 1 << 16,
}
"""Largest count of each kind of content in a file."""
CHECK_INTERVAL = 1024
"""Fields between two comparisons with the limits: one message can hold all the fields of a file."""
COMPOSITE_OPERATORS = frozenset(
    {
        "AffineGrid",
        "Attention",
        "Bernoulli",
        "CausalConvWithState",
        "CenterCropPad",
        "FlexAttention",
        "GroupNormalization",
        "LinearAttention",
        "MeanVarianceNormalization",
        "NegativeLogLikelihoodLoss",
        "RMSNormalization",
        "RotaryEmbedding",
        "SoftmaxCrossEntropyLoss",
        "SwiGLU",
        "Swish",
    }
)
"""Operators that onnxruntime may have to expand into others, as ONNX's definitions of them say."""
COMPOSITE_NODES = 64
"""Nodes that one of these counts as: the longest definition, of AffineGrid, has 63."""
FunctionKey = tuple[str, str, str]
"""Domain, name and overload, which together name a function."""


class GraphTooLargeError(ValueError):
    """A graph has more of something than its limit allows."""


class _Message(NamedTuple):
    """A serialized message that waits to be counted."""

    start: int
    end: int
    descriptor: Any
    depth: int


def check_size(content: bytes) -> None:
    """Count what is in a file by walking through its fields, which takes no memory.

    Raises:
        GraphTooLargeError: if a count is above its limit in `LIMITS`.
        ValueError: if the content is no protobuf message.
    """
    counts: Counter[str] = Counter()
    pending = [_Message(0, len(content), onnx.ModelProto.DESCRIPTOR, 1)]
    while pending:
        message = pending.pop()
        if message.depth > MAX_DEPTH:
            raise GraphTooLargeError(f"more than {MAX_DEPTH} levels of nested messages")
        for field in iterate_fields(content, message.start, message.end):
            counts["fields"] += 1
            descriptor = message.descriptor.fields_by_number.get(field.number)
            if descriptor is not None:
                _count_field(counts, field, descriptor)
                if descriptor.message_type is not None:
                    pending.append(_Message(field.start, field.end, descriptor.message_type, message.depth + 1))
            if counts["fields"] % CHECK_INTERVAL == 0:
                _check_counts(counts)
        _check_counts(counts)


def _count_field(counts: Counter[str], field: Field, descriptor: Any) -> None:
    """Add a field to the counts of messages, of integers in lists, or of a node's inputs and outputs."""
    if descriptor.message_type is not None:
        counts[descriptor.message_type.name] += 1
    elif descriptor.cpp_type in _INTEGER_TYPES:
        # A packed list stores each integer in one byte or more, so its bytes bound their number.
        counts["fields"] += field.end - field.start
    elif descriptor.containing_type.name == "NodeProto":
        counts[f"NodeProto.{descriptor.name}"] += 1


def _check_counts(counts: Counter[str]) -> None:
    for name, limit in LIMITS.items():
        if counts[name] > limit:
            raise GraphTooLargeError(f"more than {limit} {name}")


def check_functions(model: onnx.ModelProto) -> None:
    """Count the nodes that a graph has once its functions are expanded.

    Raises:
        GraphTooLargeError: if there are more than `MAX_NODES`, or a function calls itself.
    """
    count = _NodeCounter(model.functions).count(model.graph.node, ())
    if count > MAX_NODES:
        raise GraphTooLargeError(f"{count} nodes once its functions are expanded, where the limit is {MAX_NODES}")


class _NodeCounter:
    """The numbers of nodes in expanded functions, each computed once, although many nodes may call it."""

    def __init__(self, functions: Iterable[onnx.FunctionProto]) -> None:
        self._functions: dict[FunctionKey, onnx.FunctionProto] = {}
        for function in functions:
            self._functions[_domain(function), function.name, function.overload] = function
        self._sizes: dict[FunctionKey, int] = {}

    def count(self, nodes: Iterable[onnx.NodeProto], callers: tuple[FunctionKey, ...]) -> int:
        """Return the number of nodes, those in graphs of nodes included; `callers` are the functions around them."""
        total = 0
        for node in nodes:
            total += self._size(node, callers)
            for graph in _graphs_of(node):
                total += self.count(graph.node, callers)
        return total

    def _size(self, node: onnx.NodeProto, callers: tuple[FunctionKey, ...]) -> int:
        """Return the nodes that one node stands for: those of its function, or of its operator."""
        key = (_domain(node), node.op_type, node.overload)
        # Also for a chain of functions that is only long: without a limit its recursion would exhaust Python's stack.
        if key in callers or len(callers) > MAX_DEPTH:
            raise GraphTooLargeError(f"functions that call themselves, or more than {MAX_DEPTH} nested functions")
        if key in self._functions:
            if key not in self._sizes:
                self._sizes[key] = self.count(self._functions[key].node, (*callers, key))
            return self._sizes[key]
        return COMPOSITE_NODES if node.op_type in COMPOSITE_OPERATORS else 1


def _domain(message: onnx.NodeProto | onnx.FunctionProto) -> str:
    """Return the domain of an operator; that of ONNX has two names, of which one is empty."""
    return "" if message.domain == "ai.onnx" else str(message.domain)


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _integer_types() -> frozenset[Any]:
    # Protobuf's Python package has no types, and no public module with these constants: any descriptor has them.
    descriptor = onnx.TensorProto.DESCRIPTOR.fields_by_name["int64_data"]
    return frozenset(
        {descriptor.CPPTYPE_INT32, descriptor.CPPTYPE_INT64, descriptor.CPPTYPE_UINT32, descriptor.CPPTYPE_UINT64}
    )


_INTEGER_TYPES = _integer_types()
"""Types of integers, as protobuf's descriptors number them."""
