"""Backbones of timm: any convolutional one under PSPNet's head, its weights, and clear errors for the rest."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from helpers.tiny import assert_exported_alike
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.errors import ModelError, UsageError
from segdistill.networks import (
    SegNetwork,
    build_network,
    count_parameters,
    list_networks,
    load_backbone,
    resolve_name,
    with_published_images,
)
from segdistill.networks._packaged_weights import TIMM_FILES, packaged_file
from segdistill.storage.weights import read_weights

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
def test_mobile_networks_of_timm_segment_any_size(name: str, stride: int) -> None:
    network = make(name, output_stride=stride)
    for size in ((64, 96), (33, 47)):
        with torch.no_grad():
            logits, features, _ = network(images(2, 3, *size))
        assert logits.shape == (2, 5, -(-size[0] // stride), -(-size[1] // stride))
        assert network.backbone is not None
        assert tuple(feature.shape[1] for feature in features[:-1]) == network.backbone.channels


def test_timm_parameters_get_gradients_and_accept_four_channels() -> None:
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
def test_unsuitable_timm_models_are_refused(name: str, stride: int, complaint: str) -> None:
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
    with pytest.raises(UsageError, match=r"another normalization \(mean \(127\.5, 127\.5, 127\.5\)"):
        load_backbone(network, pretrained=True, weights_file=None)
    assert torch.equal(network.get_parameter("backbone.model.conv1.0.weight"), before)


def test_timm_without_connection_and_cache_names_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot fetch them") as caught:
        load_backbone(make_for_weights("test_resnet"), pretrained=True, weights_file=None)
    assert "HF_HOME" in caught.value.fix
    with pytest.raises(UsageError, match=r"no weights file .*w\.pth"):
        load_backbone(make("test_resnet"), pretrained=False, weights_file=tmp_path / "w.pth")


def make_for_weights(name: str) -> SegNetwork:
    """Build a network that takes images as timm's weights of that name."""
    config = with_published_images(NetworkConfig(network=f"pspnet-timm:{name}", output_stride=16))
    return build_network(config, 5).eval()


def test_images_are_those_of_the_weights_unless_given() -> None:
    assert make_for_weights("test_resnet").images == InputConfig(mean=(127.5,) * 3, std=(127.5,) * 3)
    assert make_for_weights("mobilenetv3_small_050").images == InputConfig()
    given = NetworkConfig(network="pspnet-timm:test_resnet", input=InputConfig(order="bgr"))
    assert with_published_images(given) is given
    ours = NetworkConfig(network="pspnet-resnet18")
    assert with_published_images(ours) is ours
    with pytest.raises(UsageError, match=r"no weights for test_resnet\.nothing"):
        with_published_images(NetworkConfig(network="pspnet-timm:test_resnet.nothing"))


def test_weights_of_any_normalization_fill_a_network_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = fill_cache(tmp_path, "test_resnet", monkeypatch)
    network = make_for_weights("test_resnet")
    load_backbone(network, pretrained=True, weights_file=None)
    assert network.backbone is not None
    assert network.backbone.weights_source.endswith("model.safetensors")
    assert torch.equal(network.get_parameter("backbone.model.conv1.0.weight"), published["conv1.0.weight"])


def test_torch_hubs_cache_is_looked_through_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    published = timm.create_model("tf_efficientnet_lite0").state_dict()
    file = tmp_path / "checkpoints" / timm.get_pretrained_cfg("tf_efficientnet_lite0").url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save(published, file)
    monkeypatch.setattr("segdistill.networks._timm.TIMM_FILES", {})  # a package may be installed, and comes first
    network = make_for_weights("tf_efficientnet_lite0")
    load_backbone(network, pretrained=True, weights_file=None)
    assert network.backbone is not None
    assert network.backbone.weights_source == str(file)
    assert torch.equal(network.get_parameter("backbone.model.conv_stem.weight"), published["conv_stem.weight"])


def test_backbone_weights_of_a_file_are_checked_strictly(tmp_path: Path) -> None:
    published = timm.create_model("mobilenetv3_small_050").state_dict()
    torch.save(published | {"classifier.weight": torch.zeros(7, 1024)}, tmp_path / "seven.pth")
    network = make("mobilenetv3_small_050")
    load_backbone(network, pretrained=False, weights_file=tmp_path / "seven.pth")
    for name in ("conv_stem.weight", "blocks.4.0.conv_pw.weight", "blocks.4.0.bn1.running_var"):
        assert torch.equal(network.state_dict()[f"backbone.model.{name}"], published[name])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for broken, problem in (
        ({name: tensor for name, tensor in published.items() if name != "bn1.weight"}, r"missing, bn1\.weight"),
        (published | {"conv_stem.weight": torch.zeros(16, 3, 5, 5)}, r"conv_stem\.weight \(16x3x5x5 instead of"),
        (published | {"other.weight": torch.zeros(1)}, r"other\.weight"),
    ):
        torch.save(broken, tmp_path / "broken.pth")
        with pytest.raises(ModelError, match=rf"does not hold the tensors of timm:mobilenetv3_small_050: .*{problem}"):
            load_backbone(network, pretrained=False, weights_file=tmp_path / "broken.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", TIMM_FILES)
def test_packaged_efficientnet_is_timms_by_order_and_shape(name: str) -> None:
    file = packaged_file(TIMM_FILES[name])
    if file is None:
        pytest.skip(f"the package with {TIMM_FILES[name]} is not installed")
    network = make_for_weights(name)
    assert network.images == InputConfig(mean=(127, 127, 127), std=(128, 128, 128))
    load_backbone(network, pretrained=True, weights_file=None)
    assert network.backbone is not None
    assert network.backbone.weights_source == str(file)
    theirs = list(read_weights(file).tensors.values())
    reference = timm.create_model(name)
    reference.load_state_dict(dict(zip(reference.state_dict(), theirs, strict=True)))
    own = network.backbone.state_dict()
    assert len(own) > 280
    assert all(
        torch.equal(own[f"model.{key}"], reference.state_dict()[key])
        for key in reference.state_dict()
        if f"model.{key}" in own
    )
    by_file = make_for_weights(name)
    load_backbone(by_file, pretrained=False, weights_file=file)
    assert all(
        torch.equal(tensor, own[key.removeprefix("backbone.")])
        for key, tensor in by_file.state_dict().items()
        if key.startswith("backbone.")
    )


def test_hrnet_has_the_names_of_the_published_imagenet_weights() -> None:
    published = {name: tensor.shape for name, tensor in timm.create_model("hrnet_w18").state_dict().items()}
    own = build_network(NetworkConfig(network="ocrnet-hrnetw18"), 5).state_dict()
    backbone = {name: tensor.shape for name, tensor in own.items() if not name.split(".")[0].endswith(("ocr", "head"))}
    assert len(backbone) > 1500
    assert backbone.items() <= published.items()
    beyond = {name.split(".")[0] for name in published.keys() - backbone.keys()}
    assert beyond == {"incre_modules", "downsamp_modules", "final_layer", "classifier"}
