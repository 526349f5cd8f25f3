"""Large images in tiles and bands give the classes of the whole image in bounded memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.label_maps import info, network, noise, save, strongest_color
from segdistill.config.schema import NetworkConfig
from segdistill.data import load_data, to_size
from segdistill.evaluation.input_images import find_inputs
from segdistill.evaluation.label_maps import infer
from segdistill.evaluation.metrics import Scores
from segdistill.evaluation.tiling import Tiling, TilingStats, compare_tiling, segment
from segdistill.networks import InferenceWrapper, build_network
from segdistill.types import IGNORE, Batch


@pytest.mark.promise("D10")
@torch.no_grad()
def test_bands_of_a_large_image_equal_the_whole() -> None:
    image, predict = noise(203, 150), network()
    whole = segment(predict, image, (64, 72))
    banded = segment(predict, image, (64, 72), Tiling(max_pixels=1000))
    assert (whole == banded).mean() >= 0.9999
    assert len(np.unique(whole)) == 3


class Local(nn.Module):
    """A network of stride 8 that sees 15 pixels around each point of its grid."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(3)))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append((image.shape[2], image.shape[3]))
        return F.interpolate(self.layers(image - 128), size=image.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.promise("D10")
@torch.no_grad()
@pytest.mark.parametrize("shape", [(512, 608), (128, 400), (96, 1000)])
def test_tiles_of_a_large_image_equal_the_whole(shape: tuple[int, int]) -> None:
    image, predict = noise(*shape), Local()
    whole = segment(predict, image, None)
    assert predict.sizes == [shape]
    predict.sizes.clear()
    tiled = segment(predict, image, None, Tiling(max_pixels=96 * 97, side=128, margin=32))
    assert len(predict.sizes) > 1
    assert all(height < 128 + 32 and width < 128 + 32 for height, width in predict.sizes), "memory is bounded"
    assert (whole == tiled).mean() >= 0.9999
    assert len(np.unique(whole)) > 1


SMALL_TILES = Tiling(max_pixels=128 * 256, side=128, margin=32)


def by_the_brightest(image: Tensor) -> Tensor:
    """A network with global context: a class is what a pixel has more of than the brightest one in sight."""
    return image - image.amax(dim=(2, 3), keepdim=True)


@torch.no_grad()
@pytest.mark.promise("D10")
def test_infer_reports_how_much_tiling_changes(tmp_path: Path) -> None:
    for name, seed, size in (("a", 1, (300, 400)), ("b", 2, (200, 300)), ("small", 3, (100, 200))):
        save(tmp_path / "in" / f"{name}.png", seed, size)
    bright = noise(300, 400, 1) // 2
    bright[140, 180] = (9, 255, 9)  # in the middle, which some tiles do not see
    Image.fromarray(bright).save(tmp_path / "in/a.png")

    def apart(predict: Callable[[Tensor], Tensor], out: str) -> TilingStats | None:
        inputs = find_inputs(str(tmp_path / "in"), tmp_path / out)
        return infer(predict, info(), inputs, tmp_path / out, tiling=SMALL_TILES).tiling

    assert apart(strongest_color, "local") == (2, 1.0)
    found = apart(by_the_brightest, "global")
    part = np.ascontiguousarray(bright[86:214, 72:328])  # 128x256 of the middle of the first
    whole, tiled = (segment(by_the_brightest, part, None, own) for own in (SMALL_TILES, SMALL_TILES.always()))
    assert found == (2, (whole == tiled).mean())
    assert (whole == tiled).mean() < 0.9
    inputs = find_inputs(str(tmp_path / "in/small.png"), tmp_path / "one")
    assert infer(strongest_color, info(), inputs, tmp_path / "one", tiling=SMALL_TILES).tiling is None
    assert infer(Local(), info((64, 64)), inputs, tmp_path / "sized", tiling=SMALL_TILES.always()).tiling is None


@torch.no_grad()
@pytest.mark.promise("D10")
def test_compare_tiling_scores_tiles_and_whole() -> None:
    pixels = noise(200, 300) // 2
    pixels[100, 150] = (9, 255, 9)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    label = by_the_brightest(image).argmax(1)
    label[:, :20] = IGNORE
    batch = Batch(image, label, ("a",), torch.zeros(1, dtype=torch.int64))
    seen: list[int] = []
    found = compare_tiling(by_the_brightest, [batch, batch], 3, seen.append, SMALL_TILES)
    tiled = segment(by_the_brightest, pixels, None, SMALL_TILES.always())
    assert found.whole.miou == 1
    assert found.agreement == (tiled == by_the_brightest(image)[0].argmax(0).numpy()).mean()
    expected = Scores.of(torch.from_numpy(tiled).long()[None], label, 3)
    assert found.tiled.miou == pytest.approx(expected.miou)
    assert found.tiled.miou < 1
    assert seen == [1, 1]


@torch.no_grad()
@pytest.mark.reliability
@pytest.mark.promise("D10")
@pytest.mark.parametrize("name", ["enet", "espnet", "fcn-resnet18-half"])
def test_local_networks_give_the_same_classes_in_tiles(name: str) -> None:
    pixels = load_data("streets").split("val").read(0).image
    image = to_size(pixels, (1024, 1024))
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=name), 19).train()
    with torch.no_grad():  # the norms take their statistics from such images
        network(torch.from_numpy(to_size(pixels, (256, 256))).permute(2, 0, 1)[None].float().repeat(2, 1, 1, 1))
    deployed = InferenceWrapper(network)
    mean = deployed(torch.from_numpy(image).permute(2, 0, 1)[None].float()).mean(dim=(2, 3), keepdim=True)

    def predict(image: Tensor) -> Tensor:
        return torch.as_tensor(deployed(image) - mean)  # so that no class is everywhere

    whole = segment(predict, image, None)
    tiled = segment(predict, image, None, Tiling(max_pixels=0, side=640))
    assert len(np.unique(whole)) > 3
    assert (whole == tiled).mean() >= 0.999


@pytest.mark.parametrize("shape", [(97, 97), (131, 300), (1, 9999), (321, 129), (160, 159)])
def test_tiles_cover_images_of_any_shape(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    tiled = segment(strongest_color, image, None, Tiling(max_pixels=96 * 97, side=96, margin=32))
    assert np.array_equal(tiled, image.argmax(2))


@pytest.mark.promise("D10")
def test_a_large_image_takes_the_memory_of_one_tile(tmp_path: Path) -> None:
    Image.new("RGB", (4096, 5000), (10, 90, 10)).save(tmp_path / "large.png")
    seen: list[int] = []

    def predict(image: Tensor) -> Tensor:
        seen.append(image.shape[2] * image.shape[3])
        return image

    out = tmp_path / "out"
    assert infer(predict, info(), find_inputs(str(tmp_path / "large.png"), out), out).done == 1
    assert max(seen) <= 2048 * 1024
    with Image.open(out / "large.png") as file:
        assert file.size == (4096, 5000)
        assert np.unique(np.asarray(file)).tolist() == [1]
