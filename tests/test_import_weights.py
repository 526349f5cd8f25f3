"""Published checkpoints fit our networks by name, shape and number, and become models that every command takes."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from commands import UNTRAINED, contents, files, halve, refused, succeeds
from golden import det, fill, names_and_shapes
from PIL import Image
from test_published import GOLDEN as AUTHORS
from torch import Tensor

from segdistill.checkpoint import ModelInfo, load_model
from segdistill.config import InputConfig, NetworkConfig, parse_network
from segdistill.data.camvid import CLASSES
from segdistill.graph import OnnxModel
from segdistill.layouts import CIRKD_DEEPLABV3, CIRKD_PSPNET, SKD_ESPNET, Layout, as_published, renamed
from segdistill.networks import Deployed, SegNetwork, build_network

pytestmark = pytest.mark.usefixtures("elsewhere")

HALF = "pspnet-resnet18-half"
LIU = InputConfig(mean=(72.41519599, 82.93553322, 73.18188461), std=(44.9148, 46.1528, 45.3199), order="bgr")
"""What ESPNets of Liu et al. 2019 expect, in red, green, blue."""
TOLD = "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375"
"""What must be told of images where neither names nor outputs tell the publication."""


def network(name: str, outputs: int, **choices: Any) -> SegNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig.model_validate({"network": name, **choices}), outputs).eval()


def state_of(name: str, outputs: int, **choices: Any) -> dict[str, Tensor]:
    """Return a network's tensors, in a dictionary that a test may change."""
    return dict(network(name, outputs, **choices).state_dict())


def imported(state: object, line: str) -> tuple[SegNetwork, ModelInfo, str]:
    """Save a checkpoint, import it, and return the network that the commands load, with what was said."""
    torch.save(state, "file.pth")
    said = succeeds(f"import-weights file.pth --out model --overwrite {line}").err
    return *load_model(Path("model/model.safetensors")), said


def published_names(network: SegNetwork, layout: Layout) -> dict[str, Tensor]:
    """Return the network's tensors under the names that they have in the published checkpoint."""
    back = {ours: theirs for theirs, ours in layout.names.items()}
    starts = sorted(back, key=len, reverse=True)
    named = {}
    for name, tensor in network.state_dict().items():
        start = next(start for start in starts if name.startswith(start))
        named[back[start] + name.removeprefix(start)] = tensor
    return named


# What the authors' code computes


class Golden(NamedTuple):
    """What the authors' code, filled so, makes of the input: computed by it in float64."""

    config: NetworkConfig
    layout: Layout
    keys: str
    """Digest of the checkpoint's sorted names and shapes."""
    parameters: int
    mean: float
    largest: float
    """By magnitude, of all logits."""
    first: tuple[float, float, float]
    """Of class 0, in the first row."""
    centre: tuple[float, float, float]
    """Of classes 0 to 2, in the middle."""
    rounding: float = 0.0
    """What other orders of summation make of it, as a fraction of the largest logit.

    101 layers filled so multiply a change in an image's last digit by 10^9. With two threads, as the authors' code ran,
    ours gives the same bits; with one or four the logits differ by up to 1e-7 of the largest.
    """


def cirkd(network: str, width: int | None = None) -> NetworkConfig:
    return NetworkConfig(network=network, stem="deep", head_width=width, align_corners=True)


GOLDEN = {
    "2022, DeepLabV3-R18": Golden(
        *(cirkd("deeplabv3-resnet18"), CIRKD_DEEPLABV3, "62606be05c046f14", 13_607_974),
        *(-0.022125523563252498, 0.21645809527797621),
        (0.049168283504267635, 0.0382367292225466, 0.03027396295654145),
        (0.051502219403991495, 0.0656624976360565, -0.020177224131878505),
    ),
    "2022, DeepLabV3-R101": Golden(
        *(cirkd("deeplabv3-resnet101"), CIRKD_DEEPLABV3, "4d3767a5d842c832", 61_118_950),
        *(-12.710759422976539, 575.2787677916787),
        (5.21489284391106, 18.38541043429102, -85.0904054136585),
        (21.55910078573695, 7.742670919565248, -6.173758946606448),
        rounding=1e-6,
    ),
    "2025, DeepLabV3-R18": Golden(
        *(cirkd("deeplabv3-resnet18", 512), CIRKD_DEEPLABV3, "116935075024cd4f", 22_762_918),
        *(-0.032787557563752685, 1.6269033580364654),
        (0.04158345020535972, -0.09095200586638322, -0.2470469821354695),
        (0.1101900319246403, -0.19411498858696538, -0.28847784285529887),
    ),
    "2025, DeepLabV3-R101": Golden(
        *(cirkd("deeplabv3-resnet101", 512), CIRKD_DEEPLABV3, "2c5f5dcda9276dbe", 79_084_262),
        *(-112.92750397453916, 2397.0707937459947),
        (74.37789981346218, -207.84958085571566, -223.24265393243334),
        (-157.4064413082213, 153.96553063439228, 189.60576443517448),
        rounding=1e-6,
    ),
    "PSPNet-R18": Golden(
        *(cirkd("pspnet-resnet18"), CIRKD_PSPNET, "e6f364ff427fc67a", 12_919_334),
        *(-0.009199257632335419, 0.21172104685505783),
        (0.04867660446613842, 0.03259639901399124, 0.03633317821535106),
        (0.030161605210777927, -0.04010278087806813, -0.010367166966914188),
    ),
}


def published(golden: Golden) -> tuple[SegNetwork, dict[str, Tensor]]:
    """Return a network in float64 and its tensors by their published names, filled by the rule."""
    network = build_network(golden.config, 19).double().eval()
    theirs = published_names(network, golden.layout)
    fill(theirs)
    return network, theirs


def check(golden: Golden, network: SegNetwork) -> None:
    with torch.no_grad():
        logits = network.segment(det((1, 3, 97, 129), 7, 3, 101)).logits  # below the normalisation
    assert logits.shape == (1, 19, 13, 17)
    assert sum(parameter.numel() for parameter in network.parameters()) == golden.parameters
    close = partial(pytest.approx, rel=1e-9, abs=golden.rounding * golden.largest)
    assert logits.mean().item() == close(golden.mean)
    assert logits.abs().max().item() == close(golden.largest)
    assert logits[0, 0, 0, :3].tolist() == close(golden.first)
    assert logits[0, :3, 6, 8].tolist() == close(golden.centre)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "R101" in name])
def test_a_network_of_cirkd_s_computes_what_its_authors_code_computes(name: str) -> None:
    network, theirs = published(GOLDEN[name])
    assert names_and_shapes(theirs, in_order=False) == GOLDEN[name].keys
    check(GOLDEN[name], network)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "R18" in name])
def test_a_checkpoint_of_cirkd_s_computes_the_same_once_imported(name: str) -> None:
    golden = GOLDEN[name]
    _, theirs = published(golden)
    assert names_and_shapes(theirs, in_order=False) == golden.keys
    network, info, said = imported(theirs, f"--network {golden.config.network}")
    check(golden, network)
    assert info.network.input == InputConfig(
        mean=(122.67891434, 116.66876762, 104.00698793), std=(1, 1, 1), order="bgr"
    )
    chosen = info.network.model_dump(include={"stem", "head_width", "align_corners", "aux", "output_stride"})
    expected = golden.config.model_dump(include={"stem", "head_width", "align_corners", "aux"})
    assert chosen == expected | {"output_stride": 8}
    assert f"used       {len(theirs)} tensors\n  filled in  nothing\n  left out   nothing\n" in said


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("espnet", InputConfig(mean=(105.03, 108.41, 110.33), std=(69.9, 72.69, 72.13), order="bgr", divide=255)),
        ("espnet-c", InputConfig(mean=(73.16, 82.91, 72.39), std=(44.91, 46.15, 45.32), order="bgr", divide=255)),
    ],
)
def test_a_checkpoint_of_espnet_s_computes_the_same_once_imported(name: str, images: InputConfig) -> None:
    golden = AUTHORS[name]
    theirs = build_network(NetworkConfig(network=name), golden.classes).double().state_dict()
    fill(theirs)
    network, info, said = imported(theirs, f"--network {name} --void-output {golden.classes - 1}")
    with torch.no_grad():
        logits = network.segment(det((1, 3, 96, 128), 7, 3, 101)).logits
    assert logits.shape == golden.shape
    found = [
        logits.mean().item(),
        *logits[0, : len(golden.centre), golden.shape[2] // 2, golden.shape[3] // 2].tolist(),
    ]
    assert found == pytest.approx([golden.mean, *golden.centre], rel=1e-9, abs=0)
    assert (info.outputs, len(info.classes), info.void_output) == (
        golden.classes,
        golden.classes - 1,
        golden.classes - 1,
    )
    assert info.network.input == images
    assert "warning" not in said


@pytest.mark.parametrize(("theirs", "ours"), [("deeplabv3_resnet50", "deeplabv3-resnet50"), ("fcn_resnet50", "fcn50")])
def test_a_segmentation_network_of_torchvision_s_computes_the_same_once_imported(theirs: str, ours: str) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.get_model(
        theirs, weights=None, weights_backbone=None, num_classes=5, aux_loss=ours == "fcn50"
    ).eval()
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    network, info, _ = imported(reference.state_dict(), f"--network {ours}")
    assert (info.network.input, info.network.align_corners) == (InputConfig(), False)
    assert info.network.aux == (ours == "fcn50")
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected = reference(image)["out"]
        found = network.segment(image).logits
    larger = torch.nn.functional.interpolate(found, size=(65, 97), mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# Names


def test_a_tensor_that_the_layout_does_not_know_keeps_its_name() -> None:
    tensors = {"pretrained.bn1.bias": torch.zeros(1), "head.other.bias": torch.ones(1)}
    assert renamed(tensors, CIRKD_PSPNET).keys() == {"backbone.bn1.bias", "head.other.bias"}


@pytest.mark.parametrize(
    ("wrap", "beside"),
    [
        (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "nothing"),
        (
            lambda state: {"state_dict": {f"module.model.{n}": t for n, t in state.items()}, "epoch": 3},
            "epoch: no weights",
        ),
        (lambda state: {"model": state, "optimizer": {"lr": 0.1}, "step": 7}, "optimizer, step: no weights"),
        (lambda state: {"net": {"state_dict": {f"_orig_mod.{n}": t for n, t in state.items()}}}, "nothing"),
        (lambda state: {"state_dict": state, "ema": {"weight": torch.ones(1)}}, "ema: other weights (1 tensors)"),
        (lambda state: {"model_state": state}, "nothing"),
    ],
)
def test_names_and_files_are_unwrapped(wrap: Callable[[dict[str, Tensor]], object], beside: str) -> None:
    state = state_of("espnet-c", 20)
    network, info, said = imported(wrap(state), "--network espnet-c")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert info.classes == tuple(map(str, range(20)))
    assert f"left out   {beside}\n" in said


def test_checkpoints_of_old_versions_of_pytorch_lack_counts_of_batches() -> None:
    state = {name: t for name, t in state_of("espnet-c", 20).items() if not name.endswith("num_batches_tracked")}
    torch.save(state, "file.pth", _use_new_zipfile_serialization=False)
    said = succeeds("import-weights file.pth --network espnet-c --out model").err
    network, _ = load_model(Path("model/model.safetensors"))
    counts = network.state_dict().keys() - state.keys()
    assert f"used       {len(state)} tensors\n  filled in  {len(counts)} *.num_batches_tracked with 0" in said
    assert not any(network.state_dict()[name].any() for name in counts)


def test_half_precision_is_computed_in_single() -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in state_of("espnet-c", 20).items()}
    network, _, _ = imported(state, "--network espnet-c")
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in network.state_dict().items())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_what_has_no_place_here_is_named_with_the_reason() -> None:
    stdc = state_of("stdcseg-stdc1", 3)
    extra = {"cp.backbone.fc.weight": torch.ones(2), "conv_out_sp8.conv_out.weight": torch.ones(2)}
    extra |= {f"cp.backbone.x2.0.{part}": torch.ones(2) for part in ("conv.weight", "bn.weight", "bn.bias", "bn.other")}
    network, info, said = imported(stdc | extra, "--network stdcseg-stdc1")
    kept = {name for name in stdc if torch.equal(network.state_dict()[name], stdc[name])}
    assert all(re.search(r"bn(_atten)?\.weight$", name) for name in stdc.keys() - kept)
    assert info.network.align_corners
    told = [line.partition("left out")[2].strip() for line in said.splitlines() if "left out" in line]
    assert told == [
        "cp.backbone.x2.* (4 tensors): a second name of the same weights",
        "cp.backbone.fc.weight: the backbone as a classifier",
        "conv_out_sp8.conv_out.weight: a head for details, in training only",
    ]


def test_a_network_that_was_saved_with_its_loss_is_unwrapped() -> None:
    state = {f"model.{name}": tensor for name, tensor in state_of("pidnet-s", 3).items()}
    edges = {"model.seghead_d.conv2.bias": torch.ones(1), "loss.criterion.weight": torch.ones(3)}
    _, _, said = imported(state | edges, "--network pidnet-s")
    assert "seghead_d.conv2.bias: a head for edges, in training only" in said
    assert "loss.criterion.weight: weights of the classes in the loss" in said


def test_an_auxiliary_head_is_there_where_the_checkpoint_has_one_unless_it_is_not_wanted() -> None:
    _, info, said = imported(state_of(HALF, 3, aux=False), f"--network {HALF} {TOLD}")
    assert (info.network.aux, "left out   nothing" in said) == (False, True)
    _, info, said = imported(state_of(HALF, 3), f"--network {HALF} {TOLD}")
    assert (info.network.aux, "left out   nothing" in said) == (True, True)
    _, info, said = imported(state_of(HALF, 3), f"--network {HALF} {TOLD} --set aux=false")
    assert not info.network.aux
    assert "left out   aux* (8 tensors): the auxiliary head, in training only" in said


def test_shapes_decide_about_what_was_not_chosen() -> None:
    choices: dict[str, Any] = {"stem": "deep", "head_width": 24, "aspp": False}
    _, info, _ = imported(
        state_of("deeplabv3-resnet18-half", 3, **choices), f"--network deeplabv3-resnet18-half {TOLD}"
    )
    assert info.network.model_dump(include=set(choices)) == choices
    line = f"--network deeplabv3-resnet18-half {TOLD} --set output_stride=16 --set dropout=0.3"
    _, info, _ = imported(state_of("deeplabv3-resnet18-half", 3), line)
    assert (info.network.output_stride, info.network.dropout, info.network.head_width) == (16, 0.3, None)


# What is not that network


def not_imported(state: object, line: str, *expected: str, code: int = 5) -> None:
    """Save a checkpoint whose import must be refused, with nothing written."""
    torch.save(state, "file.pth")
    refused(f"import-weights file.pth --out model {line}", "file.pth", *expected, code=code)
    assert not Path("model").exists()


def test_every_tensor_must_be_there_and_nothing_else() -> None:
    state = state_of("espnet-c", 20)
    weight = state.pop("classifier.conv.weight")
    not_imported(
        state, "--network espnet-c", "does not hold the tensors of espnet-c: 1 tensors missing, classifier.conv.weight"
    )
    state["classifier.conv.weight"] = weight
    not_imported(state | {"extra.bias": weight}, "--network espnet-c", "1 tensors unexpected, extra.bias")
    state["level1.conv.weight"] = torch.zeros(16, 4, 3, 3)
    not_imported(state, "--network espnet-c", "1 tensors misshaped, level1.conv.weight (16x4x3x3 instead of 16x3x3x3)")


def test_another_network_is_told_by_its_tensors() -> None:
    not_imported(state_of("espnet-c", 20), "--network espnet", "does not hold the tensors of espnet: ")
    not_imported(
        state_of("espnet-c", 20),
        "--network pspnet18",
        "does not hold the tensors of pspnet-resnet18: ",
        "tensors missing",
    )


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (lambda: state_of("espnet-c", 20), "espnet"),
        (lambda: as_published(state_of("espnet", 11), SKD_ESPNET), "espnet-c"),
        (lambda: state_of("deeplabv3-resnet18", 5, aux=False), "pspnet-resnet18"),
        (lambda: state_of("stdcseg-stdc2", 19), "stdcseg-stdc1"),
    ],
    ids=["espnet-c", "espnet", "deeplabv3-resnet18", "stdcseg-stdc2"],
)
def test_the_network_that_a_checkpoint_holds_is_named(
    held: Callable[[], dict[str, Tensor]], asked: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    not_imported(held(), f"--network {asked}", f"Its tensors have names and shapes of {name}: give --network {name}.")


def test_a_network_that_is_not_here_is_told_to_be_none() -> None:
    strange = {"base_net.level1.conv.weight": torch.ones(32, 3, 3, 3), "bu_dec_l4.weight": torch.ones(1)}
    not_imported(strange, "--network espnet", "No network of `segdistill networks`, as published, has tensors of these")


def test_a_tensor_is_called_as_the_file_calls_it() -> None:
    state = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=9
    ).state_dict()
    del state["classifier.1.weight"]
    state["classifier.1.bias"] = torch.zeros(3)
    told = ("1 tensors missing, classifier.1.weight", "1 tensors misshaped, classifier.1.bias (3 instead of 512)")
    not_imported(state, "--network fcn50", *told)


def test_unknown_networks_and_choices_are_usage() -> None:
    state = state_of("espnet-c", 20)
    torch.save(state, "file.pth")
    refused("import-weights file.pth --out model --network espnett", "Unknown network 'espnett'", "espnet")
    refused("import-weights file.pth --out model --network espnet-c --set stem=deep", "stem: it has none to choose")
    refused("import-weights file.pth --out model --network espnet-c --set steam=deep", "steam: unknown key", "stem")
    refused(
        "import-weights file.pth --out model --network espnet-c --set stem", "--set stem: expected KEY=VALUE", "output_"
    )
    refused("import-weights file.pth --out model --network espnet-c --mean 1,2", "--mean 1,2: expected three numbers")
    refused(
        "import-weights file.pth --out model --network espnet-c --std 1,0,1",
        "std.1: Input should be greater than or equal to 0.000001",
    )
    refused(
        "import-weights file.pth --out model --network espnet-c --rgb --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        "in 0..1; here they are in 0..255: mean [123.675, 116.28, 103.53] and std [58.395, 57.12, 57.375], divide 1",
    )
    refused("import-weights gone.pth --out model --network espnet-c", "no weights file gone.pth")


def test_two_names_of_one_tensor_are_not_one_of_them() -> None:
    state = state_of("espnet-c", 20)
    not_imported(state | {"module.b1.bn.bias": torch.ones(19)}, "--network espnet-c", "several tensors b1.bn.bias")
    state = state_of(HALF, 3)
    own = {"backbone.conv1.weight": state["backbone.conv1.weight"]}
    theirs = {name.replace("backbone.", "pretrained."): tensor for name, tensor in state.items()}
    not_imported(theirs | own, f"--network {HALF} {TOLD}", "1 tensors unexpected, backbone.conv1.weight")


def test_numbers_must_be_finite() -> None:
    state = state_of("espnet-c", 20)
    state["b1.bn.bias"] = torch.full((19,), torch.nan)
    not_imported(state, "--network espnet-c", "1 tensors that are not finite, b1.bn.bias")


class Payload:
    """What runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.promise("S1")
def test_code_in_a_pickle_is_not_run() -> None:
    state = state_of("espnet-c", 20)
    not_imported(
        {"state_dict": state, "args": Payload()}, "--network espnet-c", "would run code (", ".mkdir)", "torch.save("
    )
    assert not Path("ran").exists()


def test_what_is_no_checkpoint_is_refused() -> None:
    torch.save(state_of("espnet-c", 20), "file.pth")
    halve(Path("file.pth"))
    refused(
        "import-weights file.pth --network espnet-c --out model", "file.pth cannot be read", "fetch it again", code=5
    )
    not_imported([1, 2], "--network espnet-c", "is not a state dict")
    not_imported(
        {"state_dict": {"weight": "none"}}, "--network espnet-c", "not a state dict, but a dictionary with weight"
    )
    endless: dict[str, object] = {}
    endless["model"] = endless
    not_imported(endless, "--network espnet-c", "not a state dict, but a dictionary with model")
    Path("page.pth").write_text("<html>404</html>")
    refused("import-weights page.pth --network espnet-c --out model", "page.pth cannot be read as tensors", code=5)
    assert not Path("model").exists()


def test_a_model_file_is_none_already_and_bare_safetensors_are_read() -> None:
    safetensors.torch.save_file(state_of("espnet-c", 20), "bare.safetensors")
    succeeds("import-weights bare.safetensors --network espnet-c --out model")
    refused("import-weights model/model.safetensors --network espnet-c --out again", "is a model file already")


# Classes


def test_classes_come_from_the_data_and_must_be_as_many_as_the_outputs(camvid: Path) -> None:
    state, data = state_of("espnet-c", 12), f"--data {shlex.quote(f'camvid:{camvid}')}"
    not_imported(state, f"--network espnet-c {data}", "12 outputs; camvid has 11 classes", "--void-output 11", code=2)
    not_imported(state, "--network espnet-c --classes 9", "12 outputs; --classes has 9 classes", code=2)
    line = "--network espnet-c --classes 12 --void-output 11"
    not_imported(state, line, "12 outputs, 11 classes and void; --classes has 12 classes", "without void", code=2)
    not_imported(state, "--network espnet-c --void-output 12", "--void-output 12", "outputs 0 to 11", code=2)
    _, info, _ = imported(state, f"--network espnet-c {data} --classes 11 --void-output 3")
    assert (info.classes, info.data, info.void_output) == (CLASSES, "camvid", 3)


def test_a_network_of_more_outputs_than_a_label_map_can_tell_is_refused() -> None:
    imported(state_of("espnet-c", 251), f"--network espnet-c {TOLD} --divide 1 --void-output 0")
    shutil.rmtree("model")
    not_imported(state_of("espnet-c", 251), "--network espnet-c", "has 251 outputs; label maps tell 250 classes")


def test_without_data_classes_are_the_numbers_of_their_outputs() -> None:
    _, info, _ = imported(state_of(HALF, 4), f"--network {HALF} {TOLD} --void-output 1")
    assert info.classes == ("0", "2", "3")
    assert len({*info.palette, (0, 0, 0)}) == 4, "black is for what counts nowhere"
    refused("evaluate model", "model does not say where its data lies", "--data")
    refused("evaluate model --data streets", "classes are not those of streets", "import it again with --data streets")


# What the network expects of images


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--mean 1,2,3 --std 4,5,6 --bgr --divide 255",
            InputConfig(mean=(3, 2, 1), std=(6, 5, 4), order="bgr", divide=255),
        ),
        ("--mean 1,2,3 --std 4,5,6 --divide 1", InputConfig(mean=(3, 2, 1), std=(6, 5, 4), order="bgr")),
        ("--mean 1,2,3 --std 4,5,6 --rgb --divide 2", InputConfig(mean=(1, 2, 3), std=(4, 5, 6), divide=2)),
        (
            "--set input.divide=3 --set input.mean=[1,2,3] --set input.std=[4,5,6]",
            InputConfig(mean=(1, 2, 3), std=(4, 5, 6), order="bgr", divide=3),
        ),
    ],
)
def test_statistics_are_given_in_the_order_in_which_the_network_sees_channels(line: str, expected: InputConfig) -> None:
    network, info, said = imported(state_of("espnet-c", 9), f"--network espnet-c {line}")
    assert info.network.input == network.images == expected
    assert "warning" not in said


@pytest.mark.parametrize(
    ("name", "line", "flags"),
    [
        ("espnet-c", "", "Give --mean A,B,C --std A,B,C --divide F, of channels in 0..255"),
        ("espnet-c", "--mean 1,2,3 --std 4,5,6 --bgr", "Give --divide F, of"),
        ("espnet-c", "--divide 255 --std 4,5,6", "Give --mean A,B,C, of"),
        ("espnet-c", "--set input.mean=[1,2,3] --divide 255", "Give --std A,B,C, of"),
        ("espnet", "--bgr", "Give --mean A,B,C --std A,B,C, of"),
        (HALF, "", "Give --mean A,B,C --std A,B,C, of"),
        (HALF, "--mean 1,2,3", "Give --std A,B,C, of"),
        ("enet", "", "ImageNet's statistics, the default of our own: --rgb --mean 123.675,116.28,103.53"),
    ],
)
def test_statistics_that_no_publication_tells_must_be_told(name: str, line: str, flags: str) -> None:
    expected = ["the statistics of its images are not known", "has 9 outputs and the tensor names of", flags]
    not_imported(state_of(name, 9), f"--network {name} {line}", *expected, code=2)


def test_the_statistics_of_an_architecture_are_listed_as_flags() -> None:
    theirs = "ESPNet's authors, CamVid: --bgr --mean 110.33,108.41,105.03 --std 72.13,72.69,69.9 --divide 255"
    means, deviations = "73.18188461,82.93553322,72.41519599", "45.3199,46.1528,44.9148"
    liu = f"Liu et al. 2019, CamVid: --bgr --mean {means} --std {deviations} --set align_corners=true"
    not_imported(state_of("espnet-c", 9), "--network espnet-c", theirs, liu, code=2)
    _, info, said = imported(state_of("espnet-c", 9), f"--network espnet-c --divide 1 {liu.partition(': ')[2]}")
    assert info.network.input == LIU
    assert info.network.align_corners
    assert "as told" in said
    assert "align corners" not in said
    *_, said = imported(state_of("espnet-c", 9), f"--network espnet-c --divide 1 {TOLD}")
    assert "some publications of this network align corners, which no tensor tells: --set align_corners=true" in said


@pytest.mark.parametrize(
    ("name", "outputs", "known"),
    [
        ("espnet", 19, False),
        ("espnet-c", 19, True),
        ("espnet-c-q3", 19, False),
        ("espnet-q5", 20, True),
        ("pidnet-s", 9, True),
    ],
)
def test_a_publication_is_known_by_names_outputs_and_depth(name: str, outputs: int, known: bool) -> None:
    if known:
        imported(state_of(name, outputs), f"--network {name}")
    else:
        not_imported(state_of(name, outputs), f"--network {name}", "statistics of its images are not known", code=2)


def test_images_are_brought_to_a_size_where_that_is_told() -> None:
    _, info, said = imported(state_of("espnet", 20), "--network espnet")
    assert info.size is None
    assert "at their own size" in said
    assert "published scores are of images at 512x1024: give it as --size" in said
    assert "output 19 is void in what ESPNet's authors, Cityscapes, publish: --void-output 19" in said
    _, info, said = imported(state_of("espnet", 20), "--network espnet --size 512x1024 --void-output 19")
    assert info.size == (512, 1024)
    assert "at 512x1024" in said
    assert "hint" not in said


def test_what_is_said_of_images_leaves_the_rest_as_published() -> None:
    _, published, _ = imported(state_of("espnet-c", 20), "--network espnet-c")
    _, info, said = imported(state_of("espnet-c", 20), "--network espnet-c --set input.order=rgb --overwrite")
    assert published.network.input is not None
    assert info.network.input == published.network.input.model_copy(update={"order": "rgb"})
    assert info.network.input.mean != InputConfig().mean
    assert "warning" not in said


# The folder


def test_a_folder_is_replaced_only_where_that_is_asked_for() -> None:
    imported(state_of("espnet-c", 20), "--network espnet-c")
    assert files(Path("model")) == {".lock", "manifest.json", "model.safetensors"}
    before = contents(Path("model"))
    refused("import-weights file.pth --network espnet-c --out model", "model is not empty", "--overwrite")
    torch.save(state_of("espnet", 20), "other.pth")
    refused("import-weights other.pth --network espnet-c --out model --overwrite", "does not hold", code=5)
    assert contents(Path("model")) == before
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    refused(
        "import-weights file.pth --network espnet-c --out mine --overwrite", "no run that --overwrite could replace"
    )


# Void


def constant(answer: int) -> dict[str, Tensor]:
    """Return a checkpoint of 12 outputs that gives one answer to every pixel."""
    state = state_of(HALF, 12)
    state["classifier.weight"].zero_()
    state["classifier.bias"] = torch.arange(12) / 10 + 5 * torch.eye(12)[answer]
    return state


VOID = 3
"""The output that stands for void; the classes of CamVid are the other eleven."""


def test_the_void_output_is_shipped_as_the_last() -> None:
    network, info, _ = imported(state_of(HALF, 12), f"--network {HALF} {TOLD} --void-output {VOID}")
    image = 255 * torch.rand(2, 3, 33, 47)
    with torch.no_grad():
        shipped, network.void_output = Deployed(network)(image), None
        as_it_was = Deployed(network)(image)
    torch.testing.assert_close(shipped, as_it_was[:, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, VOID]])
    assert (info.outputs, len(info.classes)) == (12, 11)


@pytest.mark.parametrize(("answer", "taken_for"), [(7, 6), (VOID, None)])
def test_a_void_answer_is_a_miss_and_void_pixels_of_the_labels_can_be_counted(
    answer: int, taken_for: int | None, camvid: Path
) -> None:
    imported(constant(answer), f"--network {HALF} {TOLD} --data {shlex.quote(f'camvid:{camvid}')} --void-output {VOID}")
    line = f"evaluate model --data {shlex.quote(f'camvid:{camvid}')} --workers 0"
    scores = json.loads(succeeds(f"{line} --count-void --json").out)
    truth = np.stack([np.asarray(Image.open(file)) for file in (camvid / "valannot").iterdir()])
    pixels = np.bincount(truth.flatten(), minlength=12)  # the last are void
    hits = 0 if taken_for is None else pixels[taken_for]
    assert scores["pixel_accuracy"] == hits / pixels[:11].sum()
    classes = (pixels[:11] > 0).sum()
    assert scores["miou"] == pytest.approx(hits / pixels[:11].sum() / classes)
    assert scores["miou_counting_void"] == pytest.approx(hits / pixels.sum() / classes)
    assert "miou_counting_void" not in json.loads(succeeds(f"{line} --json").out)
    shown = succeeds(f"{line} --count-void").out
    assert f"{100 * scores['miou_counting_void']:.2f}" in shown.partition("mIoU counting void")[2]


def test_void_answers_are_black_in_label_maps(camvid: Path) -> None:
    for answer, expected in ((VOID, 255), (7, 6)):
        imported(constant(answer), f"--network {HALF} {TOLD} --void-output {VOID}")
        succeeds(f"infer model {shlex.quote(str(camvid / 'val'))} --out labels{answer}")
        for file in Path(f"labels{answer}").iterdir():
            with Image.open(file) as picture:
                assert np.unique(np.asarray(picture)).tolist() == [expected]
                assert (picture.convert("RGB").getextrema() == ((0, 0),) * 3) == (answer == VOID)


def test_the_exported_graph_has_void_last_and_says_so(camvid: Path) -> None:
    state, data = state_of(HALF, 12), f"--data {shlex.quote(f'camvid:{camvid}')}"
    network, _, _ = imported(
        {name: t.double() if t.is_floating_point() else t for name, t in state.items()},
        f"--network {HALF} {TOLD} {data} --void-output {VOID}",
    )
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    result = json.loads(succeeds(f"export model {data} --workers 0 --json").out)
    assert result["check"]["label_agreement"] >= 0.999
    info = OnnxModel(Path("model/model.onnx"), torch.device("cpu")).info
    assert (info.void_output, info.outputs, info.classes) == (11, 12, CLASSES)
    model, exported = (
        json.loads(succeeds(f"evaluate {path} {data} --workers 0 --json").out) for path in ("model", "model/model.onnx")
    )
    assert model["iou"] == pytest.approx(exported["iou"], abs=1e-3)


def test_an_imported_network_teaches_like_a_run(camvid: Path) -> None:
    data = f"--data {shlex.quote(f'camvid:{camvid}')}"
    imported(state_of(HALF, 11), f"--network {HALF} {data} --mean 1,2,3 --std 4,5,6 --bgr")
    line = f"distill --preset skd --teacher model --student resnet18-half {data} {UNTRAINED} --out run --json"
    results = json.loads(succeeds(line).out)["results"]
    assert results["teacher"]["network"] == HALF
    config = parse_network(HALF, ['input.order="bgr"', "input.mean=[3, 2, 1]", "input.std=[6, 5, 4]"])
    assert load_model(Path("model/model.safetensors"))[1].network.input == config.input
