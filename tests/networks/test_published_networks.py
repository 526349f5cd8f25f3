"""Networks are the published ones: their tensors' names, what they compute, how large they are.

What ESPNet computes was recorded from its authors' code, what U-Net computes from segmentation-models-pytorch 0.6; what
the others compute, from a transcription of theirs.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.golden import det, fill, names_and_shapes
from helpers.published_networks import GOLDEN
from segdistill.config.schema import LabelEmbedding, NetworkConfig, TeacherConfig
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork, build_network, count_macs, count_parameters, load_backbone, resolve_name
from segdistill.networks._esp import ESP
from segdistill.networks.enet import ENet, unpool
from segdistill.networks.espnet import ESPNet, ESPNetC
from segdistill.networks.ocrnet import regions
from segdistill.networks.stdcseg import BLOCKS, STDC
from segdistill.teachers.label_assisted import build_teacher

CLASSES = 5
ONE_OF_EACH = ("espnet", "enet", "stdcseg-stdc1", "ocrnet-hrnetw18", "ddrnet-23-slim", "pidnet-s")


def make(name: str, classes: int = CLASSES, in_channels: int = 3, **options: object) -> SegNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig.model_validate({"network": name, **options}), classes, in_channels).eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("name", GOLDEN)
def test_network_has_published_tensors_and_outputs(name: str) -> None:
    golden = GOLDEN[name]
    network = make(name, golden.classes).double()
    assert names_and_shapes(network.state_dict(), in_order=golden.ordered) == golden.tensors
    fill(network.state_dict())
    with torch.no_grad():
        logits = network.segment(det((1, 3, 96, 128), 7, 3, 101)).logits  # below the normalization
    assert logits.shape == golden.shape
    height, width = golden.shape[2:]
    first_row = logits[0, 0, 0, : len(golden.first_row)].tolist()
    center = logits[0, : len(golden.center), height // 2, width // 2].tolist()
    found = [logits.mean().item(), logits.std().item(), logits.abs().max().item(), *first_row, *center]
    expected = [golden.mean, golden.std, golden.largest, *golden.first_row, *golden.center]
    assert found == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "published"),
    [
        ("espnet", 19, 363_462, 0.3635),  # Liu et al. 2019, table 3
        ("espnet-c", 19, 349_193, 0.3492),
        ("espnet-c", 20, 349_449, 0.3494),
        ("enet", 19, 364_311, 0.37),  # the paper's table of performance; with two digits, and at unknown classes
        ("ddrnet-23-slim", 19, 5_695_987, 5.7),
        ("pidnet-s", 19, 7_625_715, 7.6),
        ("unet-resnet18", 1, 14_328_209, 14.33),  # segmentation-models-pytorch
    ],
)
def test_parameters_count_as_published(name: str, classes: int, parameters: int, published: float) -> None:
    found = count_parameters(make(name, classes))
    assert found == parameters
    assert found / 1e6 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("name", "count", "published"), [("stdc1", 8_443_552, 8.44), ("stdc2", 12_474_016, 12.47)])
def test_stdc_counts_as_published_with_its_classifier(name: str, count: int, published: float) -> None:
    backbone = STDC(BLOCKS[name], in_channels=3)
    convolution, hidden, classifier = 1024 * 1024 + 2 * 1024, 1024 * 1024 + 2 * 1024, 1024 * 1000
    found = sum(p.numel() for p in backbone.parameters()) + convolution + hidden + classifier
    assert found == count
    assert found / 1e6 == pytest.approx(published, abs=5e-3)


@pytest.mark.parametrize(
    ("name", "size", "published", "tolerance"),
    [
        ("espnet-c", (512, 1024), 3.468, 1e-4),  # Liu et al. 2019, table 3
        ("espnet", (512, 1024), 4.422, 0.06),  # the same; ours counts the transposed convolutions too, 0.248 G
        ("enet", (360, 640), 3.83 / 2, 0.11),  # the paper has FLOPs, and counts more than convolutions
        ("ddrnet-23-slim", (1024, 2048), 36.3, 1e-3),
        ("pidnet-s", (1024, 2048), 47.6, 0.01),
    ],
)
def test_multiply_adds_count_as_published(name: str, size: tuple[int, int], published: float, tolerance: float) -> None:
    assert count_macs(make(name, 19), size) / 1e9 == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", ["stdcseg-stdc1", "ddrnet-23-slim", "pidnet-s"])
def test_the_auxiliary_head_is_not_shipped(name: str) -> None:
    assert count_parameters(make(name)) == count_parameters(make(name, aux=False))
    assert len(make(name).state_dict()) > len(make(name, aux=False).state_dict())
    assert make(name, aux=False).train()(images(2, 3, 33, 47)).aux is None


def test_ocrnet_keeps_its_coarse_logits_without_auxiliary_loss() -> None:
    with_aux, without = make("ocrnet-hrnetw18"), make("ocrnet-hrnetw18", aux=False)
    assert count_parameters(with_aux) == count_parameters(without) == sum(p.numel() for p in without.parameters())
    assert without.train()(images(2, 3, 33, 47)).aux is None


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_label_assisted_first_layer_has_the_set_initial_weights(name: str) -> None:
    config = TeacherConfig(network=name, label_embedding=LabelEmbedding(init=0))
    first = next(p for p in build_teacher(config, CLASSES).parameters() if p.ndim == 4)
    assert first.shape[1] == 4
    assert [first[:, channel].count_nonzero().item() > 0 for channel in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_pretrained_weights_are_refused_without_a_backbone(name: str) -> None:
    with pytest.raises(UsageError, match="no backbone that ImageNet weights could fill"):
        load_backbone(make(name), pretrained=True, weights_file=None)
    load_backbone(make(name), pretrained=False, weights_file=None)


@pytest.mark.parametrize(
    ("typed", "default", "meant"),
    [("espnet", "", "espnet"), ("espnet-c", "", "espnet-c"), ("pidnet-s", "", "pidnet-s"), ("enet", "enet", "enet")],
)
def test_architecture_without_backbone_is_named_alone(typed: str, default: str, meant: str) -> None:
    assert resolve_name(typed, default) == meant


# ESPNet


def test_espnet_variants_differ_in_blocks_at_an_eighth() -> None:
    counts = {name: len([m for m in make(name).modules() if isinstance(m, ESP)]) for name in ("espnet", "espnet-q3")}
    assert counts == {"espnet": 2 + 8 + 1, "espnet-q3": 2 + 3 + 1}
    assert isinstance(make("espnet-c-q3"), ESPNetC)
    assert len([m for m in make("espnet-c-q3").modules() if isinstance(m, ESP)]) == 2 + 3


def test_espnet_supports_fewer_classes_than_esp_channels() -> None:
    network = make("espnet", classes=2)
    assert isinstance(network, ESPNet)
    assert network(images(1, 3, 33, 47)).logits.shape == (1, 2, 33, 47)
    assert network.classifier.weight.shape == (5, 2, 2, 2)


# ENet


@pytest.mark.parametrize("size", [(6, 8), (2, 2), (12, 4)])
def test_unpooling_puts_values_where_max_unpooling_scatters_them(size: tuple[int, int]) -> None:
    x = torch.randint(0, 3, (2, 3, *size)).float()  # windows with several maxima
    maxima, places = F.max_pool2d(x, 2, return_indices=True)
    assert torch.equal(unpool(maxima, places, x), F.max_unpool2d(maxima, places, [2, 2]))


def test_unpooling_returns_an_odd_size_and_every_value_once() -> None:
    x = torch.arange(1.0, 16.0).view(1, 1, 3, 5)  # each window's maximum is its last position
    maxima, places = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    expected = torch.tensor([[0.0, 0, 0, 0, 0], [0, 7, 0, 9, 10], [0, 12, 0, 14, 15]])
    assert torch.equal(unpool(maxima, places, x)[0, 0], expected)


def test_enet_drops_a_tenth_as_much_in_its_early_stages() -> None:
    network = make("enet", dropout=0.2)
    assert isinstance(network, ENet)
    early = nn.ModuleList([network.down1, network.stage1])
    late = nn.ModuleList([network.down2, network.stage2, network.stage3])
    decoder = nn.ModuleList([network.up4, network.stage4, network.up5, network.stage5])
    rates = [[m.p for m in part.modules() if isinstance(m, nn.Dropout2d)] for part in (early, late, decoder)]
    assert rates == [pytest.approx([0.02] * 5), [0.2] * 17, [0.0] * 5]


# What is exported


@pytest.mark.parametrize("name", ["espnet", "espnet-c", "enet"])
def test_export_form_computes_the_same_without_slow_operators(name: str) -> None:
    network = make(name).double()
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 1.5)
    shipped, image = copy.deepcopy(network), images(2, 3, 45, 67).double()
    shipped.prepare_for_export()
    assert not any(isinstance(module, nn.PReLU | nn.AvgPool2d) for module in shipped.modules())
    reduced = [len(tensor) for key, tensor in shipped.state_dict().items() if key.endswith("c1.conv.weight")]
    assert all(channels % 16 == 0 for channels in reduced)
    assert bool(reduced) == (name != "enet")
    with torch.no_grad():
        expected, found = network(image).logits, shipped(image).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 * expected.abs().max())
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in make(name).named_parameters()]


# OCRNet


def test_ocr_region_is_the_mean_of_its_likely_pixels() -> None:
    pixels = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]).view(1, 2, 2, 2)
    sure, undecided = torch.tensor([0.0, 0, 50, 0]), torch.zeros(4)
    logits = torch.stack([sure, undecided]).view(1, 2, 2, 2)
    expected = torch.tensor([[3.0, 2.5], [7, 6.5]]).view(1, 2, 2, 1)
    torch.testing.assert_close(regions(pixels, logits), expected)
