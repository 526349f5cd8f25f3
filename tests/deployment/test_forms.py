"""Forms of a graph: each returns what the network does, has what it says, and runs where older operators are read."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from helpers.tiny import CLASSES, TinyNetwork, model_info, pspnet, tiny
from segdistill.checkpoints.model_file import ModelInfo
from segdistill.deployment.form import IR_VERSIONS, OLDEST_OPSET, OPSET, GraphForm
from segdistill.deployment.onnx import export_onnx
from segdistill.deployment.opset import lower
from segdistill.deployment.parity import check_parity
from segdistill.deployment.session import OnnxModel, as_logits
from segdistill.errors import ModelError, UsageError
from segdistill.networks import InferenceWrapper, SegNetwork
from segdistill.types import IGNORE, Batch

CPU = torch.device("cpu")
SIZE = (48, 64)
VOID_OUTPUT = 1
FORMS = [
    GraphForm(output="labels"),
    GraphForm(output="both", input="uint8"),
    GraphForm(size=SIZE, batch=2),
    GraphForm(output="labels", input="uint8", size=SIZE, batch=2, opset=13),
]


class WithVoid(TinyNetwork):
    """One output more than classes, which is not the last."""

    def __init__(self) -> None:
        super().__init__(6)
        self.void_output = VOID_OUTPUT


def with_void() -> tuple[SegNetwork, ModelInfo]:
    torch.manual_seed(0)
    info = model_info("any", CLASSES[:2], void_output=VOID_OUTPUT)
    return WithVoid().eval(), info


def images(count: int) -> Tensor:
    """Whole numbers, as a file's pixels are."""
    return torch.randint(0, 256, (count, 3, *SIZE), generator=torch.Generator().manual_seed(1)).float()


def opened(network: SegNetwork, info: ModelInfo, folder: Path, form: GraphForm) -> OnnxModel:
    file = folder / f"model{form.suffix}.onnx"
    export_onnx(network, info, file, form)
    return OnnxModel(file, CPU)


def logits_of(network: SegNetwork, image: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = InferenceWrapper(network)(image)
    return found


@pytest.mark.promise("E1")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.suffix)
def test_every_form_returns_what_the_network_does(form: GraphForm, tmp_path: Path) -> None:
    network, info = with_void()
    exported = opened(network, info, tmp_path, form)
    assert exported.form == form
    image = images(5)  # no multiple of the fixed batch
    expected = logits_of(network, image)
    labels = expected.argmax(1)
    assert set(labels.unique().tolist()) == {0, 1, 2}, "void, the last output, is answered too"
    labels[labels == 2] = IGNORE
    if form.has_logits:
        assert (exported(image) - expected).abs().max() < 1e-5 * expected.abs().max()
    else:
        assert torch.equal(exported(image).argmax(1), expected.argmax(1))
    if "labels" in form.outputs:
        found = exported.labels(image)
        assert found.dtype == torch.uint8
        assert torch.equal(found.long(), labels)


@pytest.mark.promise("E1")
def test_labels_of_a_graph_with_both_are_the_argmax_of_its_logits(tmp_path: Path) -> None:
    network, info = with_void()
    exported = opened(network, info, tmp_path, GraphForm(output="both"))
    labels = exported(images(4)).argmax(1)
    assert torch.equal(exported.labels(images(4)).long(), labels.masked_fill(labels == 2, IGNORE))


def test_a_file_says_its_form_and_sizes(tmp_path: Path) -> None:
    form = GraphForm(output="labels", input="uint8", size=SIZE, batch=2, opset=17)
    opened(tiny(0), model_info("any", size=SIZE), tmp_path, form)
    model = onnx.load(tmp_path / "model-labels-uint8-2x48x64-opset17.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["input"] == "image: uint8 RGB (2, 48, 64, 3)"
    assert metadata["output"] == "labels: uint8 (2, 48, 64), class ids at the input's size"
    assert (metadata["task"], metadata["imgsz"], metadata["batch"]) == ("segment", "[48, 64]", "2")
    assert metadata["names"] == '{"0": "ground", "1": "wall", "2": "sky"}'
    assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
    assert model.ir_version == 8


@pytest.mark.parametrize("name", ["pspnet-resnet18-half", "enet", "pidnet-s"])
def test_a_static_graph_computes_no_shapes(name: str, tmp_path: Path) -> None:
    network = pspnet(0, name).eval()
    form = GraphForm(size=(64, 96), batch=1)
    exported = opened(network, model_info(name), tmp_path, form)
    operators = {node.op_type for node in onnx.load(exported._path).graph.node}
    assert not operators & {"Shape", "Range", "Less", "Greater", "Mod", "ConstantOfShape", "Size", "NonZero"}
    image = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    expected = logits_of(network, image)
    assert (exported(image) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_static_graph_takes_no_other_size(tmp_path: Path) -> None:
    exported = opened(tiny(0), model_info("any"), tmp_path, GraphForm(size=SIZE, batch=1))
    with pytest.raises(UsageError, match="images of 48x64 alone, and there is one of 40x64"):
        exported(torch.zeros(1, 3, 40, 64))


def test_a_form_that_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    opened(tiny(0), model_info("any"), tmp_path, GraphForm())
    content = onnx.load(tmp_path / "model.onnx")
    for entry in content.metadata_props:
        if entry.key == "form":
            entry.value = GraphForm(output="labels").model_dump_json()
    from helpers.onnx_files import append_digest

    (tmp_path / "forged.onnx").write_bytes(append_digest(content))
    with pytest.raises(ModelError, match=r"does not map image: .* to labels: uint8"):
        OnnxModel(tmp_path / "forged.onnx", CPU)


def batches() -> Iterator[Batch]:
    label = torch.randint(0, 3, (4, 30, 50), generator=torch.Generator().manual_seed(0))
    for start in (0, 2):
        yield Batch(
            images(4)[start : start + 2], label[start : start + 2], ("image",) * 2, torch.zeros(2, dtype=torch.int64)
        )


@pytest.mark.promise("E1")
@pytest.mark.parametrize(
    "form",
    [GraphForm(output="labels"), GraphForm(input="uint8"), GraphForm(size=SIZE, batch=3)],
    ids=lambda form: form.suffix,
)
def test_each_form_is_checked_and_a_changed_graph_fails(form: GraphForm, tmp_path: Path) -> None:
    network = tiny(0).eval()
    exported = opened(network, model_info("any"), tmp_path, form)
    check = check_parity(InferenceWrapper(network), exported, batches())
    assert check.failures() == []
    assert check.label_agreement == 1
    assert (check.max_abs_diff is None) == (not form.has_logits)
    changed = tiny(1).eval()
    assert check_parity(InferenceWrapper(changed), exported, batches()).failures()


def test_labels_as_logits_say_the_labels() -> None:
    labels = torch.tensor([[[0, 1], [IGNORE, 0]]])
    found = as_logits(labels, num_classes=2, outputs=3)
    assert found.tolist() == [[[[1, 0], [0, 1]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]]]


# Older operators


def test_every_older_opset_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = pspnet(0).eval()
    info = model_info("pspnet-resnet18-half")
    usual = opened(network, info, tmp_path, GraphForm())
    traced = onnx.load(usual._path)
    monkeypatch.setattr("segdistill.deployment.onnx._trace", lambda network, form: copy.deepcopy(traced))
    for opset in range(OLDEST_OPSET, OPSET):
        older = opened(network, info, tmp_path, GraphForm(opset=opset))
        assert onnx.load(older._path).ir_version == IR_VERSIONS[opset]
        for count, height, width in ((1, 65, 97), (2, 64, 96)):
            image = 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))
            assert torch.equal(older(image), usual(image))


def graph_of(node: onnx.NodeProto, *constants: TensorProto) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], initializer=list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def constant(name: str, values: list[int]) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


X = np.arange(48, dtype=np.float32).reshape(1, 2, 4, 6)
NODES = [
    (helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1), constant("axes", [2, 3])),
    (helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0), constant("axes", [1])),
    (
        helper.make_node("Pad", ["x", "by", "", "axes"], ["y"]),
        constant("by", [1, 0, 2, 3]),
        constant("axes", [2, 3]),
    ),
    (helper.make_node("Pad", ["x", "by", "", "axes"], ["y"]), constant("by", [1, 2]), constant("axes", [-1])),
    (helper.make_node("Shape", ["x"], ["y"], start=2),),
    (helper.make_node("Shape", ["x"], ["y"], start=-3, end=-1),),
    (helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=0), constant("shape", [2, 24])),
    (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 1]),),
]


@pytest.mark.parametrize("nodes", NODES, ids=lambda nodes: f"{nodes[0].op_type}-{len(nodes)}")
def test_each_operator_is_written_as_the_older_version_has_it(
    nodes: tuple[onnx.NodeProto, *tuple[TensorProto, ...]],
) -> None:
    node, *constants = nodes
    model = graph_of(node, *constants)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": X})
    lower(model, 13)
    (found,) = ReferenceEvaluator(model).run(None, {"x": X})
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Gelu", ["x"], ["y"]), "Gelu came later"),
        (helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], antialias=1), "Resize has no antialias there"),
        (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), "has no dilations"),
    ],
)
def test_what_an_older_opset_cannot_say_is_refused(node: onnx.NodeProto, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        lower(graph_of(node, constant("sizes", [1, 2, 8, 12])), 13)


def test_half_a_static_form_is_none() -> None:
    with pytest.raises(ValueError, match="a fixed size comes with a fixed batch"):
        GraphForm(size=SIZE)
