"""Every network keeps one contract; ResNet is torchvision's; PSPNet pools as published and exports at any size."""

import sys
from pathlib import Path

import onnxruntime
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks import Deployed, SegNetwork, build_network, load_backbone, network_names, resolve_name
from segdistill.networks._base import Backbone
from segdistill.networks._resnet import ResNet
from segdistill.networks.pspnet import BINS, PSPNet, PyramidPooling, averaging_matrix, grid_averages

CLASSES = 5


def make(name: str, seed: int = 0, in_channels: int = 3, **options: object) -> SegNetwork:
    torch.manual_seed(seed)
    config = NetworkConfig.model_validate({"network": name, **options})
    return build_network(config, CLASSES, in_channels).eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 255


def backbone(network: SegNetwork) -> Backbone:
    assert network.backbone is not None
    return network.backbone


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The contract, for every network that there is


@pytest.fixture(scope="module", params=network_names())
def named(request: pytest.FixtureRequest) -> tuple[str, SegNetwork]:
    return request.param, make(request.param)


@pytest.mark.parametrize("size", [(33, 47), (64, 96), (20, 7)])
def test_logits_lie_on_the_grid_of_the_features_that_the_classifier_reads_or_on_the_images(
    named: tuple[str, SegNetwork], size: tuple[int, int]
) -> None:
    network = named[1].eval()
    with torch.no_grad():
        logits, features, aux = network(images(2, 3, *size))
    assert logits.shape[:2] == (2, CLASSES)
    assert logits.isfinite().all()
    # Some classifiers enlarge what they read to the image's size.
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
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * alone.abs().max().item())


def test_the_memory_format_changes_nothing_but_the_speed(named: tuple[str, SegNetwork]) -> None:
    network, batch = named[1].eval(), images(2, 3, 33, 47)
    with torch.no_grad():
        plain = network(batch).logits
        network.to(memory_format=torch.channels_last)
        last = network(batch.to(memory_format=torch.channels_last)).logits
    network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


def test_a_fourth_channel_is_seen(named: tuple[str, SegNetwork]) -> None:
    network, batch = make(named[0], in_channels=4), images(1, 4, 33, 47)
    other = torch.cat([batch[:, :3], 255 - batch[:, 3:]], dim=1)
    with torch.no_grad():
        logits = network(batch).logits
        assert logits.shape == named[1].eval()(batch[:, :3]).logits.shape
        assert not torch.allclose(network(other).logits, logits)


def test_the_seed_decides_the_weights_and_saved_weights_give_the_same_outputs(named: tuple[str, SegNetwork]) -> None:
    name, network = named[0], named[1].eval()
    other = make(name, seed=1)
    first = next(iter(network.parameters()))
    assert not torch.equal(next(iter(other.parameters())), first)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(network.state_dict())))
    with torch.no_grad():
        assert torch.equal(other(images(1, 3, 33, 47)).logits, network(images(1, 3, 33, 47)).logits)
    assert torch.equal(next(iter(make(name).parameters())), first)


# Names


@pytest.mark.parametrize(
    ("typed", "default", "meant"),
    [
        ("pspnet-resnet18-half", "", "pspnet-resnet18-half"),
        ("pspnet101", "", "pspnet-resnet101"),
        ("pspnet18-half", "", "pspnet-resnet18-half"),
        ("resnet18", "pspnet", "pspnet-resnet18"),
        ("resnet50", "pspnet-resnet101", "pspnet-resnet50"),
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
        ("resnet18", "", "pspnet-resnet18"),
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


# ResNet


def torchvision_resnet(name: str, dilate: tuple[bool, bool, bool] = (False, False, False)) -> nn.Module:
    """With random batch-norm statistics too, so that none can be mistaken for another."""
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=dilate)
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
    theirs, ours = torchvision_resnet(name, dilate), ResNet(name, stride).eval()
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
    ("stride", "dilations"),
    [
        (8, [1, 2, 2, 2, 2, 4, 4, 4]),
        (16, [1, 1, 1, 1, 1, 2, 2, 2]),
        (32, [1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_stage_dilates_as_the_one_before_until_the_convolution_that_lost_its_stride(
    stride: int, dilations: list[int]
) -> None:
    network = ResNet("resnet18", stride)
    stages = [network.layer3, network.layer4]
    convolutions = [c for stage in stages for c in stage.modules() if isinstance(c, nn.Conv2d) and c.kernel_size[0] > 1]
    assert [c.dilation[0] for c in convolutions] == dilations


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_dilated_backbone_computes_the_strided_one_on_a_finer_grid(name: str) -> None:
    torch.manual_seed(0)
    coarse, fine = ResNet(name, 32).eval(), ResNet(name, 8).eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.rand(1, 3, 129, 129)
    with torch.no_grad():
        expected, found = coarse(image)[-1], fine(image)[-1][..., ::4, ::4]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


# Weights for the backbone


def test_published_weights_fill_the_backbone_from_either_kind_of_file(tmp_path: Path) -> None:
    theirs = torchvision_resnet("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        network = make("pspnet-resnet18")
        load_backbone(network, pretrained=False, weights_file=file)
        torch.testing.assert_close(backbone(network).state_dict(), without_classifier(theirs), rtol=0, atol=0)


def test_weights_saved_before_batches_were_counted_are_complete(tmp_path: Path) -> None:
    old = {k: v for k, v in torchvision_resnet("resnet18").state_dict().items() if "num_batches" not in k}
    torch.save(old, tmp_path / "w.pth")
    network = make("pspnet-resnet18")
    load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    assert torch.equal(backbone(network).state_dict()["bn1.running_var"], old["bn1.running_var"])


def test_a_network_that_sees_more_than_rgb_keeps_its_own_weights_for_the_rest(tmp_path: Path) -> None:
    theirs = torchvision_resnet("resnet18").state_dict()
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
    state = torchvision_resnet("resnet18").state_dict()
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


def test_damaged_files_and_files_that_hold_more_than_tensors_are_refused(tmp_path: Path) -> None:
    state = without_classifier(torchvision_resnet("resnet18"))
    torch.save(state, tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(state)[:1000])
    (tmp_path / "empty.pt").touch()
    torch.save({"conv1.weight": Dangerous(tmp_path / "touched")}, tmp_path / "code.pth")
    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    network = make("pspnet-resnet18")
    for name in ("cut.pth", "cut.safetensors", "empty.pt", "code.pth", "nested.pth"):
        with pytest.raises(ModelError, match=name):
            load_backbone(network, pretrained=False, weights_file=tmp_path / name)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UsageError, match=r"nothing\.pth"):
        load_backbone(network, pretrained=False, weights_file=tmp_path / "nothing.pth")


def test_imagenet_weights_come_from_the_folder_where_torch_keeps_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    theirs = torchvision_resnet("resnet18")
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


def test_parameters_count_as_published_but_for_the_stem() -> None:
    """Liu et al. 2019 and CIRKD, 19 classes: the same network on a stem of three 3x3 convolutions, 64-64-128."""
    deep = 9 * (3 * 64 + 64 * 64 + 64 * 128) + 2 * (64 + 64 + 128)
    plain = 49 * 3 * 64 + 2 * 64
    # The first block then reads 128 channels instead of 64; in ResNet-18 it therefore needs a shortcut convolution.
    block18 = 9 * 64 * 64 + (128 * 64 + 2 * 64)
    block101 = 64 * 64 + 64 * 256
    small = build_network(NetworkConfig(network="pspnet-resnet18"), 19)
    large = build_network(NetworkConfig(network="pspnet-resnet101", aux=False), 19)
    assert parameters(small) + deep - plain + block18 == 12_919_334  # CIRKD's checkpoint, auxiliary head included
    assert isinstance(small, PSPNet)
    assert small.auxiliary is not None
    published = parameters(small) - parameters(small.auxiliary) + deep - plain + block18
    assert published == 12_770_515  # 12.771 M
    assert parameters(large) + deep - plain + block101 == 65_707_475  # 65.707 M


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


def test_the_exported_network_is_right_at_sizes_it_was_not_traced_at() -> None:
    network, dynamic = make("pspnet-resnet18"), torch.export.Dim.DYNAMIC
    deployed = Deployed(network)
    program = torch.onnx.export(
        deployed,
        (images(2, 3, 65, 97),),
        dynamo=True,
        opset_version=20,
        external_data=False,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        verbose=False,
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for shape in ((1, 3, 64, 64), (3, 3, 120, 160), (2, 3, 33, 47)):
        image = images(*shape, seed=1)
        with torch.no_grad():
            expected = deployed(image)
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
        assert found.shape == (shape[0], CLASSES, *shape[2:])
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
