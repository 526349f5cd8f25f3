"""Networks are the published ones: their tensors' names, what they compute, how large they are.

What ESPNet computes was recorded from its authors' code; what the others compute, from a transcription of theirs.
"""

import copy
from dataclasses import dataclass

import pytest
import torch
from golden import det, fill, names_and_shapes
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config import LabelCodes, NetworkConfig, TeacherConfig
from segdistill.errors import UsageError
from segdistill.label_codes import build_teacher
from segdistill.networks import SegNetwork, build_network, load_backbone, resolve_name
from segdistill.networks._base import count_macs, count_parameters
from segdistill.networks.enet import ENet, unpool
from segdistill.networks.espnet import ESP, ESPNet, ESPNetC
from segdistill.networks.ocrnet import regions
from segdistill.networks.stdcseg import BLOCKS, STDC

CLASSES = 5
ONE_OF_EACH = ("espnet", "enet", "stdcseg-stdc1", "ocrnet-hrnetw18", "ddrnet-23-slim", "pidnet-s")


def make(name: str, classes: int = CLASSES, in_channels: int = 3, **options: object) -> SegNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig.model_validate({"network": name, **options}), classes, in_channels).eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


@dataclass(frozen=True)
class Golden:
    """What a network of so many outputs computes for the image det((1, 3, 96, 128), 7, 3, 101)."""

    classes: int
    tensors: str
    shape: tuple[int, int, int, int]
    mean: float
    std: float
    largest: float
    first_row: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    ordered: bool = False


GOLDEN = {
    "espnet": Golden(
        classes=12,
        tensors="627ee1da59e2ee31",
        ordered=True,
        shape=(1, 12, 96, 128),
        mean=0.0010496651302106396,
        std=0.07226658380647544,
        largest=0.31493954389675954,
        first_row=(-0.026922673024424533, 0.04222442118481601, 0.024621240220392054, -0.03666574901338661),
        centre=(0.005487427594108212, -0.03707577121094902, -0.1176890612215934, 0.26989106585340034),
    ),
    "espnet-c": Golden(
        classes=20,
        tensors="ba2c537014206da7",
        ordered=True,
        shape=(1, 20, 12, 16),
        mean=-0.08446555746126198,
        std=0.3501012656731981,
        largest=0.8984813846757436,
        first_row=(-0.02286121038336345, -0.03262347119190133, -0.05258084572713137, -0.06379374808762742),
        centre=(-0.024488445781318816, -0.11796569432309777, -0.2365533474347573, -0.5904724700647013),
    ),
    "stdcseg-stdc1": Golden(
        classes=19,
        tensors="8f8afb5b91e835c6",
        shape=(1, 19, 12, 16),
        mean=-0.03725070523064741,
        std=0.12023906447324899,
        largest=0.6757702244581254,
    ),
    "stdcseg-stdc2": Golden(
        classes=19,
        tensors="0e46ebb993927e19",
        shape=(1, 19, 12, 16),
        mean=-0.0258258704481972,
        std=0.09014986858674869,
        largest=0.399568915827031,
    ),
    "ocrnet-hrnetw18": Golden(
        classes=19,
        tensors="a1d08979da52f98b",
        shape=(1, 19, 24, 32),
        mean=-0.1024853219415232,
        std=0.4146750888418052,
        largest=0.7929433600881293,
    ),
    "ddrnet-23-slim": Golden(
        classes=19,
        tensors="a0fa9b6692377dd0",
        shape=(1, 19, 12, 16),
        mean=-0.02063493039754847,
        std=0.061963717003475305,
        largest=0.351141565416596,
    ),
    "pidnet-s": Golden(
        classes=19,
        tensors="62d6965bdeb58af9",
        shape=(1, 19, 12, 16),
        mean=-0.018960124748628994,
        std=0.237234562880893,
        largest=2.251491361087289,
    ),
}
"""The tensors of PIDNet are without those of its head on edges; the published order is kept where `ordered`."""


@pytest.mark.parametrize("name", GOLDEN)
def test_a_network_has_the_published_tensors_and_computes_what_the_published_one_does(name: str) -> None:
    golden = GOLDEN[name]
    network = make(name, golden.classes).double()
    assert names_and_shapes(network.state_dict(), in_order=golden.ordered) == golden.tensors
    fill(network.state_dict())
    with torch.no_grad():
        logits = network.segment(det((1, 3, 96, 128), 7, 3, 101)).logits  # below the normalisation
    assert logits.shape == golden.shape
    height, width = golden.shape[2:]
    first_row = logits[0, 0, 0, : len(golden.first_row)].tolist()
    centre = logits[0, : len(golden.centre), height // 2, width // 2].tolist()
    found = [logits.mean().item(), logits.std().item(), logits.abs().max().item(), *first_row, *centre]
    expected = [golden.mean, golden.std, golden.largest, *golden.first_row, *golden.centre]
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


def test_ocrnet_ships_its_first_logits_whether_they_are_trained_by_themselves_or_not() -> None:
    with_aux, without = make("ocrnet-hrnetw18"), make("ocrnet-hrnetw18", aux=False)
    assert count_parameters(with_aux) == count_parameters(without) == sum(p.numel() for p in without.parameters())
    assert without.train()(images(2, 3, 33, 47)).aux is None


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_label_assisted_teacher_meets_the_labels_with_the_weights_that_are_set(name: str) -> None:
    config = TeacherConfig(network=name, label_codes=LabelCodes(init=0))
    first = next(p for p in build_teacher(config, CLASSES).parameters() if p.ndim == 4)
    assert first.shape[1] == 4
    assert [first[:, channel].count_nonzero().item() > 0 for channel in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_pretrained_weights_are_refused_where_no_part_of_the_network_has_such(name: str) -> None:
    with pytest.raises(UsageError, match="no backbone that ImageNet weights could fill"):
        load_backbone(make(name), pretrained=True, weights_file=None)
    load_backbone(make(name), pretrained=False, weights_file=None)


@pytest.mark.parametrize(
    ("typed", "default", "meant"),
    [("espnet", "", "espnet"), ("espnet-c", "", "espnet-c"), ("pidnet-s", "", "pidnet-s"), ("enet", "enet", "enet")],
)
def test_an_architecture_is_a_name_where_it_has_no_backbone_to_choose(typed: str, default: str, meant: str) -> None:
    assert resolve_name(typed, default) == meant


# ESPNet


def test_the_variants_of_espnet_differ_in_the_blocks_at_an_eighth() -> None:
    counts = {name: len([m for m in make(name).modules() if isinstance(m, ESP)]) for name in ("espnet", "espnet-q3")}
    assert counts == {"espnet": 2 + 8 + 1, "espnet-q3": 2 + 3 + 1}
    assert isinstance(make("espnet-c-q3"), ESPNetC)
    assert len([m for m in make("espnet-c-q3").modules() if isinstance(m, ESP)]) == 2 + 3


def test_espnet_segments_into_fewer_classes_than_an_esp_block_has_channels() -> None:
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


def test_enet_drops_a_tenth_as_much_before_its_second_downsampling() -> None:
    network = make("enet", dropout=0.2)
    assert isinstance(network, ENet)
    early = nn.ModuleList([network.down1, network.stage1])
    late = nn.ModuleList([network.down2, network.stage2, network.stage3])
    decoder = nn.ModuleList([network.up4, network.stage4, network.up5, network.stage5])
    rates = [[m.p for m in part.modules() if isinstance(m, nn.Dropout2d)] for part in (early, late, decoder)]
    assert rates == [pytest.approx([0.02] * 5), [0.2] * 17, [0.0] * 5]


# What is exported


@pytest.mark.parametrize("name", ["espnet", "espnet-c", "enet"])
def test_what_is_shipped_computes_the_same_without_what_runtimes_are_slow_at(name: str) -> None:
    network = make(name).double()
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 1.5)
    shipped, image = copy.deepcopy(network), images(2, 3, 45, 67).double()
    shipped.ship()
    assert not any(isinstance(module, nn.PReLU | nn.AvgPool2d) for module in shipped.modules())
    reduced = [len(tensor) for key, tensor in shipped.state_dict().items() if key.endswith("c1.conv.weight")]
    assert all(channels % 16 == 0 for channels in reduced)
    assert bool(reduced) == (name != "enet")
    with torch.no_grad():
        expected, found = network(image).logits, shipped(image).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 * expected.abs().max())
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in make(name).named_parameters()]


# OCRNet


def test_a_region_is_the_mean_of_the_pixels_where_its_class_is_likely() -> None:
    pixels = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]).view(1, 2, 2, 2)
    sure, undecided = torch.tensor([0.0, 0, 50, 0]), torch.zeros(4)
    logits = torch.stack([sure, undecided]).view(1, 2, 2, 2)
    expected = torch.tensor([[3.0, 2.5], [7, 6.5]]).view(1, 2, 2, 1)
    torch.testing.assert_close(regions(pixels, logits), expected)
