"""Every network keeps one contract and has its published size; backbones are torchvision's; graphs fit any image."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from tiny import assert_exported_alike
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from segdistill.config import InputConfig, NetworkConfig, components, find
from segdistill.errors import ModelError, UsageError
from segdistill.networks import (
    Deployed,
    SegNetwork,
    _hrnet,
    blank_network,
    build_network,
    load_backbone,
    network_names,
    resolve,
    resolve_name,
)
from segdistill.networks._base import Backbone, count_macs, count_parameters
from segdistill.networks._mobilenet import V2_STEPS, MobileNetV1, MobileNetV2
from segdistill.networks._resnet import ResNet
from segdistill.networks.deeplabv2 import RATES, DeepLabV2
from segdistill.networks.pspnet import BINS, PSPNet, PyramidPooling, averaging_matrix, grid_averages

CLASSES = 5


def light() -> list[str]:
    """Return one network per architecture: a half ResNet-18 where there is one, else the first, which is small."""
    names: dict[str, str] = {}
    for name in network_names():
        architecture = name.partition("-")[0]
        if architecture not in names or name.endswith("-half"):
            names[architecture] = name
    return list(names.values())


def make(name: str, seed: int = 0, in_channels: int = 3, **options: object) -> SegNetwork:
    torch.manual_seed(seed)
    config = NetworkConfig.model_validate({"network": name, **options})
    return build_network(config, CLASSES, in_channels).eval()


def settled(network: SegNetwork) -> SegNetwork:
    """Return the network with the statistics of some images in its batch norms: without, deep ones say nothing."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images(4, network.mean.shape[1], 64, 64, seed=7))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def strides(name: str) -> tuple[int, ...]:
    """Return the output strides that a network can have."""
    module = import_module(find("networks", name.partition("-")[0], "architecture"))
    found: tuple[int, ...] = module.STRIDES
    return found


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 255


def backbone(network: SegNetwork) -> Backbone:
    assert network.backbone is not None
    return network.backbone


# The contract: shapes for every network that there is, numbers for one of each architecture


@pytest.mark.parametrize("name", network_names())
def test_every_network_segments_an_image_of_odd_size(name: str) -> None:
    with FakeTensorMode():  # shapes, and no numbers
        logits, features, _ = make(name)(torch.zeros(2, 3, 33, 47))
    assert logits.shape[:2] == (2, CLASSES)
    # Some classifiers enlarge what they read to the image's size.
    assert tuple(logits.shape[-2:]) in ((33, 47), tuple(features[-1].shape[-2:]))
    assert tuple(logits.shape[-2:]) >= tuple(-(-side // strides(name)[0]) for side in (33, 47))


@pytest.mark.parametrize(("name", "stride"), [(name, stride) for name in light() for stride in strides(name)])
def test_a_network_takes_any_size_at_each_of_its_strides(name: str, stride: int) -> None:
    with FakeTensorMode():
        deployed = Deployed(make(name, output_stride=stride))
        for size in ((64, 96), (20, 7), (1, 1)):
            assert deployed(torch.zeros(2, 3, *size)).shape == (2, CLASSES, *size)


@pytest.fixture(scope="module", params=light())
def named(request: pytest.FixtureRequest) -> tuple[str, SegNetwork]:
    return request.param, settled(make(request.param))


@pytest.mark.parametrize("size", [(33, 47), (64, 96), (20, 7)])
def test_logits_lie_on_the_grid_of_the_features_that_the_classifier_reads_or_on_the_images(
    named: tuple[str, SegNetwork], size: tuple[int, int]
) -> None:
    network = named[1].eval()
    with torch.no_grad():
        logits, features, aux = network(images(2, 3, *size))
    assert logits.shape[:2] == (2, CLASSES)
    assert logits.isfinite().all()
    assert logits.shape[-2:] in (features[-1].shape[-2:], size)
    assert all(feature.ndim == 4 and len(feature) == 2 for feature in features)
    assert aux is None


def test_every_parameter_gets_a_finite_gradient_and_the_auxiliary_head_speaks_in_training_only(
    named: tuple[str, SegNetwork],
) -> None:
    network = named[1].train()
    logits, _, aux = network(images(2, 3, 33, 47))
    loss = logits.square().mean()
    if aux is not None:
        assert aux.shape[:2] == (2, CLASSES)
        loss = loss + aux.square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []


def test_the_output_for_an_image_does_not_depend_on_the_others_in_the_batch(named: tuple[str, SegNetwork]) -> None:
    network, batch = named[1].eval(), images(3, 3, 33, 47)
    with torch.no_grad():
        together, alone = network(batch).logits[1:2], network(batch[1:2]).logits
    # Attention over all positions sums thousands of numbers in another order.
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * alone.abs().max().item())


def test_the_seed_decides_the_weights_and_saved_weights_give_the_same_outputs(named: tuple[str, SegNetwork]) -> None:
    name, network = named[0], named[1].eval()
    other = make(name, seed=1)
    first = next(iter(network.parameters()))
    assert not torch.equal(next(iter(other.parameters())), first)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(network.state_dict())))
    with torch.no_grad():
        assert torch.equal(other(images(1, 3, 33, 47)).logits, network(images(1, 3, 33, 47)).logits)
    assert torch.equal(next(iter(make(name).parameters())), first)


def test_the_layout_in_memory_changes_nothing_and_lasts(named: tuple[str, SegNetwork]) -> None:
    network, image = named[1].eval(), images(2, 3, 65, 97)
    with torch.no_grad():
        expected = network(image)
        network.to(memory_format=torch.channels_last)
        found = network(image.to(memory_format=torch.channels_last))
        network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5 * expected.logits.abs().max().item())
    assert found.features[-1].is_contiguous(memory_format=torch.channels_last)


def test_a_fourth_channel_is_seen_as_it_is(named: tuple[str, SegNetwork]) -> None:
    network, batch = settled(make(named[0], in_channels=4)), images(1, 4, 33, 47)
    other = torch.cat([batch[:, :3], 255 - batch[:, 3:]], dim=1)
    with torch.no_grad():
        assert not torch.allclose(network(other).logits, network(batch).logits)
    assert (network.mean[0, 3].item(), network.std[0, 3].item()) == (0, 1)


def test_a_network_sees_images_as_it_wants_them(named: tuple[str, SegNetwork]) -> None:
    network, image = named[1].eval(), images(2, 3, 33, 47)
    with torch.no_grad():
        before = network(image).logits
        network.expect(InputConfig(mean=(3, 2, 1), std=(30, 20, 10)), align_corners=False)
        expected = network(image.flip(1)).logits
        network.expect(InputConfig(mean=(1, 2, 3), std=(0.1, 0.2, 0.3), divide=100, order="bgr"), align_corners=False)
        found = network(image).logits
        network.expect(InputConfig(), align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert not torch.allclose(before, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["pspnet-resnet18-half", "mobilenetv2", "largefov-mobilenetv1"])
def test_a_network_on_bgr_with_its_first_layer_turned_round_is_the_one_on_rgb(name: str) -> None:
    straight, turned = settled(make(name)), make(name, input={"order": "bgr", "divide": 255})
    weights = straight.state_dict()
    first = next(name for name, parameter in straight.named_parameters() if parameter.shape[1:2] == (3,))
    turned.load_state_dict(weights | {first: weights[first].flip(1) * 255})
    image = images(2, 3, 33, 47)
    with torch.no_grad():
        expected, found = Deployed(straight)(image), Deployed(turned)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    "name", [name if name.startswith("pspnet") else pytest.param(name, marks=pytest.mark.slow) for name in light()]
)
def test_the_exported_graph_gives_the_same_labels_at_sizes_it_was_not_traced_at(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_hrnet, "MODULES", (1, 1, 1))  # of 1, 4 and 3 alike ones, which take a minute to export
    network = settled(make(name, align_corners=True, input={"order": "bgr", "divide": 2}))
    shapes = [(1, 64, 64), (3, 72, 96), (2, 33, 47)]
    assert_exported_alike(network, tmp_path, shapes, most=1e-3)  # a random OCRNet's softmax is sharp


# Published sizes


@pytest.mark.parametrize(
    ("network", "classes", "parameters"),
    [
        # Liu et al. 2019 and CIRKD, whose stem is the deep one
        ({"network": "pspnet-resnet101", "stem": "deep"}, 19, 65_707_475),  # 65.707 M
        ({"network": "pspnet-resnet18", "stem": "deep"}, 19, 12_770_515),  # 12.771 M
        ({"network": "deeplabv3-resnet101", "stem": "deep"}, 19, 58_754_259),  # 58.754 M
        ({"network": "deeplabv3-resnet18", "stem": "deep"}, 19, 13_459_155),  # 13.459 M
        # Liu et al. 2019: 8.301 M, with 1088 in a convolution that torchvision's MobileNetV2 does not have
        ({"network": "mobilenetv2plus"}, 19, 8_301_113 - 1088),
        # He et al. 2019: 2.11 M, 2.12 M with the 60 classes of Pascal Context; 26.82 M for the teacher
        ({"network": "mobilenetv2"}, 21, 2_113_557),
        ({"network": "mobilenetv2"}, 60, 2_123_580),
        ({"network": "deeplabv3plus-resnet50", "stem": "deep"}, 21, 26_819_909),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    network: dict[str, Any], classes: int, parameters: int
) -> None:
    with FakeTensorMode():
        assert count_parameters(build_network(NetworkConfig(**network), classes)) == parameters


@pytest.mark.parametrize(
    ("network", "classes", "size", "macs", "tolerance"),
    [
        # He et al. 2019 count FLOPs, at 513x513
        ({"network": "mobilenetv2"}, 21, (513, 513), 5.50e9 / 2, 0.005),
        ({"network": "mobilenetv2", "output_stride": 32}, 21, (513, 513), 3.23e9 / 2, 0.005),
        ({"network": "mobilenetv2", "output_stride": 8}, 21, (513, 513), 17.70e9 / 2, 0.005),
        # Liu et al. 2019 count multiply-adds, at 512x1024
        ({"network": "mobilenetv2plus"}, 19, (512, 1024), 86.14e9, 0.005),
        # HRNet's authors count FLOPs, at 1024x2048
        ({"network": "largefov-mobilenetv1"}, 19, (1024, 2048), 240.2e9 / 2, 0.005),
    ],
)
def test_networks_cost_what_is_published(
    network: dict[str, Any], classes: int, size: tuple[int, int], macs: float, tolerance: float
) -> None:
    assert count_macs(blank_network(NetworkConfig(**network), classes), size) == pytest.approx(macs, rel=tolerance)


@pytest.mark.parametrize("name", ["pspnet-resnet18-half", "espnet-c"])
def test_a_network_costs_as_much_with_its_numbers_as_without(name: str) -> None:
    config = NetworkConfig(network=name)
    built = make(name)
    before = {key: tensor.clone() for key, tensor in built.state_dict().items()}
    assert count_macs(built, (33, 47)) == count_macs(blank_network(config, CLASSES), (33, 47)) > 1e6
    assert all(torch.equal(tensor, before[key]) for key, tensor in built.state_dict().items())


# Options


def test_a_network_without_choices_is_as_published() -> None:
    assert resolve(NetworkConfig(network="deeplabv3plus50")) == NetworkConfig(
        network="deeplabv3plus-resnet50", output_stride=16, align_corners=False, input=InputConfig()
    )
    assert resolve(NetworkConfig(network="mobilenetv2", output_stride=8)).output_stride == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"network": "mobilenetv2", "stem": "deep"}, "stem: it has none to choose"),
        ({"network": "mobilenetv2plus", "output_stride": 16}, "output_stride: it has 8, not 16"),
        ({"network": "pspnet-resnet18", "output_stride": 4}, "output_stride: it has 8 or 16 or 32, not 4"),
        ({"network": "deeplabv2-resnet50", "dropout": 0.5}, "dropout: it has none to choose"),
        ({"network": "fcn-resnet18", "aspp": False, "head_width": 9}, "aspp: it has none to choose; head_width: it"),
    ],
)
def test_an_option_that_a_network_does_not_have_is_refused_with_what_it_has(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=rf"^{options['network']} cannot be built so: {said}"):
        build_network(NetworkConfig(**options), CLASSES)


@pytest.mark.parametrize(
    ("name", "rates"), [("largefov-mobilenetv1", {0.5}), ("ocrnet-hrnetw18", {0.05}), ("enet", {0.01, 0.1})]
)
def test_dropout_is_that_of_the_publication_unless_it_is_chosen(name: str, rates: set[float]) -> None:
    def drawn(**options: Any) -> set[float]:
        with FakeTensorMode():
            modules = build_network(NetworkConfig(network=name, **options), CLASSES).modules()
            return {module.p for module in modules if isinstance(module, nn.Dropout | nn.Dropout2d) and module.p}

    assert drawn() == rates
    assert 0.25 in drawn(dropout=0.25)


@pytest.mark.parametrize("architecture", components("networks"))
def test_every_option_changes_the_network(architecture: str) -> None:
    module = import_module(find("networks", architecture, "architecture"))
    name = next(name for name in network_names() if name.partition("-")[0] == architecture)
    other = {"stem": "deep", "dilation": "early", "stem_pool": "ceil", "dropout": 0.7, "head_width": 24, "aspp": False}
    other |= {"head_slope": 0.01, "skip": "raw", "conv_last": True}
    with FakeTensorMode():
        plain = str(build_network(NetworkConfig(network=name), CLASSES))
        for option in module.OPTIONS:
            config = NetworkConfig.model_validate({"network": name, option: other[option]})
            assert str(build_network(config, CLASSES)) != plain, option


@pytest.mark.parametrize(("size", "floor", "ceil"), [((64, 96), (8, 12), (9, 13)), ((65, 97), (9, 13), (9, 13))])
def test_pooling_rounds_the_half_of_an_even_size_as_chosen(
    size: tuple[int, int], floor: tuple[int, int], ceil: tuple[int, int]
) -> None:
    for rounded, expected in (("floor", floor), ("ceil", ceil)):
        network = make("pspnet-resnet18-half", stem_pool=rounded)
        assert network(images(1, 3, *size)).logits.shape[-2:] == expected


def test_the_pyramid_leaks_as_chosen_and_nothing_else_does() -> None:
    slopes = [
        m.negative_slope for m in make("pspnet-resnet18-half", head_slope=0.01).modules() if isinstance(m, nn.LeakyReLU)
    ]
    assert slopes == [0.01] * 5
    assert not any(
        isinstance(module, nn.LeakyReLU) for module in make("pspnet-resnet18-half", head_slope=0.0).modules()
    )


def test_the_width_of_the_head_is_that_of_the_last_features() -> None:
    for name in ("pspnet-resnet18-half", "deeplabv3-resnet18-half", "deeplabv3plus-resnet18-half", "mobilenetv2"):
        assert make(name, head_width=24)(images(1, 3, 33, 47)).features[-1].shape[1] == 24


def test_corners_are_aligned_where_they_were_in_training() -> None:
    for name in ("pspnet-resnet18-half", "mobilenetv2"):
        network, image = make(name, align_corners=True), images(2, 3, 33, 47)
        with torch.no_grad():
            output, deployed = network(image), Deployed(network)(image)
        assert torch.equal(deployed, F.interpolate(output.logits, (33, 47), mode="bilinear", align_corners=True))
        assert torch.equal(deployed[..., 0, 0], output.logits[..., 0, 0])
        assert not torch.equal(deployed, Deployed(make(name))(image))


# Names


@pytest.mark.parametrize(
    ("typed", "default", "meant"),
    [
        ("pspnet-resnet18-half", "", "pspnet-resnet18-half"),
        ("pspnet101", "", "pspnet-resnet101"),
        ("pspnet18-half", "", "pspnet-resnet18-half"),
        ("resnet18", "pspnet", "pspnet-resnet18"),
        ("resnet50", "pspnet-resnet101", "pspnet-resnet50"),
        ("resnet50", "deeplabv3plus", "deeplabv3plus-resnet50"),
        ("resnet18", "", "pspnet-resnet18"),
        ("resnet18", "largefov-mobilenetv1", "pspnet-resnet18"),
        ("mobilenetv1", "", "largefov-mobilenetv1"),
        ("mobilenetv2", "pspnet", "mobilenetv2"),
        ("mobilenetv2-1.4", "", "mobilenetv2-1.4"),
        ("stdc1", "pspnet", "stdcseg-stdc1"),
    ],
)
def test_short_names_mean_one_network(typed: str, default: str, meant: str) -> None:
    assert resolve_name(typed, default) == meant


@pytest.mark.parametrize(
    ("typed", "default", "suggested"),
    [
        ("pspnet110", "pspnet", "pspnet101"),
        ("resnet19", "pspnet", "resnet18"),
        ("pspnet-resnet-101", "", "pspnet-resnet101"),
        ("resnet181", "", "resnet18"),
        ("deeplabv3", "", "deeplabv350"),
        ("mobilenetv3", "", "mobilenetv2"),
        ("s", "", "enet"),
        ("1.4", "mobilenetv2", "mobilenetv2-1.4"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed: str, default: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown network '{typed}'[^?]* {suggested}\b"):
        resolve_name(typed, default)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as Python knows what cannot be imported
    with pytest.raises(UsageError, match="timm:mobilenetv4_conv_small needs timm") as caught:
        resolve_name("timm:mobilenetv4_conv_small", "pspnet")
    assert "segdistill[timm]" in caught.value.fix
    assert caught.value.exit_code == 2


# Backbones


def torchvision_network(name: str, dilate: tuple[bool, bool, bool] | None = None) -> nn.Module:
    """With random batch-norm statistics too, so that none can be mistaken for another."""
    torch.manual_seed(0)
    options = {} if dilate is None else {"replace_stride_with_dilation": dilate}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return network.eval()


def without_classifier(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


@pytest.mark.parametrize(
    ("name", "stride", "dilate"),
    [
        ("resnet18", 32, (False, False, False)),
        ("resnet34", 32, (False, False, False)),
        ("resnet50", 32, (False, False, False)),
        ("resnet101", 32, (False, False, False)),
        ("resnet50", 16, (False, False, True)),
        ("resnet50", 8, (False, True, True)),
    ],
)
def test_resnet_with_torchvisions_weights_is_torchvisions(
    name: str, stride: int, dilate: tuple[bool, bool, bool]
) -> None:
    theirs, ours = torchvision_network(name, dilate), ResNet(name, stride).eval()
    ours.load_state_dict(without_classifier(theirs))
    image = images(1, 3, 65, 97) / 255
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(image)  # all but pooling and classifier
        stages = ours(image)
    assert torch.equal(stages[-1], expected)
    assert tuple(stage.shape[1] for stage in stages) == ours.channels


def test_a_fresh_resnet_is_drawn_as_torchvision_draws_its_own() -> None:
    torch.manual_seed(0)
    weight = ResNet("resnet18", 32).layer4[0].get_parameter("conv1.weight")  # 256 channels to 512
    # Kaiming, fan out: the variance is 2 / (512 * 9); 1.2 million draws tell it to 0.1 %.
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=5e-3)
    assert weight.mean().item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("stride", "early", "dilations"),
    [
        (8, False, [1, 2, 2, 2, 2, 4, 4, 4]),
        (16, False, [1, 1, 1, 1, 1, 2, 2, 2]),
        (32, False, [1, 1, 1, 1, 1, 1, 1, 1]),
        (8, True, [2, 2, 2, 2, 4, 4, 4, 4]),
        (16, True, [1, 1, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_a_stage_dilates_late_or_early(stride: int, early: bool, dilations: list[int]) -> None:
    network = ResNet("resnet18", stride, early_dilation=early)
    stages = [network.layer3, network.layer4]
    convolutions = [c for stage in stages for c in stage.modules() if isinstance(c, nn.Conv2d) and c.kernel_size[0] > 1]
    assert [c.dilation[0] for c in convolutions] == dilations


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (lambda: ResNet("resnet18", 32), lambda: ResNet("resnet18", 8)),
        (lambda: ResNet("resnet50", 32, deep_stem=True), lambda: ResNet("resnet50", 8, deep_stem=True)),
        (lambda: MobileNetV1(32), lambda: MobileNetV1(8)),
        (lambda: MobileNetV2(V2_STEPS[32], 1.4), lambda: MobileNetV2(V2_STEPS[8], 1.4)),
    ],
    ids=["resnet18", "resnet50", "mobilenetv1", "mobilenetv2"],
)
def test_a_dilated_backbone_computes_the_strided_one_on_a_finer_grid(
    coarse: Callable[[], Backbone], fine: Callable[[], Backbone]
) -> None:
    torch.manual_seed(0)
    strided, dilated = coarse().eval(), fine().eval()
    dilated.load_state_dict(strided.state_dict())
    image = torch.rand(1, 3, 129, 129)
    with torch.no_grad():
        expected, found = strided(image)[-1], dilated(image)[-1][..., ::4, ::4]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_strides_of_a_backbone_s_maps_rise_to_its_output_stride(stride: int) -> None:
    for backbone, rising in (
        (ResNet("resnet18-half", stride), (4, 8, 16, 32)),
        (MobileNetV1(stride), (4, 8, 16, 32)),
        (MobileNetV2(V2_STEPS[stride]), (2, 4, 8, 16, 16, 32, 32)),
    ):
        maps = backbone.eval()(images(1, 3, 65, 97))
        assert [feature.shape[2] for feature in maps] == [-(-65 // min(step, stride)) for step in rising]
        assert tuple(feature.shape[1] for feature in maps) == backbone.channels


def test_a_deep_stem_is_three_convolutions_called_as_in_published_checkpoints() -> None:
    state = ResNet("resnet18", 8, deep_stem=True).state_dict()
    shapes = [tuple(state[f"conv{i}.weight"].shape) for i in (1, 2, 3)]
    assert shapes == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert state["layer1.0.conv1.weight"].shape == (64, 128, 3, 3)
    with pytest.raises(UsageError, match="no ImageNet weights for resnet18 with a deep stem"):
        load_backbone(make("pspnet-resnet18", stem="deep"), pretrained=True, weights_file=None)


def test_mobilenetv2_with_torchvisions_weights_is_torchvisions(tmp_path: Path) -> None:
    theirs = torchvision_network("mobilenet_v2")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    network = make("mobilenetv2", output_stride=32)
    load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    image = images(1, 3, 65, 97) / 255
    with torch.no_grad():
        expected = theirs.get_submodule("features")[:18](image)  # type: ignore[index]  # a Sequential
        assert torch.equal(backbone(network)(image)[-1], expected)


@pytest.mark.parametrize("width", [1.3, 1.4])
def test_a_wider_mobilenetv2_has_torchvisions_channels(width: float) -> None:
    theirs = torchvision.models.mobilenet_v2(weights=None, width_mult=width).state_dict()
    ours = MobileNetV2(V2_STEPS[16], width).state_dict()
    assert {name: tensor.shape for name, tensor in theirs.items() if not name.startswith(MobileNetV2.beyond)} == {
        name: tensor.shape for name, tensor in ours.items()
    }


# Weights for the backbone


def test_published_weights_fill_the_backbone_from_either_kind_of_file(tmp_path: Path) -> None:
    theirs = torchvision_network("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        network = make("pspnet-resnet18")
        load_backbone(network, pretrained=False, weights_file=file)
        torch.testing.assert_close(backbone(network).state_dict(), without_classifier(theirs), rtol=0, atol=0)


def test_weights_saved_before_batches_were_counted_are_complete(tmp_path: Path) -> None:
    old = {k: v for k, v in torchvision_network("resnet18").state_dict().items() if "num_batches" not in k}
    torch.save(old, tmp_path / "w.pth")
    network = make("pspnet-resnet18")
    load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    assert torch.equal(backbone(network).state_dict()["bn1.running_var"], old["bn1.running_var"])


def test_a_network_that_sees_more_than_rgb_keeps_its_own_weights_for_the_rest(tmp_path: Path) -> None:
    theirs = torchvision_network("resnet18").state_dict()
    torch.save(theirs, tmp_path / "w.pth")
    network = make("pspnet-resnet18", in_channels=4)
    fourth = backbone(network).state_dict()["conv1.weight"][:, 3:].clone()
    load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    assert torch.equal(backbone(network).state_dict()["conv1.weight"], torch.cat([theirs["conv1.weight"], fourth], 1))
    assert network(images(1, 4, 33, 47)).logits.isfinite().all()


def test_without_a_wish_for_weights_nothing_is_loaded() -> None:
    network = make("pspnet-resnet18-half")
    load_backbone(network, pretrained=False, weights_file=None)
    assert torch.equal(next(network.parameters()), next(make("pspnet-resnet18-half").parameters()))


def test_weights_of_another_network_are_refused_by_the_names_of_their_tensors(tmp_path: Path) -> None:
    state = torchvision_network("resnet18").state_dict()
    state["layer5.weight"] = state.pop("layer1.0.conv1.weight")
    state["conv1.weight"] = state["conv1.weight"][:, :, 1:, 1:].contiguous()
    torch.save(state, tmp_path / "w.pth")
    network = make("pspnet-resnet18")
    with pytest.raises(ModelError) as caught:
        load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    assert "1 tensors missing, layer1.0.conv1.weight;" in caught.value.what
    assert "1 tensors unexpected, layer5.weight;" in caught.value.what
    assert "1 tensors misshaped, conv1.weight" in caught.value.what
    assert torch.equal(next(network.parameters()), next(make("pspnet-resnet18").parameters()))


class Dangerous:
    """A pickle of this would create a file when read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.promise("S1", "S3")
def test_damaged_files_and_files_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    state = without_classifier(torchvision_network("resnet18"))
    torch.save(state, tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(state)[:1000])
    (tmp_path / "empty.pt").touch()
    torch.save({"conv1.weight": Dangerous(tmp_path / "touched")}, tmp_path / "code.pth")
    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    network = make("pspnet-resnet18")
    for name in ("cut.pth", "cut.safetensors", "empty.pt", "code.pth"):
        with pytest.raises(ModelError, match=name):
            load_backbone(network, pretrained=False, weights_file=tmp_path / name)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UsageError, match=r"nothing\.pth"):
        load_backbone(network, pretrained=False, weights_file=tmp_path / "nothing.pth")
    load_backbone(network, pretrained=False, weights_file=tmp_path / "nested.pth")  # as a training's checkpoint has it
    assert network.backbone is not None
    assert torch.equal(network.backbone.get_parameter("conv1.weight"), state["conv1.weight"])


def test_imagenet_weights_come_from_the_folder_where_torch_keeps_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    theirs = torchvision_network("resnet18")
    torch.save(theirs.state_dict(), file)
    network = make("pspnet-resnet18")
    load_backbone(network, pretrained=True, weights_file=None)
    torch.testing.assert_close(backbone(network).state_dict(), without_classifier(theirs), rtol=0, atol=0)


def test_without_a_connection_the_way_to_bring_the_weights_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("urllib.request._opener", None)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    with pytest.raises(UsageError) as caught:
        load_backbone(make("pspnet-resnet18"), pretrained=True, weights_file=None)
    assert url in caught.value.what
    assert "--backbone-weights FILE" in caught.value.fix
    assert str(tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]) in caught.value.fix
    with pytest.raises(UsageError, match="no ImageNet weights for resnet18-half"):
        load_backbone(make("pspnet-resnet18-half"), pretrained=True, weights_file=None)


# PSPNet


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize(("name", "width"), [("pspnet-resnet18", 64), ("pspnet-resnet18-half", 32)])
def test_pspnet_returns_the_four_stages_and_the_pyramid_at_its_stride(name: str, width: int, stride: int) -> None:
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
def test_averages_over_grids_are_adaptive_average_pooling(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for bins, average in zip(BINS, grid_averages(x), strict=True):
        torch.testing.assert_close(average, F.adaptive_avg_pool2d(x, bins), rtol=0, atol=2e-6)


def test_four_positions_in_three_bins_overlap() -> None:
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
    assert torch.equal(averaging_matrix(4, 3, torch.zeros(0)), expected)


def test_the_pyramid_averages_in_float32_under_autocast_and_keeps_the_memory_format() -> None:
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
def test_the_rates_of_aspp_are_as_far_apart_in_the_image_at_every_stride(stride: int, rates: list[int]) -> None:
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


def test_deeplab_v3_plus_decides_at_stride_4() -> None:
    output = make("deeplabv3plus-resnet18-half", output_stride=16)(images(1, 3, 65, 97))
    assert [feature.shape[2] for feature in output.features] == [17, 9, 5, 5, 17]
    assert output.logits.shape[-2:] == (17, 25)
