"""Published checkpoints fit our networks by name, shape and number: each computes what its own code computes."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor

from segdistill.config import NetworkConfig
from segdistill.import_weights import (
    CIRKD_DEEPLABV3,
    CIRKD_PSPNET,
    TORCHVISION_DEEPLABV3,
    TORCHVISION_FCN,
    renamed,
)
from segdistill.networks import SegNetwork, build_network


def ramp(count: int, step: int, start: int, modulus: int) -> Tensor:
    """Return (n * step + start) % modulus / modulus for n = 0, 1, ...: numbers that need no generator."""
    return (torch.arange(count, dtype=torch.float64) * step + start) % modulus / modulus


def filling(number: int, name: str, like: Tensor) -> Tensor:
    """Return what a checkpoint's tensor, the `number`-th by name, is filled with."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    x = (ramp(like.numel(), 7, 3 * number, 23) - 0.5).reshape(like.shape)
    if name.endswith("running_var"):
        return 1 + x
    if name.endswith(("running_mean", "bias")):
        return 0.1 * x
    return x * 2 / like[0].numel() ** 0.5 if like.dim() == 4 else 1 + 0.2 * x


def published_names(network: SegNetwork, layout: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the network's tensors under the names that they have in the published checkpoint."""
    back = {ours: theirs for theirs, ours in layout.items()}
    starts = sorted(back, key=len, reverse=True)
    named = {}
    for name, tensor in network.state_dict().items():
        start = next(start for start in starts if name.startswith(start))
        named[back[start] + name.removeprefix(start)] = tensor
    return named


def digest(state: Mapping[str, Tensor]) -> str:
    """Return a digest of the names and shapes."""
    lines = [f"{name} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for name, tensor in state.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


class Golden(NamedTuple):
    """What the authors' code, filled so, makes of the input: computed by it in float64."""

    config: NetworkConfig
    layout: Mapping[str, str]
    keys: str
    """Digest of the checkpoint's names and shapes."""
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
        *(cirkd("deeplabv3-resnet18"), CIRKD_DEEPLABV3, "e5c3ac101a43b04e", 13_607_974),
        *(-0.022125523563252498, 0.21645809527797621),
        (0.049168283504267635, 0.0382367292225466, 0.03027396295654145),
        (0.051502219403991495, 0.0656624976360565, -0.020177224131878505),
    ),
    "2022, DeepLabV3-R101": Golden(
        *(cirkd("deeplabv3-resnet101"), CIRKD_DEEPLABV3, "be39cba9e2f4b161", 61_118_950),
        *(-12.710759422976539, 575.2787677916787),
        (5.21489284391106, 18.38541043429102, -85.0904054136585),
        (21.55910078573695, 7.742670919565248, -6.173758946606448),
        rounding=1e-6,
    ),
    "2025, DeepLabV3-R18": Golden(
        *(cirkd("deeplabv3-resnet18", 512), CIRKD_DEEPLABV3, "bb2f90919afb5901", 22_762_918),
        *(-0.032787557563752685, 1.6269033580364654),
        (0.04158345020535972, -0.09095200586638322, -0.2470469821354695),
        (0.1101900319246403, -0.19411498858696538, -0.28847784285529887),
    ),
    "2025, DeepLabV3-R101": Golden(
        *(cirkd("deeplabv3-resnet101", 512), CIRKD_DEEPLABV3, "5556040fb8ead8c6", 79_084_262),
        *(-112.92750397453916, 2397.0707937459947),
        (74.37789981346218, -207.84958085571566, -223.24265393243334),
        (-157.4064413082213, 153.96553063439228, 189.60576443517448),
        rounding=1e-6,
    ),
    "PSPNet-R18": Golden(
        *(cirkd("pspnet-resnet18"), CIRKD_PSPNET, "4b14b27a2454e714", 12_919_334),
        *(-0.009199257632335419, 0.21172104685505783),
        (0.04867660446613842, 0.03259639901399124, 0.03633317821535106),
        (0.030161605210777927, -0.04010278087806813, -0.010367166966914188),
    ),
}


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN.keys())
def test_a_network_of_cirkd_s_computes_what_its_authors_code_computes(golden: Golden) -> None:
    network = build_network(golden.config, 19).double().eval()
    theirs = published_names(network, golden.layout)
    assert digest(theirs) == golden.keys
    filled = {name: filling(number, name, theirs[name]) for number, name in enumerate(sorted(theirs))}
    network.load_state_dict(renamed(filled, golden.layout))
    image = ramp(3 * 97 * 129, 7, 3, 101).view(1, 3, 97, 129) * 4 - 2
    with torch.no_grad():
        logits = network.segment(image).logits
    assert logits.shape == (1, 19, 13, 17)
    assert sum(parameter.numel() for parameter in network.parameters()) == golden.parameters
    close = partial(pytest.approx, rel=1e-9, abs=golden.rounding * golden.largest)
    assert logits.mean().item() == close(golden.mean)
    assert logits.abs().max().item() == close(golden.largest)
    assert logits[0, 0, 0, :3].tolist() == close(golden.first)
    assert logits[0, :3, 6, 8].tolist() == close(golden.centre)


@pytest.mark.parametrize(
    ("theirs", "ours", "layout"),
    [
        ("deeplabv3_resnet50", "deeplabv3-resnet50", TORCHVISION_DEEPLABV3),
        ("fcn_resnet50", "fcn-resnet50", TORCHVISION_FCN),
    ],
)
def test_a_segmentation_network_of_torchvision_s_computes_the_same_here(
    theirs: str, ours: str, layout: Mapping[str, str]
) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.get_model(
        theirs, weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    ).eval()
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    network = build_network(NetworkConfig(network=ours), 5).eval()
    network.load_state_dict(renamed(reference.state_dict(), layout))
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected = reference(image)["out"]
        found = network.segment(image).logits
    larger = torch.nn.functional.interpolate(found, size=(65, 97), mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_tensor_that_the_layout_does_not_know_keeps_its_name() -> None:
    tensors = {"pretrained.bn1.bias": torch.zeros(1), "head.other.bias": torch.ones(1)}
    assert renamed(tensors, CIRKD_PSPNET).keys() == {"backbone.bn1.bias", "head.other.bias"}
