"""ONNX graphs made to be expensive: what they declare is neither computed nor expanded when they are opened."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.costs import FULL, MEBIBYTES, START, cost
from helpers.fuzz import append_digest, graph

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's count of memory")


def graph_of(nodes: Sequence[onnx.NodeProto], **numbers: Any) -> onnx.ModelProto:
    """Return a graph that brings its image to `x` by these nodes, with constants by name, and convolves that."""
    model = graph()
    model.graph.node[0].input[0] = "x" if nodes else "image"
    convolution = model.graph.node.pop()
    model.graph.node.extend([*nodes, convolution])
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in numbers.items())
    return model


def bare(model: onnx.ModelProto) -> bytes:
    del model.metadata_props[:]
    content: bytes = model.SerializeToString()
    return content


def chain(*operators: str, more: tuple[str, ...] = (), own: dict[str, Any] | None = None, **numbers: Any) -> Any:
    """Return what puts nodes of these operators in a row. The second input of each is what is `more`."""

    def draw(size: int) -> bytes:
        count = max(2, size // (24 + sum(map(len, more)) + len(operators[0])))
        names = ["image", *(f"n{i}" for i in range(count - 1)), "x"]
        nodes = []
        for i in range(count):
            inputs = [names[i], *(names[i] if name == "same" else name for name in more)]
            nodes.append(helper.make_node(operators[i % len(operators)], inputs, [names[i + 1]], **(own or {})))
        return bare(graph_of(nodes, **numbers))

    return draw


def many(make: Callable[[onnx.ModelProto, int], object], each: int) -> Callable[[int], bytes]:
    """Return what adds something to a graph, once for each so many bytes."""

    def draw(size: int) -> bytes:
        model = graph()
        del model.metadata_props[:]
        for i in range(size // each):
            make(model, i)
        content: bytes = model.SerializeToString()
        return content

    return draw


def length_of(size: int) -> bytes:
    groups = [size >> shift & 0x7F for shift in range(0, 35, 7)]
    return bytes([group | 0x80 for group in groups[:-1]]) + bytes(groups[-1:])


def key_of(field: int) -> bytes:
    """Return how a field with a length begins."""
    key = field << 3 | 2
    return bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7])


def empty(*fields: int) -> Callable[[int], bytes]:
    """Return what fills a message, named by the fields on the way to it, with empty ones of two bytes."""

    def draw(size: int) -> bytes:
        content = key_of(fields[-1]) + b"\0"
        content *= size // len(content)
        for number in reversed(fields[:-1]):
            content = key_of(number) + length_of(len(content)) + content
        return bare(graph()) + content

    return draw


def whole_numbers(size: int) -> bytes:
    model = graph()
    model.graph.initializer.add(name="n", data_type=TensorProto.INT64, dims=[size], int64_data=[0] * size)
    return bare(model)


def ends(field: str) -> Callable[[int], bytes]:
    """Return what gives one node as many inputs, or outputs, as the size holds."""

    def draw(size: int) -> bytes:
        model = graph()
        node = helper.make_node("Sum" if field == "input" else "Split", ["image"], ["y"])
        getattr(node, field).extend("image" if field == "input" else f"o{i}" for i in range(size // 7))
        model.graph.node.append(node)
        return bare(model)

    return draw


def add_function(model: onnx.ModelProto, number: int) -> None:
    identity, opset = [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("f", f"f{number}", ["x"], ["y"], identity, opset))


def add_float(model: onnx.ModelProto, number: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), f"w{number}"))


GRAPHS = {
    "nodes": chain("Sigmoid"),
    "nodes of nothing": chain("Identity"),
    "activations": chain("Relu", "HardSwish", "Gelu", "Dropout"),
    "convolutions": chain("Conv", more=("w",), w=np.full((3, 3, 1, 1), 0.1, np.float32)),
    "sums of one another": chain("Add", more=("same",)),
    "factors": chain("Mul", "Add", more=("w",), w=np.float32(1)),
    "turns": chain("Transpose", own={"perm": [0, 1, 3, 2]}),
    "casts": chain("Cast", own={"to": TensorProto.FLOAT}),
    "shapes": chain("Reshape", more=("w",), w=np.zeros(4, np.int64)),
    "operators written out": chain(
        "GroupNormalization", more=("w", "w"), own={"num_groups": 1}, w=np.ones(3, np.float32)
    ),
    "nodes side by side": many(lambda m, i: m.graph.node.append(helper.make_node("Relu", ["image"], [f"n{i}"])), 24),
    "constants": many(
        lambda m, i: m.graph.node.append(helper.make_node("Constant", [], [f"c{i}"], value_float=1.0)), 44
    ),
    "weights": many(add_float, 20),
    "shapes of values": many(
        lambda m, i: m.graph.value_info.append(helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1])), 20
    ),
    "functions": many(add_function, 40),
    "versions": many(lambda m, i: m.opset_import.append(helper.make_opsetid(f"d{i}", 1)), 12),
    "metadata": many(lambda m, i: m.metadata_props.add(key=f"{i}", value=""), 10),
    "attributes": many(lambda m, i: m.graph.node[0].attribute.append(helper.make_attribute(f"a{i}", 1)), 14),
    "inputs of a node": ends("input"),
    "outputs of a node": ends("output"),
    "whole numbers": whole_numbers,
    "empty nodes": empty(7, 1),
    "empty weights": empty(7, 5),
    "empty values": empty(7, 13),
    "empty inputs": empty(7, 11),
    "empty functions": empty(25),
    "empty attributes": empty(7, 1, 5),
    "empty names": empty(7, 1, 1),
    "what is not known": empty(7, 15),
}
GRAPH_SECONDS = 15.0
"""Of a processor, for a graph of any size; beside that of reading it."""


@pytest.mark.reliability
@pytest.mark.promise("S9")
@pytest.mark.parametrize("shape", GRAPHS.values(), ids=GRAPHS.keys())
def test_large_graphs_are_cheap_to_read(shape: Callable[[int], bytes], tmp_path: Path) -> None:
    """There is time that is not linear in a graph's nodes: their number ends it."""
    for size in (1 << 18, 1 << 19, 1 << 20, FULL):
        found = cost("teacher", shape(size), tmp_path)
        assert found.seconds <= GRAPH_SECONDS, found
        assert found.mebibytes <= MEBIBYTES, found
        assert found.exit_code in {0, 5}, found
    assert "has more than" in found.said or "are expanded" in found.said or shape is GRAPHS["what is not known"]


LENGTH = 10**9
ONE, MANY = np.ones(1, np.float32), np.array([LENGTH])
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "copies": ("Expand", {"one": ONE, "n": MANY}),
    "tiles": ("Tile", {"one": ONE, "n": MANY}),
    "zeros": ("ConstantOfShape", {"n": MANY}),
    "a range": ("Range", {"a": np.float32(0), "n": np.float32(LENGTH), "b": np.float32(1)}),
    "a margin": ("Pad", {"one": ONE, "n": np.array([0, LENGTH])}),
    "a larger image": ("Resize", {"one": ONE.reshape(1, 1, 1, 1), "": None, "n": np.array([1, 1, 10_000, 100_000])}),
    "products": ("MatMul", {"a": np.ones((30_000, 1), np.float32), "b": np.ones((1, 30_000), np.float32)}),
    "one hot": ("OneHot", {"i": np.zeros(1000, np.int64), "n": np.int64(10**6), "v": np.array([0, 1], np.float32)}),
}


@pytest.mark.promise("S9")
@pytest.mark.parametrize(("operator", "inputs"), ASKS.values(), ids=ASKS.keys())
def test_opening_a_graph_does_not_fold_constants(operator: str, inputs: dict[str, Any], tmp_path: Path) -> None:
    names = ["one", "", "", "n"] if operator == "Resize" else list(inputs)
    nodes = [
        helper.make_node(operator, names, ["all"]),
        helper.make_node("ReduceMax", ["all"], ["largest"], keepdims=0),
        helper.make_node("Add", ["image", "largest"], ["x"]),
    ]
    model = graph_of(nodes, **{name: value for name, value in inputs.items() if name})
    found = cost("graph", append_digest(model.SerializeToString()), tmp_path)
    assert (found.exit_code, found.said) == (0, "")
    assert found.seconds < START
    assert found.mebibytes < 100


@pytest.mark.promise("S9")
def test_opening_a_graph_does_not_expand_doubling_constants(tmp_path: Path) -> None:
    doubled = [helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)]
    last = [helper.make_node("ReduceMax", ["d40"], ["y"], keepdims=0), helper.make_node("Add", ["image", "y"], ["x"])]
    found = cost("graph", append_digest(graph_of([*doubled, *last], d0=ONE).SerializeToString()), tmp_path)
    assert (found.exit_code, found.said) == (0, "")
    assert found.mebibytes < 100


def doubling(lines: int, last: str = "Relu") -> bytes:
    """Return a graph of functions each of which calls the one before twice."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    model = graph_of([helper.make_node(f"f{lines}", ["image"], ["x"], domain="f")])
    model.opset_import.append(opsets[1])
    body = [helper.make_node(last, ["x"], ["y"], domain="" if last == "Relu" else "f")]
    for i in range(lines + 1):
        model.functions.append(helper.make_function("f", f"f{i}", ["x"], ["y"], body, opsets))
        calls = (("x", "a"), ("a", "y"))
        body = [helper.make_node(f"f{i}", [taken], [given], domain="f") for taken, given in calls]
    return bare(model)


@pytest.mark.promise("S9")
def test_graph_functions_that_multiply_nodes_are_refused(tmp_path: Path) -> None:
    assert cost("teacher", doubling(8), tmp_path).exit_code == 0
    for lines, words in ((14, "16385 nodes once"), (30, "nodes once"), (100, "nested functions")):
        found = cost("teacher", doubling(lines), tmp_path)
        assert (found.exit_code, words in found.said, found.seconds < 1) == (5, True, True), found
    assert "call themselves" in cost("teacher", doubling(3, last="f3"), tmp_path).said


@pytest.mark.promise("S9")
def test_sparse_tensor_is_refused(tmp_path: Path) -> None:
    model = graph()
    sparse = model.graph.sparse_initializer.add(dims=[LENGTH])
    sparse.values.CopyFrom(numpy_helper.from_array(ONE, "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), ""))
    assert "a sparse tensor" in cost("graph", append_digest(model.SerializeToString()), tmp_path).said
    assert "a sparse tensor" in cost("teacher", bare(model), tmp_path).said


@pytest.mark.promise("S9")
@pytest.mark.parametrize("numbers", [4, 8, 16])
def test_tensor_data_must_match_its_shape(numbers: int, tmp_path: Path) -> None:
    model = graph()
    weight = model.graph.initializer[0]
    for sides in ([2, 3, 1, 2**40], [2**31, 2**31, 2**31, 2**31], [2, -3, 1, 1], [2, 3, 1, 1]):
        weight.dims[:], weight.raw_data = sides, bytes(numbers)
        for kind, content in (
            ("graph", append_digest(model.SerializeToString())),
            ("teacher", bare(copy.deepcopy(model))),
        ):
            found = cost(kind, content, tmp_path)
            assert (found.exit_code, found.mebibytes < 100) == (5, True), found


def within(levels: int) -> bytes:
    """Return a graph with a node with an attribute with a graph, and so on."""
    content, fields = b"", (7, 1, 5, 6)
    for level in reversed(range(levels)):
        number = 7 if level == 0 else fields[1 + (level - 1) % 3]
        content = bytes([number << 3 | 2]) + length_of(len(content)) + content
    return bare(graph()) + content


@pytest.mark.promise("S9")
def test_deeply_nested_graph_messages_are_refused(tmp_path: Path) -> None:
    for levels in (100, 1000, 10_000):
        assert "levels of nested messages" in cost("teacher", within(levels), tmp_path).said


@pytest.mark.promise("S9")
@pytest.mark.parametrize("content", [b"\x3a\xff", b"\x3a\xff\xff\xff\xff\x7f", b"\x3b", b"\x3d\0", b"\xff" * 20])
def test_graph_with_unterminated_fields_is_damaged(content: bytes, tmp_path: Path) -> None:
    found = cost("teacher", bare(graph()) + content, tmp_path)
    assert (found.exit_code, "is damaged" in found.said) == (5, True)
