"""What an ONNX file may hold, counted before a library builds it: what a byte of it costs them has no bound in general.

An empty node of two bytes takes a hundred in protobuf and a thousand in onnxruntime, whose passes over a graph take
time with the square of its nodes; with functions that call one another twice each line doubles them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import onnx

MAX_FIELDS = 1 << 20
"""Fields of a file, and whole numbers in its lists: a node has up to 60, with all that exporters note about it."""
MAX_NODES = 1 << 14
"""Nodes of a graph, written out: large networks have some thousands."""
MAX_DEPTH = 32
"""Messages in one another: a graph in a graph adds three."""
LIMITS = {
    "fields": MAX_FIELDS,
    "NodeProto": MAX_NODES,
    "TensorProto": 1 << 15,
    "FunctionProto": 1 << 12,
    "NodeProto.input": 1 << 17,
    "NodeProto.output": 1 << 16,
}
WRITTEN_OUT = frozenset(
    {
        *("AffineGrid", "Attention", "Bernoulli", "CausalConvWithState", "CenterCropPad", "FlexAttention"),
        *("GroupNormalization", "LinearAttention", "MeanVarianceNormalization", "NegativeLogLikelihoodLoss"),
        *("RMSNormalization", "RotaryEmbedding", "SoftmaxCrossEntropyLoss", "Swish", "SwiGLU"),
    }
)
"""Operators that onnxruntime may have to write out as others, as ONNX's definitions of them say."""
WEIGHT = 64
"""Nodes that one of these counts as: the longest definition, of AffineGrid, has 63."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""How protobuf stores a field, by its page "Encoding". Groups are the rest: ONNX has none."""


class TooLarge(ValueError):  # noqa: N818  # the field's word for it
    """A graph has more of something than its limit says."""


def check_size(content: bytes) -> None:
    """Count what is in a file by walking through its fields, which takes no memory.

    Raises:
        TooLarge: if there is more than `LIMITS` say.
        ValueError: if it is no protobuf message.
    """
    found: Counter[str] = Counter()
    waiting = [(0, len(content), onnx.ModelProto.DESCRIPTOR, 1)]
    while waiting:
        start, end, message, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} messages in one another")
        for number, first, last in _fields(content, start, end):
            found["fields"] += 1
            field = message.fields_by_number.get(number)
            if field is not None and field.message_type is not None:
                found[field.message_type.name] += 1
                waiting.append((first, last, field.message_type, depth + 1))
            elif field is not None and field.cpp_type in _WHOLE:
                found["fields"] += last - first  # of a list, in which a number has a byte or more
            elif field is not None and message.name == "NodeProto":
                found[f"NodeProto.{field.name}"] += 1
            if found["fields"] % 1024 == 0:
                _check_counts(found)
        _check_counts(found)


def check_functions(model: onnx.ModelProto) -> None:
    """Count the nodes that a graph has once its functions are written out.

    Raises:
        TooLarge: if there are more than `MAX_NODES`, or a function calls itself.
    """
    functions = {(_domain(one), one.name, one.overload): one for one in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], callers: tuple[tuple[str, str, str], ...]) -> int:
        count = 0
        for node in nodes:
            key = (_domain(node), node.op_type, node.overload)
            if key in callers or len(callers) > MAX_DEPTH:
                raise TooLarge("functions that call themselves, or too many others in one another")
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key].node, (*callers, key))
            count += sizes.get(key, WEIGHT if node.op_type in WRITTEN_OUT else 1)
            count += sum(size(graph.node, callers) for graph in _graphs_of(node))
        return count

    if (count := size(model.graph.node, ())) > MAX_NODES:
        raise TooLarge(f"{count} nodes once its functions are written out; the limit is {MAX_NODES}")


def _domain(message: onnx.NodeProto | onnx.FunctionProto) -> str:
    """Return where an operator is from; ONNX's own have two names for that."""
    return "" if message.domain == "ai.onnx" else str(message.domain)


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_counts(found: Counter[str]) -> None:
    for name, most in LIMITS.items():
        if found[name] > most:
            raise TooLarge(f"more than {most} {name}")


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of a message: number and, where there is a length, the bounds of the bytes."""
    while at < end:
        key, at = _varint(content, at)
        first = last = at
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            length, first = _varint(content, at)
            at = last = first + length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > end:
            raise ValueError("a field beyond its end")
        yield key >> 3, first, last


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number, seven bits in a byte, the lowest first, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number without end")


def _whole() -> frozenset[Any]:
    kind = onnx.TensorProto.DESCRIPTOR.fields_by_name["int64_data"]
    return frozenset({kind.CPPTYPE_INT32, kind.CPPTYPE_INT64, kind.CPPTYPE_UINT32, kind.CPPTYPE_UINT64})


_WHOLE = _whole()
"""Types of whole numbers, as protobuf's descriptors name them."""
