"""Teachers from elsewhere: each scheme scores and teaches, stays as it is, and leaves nothing of itself behind."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torchvision import models

from helpers.commands import NETWORK, SMALL, UNTRAINED, contents, refused, succeeds
from helpers.tiny import copied, differing, model_info, one_batch, optim, repeated, train
from segdistill.checkpoints.model_file import read_info
from segdistill.config.presets import load_preset
from segdistill.config.registry import components
from segdistill.config.schema import IMAGENET_MEAN, IMAGENET_STD, InputConfig, NetworkConfig, TermConfig
from segdistill.deployment.onnx import export_onnx
from segdistill.errors import ModelError, UsageError
from segdistill.networks import (
    InferenceWrapper,
    SegNetwork,
    build_network,
    count_macs,
    count_parameters,
    countable_macs,
)
from segdistill.teachers.external import is_external, load_external, parse_external
from segdistill.terms import TermContext, build_terms
from segdistill.training.objectives import Distillation
from segdistill.types import Frozen, Stage

pytestmark = pytest.mark.usefixtures("elsewhere")
CAMVID_CLASSES = 11
MODULE = """
import pathlib, torch
from torch import nn

pathlib.Path("ran").touch()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 11, 3, stride=4)
    def forward(self, image):
        return {"out": self.conv(image)}

def build():
    torch.manual_seed(0)
    return Two()
"""


def open_(text: str, wanted: InputConfig | None = None) -> tuple[SegNetwork, Any, tuple[str, ...]]:
    spec = parse_external(text)
    assert spec is not None
    teacher, notes = load_external(spec, wanted, torch.device("cpu"))
    return teacher.network, teacher.info, notes


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


# Small models with weights from a formula of their own library, saved as their users have them


def lraspp(outputs: int = CAMVID_CLASSES) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=outputs
    )
    return model


def write_tv(folder: Path) -> str:
    torch.save(lraspp().state_dict(), folder / "secret.pth")
    return f"tv:lraspp_mobilenet_v3_large:{folder}/secret.pth"


def write_hf(folder: Path, kind: str, outputs: int = CAMVID_CLASSES) -> str:
    hf = pytest.importorskip("transformers", reason="the extra segdistill[hf] is not installed")
    sizes, small = [8, 16, 24, 32], {"depths": [1, 1, 1, 1], "num_labels": outputs}
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    torch.manual_seed(0)
    model: Any
    if kind == "segformer":
        own = {"hidden_sizes": sizes, "decoder_hidden_size": 16, "num_attention_heads": [1, 1, 2, 2]}
        model = hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**small, **own))
        hf.SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder / kind)
    elif kind == "upernet":
        backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=sizes, depths=[1, 1, 1, 1], **stages)
        heads = {"hidden_size": 16, "auxiliary_in_channels": 24, "auxiliary_channels": 8, "num_labels": outputs}
        model = hf.UperNetForSemanticSegmentation(hf.UperNetConfig(backbone_config=backbone, **heads))
    else:
        backbone = hf.SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64, **stages
        )
        width = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 32)
        layers = {"num_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 7}
        config = hf.Mask2FormerConfig(backbone_config=backbone, **width, **layers, num_labels=outputs)
        model = hf.Mask2FormerForUniversalSegmentation(config)
        hf.Mask2FormerImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(
            folder / kind
        )
    model.save_pretrained(folder / kind)
    return f"hf:{folder}/{kind}"


def write_onnx(folder: Path, batch: int | str = 1, size: tuple[int | str, int | str] = (32, 48)) -> str:
    """Write a 1x1 convolution and an average over 4x4 pixels, as somebody else would export it."""
    weight = torch.randn(CAMVID_CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    nodes = [
        helper.make_node("Conv", ["pixels", "weight"], ["full"]),
        helper.make_node("AveragePool", ["full"], ["scores"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    small = [side // 4 if isinstance(side, int) else f"{side}/4" for side in size]
    write_graph(
        folder / "secret.onnx",
        nodes,
        [("pixels", TensorProto.FLOAT, [batch, 3, *size])],
        [("scores", TensorProto.FLOAT, [batch, CAMVID_CLASSES, *small])],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    return f"onnx:{folder}/secret.onnx"


End = tuple[str, int, list[int | str]]


def write_graph(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[End], outputs: list[End], weights: list[TensorProto]
) -> None:
    takes, returns = ([helper.make_tensor_value_info(*end) for end in side] for side in (inputs, outputs))
    graph = helper.make_graph(nodes, "graph", takes, returns, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_py(folder: Path) -> str:
    Path("secret_teacher.py").write_text(MODULE)
    return "py:secret_teacher:build"


WRITE: dict[str, Callable[[Path], str]] = {
    "tv": write_tv,
    "hf-segformer": lambda folder: write_hf(folder, "segformer"),
    "hf-upernet": lambda folder: write_hf(folder, "upernet"),
    "hf-mask2former": lambda folder: write_hf(folder, "mask2former"),
    "onnx": write_onnx,
    "py": write_py,
}


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    yield
    sys.modules.pop("secret_teacher", None)


@pytest.fixture(params=WRITE)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "secretplace"
    folder.mkdir()
    return WRITE[request.param](folder)


def _no_network(self: socket.socket, address: object) -> None:
    raise AssertionError(f"a teacher on this machine needs nothing from {address}")


# What holds for each of them


def test_every_scheme_is_tested() -> None:
    assert {kind.partition("-")[0] for kind in WRITE} == set(components("teachers.external"))


def test_external_teacher_scores_and_teaches_without_a_trace(
    written: str, camvid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    before = contents(Path("secretplace"))
    features = "--set terms.feature.weight=0" if written.startswith(("onnx", "py")) else ""
    line = f"distill --preset canonical --teacher {written} --student resnet18-half --data camvid:{camvid} {UNTRAINED}"
    done = succeeds(f"{line} {features} --out run --json")
    assert contents(Path("secretplace")) == before
    assert "taken for the data's classes in order" in done.err
    results = json.loads(done.out)["results"]
    assert results.keys() == {"teacher", "distilled"}
    assert results["teacher"]["images"] == 2
    info = read_info(Path("run/model.safetensors"))
    assert (info.network.network, info.teacher, len(info.classes)) == (NETWORK, None, CAMVID_CLASSES)
    assert is_external(json.loads(Path("run/teacher.json").read_text())["network"])
    for path in Path("run").rglob("*"):
        if path.is_file() and path.name != "train.log":  # it holds the command as it was typed
            assert b"secretplace" not in path.read_bytes() or path.name == "local.json", path


@pytest.mark.promise("T2")
def test_external_teacher_is_a_network_and_stays_unchanged(written: str) -> None:
    network, info, _ = open_(written)
    batch = one_batch()._replace(label=torch.randint(CAMVID_CLASSES, (4, 48, 64)))
    with torch.no_grad():
        output = network(batch.image)
        assert output.aux is None
        assert output.logits.shape[:2] == (4, info.outputs)
        assert InferenceWrapper(network)(batch.image).shape == (4, CAMVID_CLASSES, 48, 64)
        assert all(feature.dim() == 4 and len(feature) == 4 for feature in output.features)
    before = copied(network)
    torch.manual_seed(0)
    student = build_network(NetworkConfig(network=NETWORK), CAMVID_CLASSES)
    terms = build_terms({"pixel": TermConfig(weight=1.0)}, TermContext(student, network, CAMVID_CLASSES))
    reports = train(Stage("s", student, Distillation(0.4, Frozen(network), terms), optim(2)), repeated(batch, 2))
    assert all(report.terms["pixel"].isfinite() for report in reports)
    assert differing(before, copied(network)) == []
    assert open_(written)[1] == info


def test_user_preprocessing_overrides_that_of_the_teacher(written: str) -> None:
    wanted = InputConfig(mean=(1, 2, 3), std=(4, 5, 6), order="bgr")
    network, info, _ = open_(written, wanted)
    assert network.images == info.network.input == wanted


# Names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:owner/name", ("hf", "owner/name")),
        ("a/b.onnx", ("onnx", "a/b.onnx")),
        ("tv:fcn_resnet50:w.pth", ("tv", "fcn_resnet50:w.pth")),
        ("py:a.b:c", ("py", "a.b:c")),
        ("pspnet101", None),
        ("timm:resnet18", None),
        ("pspnet-timm:resnet18", None),
        ("runs/a:b", None),
        ("a.safetensors", None),
    ],
)
def test_schemes_are_told_from_paths_and_networks(text: str, expected: tuple[str, str] | None) -> None:
    assert parse_external(text) == expected


def test_wrong_external_teachers_are_refused_at_once() -> None:
    Path("folder").mkdir()
    Path("empty.py").write_text("def broken():\n    raise RuntimeError('lost')\n")
    line = f"--student resnet18-half --data streets {SMALL} --out run"
    for teacher, *expected in (
        ("keras:model", "Unknown kind of teacher 'keras'", "hf:FOLDER", "onnx:FILE.onnx", "py:MODULE", "tv:NAME"),
        ("tv:fcn_resnet51", "fcn_resnet50"),
        ("tv:fcn_resnet50:gone.pth", "no weights file gone.pth"),
        ("hf:gone", "There is no folder 'gone'"),
        ("hf:./gone/model", "There is no folder"),
        ("onnx:gone.onnx", "There is no file gone.onnx"),
        ("gone.onnx", "There is no file gone.onnx"),
        ("py:empty", "names no function"),
        ("py:gone:build", "cannot be imported", "gone"),
        ("py:empty:brokn", "no function 'brokn'", "broken"),
        ("py:empty:broken", "fails", "lost"),
        ("py:os:getcwd", "returns str"),
    ):
        refused(f"distill --teacher {teacher} {line}", *expected)
    refused(f"distill --teacher hf:folder {line}", "hf:folder cannot be loaded", code=5)
    refused(f"train-teacher --teacher hf:folder --data streets {SMALL}", "distill --teacher")
    sys.modules.pop("empty")
    assert not Path("run").exists()


def test_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.teachers.external.hf.find_spec", lambda name: None)
    refused(f"distill --teacher hf:a/b --student resnet18-half --data streets {SMALL}", "pip install 'segdistill[hf]'")


@pytest.mark.promise("T4")
def test_changed_external_teacher_is_noticed_on_resume(camvid: Path, tmp_path: Path) -> None:
    line = (
        f"distill --teacher {write_tv(tmp_path)} --student resnet18-half --data camvid:{camvid} {UNTRAINED} --out run"
    )
    succeeds(line)
    weights = torch.load(tmp_path / "secret.pth", weights_only=True)
    weights["classifier.low_classifier.bias"] += 1
    torch.save(weights, tmp_path / "secret.pth")
    refused(f"{line} --resume", "The teacher has changed")


@pytest.mark.promise("S4")
def test_configuration_of_a_run_never_runs_teacher_code(camvid: Path, tmp_path: Path) -> None:
    more = "--set terms.feature.weight=0"
    line = f"--student resnet18-half --data camvid:{camvid} {SMALL} {more}"
    succeeds(f"distill --teacher {write_py(tmp_path)} {line} --accept-teacher --out run")
    assert load_preset("run/config.toml").teacher.network == "py:secret_teacher:build"
    Path("ran").unlink()
    sys.modules.pop("secret_teacher")
    refused("train-teacher --preset run/config.toml", "is not a network that is trained here")
    succeeds(f"distill --preset run/config.toml --teacher pspnet18 {line} --dry-run")
    succeeds(f"evaluate run --data camvid:{camvid} --workers 0 --json")
    assert not Path("ran").exists()


# torchvision


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large"])
def test_torchvision_networks_compute_the_same_with_all_features(name: str, tmp_path: Path) -> None:
    aux = {} if name.startswith("lraspp") else {"aux_loss": True}
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **aux).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    network, info, notes = open_(f"tv:{name}:{tmp_path}/w.pth")
    image = images(2, 3, 64, 96)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = model((image - mean) / std)["out"]
        output = network(image)
        assert torch.allclose(InferenceWrapper(network)(image), expected, atol=1e-5)
    channels = {
        "deeplabv3_mobilenet_v3_large": [16, 24, 40, 960, 256],
        "fcn_resnet50": [256, 512, 1024, 2048, 512],
        "lraspp_mobilenet_v3_large": [16, 24, 40, 960],
    }
    assert [feature.shape[1] for feature in output.features] == channels[name]
    if aux:
        classifier = network.get_submodule("model.classifier.4")
        assert torch.equal(classifier(output.features[-1]), output.logits)
    assert (info.network.network, info.classes) == (f"tv:{name}", ("0", "1", "2", "3", "4"))
    assert "ImageNet" in notes[0]
    shipped = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("aux"))
    assert count_parameters(network) == shipped
    assert countable_macs(network, (64, 96)) == count_macs(network, (64, 96)) > 1e6


def test_published_weights_have_the_names_of_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    published = models.get_model_weights("lraspp_mobilenet_v3_large").DEFAULT.url.rpartition("/")[2]
    torch.save(lraspp(21).state_dict(), tmp_path / "checkpoints" / published)
    _, info, notes = open_("tv:lraspp_mobilenet_v3_large")
    assert (info.classes[0], info.classes[15], len(info.classes)) == ("__background__", "person", 21)
    assert notes == ()


def test_state_dict_of_another_network_names_its_tensors(tmp_path: Path) -> None:
    weights = lraspp().state_dict()
    weights["odd.weight"] = weights.pop("classifier.cbr.0.weight")
    torch.save(weights, tmp_path / "odd.pth")
    torch.save({"model": weights, "epoch": nn.ReLU()}, tmp_path / "code.pth")
    with pytest.raises(ModelError, match=r"missing, classifier.cbr.0.weight; 1 tensor unexpected, odd.weight"):
        open_(f"tv:lraspp_mobilenet_v3_large:{tmp_path}/odd.pth")
    with pytest.raises(ModelError, match="missing"):
        open_(f"tv:fcn_resnet50:{tmp_path}/odd.pth")
    with pytest.raises(ModelError, match="reading it would run code"):
        open_(f"tv:lraspp_mobilenet_v3_large:{tmp_path}/code.pth")


# transformers


@pytest.mark.parametrize("kind", ["segformer", "upernet"])
def test_networks_of_transformers_compute_what_they_do_there(kind: str, tmp_path: Path) -> None:
    network, info, notes = open_(write_hf(tmp_path, kind))
    hf = pytest.importorskip("transformers")
    own = hf.AutoModelForSemanticSegmentation.from_pretrained(tmp_path / kind).eval()
    image = images(2, 3, 64, 96)
    with torch.no_grad():
        output, expected = network(image), own((image - network.mean) / network.std).logits
        assert torch.allclose(
            InferenceWrapper(network)(image), nn.functional.interpolate(expected, (64, 96), mode="bilinear"), atol=1e-5
        )
        classifier = network.get_submodule("model.decode_head.classifier")
        assert torch.allclose(classifier(output.features[-1]), output.logits, atol=1e-6)
    assert [tuple(f.shape[1:]) for f in output.features] == [
        (8, 16, 24),
        (16, 8, 12),
        (24, 4, 6),
        (32, 2, 3),
        (16, 16, 24),
    ]
    assert info.size == ((64, 96) if kind == "segformer" else None)
    assert any("ImageNet" in note for note in notes) == (kind == "upernet")


def test_a_mask2former_segments_as_its_own_post_processing_does(tmp_path: Path) -> None:
    network, info, notes = open_(write_hf(tmp_path, "mask2former"))
    hf = pytest.importorskip("transformers")
    own = hf.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "mask2former").eval()
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "mask2former", do_resize=False)
    image = images(2, 3, 64, 96).round()
    pixels = processor(list(image.to(torch.uint8)), return_tensors="pt")["pixel_values"]
    assert torch.allclose((image - network.mean) / network.std, pixels, atol=1e-5)
    with torch.no_grad():
        said = own(pixels)
        logits, features, _ = network(image)
    classes, masks = said.class_queries_logits.softmax(-1)[..., :-1], said.masks_queries_logits.sigmoid()
    slow = sum(classes[:, q, :, None, None] * masks[:, q, None] for q in range(classes.shape[1]))
    assert torch.allclose(logits.exp(), slow, atol=1e-5)
    assert [tuple(f.shape[1:]) for f in features] == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3), (32, 16, 24)]
    assert info.size is None
    assert any("keep their" in note for note in notes)


def test_class_names_come_from_the_checkpoint(tmp_path: Path) -> None:
    write_hf(tmp_path, "upernet", 2)
    config = json.loads((tmp_path / "upernet/config.json").read_text())
    config |= {"id2label": {"0": "road", "1": "sky"}, "label2id": {"road": 0, "sky": 1}}
    (tmp_path / "upernet/config.json").write_text(json.dumps(config))
    assert open_(f"hf:{tmp_path}/upernet")[1].classes == ("road", "sky")


def test_transformers_checkpoint_without_all_tensors_is_refused(tmp_path: Path) -> None:
    place = write_hf(tmp_path, "segformer")
    file = tmp_path / "segformer/model.safetensors"
    whole = safetensors.torch.load_file(file)
    safetensors.torch.save_file(
        {k: v for k, v in whole.items() if k != "decode_head.classifier.bias"}, file, {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"1 tensor missing, decode_head\.classifier\.bias\.") as error:
        open_(place)
    assert "head included" in error.value.fix
    safetensors.torch.save_file(whole | {"decode_head.classifier.bias": torch.zeros(3)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensor misshaped, decode_head\.classifier\.bias\."):
        open_(place)
    safetensors.torch.save_file(whole | {"odd": torch.zeros(3)}, file, {"format": "pt"})
    assert "it does without odd of the checkpoint." in open_(place)[2]


@pytest.mark.promise("S1")
def test_transformers_checkpoint_with_code_is_never_run(tmp_path: Path) -> None:
    place = write_hf(tmp_path, "upernet")
    (tmp_path / "upernet/model.safetensors").unlink()
    (tmp_path / "upernet/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ModelError, match="holds more than tensors: reading it would run code") as error:
        open_(place)
    assert "weights_only" not in error.value.what + error.value.fix
    config = json.loads((tmp_path / "upernet/config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "upernet/config.json").write_text(json.dumps(config))
    (tmp_path / "upernet/mine.py").write_text("open('hacked', 'w')\n")
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_(place)
    assert not Path("hacked").exists()


def test_another_kind_of_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers", reason="the extra segdistill[hf] is not installed")
    hf.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(UsageError, match="is a vit") as error:
        open_(f"hf:{tmp_path}/vit")
    assert "segformer, upernet, mask2former" in error.value.fix


# ONNX graphs


def test_our_exported_graph_teaches_with_its_network_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=NETWORK), 3)
    config = NetworkConfig(network=NETWORK, input=InputConfig(), output_stride=8, align_corners=False)
    own = model_info(config, ("a", "b", "c"), role="teacher", size=(32, 48))
    export_onnx(network, own, tmp_path / "model.onnx")
    teacher, info, notes = open_(f"{tmp_path}/model.onnx")
    image = images(2, 3, 40, 56)
    with torch.no_grad():
        assert torch.allclose(teacher(image).logits, InferenceWrapper(network)(image), atol=1e-4)
    assert (info.classes, info.size, info.network.network) == (own.classes, (32, 48), "onnx:model.onnx")
    assert notes == ()
    assert (teacher(image).features, countable_macs(teacher, (32, 48)), count_parameters(teacher)) == ((), None, 0)
    with pytest.raises(UsageError, match="has one output"):
        open_(f"onnx:{tmp_path}/model.onnx:logits")


@pytest.mark.parametrize(("batch", "size"), [(1, (32, 48)), ("n", ("h", "w")), ("n", (32, 48)), (1, ("h", "w"))])
def test_graph_of_fixed_or_free_size_takes_any_image(
    batch: int | str, size: tuple[int | str, int | str], tmp_path: Path
) -> None:
    place = write_onnx(tmp_path, batch, size)
    network, info, _ = open_(place, InputConfig(mean=(0, 0, 0), std=(1, 1, 1)))
    weight = torch.randn(CAMVID_CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    image = images(3, 3, 32, 48)
    expected = nn.functional.avg_pool2d(nn.functional.conv2d(image, weight), 4)
    assert torch.allclose(network(image).logits, expected, atol=1e-3)
    free = isinstance(size[0], str)
    assert network(images(2, 3, 64, 96)).logits.shape[2:] == ((16, 24) if free else (8, 12))
    assert info.classes == tuple(map(str, range(CAMVID_CLASSES)))
    assert "ImageNet" in open_(place)[2][0]


def test_graphs_that_do_not_segment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    image: End = ("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    image_last: End = ("image", TensorProto.FLOAT, [1, "h", "w", 3])
    labels: End = ("labels", TensorProto.INT64, [1, 1, "h", "w"])
    scores: End = ("scores", TensorProto.FLOAT, [1, "h", "w", 3])
    for operator, inputs, outputs, expected in (
        (helper.make_node("ArgMax", ["image"], ["labels"], axis=1), image, labels, r"returns labels tensor\(int64\)"),
        (helper.make_node("Identity", ["image"], ["scores"]), image_last, scores, r"takes image tensor\(float\)"),
        (helper.make_node("Softmax", ["image"], ["scores"], axis=1), image, scores, "makes probabilities"),
    ):
        write_graph(path, [operator], [inputs], [outputs], [])
        with pytest.raises(ModelError, match=expected):
            open_(str(path))
    path.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="damaged, or not an ONNX file"):
        open_(str(path))


def test_graph_output_named_logits_or_chosen_by_name_is_used(tmp_path: Path) -> None:
    path, shape = tmp_path / "several.onnx", list[int | str]((1, 3, 8, 8))
    image: End = ("image", TensorProto.FLOAT, shape)
    for names in (("aux", "logits"), ("one", "other")):
        nodes = [helper.make_node("Mul", ["image", f"by_{name}"], [name]) for name in names]
        weights = [
            helper.make_tensor(f"by_{name}", TensorProto.FLOAT, [], [by])
            for name, by in zip(names, (2, 3), strict=True)
        ]
        write_graph(path, nodes, [image], [(name, TensorProto.FLOAT, shape) for name in names], weights)
        pixels = images(1, 3, 8, 8)
        wanted = InputConfig(mean=(0, 0, 0), std=(1, 1, 1))
        if "logits" in names:
            assert torch.allclose(open_(f"onnx:{path}", wanted)[0](pixels).logits, 3 * pixels)
        else:
            with pytest.raises(UsageError, match="several outputs that could be logits") as error:
                open_(f"onnx:{path}", wanted)
            assert error.value.fix == f"Say which, onnx:{path}:one or onnx:{path}:other."
        assert torch.allclose(open_(f"onnx:{path}:{names[0]}", wanted)[0](pixels).logits, 2 * pixels)
    with pytest.raises(UsageError, match="no output 'third'"):
        open_(f"onnx:{path}:third")


@pytest.mark.promise("S9")
def test_graph_with_weights_in_another_file_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path)
    model = onnx.load(tmp_path / "secret.onnx")
    onnx.save(model, tmp_path / "odd.onnx", save_as_external_data=True, location="data", size_threshold=0)
    with pytest.raises(ModelError, match="external tensor data"):
        open_(f"{tmp_path}/odd.onnx")


def test_terms_on_features_are_left_out_with_a_graph(tmp_path: Path, camvid: Path) -> None:
    line = f"--student resnet18-half --data camvid:{camvid} {UNTRAINED} --out run"
    teacher = f"distill --teacher {write_onnx(tmp_path)}"
    # nothing but features: the other term has no weight
    refused(f"{teacher} {line} --set terms.pixel.weight=0", "no term left (feature)", "shows none but its logits")
    assert not Path("run").exists()
    done = succeeds(f"{teacher} {line}")
    assert "Term feature is left out: it compares feature maps" in done.err
    assert read_info(Path("run/model.safetensors")).terms == ("pixel",)
    assert load_preset("run/config.toml").terms["feature"].weight == 0
    assert "Already finished" in succeeds(f"{teacher} {line} --resume").err


# The user's own code


def test_a_module_may_return_a_segoutput_and_name_its_classes() -> None:
    Path("secret_teacher.py").write_text(
        MODULE
        + """
from segdistill.types import SegOutput

class Named(Two):
    classes = [f"class {i}" for i in range(11)]
    def forward(self, image):
        logits = self.conv(image)
        return SegOutput(logits, (image[:, :, ::2, ::2], logits), logits)
"""
    )
    network, info, notes = open_("py:secret_teacher:Named")
    output = network(images(2, 3, 32, 48))
    assert ([f.shape[1] for f in output.features], output.aux) == ([3, 11], None)
    assert info.classes[3] == "class 3"
    assert "ImageNet" in notes[0]


def test_a_module_that_does_not_segment_is_refused() -> None:
    Path("secret_teacher.py").write_text(
        "from torch import nn\ndef flat(): return nn.Flatten()\ndef odd(): return nn.Conv2d(4, 5, 3)\n"
    )
    with pytest.raises(ModelError, match=r"makes float32 of shape \(1, 49152\)"):
        open_("py:secret_teacher:flat")
    with pytest.raises(ModelError, match="fails on an image of 128x128"):
        open_("py:secret_teacher:odd")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("[x, x]", "returns a list"),
        ("(x,)", "returns a tuple"),
        ("{'aux': x, 'main': x}", "a mapping with 'aux', 'main'"),
        ("{}", "a mapping with nothing"),
        ("exit(3)", "fails on an image of 128x128: SystemExit: 3"),
    ],
)
def test_output_that_is_not_logits_is_named(returned: str, said: str) -> None:
    Path("secret_teacher.py").write_text(
        f"from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return {returned}\n"
    )
    with pytest.raises(ModelError, match=re.escape(said)):
        open_("py:secret_teacher:Net")


@pytest.mark.parametrize("names", ["5", "'abcde'"])
def test_classes_that_are_no_list_of_names_are_refused(names: str) -> None:
    Path("secret_teacher.py").write_text(
        f"from torch import nn\nclass Net(nn.Conv2d):\n    classes = {names}\ndef build(): return Net(3, 5, 1)\n"
    )
    with pytest.raises(ModelError, match=f"its attribute `classes` is {names}"):
        open_("py:secret_teacher:build")


def test_nonfinite_first_step_starts_no_run(camvid: Path) -> None:
    Path("secret_teacher.py").write_text(
        "from torch import nn\nclass Net(nn.Conv2d):\n    def forward(self, x):\n"
        "        return super().forward(x) / (x != x).any()\ndef build(): return Net(3, 11, 1, stride=8)\n"
    )
    line = f"distill --teacher py:secret_teacher:build --student resnet18-half --data camvid:{camvid} {UNTRAINED}"
    more = "--set terms.feature.weight=0 --dry-run"
    refused(f"{line} {more}", "Term 'pixel' is not finite at the first step", code=4)


def test_python_teacher_of_ours_keeps_its_normalization() -> None:
    Path("secret_teacher.py").write_text(
        "from segdistill.config import InputConfig, NetworkConfig\n"
        "from segdistill.networks import build_network\n"
        "def build():\n"
        "    config = NetworkConfig(network='enet', input=InputConfig(mean=(1, 2, 3)))\n"
        "    return build_network(config, 4)\n"
    )
    network, info, notes = open_("py:secret_teacher:build")
    assert (network.images.mean, notes, info.outputs) == ((1, 2, 3), (), 4)
