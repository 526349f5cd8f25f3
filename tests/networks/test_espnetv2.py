"""ESPNetv2 is the published one: its tensors' names, what it computes, how large it is, and what it is made of."""

import copy
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.espnetv2 import GOLDEN, as_its_authors_publish, golden_logits
from helpers.golden import fill, names_and_shapes
from helpers.networks import images, make, settled
from helpers.tiny import assert_exported_alike
from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks import (
    SegNetwork,
    build_network,
    count_macs,
    count_parameters,
    load_backbone,
    meta_network,
    resolve_name,
)
from segdistill.networks._eesp import dilations
from segdistill.networks._pyramid_scales import SCALES, Interleaving, PyramidOfScales, scaled_side
from segdistill.networks.espnetv2 import ESPNetv2
from segdistill.types import SegOutput


def published(name: str, classes: int = 20) -> ESPNetv2:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=name, align_corners=True), classes).eval()
    assert isinstance(network, ESPNetv2)
    return network


@pytest.mark.parametrize("scale", GOLDEN)
def test_espnetv2_has_published_tensors_and_outputs(scale: str) -> None:
    golden = GOLDEN[scale]
    network = published(golden.network).double()
    theirs = as_its_authors_publish(network)
    assert names_and_shapes(theirs, in_order=False) == golden.keys
    unused = sum(tensor.numel() for name, tensor in theirs.items() if "_0.eesp.module_act" in name)
    assert count_parameters(network) + unused == golden.parameters
    fill(theirs)
    assert golden_logits(network) == pytest.approx(golden.filled.flat(), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("classes", "size", "macs"),
    [(20, (256, 512), 674.78), (20, (512, 1024), 2699.05), (21, (256, 256), 337.58), (21, (384, 384), 759.52)],
)
def test_espnetv2_costs_what_its_authors_publish(classes: int, size: tuple[int, int], macs: float) -> None:
    network = meta_network(NetworkConfig(network="espnetv2-2.0"), classes)
    assert count_macs(network, size) / 1e6 == pytest.approx(macs, rel=1e-3)
    assert count_parameters(network) / 1e6 == pytest.approx(0.79, abs=5e-3)


def test_scales_have_the_widths_of_the_authors_table() -> None:
    widths = {name: published(name).backbone.channels for name in ("espnetv2-0.5", "espnetv2", "espnetv2-1.5")}
    assert widths == {
        "espnetv2-0.5": (16, 32, 64, 128),
        "espnetv2": (32, 64, 128, 256),
        "espnetv2-1.5": (32, 96, 192, 384),
    }
    assert resolve_name("espnetv2") == "espnetv2"


@pytest.mark.parametrize(("classes", "width"), [(1, 1), (11, 5), (20, 10), (150, 16)])
def test_pyramids_are_half_as_wide_as_there_are_classes(classes: int, width: int) -> None:
    assert published("espnetv2-0.5", classes).bu_dec_l1.stages[0].weight.shape == (width, 1, 3, 3)


# What it is made of


def test_dilations_beyond_the_last_one_become_one() -> None:
    assert [dilations(last) for last in (4, 3, 1)] == [(1, 2, 3, 4), (1, 1, 2, 3), (1, 1, 1, 1)]


def test_scaled_sides_round_up_and_are_five_at_least() -> None:
    sides = [[scaled_side(side, scale) for scale in SCALES] for side in (1, 7, 60, 61)]
    assert sides == [[5, 5, 5, 5, 5], [14, 11, 7, 5, 5], [120, 90, 60, 30, 6], [122, 92, 61, 31, 7]]
    assert all(scaled_side(side, Fraction(1, 10)) == max(-(-side // 10), 5) for side in range(1, 500))


def test_channels_of_maps_take_turns() -> None:
    maps = torch.tensor([10.0, 11, 20, 21, 30, 31]).view(1, 6, 1, 1)
    assert Interleaving(3)(maps).flatten().tolist() == [10, 20, 30, 11, 21, 31]


def slow_pyramid(pyramid: PyramidOfScales, x: Tensor) -> Tensor:
    """Compute the merged map of a pyramid scale by scale, average by average."""
    reduced = pyramid.projection_layer(x)
    height, width = reduced.shape[2:]
    seen = []
    for factor, convolution in zip((2, 1.5, 1, 0.5, 0.1), pyramid.stages, strict=True):
        size = (max(5, -int(-height * factor // 1)), max(5, -int(-width * factor // 1)))
        if factor > 1:
            enlarged = F.interpolate(reduced, size, mode="bilinear", align_corners=True)
            seen.append(averaged(convolution(enlarged), height, width))
        elif factor == 1:
            seen.append(convolution(reduced))
        else:
            smaller = convolution(averaged(reduced, *size))
            seen.append(F.interpolate(smaller, (height, width), mode="bilinear", align_corners=True))
    out = pyramid.merge_layer(torch.cat(seen, dim=1))
    if pyramid.br is not None:
        out = pyramid.br(out)
    assert isinstance(out, Tensor)
    return out


def averaged(x: Tensor, height: int, width: int) -> Tensor:
    rows = [(i * x.shape[2] // height, -(-(i + 1) * x.shape[2] // height)) for i in range(height)]
    columns = [(i * x.shape[3] // width, -(-(i + 1) * x.shape[3] // width)) for i in range(width)]
    means = [[x[:, :, a:b, c:d].mean(dim=(2, 3)) for c, d in columns] for a, b in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in means], dim=-2)


@pytest.mark.parametrize("size", [(1, 2), (9, 12), (13, 60)])
@pytest.mark.parametrize("is_last", [False, True])
def test_pyramid_is_its_slow_version_in_either_form(size: tuple[int, int], is_last: bool) -> None:
    pyramid = PyramidOfScales(6, 3, 4, is_last=is_last).double().eval()
    x = torch.randn(2, 6, *size).double()
    with torch.no_grad():
        expected = slow_pyramid(pyramid, x)
        torch.testing.assert_close(pyramid(x, align_corners=True), expected, rtol=0, atol=1e-12)
        pyramid.prepare_for_export()
        torch.testing.assert_close(pyramid(x, align_corners=True), expected, rtol=0, atol=1e-12)


def test_espnetv2_for_export_computes_the_same() -> None:
    network = settled(make("espnetv2-0.5", align_corners=True)).double()
    shipped, image = copy.deepcopy(network), images(2, 3, 45, 67).double()
    shipped.prepare_for_export()
    assert not any(isinstance(module, nn.PReLU) for module in shipped.modules())
    with torch.no_grad():
        expected, found = network(image).logits, shipped(image).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 * expected.abs().max())


class PyramidAlone(SegNetwork):
    """The one part of ESPNetv2 that other networks do not have, on the image."""

    def __init__(self) -> None:
        super().__init__(num_classes=4)
        self.pyramid = PyramidOfScales(3, 3, 4, is_last=True)

    def prepare_for_export(self) -> None:
        super().prepare_for_export()
        self.pyramid.prepare_for_export()

    def segment(self, image: Tensor) -> SegOutput:
        return SegOutput(self.pyramid(image, align_corners=True), (image,), None)


@pytest.mark.slow
def test_exported_pyramid_is_right_at_other_sizes(tmp_path: Path) -> None:
    network = settled(PyramidAlone()).eval()
    assert_exported_alike(network, tmp_path, [(1, 64, 64), (3, 40, 57), (2, 1, 7), (1, 111, 53)], most=1e-4)


# ImageNet weights


def test_classifier_of_its_authors_fills_the_encoder(tmp_path: Path) -> None:
    source, network = published("espnetv2-0.5"), published("espnetv2-0.5", 5)
    classifier = {"level2_0.eesp.module_act.weight": torch.ones(16), "classifier.bias": torch.ones(1000)}
    classifier |= {name: 2 + tensor for name, tensor in source.backbone.state_dict().items()}
    torch.save(classifier | {"level5.0.act.weight": torch.ones(256)}, tmp_path / "imagenet.pth")
    load_backbone(network, pretrained=False, weights_file=tmp_path / "imagenet.pth")
    assert all(torch.equal(tensor, classifier[name]) for name, tensor in network.backbone.state_dict().items())
    with pytest.raises(ModelError, match=r"does not hold the tensors of espnetv2 of scale 1\.0"):
        load_backbone(published("espnetv2"), pretrained=False, weights_file=tmp_path / "imagenet.pth")
    with pytest.raises(UsageError, match=r"no ImageNet weights for espnetv2 of scale 0\.5"):
        load_backbone(network, pretrained=True, weights_file=None)
