"""Backbones of timm: any convolutional one under PSPNet's head, its weights, and clear errors for the rest."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import assert_exported_alike
from torch import Tensor

from segdistill.config import NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork, build_network, list_networks, load_backbone, resolve_name
from segdistill.networks._base import count_parameters

timm = pytest.importorskip("timm", reason="the extra segdistill[timm] is not installed")


def make(name: str, in_channels: int = 3, **options: object) -> SegNetwork:
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"network": f"timm:{name}", **options})
    return build_network(config, 5, in_channels).eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


def test_a_network_of_timm_is_listed_by_its_name() -> None:
    (entry,) = list_networks((64, 96), 5, "timm:test_resnet")
    assert entry["name"] == "pspnet-timm:test_resnet"
    assert entry["parameters"] == count_parameters(make("test_resnet"))
    assert entry["macs"] > 0


def test_a_name_of_timm_means_its_network_under_pspnets_head() -> None:
    assert resolve_name("timm:test_resnet", "deeplabv3") == "pspnet-timm:test_resnet"
    assert resolve_name("pspnet-timm:test_resnet") == "pspnet-timm:test_resnet"
    with pytest.raises(UsageError, match="Unknown network"):
        resolve_name("espnet-timm:test_resnet")


@pytest.mark.parametrize(
    ("name", "stride"),
    [("mobilenetv4_conv_small_035", 8), ("mobilenetv4_conv_small_035", 16), ("efficientvit_b0", 32)],
)
def test_mobile_networks_segment_images_of_any_size_at_their_stride(name: str, stride: int) -> None:
    network = make(name, output_stride=stride)
    for size in ((64, 96), (33, 47)):
        with torch.no_grad():
            logits, features, _ = network(images(2, 3, *size))
        assert logits.shape == (2, 5, -(-size[0] // stride), -(-size[1] // stride))
        assert network.backbone is not None
        assert tuple(feature.shape[1] for feature in features[:-1]) == network.backbone.channels


def test_every_parameter_gets_a_gradient_and_a_fourth_channel_is_seen() -> None:
    network = make("mobilenetv4_conv_small_035", in_channels=4).train()
    logits, _, aux = network(images(2, 4, 33, 47))
    assert aux is not None
    (logits.square().mean() + aux.square().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.slow
def test_the_exported_mobile_network_is_right_at_other_sizes(tmp_path: Path) -> None:
    network = make("mobilenetv4_conv_small_035")
    assert_exported_alike(network, tmp_path, [(1, 64, 64), (3, 40, 56), (2, 33, 47)], most=1e-4)


@pytest.mark.parametrize(
    ("name", "stride", "complaint"),
    [
        ("efficientvit_b0", 8, "cannot be a backbone of output stride 8"),
        ("ghostnetv2_100", 16, "cannot be a backbone of output stride 16"),
        ("test_vit", 32, "for an image of 65x97"),
        ("mobilenetv4_conv_smal", 8, "no network 'mobilenetv4_conv_smal'"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(name: str, stride: int, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        make(name, output_stride=stride)
    assert caught.value.fix


def fill_cache(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Put random weights where the hub's client keeps downloads, and take the net away."""
    published: dict[str, Tensor] = timm.create_model(name).state_dict()
    repository = folder / ("models--" + timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--"))
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(published, snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return published


def test_weights_come_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = fill_cache(tmp_path, "mobilenetv3_small_050", monkeypatch)
    network = make("mobilenetv3_small_050", in_channels=4)
    fourth = network.get_parameter("backbone.model.conv_stem.weight")[:, 3:].clone()
    load_backbone(network, pretrained=True, weights_file=None)
    found = network.state_dict()
    stem = torch.cat([published["conv_stem.weight"], fourth], dim=1)
    assert torch.equal(found["backbone.model.conv_stem.weight"], stem)
    for name in ("blocks.4.0.conv_pw.weight", "blocks.4.0.bn1.running_var"):
        assert torch.equal(found[f"backbone.model.{name}"], published[name])


def test_weights_that_expect_other_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_cache(tmp_path, "test_resnet", monkeypatch)
    network = make("test_resnet")
    before = network.get_parameter("backbone.model.conv1.0.weight").clone()
    with pytest.raises(UsageError, match=r"expect images of mean \(0\.5, 0\.5, 0\.5\)"):
        load_backbone(network, pretrained=True, weights_file=None)
    assert torch.equal(network.get_parameter("backbone.model.conv1.0.weight"), before)


def test_without_connection_and_cache_the_way_to_bring_weights_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot fetch them") as caught:
        load_backbone(make("test_resnet"), pretrained=True, weights_file=None)
    assert "HF_HOME" in caught.value.fix
    with pytest.raises(UsageError, match="timm's own"):
        load_backbone(make("test_resnet"), pretrained=False, weights_file=tmp_path / "w.pth")


def test_hrnet_has_the_names_of_the_published_imagenet_weights() -> None:
    published = {name: tensor.shape for name, tensor in timm.create_model("hrnet_w18").state_dict().items()}
    own = build_network(NetworkConfig(network="ocrnet-hrnetw18"), 5).state_dict()
    backbone = {name: tensor.shape for name, tensor in own.items() if not name.split(".")[0].endswith(("ocr", "head"))}
    assert len(backbone) > 1500
    assert backbone.items() <= published.items()
    beyond = {name.split(".")[0] for name in published.keys() - backbone.keys()}
    assert beyond == {"incre_modules", "downsamp_modules", "final_layer", "classifier"}
