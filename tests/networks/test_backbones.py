"""Backbones are torchvision's, dilate as asked for, and take published weights or refuse them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from helpers.networks import images, make
from segdistill.errors import ModelError, UsageError
from segdistill.networks import SegNetwork, load_backbone
from segdistill.networks._backbone import Backbone
from segdistill.networks._mobilenet import V2_STEPS, MobileNetV1, MobileNetV2
from segdistill.networks._resnet import ResNet


def backbone(network: SegNetwork) -> Backbone:
    assert network.backbone is not None
    return network.backbone


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
def test_stages_dilate_late_or_early(stride: int, early: bool, dilations: list[int]) -> None:
    network = ResNet("resnet18", stride, early_dilation=early)
    stages = [network.layer3, network.layer4]
    convolutions = [c for stage in stages for c in stage.modules() if isinstance(c, nn.Conv2d) and c.kernel_size[0] > 1]
    assert [c.dilation[0] for c in convolutions] == dilations


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (lambda: ResNet("resnet18", 32), lambda: ResNet("resnet18", 8)),
        (lambda: ResNet("resnet50", 32, stem="deep"), lambda: ResNet("resnet50", 8, stem="deep")),
        (lambda: MobileNetV1(32), lambda: MobileNetV1(8)),
        (lambda: MobileNetV2(V2_STEPS[32], 1.4), lambda: MobileNetV2(V2_STEPS[8], 1.4)),
    ],
    ids=["resnet18", "resnet50", "mobilenetv1", "mobilenetv2"],
)
def test_dilated_backbone_equals_the_strided_one_on_a_finer_grid(
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
def test_backbone_strides_rise_to_the_output_stride(stride: int) -> None:
    for backbone, rising in (
        (ResNet("resnet18-half", stride), (4, 8, 16, 32)),
        (MobileNetV1(stride), (4, 8, 16, 32)),
        (MobileNetV2(V2_STEPS[stride]), (2, 4, 8, 16, 16, 32, 32)),
    ):
        maps = backbone.eval()(images(1, 3, 65, 97))
        assert [feature.shape[2] for feature in maps] == [-(-65 // min(step, stride)) for step in rising]
        assert tuple(feature.shape[1] for feature in maps) == backbone.channels


def test_deep_stem_has_three_convolutions_with_published_names() -> None:
    state = ResNet("resnet18", 8, stem="deep").state_dict()
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
    assert {
        name: tensor.shape for name, tensor in theirs.items() if not name.startswith(MobileNetV2.classifier_prefixes)
    } == {name: tensor.shape for name, tensor in ours.items()}


# Weights for the backbone


def test_published_weights_load_from_pth_and_safetensors(tmp_path: Path) -> None:
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


def test_extra_input_channels_keep_their_own_weights(tmp_path: Path) -> None:
    theirs = torchvision_network("resnet18").state_dict()
    torch.save(theirs, tmp_path / "w.pth")
    network = make("pspnet-resnet18", in_channels=4)
    fourth = backbone(network).state_dict()["conv1.weight"][:, 3:].clone()
    load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    assert torch.equal(backbone(network).state_dict()["conv1.weight"], torch.cat([theirs["conv1.weight"], fourth], 1))
    assert network(images(1, 4, 33, 47)).logits.isfinite().all()


def test_no_weights_are_loaded_without_a_request() -> None:
    network = make("pspnet-resnet18-half")
    load_backbone(network, pretrained=False, weights_file=None)
    assert torch.equal(next(network.parameters()), next(make("pspnet-resnet18-half").parameters()))


def test_backbone_weights_of_another_network_name_the_tensors(tmp_path: Path) -> None:
    state = torchvision_network("resnet18").state_dict()
    state["layer5.weight"] = state.pop("layer1.0.conv1.weight")
    state["conv1.weight"] = state["conv1.weight"][:, :, 1:, 1:].contiguous()
    torch.save(state, tmp_path / "w.pth")
    network = make("pspnet-resnet18")
    with pytest.raises(ModelError) as caught:
        load_backbone(network, pretrained=False, weights_file=tmp_path / "w.pth")
    assert "1 tensor missing, layer1.0.conv1.weight;" in caught.value.what
    assert "1 tensor unexpected, layer5.weight;" in caught.value.what
    assert "1 tensor misshaped, conv1.weight" in caught.value.what
    assert torch.equal(next(network.parameters()), next(make("pspnet-resnet18").parameters()))


class Dangerous:
    """A pickle of this would create a file when read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.promise("S1", "S3")
def test_damaged_or_dangerous_weight_files_are_refused(tmp_path: Path) -> None:
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


def test_imagenet_weights_come_from_the_torch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    theirs = torchvision_network("resnet18")
    torch.save(theirs.state_dict(), file)
    network = make("pspnet-resnet18")
    load_backbone(network, pretrained=True, weights_file=None)
    torch.testing.assert_close(backbone(network).state_dict(), without_classifier(theirs), rtol=0, atol=0)


def test_missing_connection_names_where_to_put_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
