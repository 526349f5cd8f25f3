"""Published files whose code differs from ours compute here what they compute there.

The names and shapes of ESPNet's files are those of the published ones, by digest, and what two of them compute was
recorded from the authors' code. For the others stands a slow version of the code that wrote them, on its own tensors.
"""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.commands import refused, succeeds
from helpers.golden import det, fill, names_and_shapes
from helpers.imported import LIU, TOLD, imported, network, not_imported, state_of
from segdistill.checkpoints.key_maps import CIRKD_PSPNET, as_published
from segdistill.checkpoints.model_file import load_model
from segdistill.config.schema import NetworkConfig
from segdistill.deployment.session import OnnxModel
from segdistill.networks import InferenceWrapper, SegNetwork, build_network

pytestmark = pytest.mark.usefixtures("elsewhere")


def logits_of(network: SegNetwork) -> Tensor:
    """Return float64 logits of the image for which the authors' were recorded, below the normalization."""
    with torch.no_grad():
        return network.double().segment(det((1, 3, 96, 128), 7, 3, 101)).logits


# ESPNet's authors


class Decoder(NamedTuple):
    """A published Cityscapes decoder: as digest, and what it computes once filled by the rule."""

    variant: str
    keys: str
    parameters: int
    mean: float
    std: float
    largest: float
    first_row: tuple[float, float, float, float]
    center: tuple[float, float, float, float]
    last: float
    """The last class's logit in the middle."""


DECODERS = (
    Decoder(
        *("espnet-q3", "79a322661de66e72", 202_649),
        *(0.00037970109499870555, 0.07565920481511099, 0.23283191019743696),
        (-0.05595250273416136, 0.03110901435822819, -0.04034505267758143, -0.13837835747169425),
        (0.050063661131554006, 0.04787271734221883, 0.03269408012499239, -0.002395948099802202),
        -0.07935753907528224,
    ),
    Decoder(
        *("espnet", "ccba5ce165521aee", 364_569),
        *(0.00042249012314498865, 0.07566842811124723, 0.23763265909513834),
        (-0.05562891164995725, 0.03157381594459226, -0.04119173633866143, -0.13785061698188475),
        (0.05597439927362356, 0.05392638584886657, 0.031603755584397444, -0.011620116851378901),
        -0.07838007549432843,
    ),
)


def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict as PyTorch before 0.4.1 wrote it."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.variant)
def test_espnet_cityscapes_decoder_computes_as_published(decoder: Decoder) -> None:
    theirs = old({name: t.double() for name, t in state_of(decoder.variant, 20, skip="raw").items()})
    assert names_and_shapes(theirs, in_order=False) == decoder.keys
    fill(theirs)
    network, info, said = imported(theirs, "--network espnet --void-output 19")
    assert f"{decoder.variant} from file.pth" in said
    assert (info.network.network, info.network.skip) == (decoder.variant, "raw")
    assert sum(parameter.numel() for parameter in network.parameters()) == decoder.parameters
    logits = logits_of(network)
    assert logits.shape == (1, 20, 96, 128)
    found = [logits.mean().item(), logits.std().item(), logits.abs().max().item()]
    found += [*logits[0, 0, 0, :4].tolist(), *logits[0, :4, 48, 64].tolist(), logits[0, -1, 48, 64].item()]
    expected = [decoder.mean, decoder.std, decoder.largest, *decoder.first_row, *decoder.center, decoder.last]
    assert found == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize("name", ["espnet-q3", "espnet-q5", "espnet", "espnet-c-q3", "espnet-c-q5", "espnet-c"])
@pytest.mark.parametrize("wrap", ["", "module."])
def test_the_depth_of_an_espnet_is_read_off_its_tensors(name: str, wrap: str) -> None:
    state = {f"{wrap}{key}": tensor for key, tensor in state_of(name, 20).items()}
    _, info, _ = imported(state, f"--network {re.sub('-q[0-9]', '', name)}")
    assert (info.network.network, info.network.skip) == (name, None)


def test_chosen_espnet_options_override_the_tensors() -> None:
    not_imported(state_of("espnet-q3", 20), "--network espnet-q5", "does not hold the tensors of espnet-q5")
    misshaped = "conv.conv.weight (20x36x3x3 instead of 20x39x3x3)"
    not_imported(state_of("espnet", 20, skip="raw"), "--network espnet --set skip=normalized", misshaped)
    not_imported(state_of("espnet", 20), "--network espnet --set skip=raw", "20x39x3x3 instead of 20x36x3x3")
    refused("import-weights file.pth --out model --network espnet-c --set skip=raw", "skip: it has no decoder")


def test_espnet_with_few_classes_imports_in_either_form() -> None:
    for skip in ("raw", None):
        _, info, _ = imported(state_of("espnet", 2, skip=skip), f"--network espnet {TOLD}")
        assert (info.network.skip, info.outputs) == (skip, 2)


# Liu et al.'s ESPNets


class Student(NamedTuple):
    """A kind of file that Liu et al. publish."""

    network: str
    outputs: int
    wrap: str
    keys: str


STUDENTS = {
    "CamVid, ESPNet": Student("espnet", 11, "", "57e79c60a0ffac07"),
    "CamVid, ESPNet with distillation": Student("espnet", 11, "module.", "ac076774457e7db2"),
    "CamVid, ESPNet-C": Student("espnet-c", 11, "", "809e6c84ea2cbd66"),
    "CamVid, ESPNet-C with distillation": Student("espnet-c", 11, "module.", "d968e56d9c09bdef"),
    "Cityscapes, ESPNet": Student("espnet", 19, "", "4898e1e96f5e3e63"),
    "Cityscapes, ESPNet-C": Student("espnet-c", 19, "", "e470ee5a8c297694"),
}


def as_liu_calls_it(name: str) -> str:
    """Return the name of an ESPNet's tensor in their files: the encoder is no module of its own there."""
    return name.replace("encoder.classifier.", "classifier_1.").removeprefix("encoder.")


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_a_student_of_liu_et_al_is_known_by_its_names(student: Student) -> None:
    reference = network(student.network, student.outputs).double()
    fill(reference.state_dict())
    theirs = {student.wrap + as_liu_calls_it(name): tensor for name, tensor in reference.state_dict().items()}
    assert names_and_shapes(theirs, in_order=False) == student.keys
    found, info, said = imported(theirs, f"--network {student.network}")
    assert torch.equal(logits_of(found), logits_of(reference))
    assert (info.network.input, info.network.align_corners, info.outputs) == (LIU, True, student.outputs)
    assert "filled in  nothing\n  left out   nothing" in said
    assert "mean 73.18188461 82.93553322 72.41519599, std 45.3199 46.1528 44.9148; as Liu et al. 2019" in said


def test_an_image_is_prepared_as_liu_et_al_do() -> None:
    found, _, _ = imported(state_of("espnet-c", 11), "--network espnet-c")
    image = (det((1, 3, 24, 32), 7, 3, 101).float() + 2) * 60
    mean = torch.tensor([73.18188461, 82.93553322, 72.41519599]).view(1, 3, 1, 1)
    std = torch.tensor([45.3199, 46.1528, 44.9148]).view(1, 3, 1, 1)
    bgr = (image.flip(1) - mean) / std
    with torch.no_grad():
        expected = F.interpolate(found.segment(bgr).logits, size=(24, 32), mode="bilinear", align_corners=True)
        torch.testing.assert_close(InferenceWrapper(found)(image), expected, rtol=1e-4, atol=1e-5)


# In-place activated batch norm


class ActivatedBatchNorm(nn.Module):
    """In-place activated batch norm in evaluation, element by element: its kernels take |weight| + eps."""

    eps = 1e-5

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return activated({f"norm.{name}": tensor for name, tensor in self.norm.state_dict().items()}, "norm", x)


def activated(state: dict[str, Tensor], name: str, x: Tensor, slope: float = 1.0) -> Tensor:
    """Normalize maps by the tensors of that name, and multiply what is below 0."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    y = (x - mean) / (variance + 1e-5).sqrt() * (weight.abs() + 1e-5) + bias
    return torch.where(y < 0, slope * y, y)


def scattered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float64 tensors filled by the rule, but with norms whose weights are around 0, negative ones too."""
    state = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    fill(state)
    for name, tensor in state.items():
        if name.endswith(".weight") and tensor.ndim == 1:
            tensor.sub_(0.97)
    return state


OF_THE_BACKBONE = "cp.backbone."


def with_activated_batch_norm(network: SegNetwork) -> SegNetwork:
    """Exchange what STDC-Seg's code takes from its module of batch norm: all of it outside the backbone."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and not name.startswith(OF_THE_BACKBONE):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, ActivatedBatchNorm(module))
    return network


def conv_last(seed: int = 1) -> dict[str, Tensor]:
    """Return the tensors that every checkpoint of STDC-Seg's holds of the classifier's last convolution."""
    draw = torch.Generator().manual_seed(seed)
    name, size = "cp.backbone.conv_last", 1024
    state = {f"{name}.conv.weight": torch.randn(size, size, 1, 1, generator=draw).double() / 20}
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"{name}.bn.{part}"] = torch.rand(size, generator=draw).double() + 0.5
    return state


@pytest.mark.parametrize("computed", [False, True])
def test_stdc_seg_computes_the_same_with_plain_batch_norm(computed: bool) -> None:
    state = scattered(state_of("stdcseg-stdc1", 5))
    last = conv_last()
    reference = network("stdcseg-stdc1", 5).double()
    reference.load_state_dict(state)
    with_activated_batch_norm(reference)
    if computed:

        def through_conv_last(module: nn.Module, args: object, stages: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            name = "cp.backbone.conv_last"
            maps = F.conv2d(stages[-1], last[f"{name}.conv.weight"])
            mean, variance, weight, bias = (
                last[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            return (*stages[:-1], F.batch_norm(maps, mean, variance, weight, bias).relu())

        reference.get_submodule("cp.backbone").register_forward_hook(through_conv_last)
    found, info, said = imported(state | last, f"--network stdcseg-stdc1 --set conv_last={computed}".lower())
    torch.testing.assert_close(logits_of(found), logits_of(reference), rtol=0, atol=1e-12)
    assert (info.network.conv_last, info.network.align_corners) == (computed, True)
    negative = [name for name, t in state.items() if name.endswith(("bn.weight", "bn_atten.weight")) and (t < 0).any()]
    assert any(not name.startswith(OF_THE_BACKBONE) for name in negative)
    assert "converted  10 weights of batch norm, to |weight| + 1e-5" in said
    assert ("cp.backbone.conv_last.* (5 tensors): the backbone as a classifier" in said) != computed


def test_undetermined_stdc_seg_options_must_be_given() -> None:
    state = state_of("stdcseg-stdc1", 3)
    told = ("holds cp.backbone.conv_last.*", "use_conv_last", "--set conv_last=false", "--set conv_last=true")
    not_imported(state | conv_last(), "--network stdcseg-stdc1", *told, code=2)
    _, info, _ = imported(state, "--network stdcseg-stdc1")  # whoever left it out did not compute with it
    assert info.network.conv_last is None
    line = "import-weights file.pth --out other --network stdcseg-stdc1 --set conv_last=true"
    refused(line, "missing, cp.backbone.conv_last.bn.bias", code=5)


def test_a_model_file_of_our_own_keeps_its_weights() -> None:
    found, _, _ = imported(scattered(state_of("stdcseg-stdc1", 3)), "--network stdcseg-stdc1")
    again, _ = load_model(Path("model/model.safetensors"))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in found.state_dict().items())


# Liu et al.'s PSPNet


def liu_pspnet(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Compute the logits of their PSPNet on ResNet-18 (networks/pspnet_combine.py) by the tensors' own names."""

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding, dilation)

    x = image
    for i in (1, 2, 3):
        x = activated(state, f"bn{i}", conv(x, f"conv{i}", stride=2 if i == 1 else 1, padding=1), slope=0)
    x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
    for stage, (first_stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4)), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = first_stride if block == 0 else 1
            y = conv(x, f"{name}.conv1", stride, dilation, dilation)
            y = conv(activated(state, f"{name}.bn1", y, slope=0), f"{name}.conv2", 1, dilation, dilation)
            if f"{name}.downsample.0.weight" in state:
                x = activated(state, f"{name}.downsample.1", conv(x, f"{name}.downsample.0", stride))
            x = (activated(state, f"{name}.bn2", y) + x).relu()
    maps = []
    for i, bins in enumerate((1, 2, 3, 6)):
        y = conv(F.adaptive_avg_pool2d(x, bins), f"pspmodule.stages.{i}.1")
        y = activated(state, f"pspmodule.stages.{i}.2", y, slope=0.01)
        maps.append(F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=True))
    fused = conv(torch.cat([*maps, x], dim=1), "pspmodule.bottleneck.0", padding=1)
    return conv(activated(state, "pspmodule.bottleneck.1", fused, slope=0.01), "head")


def as_liu_calls_the_pspnet_s(name: str) -> str:
    """Return the name of a PSPNet's tensor in their files."""
    name = name.removeprefix("backbone.").replace("pyramid.fuse.", "pspmodule.bottleneck.")
    name = re.sub(r"pyramid\.branches\.(\d)\.0\.", r"pspmodule.stages.\1.1.", name)
    name = re.sub(r"pyramid\.branches\.(\d)\.1\.", r"pspmodule.stages.\1.2.", name)
    return re.sub(r"^classifier\.", "head.", name)


def liu_state(outputs: int, name: str = "pspnet-resnet18") -> dict[str, Tensor]:
    """Return the tensors of such a file, with the auxiliary head that is in training only."""
    ours = state_of(name, outputs, stem="deep", aux=False)
    state = {as_liu_calls_the_pspnet_s(key): tensor for key, tensor in ours.items()}
    state |= {f"dsn.0.{part}": torch.zeros(128) for part in ("weight", "bias")}
    state["dsn.3.weight"] = torch.zeros(outputs, 128, 1, 1)
    return scattered(state)


def test_liu_et_al_s_pspnet_computes_the_same_once_imported() -> None:
    state = liu_state(19)
    parameters = [tensor for name, tensor in state.items() if re.fullmatch(r"(?!dsn).*(weight|bias)", name)]
    assert round(sum(tensor.numel() for tensor in parameters) / 1e6, 3) == 12.771  # their code's, without dsn
    found, info, said = imported({f"module.{name}": tensor for name, tensor in state.items()}, "--network pspnet18")
    image = det((1, 3, 64, 96), 7, 3, 101)
    with torch.no_grad():
        logits, expected = found.segment(image).logits, liu_pspnet(state, image)
    assert logits.shape == (1, 19, 9, 13)  # where pooling without ceil_mode has 8x12
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    chosen = info.network.model_dump(include={"stem", "dilation", "stem_pool", "head_slope", "align_corners", "aux"})
    assert chosen == {
        **{"stem": "deep", "dilation": "early", "stem_pool": "ceil", "head_slope": 0.01},
        **{"align_corners": True, "aux": False},
    }
    assert info.network.input is not None
    assert (info.network.input.order, info.network.input.std) == ("bgr", (1, 1, 1))
    assert "dsn.0.weight, dsn.0.bias, dsn.3.weight: the auxiliary head" in said
    assert "converted  28 weights of batch norm, to |weight| + 1e-5" in said
    assert "converted  1 weights of the pyramid's fusion" in said


# LAD


@pytest.mark.parametrize("name", ["pspnet-resnet18-half"])
def test_lad_student_imports_without_its_zero_label_channel(name: str) -> None:
    config = NetworkConfig(network=name, stem="deep", align_corners=True)
    torch.manual_seed(0)
    four = build_network(config, 5, in_channels=4).double().eval()
    theirs = as_published(four.state_dict(), CIRKD_PSPNET)
    told = ("pretrained.conv1.weight sees 4 channels", "LAD", "--drop-label-channel", "A teacher of theirs")
    not_imported(theirs, f"--network {name}", *told, code=2)
    found, _, said = imported(theirs, f"--network {name} --drop-label-channel")
    image = det((1, 3, 64, 96), 7, 3, 101)
    with torch.no_grad():
        expected = four.segment(torch.cat([image, torch.zeros(1, 1, 64, 96).double()], dim=1)).logits
        torch.testing.assert_close(found.segment(image).logits, expected, rtol=0, atol=1e-12)
    assert "left out   pretrained.conv1.weight, fourth channel: the label's, which is always 0" in said


def test_a_file_of_three_channels_has_no_label_to_leave_out() -> None:
    not_imported(state_of("espnet-c", 20), "--network espnet-c --drop-label-channel", "has no such channel", code=2)


# What is made of them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: old(state_of("espnet-q3", 12, skip="raw")), "espnet --void-output 11"),
        (lambda: liu_state(11, "pspnet-resnet18-half"), "pspnet18-half"),
        (lambda: state_of("stdcseg-stdc1", 11) | conv_last(), "stdcseg-stdc1 --set conv_last=true"),
    ],
    ids=["espnet", "pspnet", "stdcseg"],
)
def test_imported_networks_evaluate_export_and_infer(
    make: Callable[[], dict[str, Tensor]], line: str, camvid: Path
) -> None:
    data = f"--data {shlex.quote(f'camvid:{camvid}')}"
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in make().items()}
    found, _, _ = imported(state, f"--network {line} {data}")
    result = json.loads(succeeds(f"export model {data} --workers 0 --json").out)
    assert result["check"]["label_agreement"] >= 0.999
    exported, shipped = OnnxModel(Path("model/model.onnx"), torch.device("cpu")), InferenceWrapper(found)
    for shape in ((1, 3, 64, 96), (2, 3, 41, 60), (1, 3, 35, 33)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
        with torch.no_grad():
            expected = shipped(image)
        torch.testing.assert_close(exported(image), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    scores = [
        json.loads(succeeds(f"evaluate {path} {data} --workers 0 --json").out)["iou"]
        for path in ("model", "model/model.onnx")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    said = succeeds(f"infer model/model.onnx {shlex.quote(str(camvid / 'val'))} --out labels").out
    assert "label maps in labels" in said
