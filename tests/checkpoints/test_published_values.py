"""Checkpoints of other authors compute here what they compute in their own code."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor

from helpers.golden import det, fill, names_and_shapes
from helpers.imported import imported
from helpers.published_networks import GOLDEN as AUTHORS
from segdistill.checkpoints.key_maps import CIRKD_DEEPLABV3, CIRKD_PSPNET, KeyMap
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.networks import SegNetwork, build_network

pytestmark = pytest.mark.usefixtures("elsewhere")


def published_names(network: SegNetwork, layout: KeyMap) -> dict[str, Tensor]:
    """Return the network's tensors under the names that they have in the published checkpoint."""
    back = {ours: theirs for theirs, ours in layout.names.items()}
    starts = sorted(back, key=len, reverse=True)
    named = {}
    for name, tensor in network.state_dict().items():
        start = next(start for start in starts if name.startswith(start))
        named[back[start] + name.removeprefix(start)] = tensor
    return named


class Golden(NamedTuple):
    """What the authors' code, filled so, makes of the input: computed by it in float64."""

    config: NetworkConfig
    layout: KeyMap
    keys: str
    """Digest of the checkpoint's sorted names and shapes."""
    parameters: int
    mean: float
    largest: float
    """By magnitude, of all logits."""
    first: tuple[float, float, float]
    """Of class 0, in the first row."""
    center: tuple[float, float, float]
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
        logits = network.segment(det((1, 3, 97, 129), 7, 3, 101)).logits  # below the normalization
    assert logits.shape == (1, 19, 13, 17)
    assert sum(parameter.numel() for parameter in network.parameters()) == golden.parameters
    close = partial(pytest.approx, rel=1e-9, abs=golden.rounding * golden.largest)
    assert logits.mean().item() == close(golden.mean)
    assert logits.abs().max().item() == close(golden.largest)
    assert logits[0, 0, 0, :3].tolist() == close(golden.first)
    assert logits[0, :3, 6, 8].tolist() == close(golden.center)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in GOLDEN if "R101" in name])
def test_cirkd_network_computes_as_the_published_code(name: str) -> None:
    network, theirs = published(GOLDEN[name])
    assert names_and_shapes(theirs, in_order=False) == GOLDEN[name].keys
    check(GOLDEN[name], network)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "R18" in name])
def test_imported_cirkd_checkpoint_computes_the_same(name: str) -> None:
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
def test_imported_espnet_checkpoint_computes_the_same(name: str, images: InputConfig) -> None:
    golden = AUTHORS[name]
    theirs = build_network(NetworkConfig(network=name), golden.classes).double().state_dict()
    fill(theirs)
    network, info, said = imported(theirs, f"--network {name} --void-output {golden.classes - 1}")
    with torch.no_grad():
        logits = network.segment(det((1, 3, 96, 128), 7, 3, 101)).logits
    assert logits.shape == golden.shape
    found = [
        logits.mean().item(),
        *logits[0, : len(golden.center), golden.shape[2] // 2, golden.shape[3] // 2].tolist(),
    ]
    assert found == pytest.approx([golden.mean, *golden.center], rel=1e-9, abs=0)
    assert (info.outputs, len(info.classes), info.void_output) == (
        golden.classes,
        golden.classes - 1,
        golden.classes - 1,
    )
    assert info.network.input == images
    assert "warning" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), [("deeplabv3_resnet50", "deeplabv3-resnet50"), ("fcn_resnet50", "fcn50")])
def test_imported_torchvision_segmentation_net_computes_the_same(theirs: str, ours: str) -> None:
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
