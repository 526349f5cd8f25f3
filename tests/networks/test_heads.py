"""The heads of PSPNet and DeepLab: feature maps, grids, rates and precision."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks import CLASSES, images, make
from segdistill.networks._grids import BINS, averaging_matrix, grid_averages
from segdistill.networks.deeplabv2 import RATES, DeepLabV2
from segdistill.networks.pspnet import PSPNet, PyramidPooling

# PSPNet


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize(("name", "width"), [("pspnet-resnet18", 64), ("pspnet-resnet18-half", 32)])
def test_pspnet_returns_four_stages_and_the_pyramid(name: str, width: int, stride: int) -> None:
    network = make(name, output_stride=stride).train()
    logits, features, aux = network(images(2, 3, 65, 97))
    assert [feature.shape[1] for feature in features] == [width, 2 * width, 4 * width, 8 * width, 2 * width]
    assert [65 // feature.shape[2] for feature in features[:2]] == [3, 7]  # ceil(65 / 4) = 17 rows, ceil(65 / 8) = 9
    assert logits.shape == (2, CLASSES, -(-65 // stride), -(-97 // stride))
    assert aux is not None
    assert aux.shape == (2, CLASSES, -(-65 // min(stride, 16)), -(-97 // min(stride, 16)))


def test_the_last_feature_feeds_the_classifier_before_dropout() -> None:
    network = make("pspnet-resnet18-half", dropout=0.5)
    assert isinstance(network, PSPNet)
    logits, features, _ = network(images(1, 3, 33, 47))
    torch.testing.assert_close(network.classifier(features[-1]), logits)
    dropped, features, _ = network.train()(images(2, 3, 33, 47))
    assert not torch.allclose(network.classifier(features[-1]), dropped)


def test_a_network_without_an_auxiliary_head_has_none() -> None:
    network = make("pspnet-resnet18-half", aux=False).train()
    assert network(images(2, 3, 33, 47)).aux is None
    assert not [name for name in network.state_dict() if name.startswith("auxiliary")]


def test_an_image_of_one_pixel_is_enough() -> None:
    assert make("pspnet-resnet18-half")(images(1, 3, 1, 1)).logits.shape == (1, CLASSES, 1, 1)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 7), (6, 6), (13, 11), (23, 30), (45, 60), (97, 3), (64, 129)])
def test_grid_averages_equal_adaptive_average_pooling(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for bins, average in zip(BINS, grid_averages(x), strict=True):
        torch.testing.assert_close(average, F.adaptive_avg_pool2d(x, bins), rtol=0, atol=2e-6)


def test_four_positions_in_three_bins_are_averaged_overlapping() -> None:
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
    assert torch.equal(averaging_matrix(4, 3, torch.zeros(0)), expected)


def test_pyramid_averages_in_float32_and_keeps_the_memory_format() -> None:
    pyramid = PyramidPooling(8, 2).eval().to(memory_format=torch.channels_last)
    x = images(2, 8, 45, 60).bfloat16().to(memory_format=torch.channels_last)
    seen: list[Tensor] = []
    for module in (*pyramid.branches, pyramid.fuse):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        out = pyramid(x)
    *grids, fused = seen
    assert out.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(grids, grid_averages(x.float()), strict=True))
    assert fused.is_contiguous(memory_format=torch.channels_last)


# DeepLab


def test_deeplab_v2_adds_up_classifiers_of_four_rates() -> None:
    network = make("deeplabv2-resnet18-half")
    assert isinstance(network, DeepLabV2)
    assert RATES == (6, 12, 18, 24)
    with torch.no_grad():
        logits, features, _ = network(images(1, 3, 65, 97))
        parts = [
            F.conv2d(features[-1], one.get_parameter("weight"), one.get_parameter("bias"), padding=rate, dilation=rate)
            for one, rate in zip(network.classifiers, RATES, strict=True)
        ]
    torch.testing.assert_close(logits, sum(parts[1:], parts[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_aspp_rates_scale_with_the_output_stride(stride: int, rates: list[int]) -> None:
    for name in ("deeplabv3-resnet18-half", "deeplabv3plus-resnet18-half"):
        aspp = make(name, output_stride=stride).get_submodule("aspp")
        wide = [m.dilation[0] for m in aspp.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
        assert wide == rates, name


def test_without_aspp_a_position_sees_itself_and_the_mean() -> None:
    aspp = make("deeplabv3-resnet18-half", aspp=False).get_submodule("aspp")
    x = torch.randn(1, 256, 5, 7, generator=torch.Generator().manual_seed(0))
    moved = x[..., [1, 0, 2, 3, 4, 5, 6]]
    with torch.no_grad():
        torch.testing.assert_close(aspp(moved), aspp(x)[..., [1, 0, 2, 3, 4, 5, 6]])
        assert not torch.allclose(aspp(x * torch.tensor([1.0] * 6 + [2.0]))[..., 0], aspp(x)[..., 0])


def test_deeplab_v3_plus_predicts_at_stride_4() -> None:
    output = make("deeplabv3plus-resnet18-half", output_stride=16)(images(1, 3, 65, 97))
    assert [feature.shape[2] for feature in output.features] == [17, 9, 5, 5, 17]
    assert output.logits.shape[-2:] == (17, 25)
