"""The exported file: equal to its network at every size, self-describing, whole or refused."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.onnx_files import append_digest, latency
from helpers.tiny import model_info
from segdistill.checkpoints.model_file import ModelInfo
from segdistill.cli._show import show_export
from segdistill.cli.console import Terminal
from segdistill.config.schema import NetworkConfig
from segdistill.deployment.onnx import export_onnx
from segdistill.deployment.parity import ParityResult, check_parity
from segdistill.deployment.report import ExportReport, speed_gate
from segdistill.deployment.session import OnnxModel
from segdistill.errors import CheckError, DataError, ModelError, UsageError
from segdistill.evaluation.input_images import find_inputs
from segdistill.evaluation.label_maps import infer
from segdistill.evaluation.latency import Subject, measure, torch_subject
from segdistill.evaluation.metrics import Scores
from segdistill.networks import InferenceWrapper, SegNetwork, build_network
from segdistill.storage.files import sha256_of
from segdistill.types import IGNORE, Batch

CPU = torch.device("cpu")
CLASSES = ("road", "sky", "tree", "car", "pole")
STUDENT = NetworkConfig(network="pspnet-resnet18-half")


def info(config: NetworkConfig) -> ModelInfo:
    return model_info(
        config, CLASSES, size=(96, 128), data="streets", versions={"torch": torch.__version__}, sha256="ab" * 32
    )


def network(config: NetworkConfig) -> SegNetwork:
    """A network whose batch norms have something to fold."""
    torch.manual_seed(0)
    built = build_network(config, len(CLASSES))
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]  # a tensor: the norm keeps statistics
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return built.eval()


def images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    coarse = 255 * torch.rand(count, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


def batches() -> Iterator[Batch]:
    """Three images in two batches, with labels of another size than the images."""
    for count in (2, 1):
        label = torch.randint(len(CLASSES), (count, 70, 90), generator=torch.Generator().manual_seed(count))
        label[:, :5] = IGNORE
        yield Batch(images(count, 96, 128), label, ("image",) * count, torch.zeros(count, dtype=torch.int64))


@pytest.fixture(scope="module")
def student() -> SegNetwork:
    return network(STUDENT)


@pytest.fixture(scope="module")
def file(student: SegNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(student, info(STUDENT), path)
    return path


@pytest.fixture(scope="module")
def exported(file: Path) -> OnnxModel:
    return OnnxModel(file, CPU)


@pytest.mark.promise("E1", "E2")
@pytest.mark.parametrize(
    "shape", [(1, 96, 128), (2, 64, 64), (3, 65, 97), (1, 180, 240), (1, 37, 301), (1, 9, 2), (1, 1, 1)]
)
def test_the_graph_equals_the_network_at_any_size_and_batch(
    shape: tuple[int, int, int], student: SegNetwork, exported: OnnxModel
) -> None:
    image = images(*shape)
    with torch.no_grad():
        expected = InferenceWrapper(student)(image)
    found = exported(image)
    assert found.shape == (shape[0], len(CLASSES), *shape[1:])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_images_in_channels_last_are_understood(exported: OnnxModel) -> None:
    image = images(2, 40, 56)
    assert torch.equal(exported(image.contiguous(memory_format=torch.channels_last)), exported(image))


@pytest.mark.promise("E4")
def test_exported_file_is_self_contained_and_self_describing(file: Path, tmp_path: Path) -> None:
    assert [entry.name for entry in file.parent.iterdir()] == ["model.onnx"]
    moved = tmp_path / "elsewhere.onnx"
    moved.write_bytes(file.read_bytes())
    session = onnxruntime.InferenceSession(moved, providers=["CPUExecutionProvider"])
    (end,), (result,) = session.get_inputs(), session.get_outputs()
    assert (end.name, end.type, end.shape) == ("image", "tensor(float)", ["batch", 3, "height", "width"])
    assert (result.name, result.shape) == ("logits", ["batch", len(CLASSES), "height", "width"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["palette"])[1] == [1, 10, 254]
    assert metadata["ignore_index"] == "255"
    assert metadata["normalization"] == "in_graph"
    assert metadata["size"] == "96x128"
    assert metadata["network"] == "pspnet-resnet18-half"
    assert metadata["sha256"] == "ab" * 32
    assert json.loads(metadata["versions"]) == {"torch": torch.__version__}


@pytest.mark.promise("E3")
def test_graph_format_is_readable_by_older_runtimes(file: Path) -> None:
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 9
    assert not model.functions
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.promise("C8")
def test_exported_file_of_an_earlier_version_opens(file: Path, exported: OnnxModel, tmp_path: Path) -> None:
    model = onnx.load(file)
    model.ir_version = 10
    (tmp_path / "model.onnx").write_bytes(append_digest(model))
    image = images(1, 40, 56)
    assert torch.equal(OnnxModel(tmp_path / "model.onnx", CPU)(image), exported(image))


@pytest.mark.promise("S10")
def test_exported_file_names_nothing_of_the_machine(file: Path) -> None:
    content = file.read_bytes()
    for trace in (
        "stack_trace",
        "site-packages",
        "segdistill/networks",
        f"{Path.home()}/",
        str(Path(__file__).parents[2]),
    ):
        assert trace.encode() not in content


def test_the_header_comes_back_whole(exported: OnnxModel) -> None:
    assert exported.info == info(STUDENT)
    assert (exported.provider, exported.threads) == ("CPUExecutionProvider", torch.get_num_threads())


def test_export_drops_training_parts_and_prints_nothing(
    student: SegNetwork, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = NetworkConfig(network="pspnet-resnet18-half", aux=False, dropout=0.0)
    bare = build_network(plain, len(CLASSES))
    bare.load_state_dict({k: v for k, v in student.state_dict().items() if not k.startswith("auxiliary")})
    bare.train()
    before = {name: tensor.clone() for name, tensor in bare.state_dict().items()}
    export_onnx(bare, info(plain), tmp_path / "bare.onnx")
    assert capfd.readouterr() == ("", "")
    assert bare.training, "the export works on a copy"
    assert all(torch.equal(tensor, before[name]) for name, tensor in bare.state_dict().items())
    graphs = [onnx.load(path).graph for path in (file, tmp_path / "bare.onnx")]
    operators = [[(node.op_type, list(node.input), list(node.output)) for node in graph.node] for graph in graphs]
    weights = [{tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer} for graph in graphs]
    assert operators[0] == operators[1]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_teacher_that_sees_labels_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sees more than images"):
        export_onnx(build_network(STUDENT, len(CLASSES), in_channels=4), info(STUDENT), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def differences(check: ParityResult) -> tuple[float, float]:
    assert check.max_abs_diff is not None
    assert check.max_relative_diff is not None
    return check.max_abs_diff, check.max_relative_diff


@pytest.mark.promise("E1")
def test_parity_check_passes_with_labels_of_another_size(student: SegNetwork, exported: OnnxModel) -> None:
    seen: list[int] = []
    deployed = InferenceWrapper(student)
    check = check_parity(deployed, exported, batches(), seen.append)
    assert check.failures() == []
    assert check.images == 3
    assert seen == [2, 1]
    largest, relative = differences(check)
    assert 0 < relative <= 1e-4
    assert largest > 0
    truth, prediction = [], []
    with torch.no_grad():
        for batch in batches():
            logits = F.interpolate(deployed(batch.image), size=(70, 90), mode="bilinear", align_corners=False)
            prediction.append(logits.argmax(1))
            truth.append(batch.label)
    assert check.miou_torch == pytest.approx(Scores.of(torch.cat(prediction), torch.cat(truth), len(CLASSES)).miou)


@pytest.mark.promise("E1")
def test_parity_check_finds_a_changed_weight_with_a_valid_digest(
    student: SegNetwork, file: Path, tmp_path: Path
) -> None:
    model = onnx.load(file)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    (tmp_path / "model.onnx").write_bytes(append_digest(model))
    check = check_parity(InferenceWrapper(student), OnnxModel(tmp_path / "model.onnx", CPU), batches())
    assert differences(check)[1] > 1e-4
    assert "the logits of an image differ" in check.failures()[0]


@pytest.mark.promise("D12", "E6")
def test_a_flipped_byte_is_noticed_when_the_file_is_opened(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="damaged or was changed"):
        OnnxModel(tmp_path / "model.onnx", CPU)


@pytest.mark.promise("E2")
def test_a_graph_that_fails_at_some_size_fails_the_check(student: SegNetwork, exported: OnnxModel) -> None:
    class OneImageAtATime(OnnxModel):
        def __init__(self) -> None:
            self.info, self.form = exported.info, exported.form

        def __call__(self, image: Tensor) -> Tensor:
            if len(image) == 3:
                raise ModelError("the graph has a batch axis of 1")
            return exported(image)

    with pytest.raises(CheckError, match="batch axis"):
        check_parity(InferenceWrapper(student), OneImageAtATime(), batches())


def test_a_check_without_images_is_refused(student: SegNetwork, exported: OnnxModel) -> None:
    with pytest.raises(DataError, match="no images"):
        check_parity(InferenceWrapper(student), exported, [])


HEALTHY = ParityResult(1e-4, 5e-5, 0.9999, 0.9995, 0, 0.5, 0.5005, 4)


@pytest.mark.promise("E1")
@pytest.mark.parametrize(
    ("check", "words"),
    [
        (replace(HEALTHY, max_relative_diff=3e-4), "differ by 0.0003 of its largest, more than 0.0001"),
        (replace(HEALTHY, min_label_agreement=0.9989, unlike_images=1), "only 99.890 % of the pixels of an image"),
        (replace(HEALTHY, miou_onnx=0.4985), "from 0.5000 to 0.4985"),
    ],
)
def test_each_parity_limit_is_checked_and_named(check: ParityResult, words: str) -> None:
    assert HEALTHY.failures() == []
    (sentence,) = check.failures()
    assert words in sentence


class Changed(OnnxModel):
    """A graph whose logits differ from the network's by what a function makes of them."""

    def __init__(self, exported: OnnxModel, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.info, self.form, self._exported, self._change = exported.info, exported.form, exported, change

    def __call__(self, image: Tensor) -> Tensor:
        return self._change(image, self._exported(image))


DARK, BRIGHT = 5.0, 250.0


def of_two_images() -> Iterator[Batch]:
    """An image that `exploding` blows up, and another, in one batch and in two."""
    first, second = images(2, 24, 32).clamp(0, 100) + DARK, images(2, 24, 32).clamp(0, 100) + DARK
    first[0] = BRIGHT
    for image in (first, second):
        label = torch.randint(len(CLASSES), (2, 24, 32), generator=torch.Generator().manual_seed(1))
        yield Batch(image, label, ("image",) * 2, torch.zeros(2, dtype=torch.int64))


def exploding(image: Tensor, logits: Tensor) -> Tensor:
    """Return the logits, of white images times 1e24."""
    white = (image.flatten(1).amin(1) == BRIGHT)[:, None, None, None]
    return torch.where(white, 1e24 * logits, logits)


def shifted(image: Tensor, logits: Tensor) -> Tensor:
    """Return the logits, of images that are not white off by half of their own largest."""
    white = (image.flatten(1).amin(1) == BRIGHT)[:, None, None, None]
    return torch.where(white, logits, logits + 0.5 * logits.abs().amax((1, 2, 3), keepdim=True))


@pytest.mark.promise("E1")
def test_parity_limit_of_an_image_ignores_other_images(student: SegNetwork, exported: OnnxModel) -> None:
    deployed = InferenceWrapper(student)

    def network(image: Tensor) -> Tensor:
        return exploding(image, deployed(image))

    healthy = check_parity(network, Changed(exported, exploding), of_two_images())
    assert healthy.failures() == []
    assert differences(healthy)[0] > 1, "of the exploding image, beside whose logits that is little"
    differing = Changed(exported, lambda image, logits: shifted(image, exploding(image, logits)))
    check = check_parity(network, differing, of_two_images())
    assert check.max_relative_diff == pytest.approx(0.5, rel=1e-3)
    assert "the logits of an image differ" in check.failures()[0]


@pytest.mark.promise("E1")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_logits_fail_even_if_both_have_them(value: float, student: SegNetwork, exported: OnnxModel) -> None:
    deployed = InferenceWrapper(student)

    def spoiled(image: Tensor, logits: Tensor) -> Tensor:
        return logits.index_fill(0, torch.tensor([len(logits) - 1]), value)

    check = check_parity(lambda image: spoiled(image, deployed(image)), Changed(exported, spoiled), of_two_images())
    assert "some logits are not finite" in check.failures()
    told = json.loads(json.dumps(check.to_json(), allow_nan=False))
    assert (told["max_abs_diff"], told["max_relative_diff"]) == (None, None)


@pytest.mark.promise("E1")
def test_equal_logits_of_zeros_are_equal(exported: OnnxModel) -> None:
    zeros = Changed(exported, lambda image, logits: torch.zeros_like(logits))
    check = check_parity(lambda image: zeros(image), zeros, of_two_images())
    assert (check.max_abs_diff, check.max_relative_diff) == (0, 0)
    assert check.failures() == []


@pytest.mark.promise("E1")
@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False)])
def test_label_agreement_is_checked_per_image(
    wrong: int, passes: bool, student: SegNetwork, exported: OnnxModel
) -> None:
    # An image of 24x32 pixels among large ones: 0.1 % of its pixels, rounded up, is one.
    def other_labels(image: Tensor, logits: Tensor) -> Tensor:
        if image.shape[2:] == (24, 32):
            first, second = logits[0, :, 0, :wrong].topk(2, dim=0).indices
            columns = torch.arange(wrong)
            logits = logits.clone()
            logits[0, second, 0, columns] = logits[0, first, 0, columns] + 1e-5
        return logits

    def both() -> Iterator[Batch]:
        yield from batches()
        yield Batch(images(1, 24, 32), torch.zeros(1, 24, 32, dtype=torch.int64), ("small",), torch.zeros(1))

    check = check_parity(InferenceWrapper(student), Changed(exported, other_labels), both())
    assert check.label_agreement > 0.999
    assert check.min_label_agreement == pytest.approx(1 - wrong / (24 * 32))
    assert any("of the pixels of an image get the same class" in text for text in check.failures()) != passes


def external(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def hidden_external(model: ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1])
    tensor.external_data.add(key="location", value="../../etc/passwd")
    body = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["x"], value=tensor)], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", [], [], body=body))


def foreign_operator(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def other_classes(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6


def claims_void(model: ModelProto) -> None:
    (header,) = (entry for entry in model.metadata_props if entry.key == "segdistill")
    header.value = ModelInfo.model_validate_json(header.value).model_copy(update={"void_output": 0}).model_dump_json()


def other_input(model: ModelProto) -> None:
    model.graph.input[0].name = "pixels"


def too_new(model: ModelProto) -> None:
    model.ir_version = 999


def other_header(model: ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "segdistill").value = '{"format": 1}'


def no_header(model: ModelProto) -> None:
    del model.metadata_props[:]


@pytest.mark.promise("S9")
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (external, "external tensor data"),
        (hidden_external, "external tensor data"),
        (foreign_operator, "domain 'com.example'"),
        (other_classes, r"logits: float32 \(B, 5, H, W\)"),
        (claims_void, r"logits: float32 \(B, 6, H, W\)"),
        (other_input, "does not map image"),
        (too_new, "refuses"),
        (other_header, "not one this version reads"),
        (no_header, "has no segdistill header"),
    ],
)
def test_a_hostile_or_foreign_graph_is_refused(
    harm: Callable[[ModelProto], None], words: str, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(file)
    harm(model)
    (tmp_path / "model.onnx").write_bytes(append_digest(model))
    with pytest.raises(ModelError, match=words):
        OnnxModel(tmp_path / "model.onnx", CPU)
    assert capfd.readouterr() == ("", "")


def fewer_classes(model: ModelProto) -> list[onnx.NodeProto]:
    return [onnx.helper.make_node("Slice", ["inner", *model_constants(model, zero=[0], two=[2], one=[1])], ["logits"])]


def one_image(model: ModelProto) -> list[onnx.NodeProto]:
    return [onnx.helper.make_node("ReduceMean", ["inner", *model_constants(model, zero=[0])], ["logits"], keepdims=1)]


def model_constants(model: ModelProto, **values: list[int]) -> list[str]:
    """Add integers to a graph; return their names."""
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    return list(values)


@pytest.mark.promise("E1", "S9")
@pytest.mark.parametrize("more", [fewer_classes, one_image])
def test_graph_with_undeclared_output_shape_is_found(
    more: Callable[[ModelProto], list[onnx.NodeProto]], file: Path, tmp_path: Path
) -> None:
    model = onnx.load(file)
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "inner"
    model.graph.node.extend(more(model))
    (tmp_path / "model.onnx").write_bytes(append_digest(model))
    exported = OnnxModel(tmp_path / "model.onnx", CPU)
    with pytest.raises(ModelError, match=r"returns the shape"):
        exported(torch.zeros(2, 3, 64, 64))


@pytest.mark.promise("S9")
@pytest.mark.parametrize("content", [b"", b"no model at all\n" * 100, b"\x08\x0a\x12", None])
def test_damaged_onnx_file_is_refused(content: bytes | None, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        OnnxModel(tmp_path / "model.onnx", CPU)


@pytest.mark.promise("E5")
def test_missing_onnxruntime_provider_is_an_error(file: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime computes on GPUs")
    with pytest.raises(UsageError, match="CUDAExecutionProvider"):
        OnnxModel(file, torch.device("cuda"))


def test_graph_input_of_the_wrong_shape_is_an_error(exported: OnnxModel, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"\(1, 4, 8, 8\)"):
        exported(torch.zeros(1, 4, 8, 8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.promise("D12")
def test_label_maps_from_the_graph_match_the_network(student: SegNetwork, exported: OnnxModel, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        pixels = images(1, 50 + i, 80)[0].permute(1, 2, 0).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"in/{i}.png")
    for name, predict in (("torch", InferenceWrapper(student)), ("onnx", exported)):
        inputs = find_inputs(str(tmp_path / "in"), tmp_path / name)
        assert infer(predict, exported.info, inputs, tmp_path / name).done == 3
    for i in range(3):
        maps = [np.asarray(Image.open(tmp_path / name / f"{i}.png")) for name in ("torch", "onnx")]
        assert maps[0].shape == (50 + i, 80)
        assert (maps[0] == maps[1]).mean() >= 0.999


def report_of(file: Path, size_source: str) -> ExportReport:
    latencies = {"student": latency(25), "onnxruntime": latency(20)}
    return ExportReport(file, sha256_of(file), (96, 128), size_source, HEALTHY, latencies)


def test_export_table_names_the_source_of_the_size(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(file, "the most frequent, 3 of 4 validation images")
    show_export(Terminal(), report)
    shown = capsys.readouterr().out
    assert "Milliseconds per image at 96x128 (the most frequent, 3 of 4 validation images), batch 1, fp32" in shown
    assert "│ as a share of its image's largest │ 5e-05" in shown
    endless = replace(HEALTHY, max_abs_diff=float("nan"), max_relative_diff=float("nan"))
    show_export(Terminal(), replace(report, parity=endless))
    assert capsys.readouterr().out.count("not finite") == 2


def test_export_report_has_the_documented_keys(file: Path) -> None:
    report = replace(report_of(file, "of --size"), gate=speed_gate(latency(20), min_fps=60, max_ms=None))
    assert json.loads(json.dumps(report.to_json())) == {
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "opset": 20,
        "form": {"output": "logits", "input": "float", "size": None, "batch": None, "opset": 20},
        "size": [96, 128],
        "size_from": "of --size",
        "check": {
            "max_abs_diff": 1e-4,
            "max_relative_diff": 5e-5,
            "label_agreement": 0.9999,
            "min_label_agreement": 0.9995,
            "unlike_images": 0,
            "miou_torch": 0.5,
            "miou_onnx": 0.5005,
            "images": 4,
            "classes_scored": None,
            "classes_declared": None,
        },
        "latency_ms": {
            "teacher": None,
            "student": {
                **{"first": 50.0, "p50": 25, "p90": 30.0, "p99": None},
                **{"n": 12, "threads": 2, "provider": "CPUExecutionProvider", "images": 1},
            },
            "onnxruntime": {
                **{"first": 50.0, "p50": 20, "p90": 30.0, "p99": None},
                **{"n": 12, "threads": 2, "provider": "CPUExecutionProvider", "images": 1},
            },
        },
        "fps": 50.0,
        "gate": {"limit": "at least 60 fps", "passed": False},
    }
    assert report.failures == ["the speed gate: at least 60 fps, measured 20.00 ms"]
    assert replace(report, gate=None).to_json()["gate"] is None
    with_teacher = replace(report, latencies={**report.latencies, "teacher": latency(90)}).to_json()["latency_ms"]
    assert list(with_teacher) == ["teacher", "student", "onnxruntime"]
    assert with_teacher["teacher"]["p50"] == 90


@pytest.mark.promise("E7")
def test_percentiles_are_those_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1 to 101 ms in some order: a share p of the way from the smallest to the largest is at 1 + 100 p
    samples = [float(1 + 40 * index % 101) for index in range(101)]
    assert sorted(samples) == [float(value) for value in range(1, 102)]
    times = iter([500.0, *samples])
    monkeypatch.setattr("segdistill.evaluation.latency._warm_up", lambda subjects, max_seconds: None)
    monkeypatch.setattr("segdistill.evaluation.latency._milliseconds", lambda subject: next(times))
    found = measure({"a": Subject(lambda: None, "CPU")}, threads=1, max_runs=101)["a"]
    assert (found.first, found.p50, found.p90, found.p99) == (500.0, 51.0, 91.0, 100.0)


@pytest.mark.promise("E7")
def test_both_runtimes_are_timed_on_the_same_image(student: SegNetwork, exported: OnnxModel) -> None:
    image = images(1, 32, 48)
    subjects = {"student": torch_subject(InferenceWrapper(student), image), "onnxruntime": exported.subject(image)}
    times = measure(subjects, threads=exported.threads, max_runs=5)
    assert [time.provider for time in times.values()] == ["PyTorch cpu", "CPUExecutionProvider"]
    assert all(time.n == 5 and 0 < time.p50 < 2000 for time in times.values())
