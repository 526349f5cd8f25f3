"""Every network keeps one contract, has its published size and its options, and goes by its names."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from helpers.networks import CLASSES, images, make, settled
from helpers.tiny import assert_exported_alike
from segdistill.config.registry import components, find
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks import (
    InferenceWrapper,
    SegNetwork,
    _hrnet,
    build_network,
    espnetv2,
    meta_network,
    network_names,
    resolve,
    resolve_name,
)
from segdistill.networks._costs import count_macs, count_parameters


def light() -> list[str]:
    """Return one network per architecture: a half ResNet-18 where there is one, else the first, which is small."""
    names: dict[str, str] = {}
    for name in network_names():
        architecture = name.partition("-")[0]
        if architecture not in names or name.endswith("-half"):
            names[architecture] = name
    return list(names.values())


def strides(name: str) -> tuple[int, ...]:
    """Return the output strides that a network can have."""
    module = import_module(find("networks", name.partition("-")[0], "architecture"))
    found: tuple[int, ...] = module.STRIDES
    return found


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
        deployed = InferenceWrapper(make(name, output_stride=stride))
        for size in ((64, 96), (20, 7), (1, 1)):
            assert deployed(torch.zeros(2, 3, *size)).shape == (2, CLASSES, *size)


@pytest.fixture(scope="module", params=light())
def named(request: pytest.FixtureRequest) -> tuple[str, SegNetwork]:
    return request.param, settled(make(request.param))


@pytest.mark.parametrize("size", [(33, 47), (64, 96), (20, 7)])
def test_logits_match_the_grid_of_the_last_features_or_the_image(
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


def test_every_parameter_gets_a_gradient_and_aux_is_for_training(
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


def test_output_does_not_depend_on_other_images_in_the_batch(named: tuple[str, SegNetwork]) -> None:
    network, batch = named[1].eval(), images(3, 3, 33, 47)
    with torch.no_grad():
        together, alone = network(batch).logits[1:2], network(batch[1:2]).logits
    # Attention over all positions sums thousands of numbers in another order.
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * alone.abs().max().item())


def test_seed_decides_weights_and_saved_weights_repeat_outputs(named: tuple[str, SegNetwork]) -> None:
    name, network = named[0], named[1].eval()
    other = make(name, seed=1)
    first = next(iter(network.parameters()))
    assert not torch.equal(next(iter(other.parameters())), first)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(network.state_dict())))
    with torch.no_grad():
        assert torch.equal(other(images(1, 3, 33, 47)).logits, network(images(1, 3, 33, 47)).logits)
    assert torch.equal(next(iter(make(name).parameters())), first)


def test_memory_format_changes_nothing_and_is_kept(named: tuple[str, SegNetwork]) -> None:
    # In float64: kernels of either layout round differently, by more in float32 than some random networks forgive.
    network, image = named[1].eval().double(), images(2, 3, 65, 97).double()
    with torch.no_grad():
        expected = network(image)
        network.to(memory_format=torch.channels_last)
        found = network(image.to(memory_format=torch.channels_last))
        network.to(memory_format=torch.contiguous_format)
    network.float()
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9 * expected.logits.abs().max().item())
    assert found.features[-1].is_contiguous(memory_format=torch.channels_last)


def test_fourth_channel_is_not_normalized(named: tuple[str, SegNetwork]) -> None:
    network, batch = settled(make(named[0], in_channels=4)), images(1, 4, 33, 47)
    other = torch.cat([batch[:, :3], 255 - batch[:, 3:]], dim=1)
    with torch.no_grad():
        assert not torch.allclose(network(other).logits, network(batch).logits)
    assert (network.mean[0, 3].item(), network.std[0, 3].item()) == (0, 1)


def test_network_applies_its_own_preprocessing(named: tuple[str, SegNetwork]) -> None:
    network, image = named[1].eval(), images(2, 3, 33, 47)
    with torch.no_grad():
        before = network(image).logits
        network.set_preprocessing(InputConfig(mean=(3, 2, 1), std=(30, 20, 10)), align_corners=False)
        expected = network(image.flip(1)).logits
        network.set_preprocessing(
            InputConfig(mean=(1, 2, 3), std=(0.1, 0.2, 0.3), divide=100, order="bgr"), align_corners=False
        )
        found = network(image).logits
        network.set_preprocessing(InputConfig(), align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert not torch.allclose(before, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["pspnet-resnet18-half", "mobilenetv2", "largefov-mobilenetv1"])
def test_bgr_network_with_flipped_first_layer_equals_rgb(name: str) -> None:
    straight, turned = settled(make(name)), make(name, input={"order": "bgr", "divide": 255})
    weights = straight.state_dict()
    first = next(name for name, parameter in straight.named_parameters() if parameter.shape[1:2] == (3,))
    turned.load_state_dict(weights | {first: weights[first].flip(1) * 255})
    image = images(2, 3, 33, 47)
    with torch.no_grad():
        expected, found = InferenceWrapper(straight)(image), InferenceWrapper(turned)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    "name", [name if name.startswith("pspnet") else pytest.param(name, marks=pytest.mark.slow) for name in light()]
)
def test_exported_graph_gives_the_same_labels_at_other_sizes(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_hrnet, "MODULES", (1, 1, 1))  # of 1, 4 and 3 alike ones, which take a minute to export
    monkeypatch.setattr(espnetv2, "BLOCKS", (1, 1))  # of 3 and 7 alike ones, likewise
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
    assert count_macs(meta_network(NetworkConfig(**network), classes), size) == pytest.approx(macs, rel=tolerance)


@pytest.mark.parametrize("name", ["pspnet-resnet18-half", "espnet-c"])
def test_macs_are_the_same_on_meta_tensors(name: str) -> None:
    config = NetworkConfig(network=name)
    built = make(name)
    before = {key: tensor.clone() for key, tensor in built.state_dict().items()}
    assert count_macs(built, (33, 47)) == count_macs(meta_network(config, CLASSES), (33, 47)) > 1e6
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
def test_unsupported_option_is_refused_with_the_allowed_values(options: dict[str, Any], said: str) -> None:
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
    other |= {"head_slope": 0.01, "skip": "raw", "conv_last": True, "classifier_bias": True}
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
            output, deployed = network(image), InferenceWrapper(network)(image)
        assert torch.equal(deployed, F.interpolate(output.logits, (33, 47), mode="bilinear", align_corners=True))
        assert torch.equal(deployed[..., 0, 0], output.logits[..., 0, 0])
        assert not torch.equal(deployed, InferenceWrapper(make(name))(image))


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
def test_unknown_network_name_gets_a_suggestion(typed: str, default: str, suggested: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown network '{typed}'[^?]* {suggested}\b"):
        resolve_name(typed, default)


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as Python knows what cannot be imported
    with pytest.raises(UsageError, match="timm:mobilenetv4_conv_small needs timm") as caught:
        resolve_name("timm:mobilenetv4_conv_small", "pspnet")
    assert "segdistill[timm]" in caught.value.fix
    assert caught.value.exit_code == 2
