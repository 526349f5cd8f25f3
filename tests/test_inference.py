"""Which images are found, where their outputs go, what is in them, and what is refused."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tiny import model_info
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.checkpoint import ModelInfo
from segdistill.config import NetworkConfig
from segdistill.data import load_data, to_size
from segdistill.engine import predict_labels
from segdistill.errors import DataError, UsageError
from segdistill.inference import Apart, Input, Tiling, compare_tiling, find_inputs, infer, segment
from segdistill.metrics import Scores
from segdistill.networks import Deployed, build_network
from segdistill.types import IGNORE, Batch

Pixels = npt.NDArray[np.uint8]
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def info(size: tuple[int, int] | None = None) -> ModelInfo:
    return model_info("pspnet-resnet18-half", ("red", "green", "blue"), palette=PALETTE, size=size)


def strongest_colour(image: Tensor) -> Tensor:
    """A network whose class is the channel with the largest value."""
    return image


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int = 0, size: tuple[int, int] = (6, 9)) -> Pixels:
    """Write noise, and return what a reader of the file sees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*size, seed)).save(path)
    with Image.open(path) as file:
        return np.asarray(file)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_ids(path: Path) -> Pixels:
    with Image.open(path) as file:
        assert file.mode == "P"
        assert tuple(file.getpalette() or ())[:9] == sum(PALETTE, ())
        return np.asarray(file)


def test_a_folder_is_searched_with_all_below_it_for_images_of_any_case(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt", ".hidden.png", "d.tiff"):
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no image")
    inputs = find_inputs(str(tmp_path), tmp_path.parent / "out")
    assert [str(found.relative) for found in inputs] == ["a.png", "b.JPG", "d.tiff", "deep/er/c.webp"]
    assert all(found.path == tmp_path / found.relative for found in inputs)


def test_a_file_and_a_pattern_are_found_and_placed_relative_to_what_is_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x/a.png", "x/y/b.png", "x/y/c.jpg"):
        save(tmp_path / name)
    out = tmp_path / "out"
    assert find_inputs(str(tmp_path / "x/y/b.png"), out) == [Input(tmp_path / "x/y/b.png", Path("b.png"))]
    found = find_inputs(f"{tmp_path}/x/**/*.png", out)
    assert [str(image.relative) for image in found] == ["a.png", "y/b.png"]
    monkeypatch.chdir(tmp_path / "x")
    assert find_inputs("?.png", out) == [Input(Path("a.png"), Path("a.png"))]


def test_a_name_with_the_signs_of_a_pattern_is_taken_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "frame[1].png")
    assert len(find_inputs(str(tmp_path / "frame[1].png"), tmp_path / "out")) == 1


def test_earlier_outputs_below_the_source_are_no_inputs(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "out/a.png")
    assert [str(image.relative) for image in find_inputs(str(tmp_path), tmp_path / "out")] == ["a.png"]
    assert len(find_inputs(str(tmp_path), tmp_path)) == 2, "a source that is the output as well keeps its images"


@pytest.mark.promise("E8")
def test_what_lies_behind_links_is_labelled_and_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(tmp_path / "elsewhere/b.png")
    save(source / "a.png")
    (source / "more").symlink_to(tmp_path / "elsewhere")
    (source / "more/again").symlink_to(source)
    (source / "gone.png").symlink_to(tmp_path / "nothing.png")
    (source / "round.png").symlink_to(source / "round.png")
    summary = infer(strongest_colour, info(), find_inputs(str(source), out), out)
    assert files(out) == ["a.png", "more/b.png"]
    assert [failure.path.name for failure in summary.failed] == ["gone.png", "round.png"]
    assert len(find_inputs(f"{source}/*.png", out)) == 3


def test_folders_too_deep_for_anybody_are_refused(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "a"
        deep.mkdir()
    with pytest.raises(DataError, match="more than 200 deep"):
        find_inputs(str(tmp_path), tmp_path.parent / "out")


def test_nothing_there_and_nothing_found_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no .*nowhere"):
        find_inputs(str(tmp_path / "nowhere"), tmp_path / "out")
    for source in (str(tmp_path), f"{tmp_path}/*.png"):
        with pytest.raises(DataError, match="no image"):
            find_inputs(source, tmp_path / "out")


def test_label_maps_and_overlays_mirror_the_source_at_the_images_own_size(tmp_path: Path) -> None:
    source, out, counted = tmp_path / "in", tmp_path / "out", list[int]()
    images = {name: save(source / f"{name}.png", seed) for seed, name in enumerate(["a", "deep/b"])}
    inputs = find_inputs(str(source), out)
    summary = infer(strongest_colour, info(), inputs, out, overlay=True, on_image=counted.append)
    assert files(out) == ["a.png", "a_overlay.png", "deep/b.png", "deep/b_overlay.png"]
    for name, image in images.items():
        ids = read_ids(out / f"{name}.png")
        assert np.array_equal(ids, image.argmax(2))
        with Image.open(out / f"{name}_overlay.png") as file:
            expected = (image.astype(float) + np.array(PALETTE)[ids]) / 2
            assert np.abs(np.asarray(file) - expected).max() <= 0.5
    assert (summary.done, summary.failed, counted) == (2, (), [1, 1])
    assert summary.images_per_second == pytest.approx(2 / summary.seconds)


@pytest.mark.promise("D11")
def test_inputs_that_share_a_stem_keep_their_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.png", "b.png", "x/a.jpg"):
        save(tmp_path / "in" / name)
    out = tmp_path / "out"
    infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), out), out, overlay=True)
    label_maps = [name for name in files(out) if not name.endswith("_overlay.png")]
    assert label_maps == ["A.png.png", "a.jpg.png", "b.png", "x/a.png"]
    assert len(files(out)) == 8


def test_an_image_called_like_anothers_overlay_does_not_lose_its_label_map(tmp_path: Path) -> None:
    save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/a_overlay.jpg")
    out = tmp_path / "out"
    infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), out), out, overlay=True)
    assert len(files(out)) == 4
    save(tmp_path / "in/a.jpg.jpg")
    save(tmp_path / "in/a.png")
    with pytest.raises(UsageError, match="another image would both"):
        infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), out), out, overwrite=True)


@pytest.mark.promise("D11")
@pytest.mark.parametrize("name", ["with space.png", "ünï–🚗.jpg", "new\nline.png", "a.b.c.png", "n" * 200 + ".png"])
def test_odd_names_get_their_outputs(name: str, tmp_path: Path) -> None:
    save(tmp_path / "in" / name)
    out = tmp_path / "out"
    assert infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), out), out).done == 1
    assert files(out) == [Path(name).stem + ".png"]


@pytest.mark.promise("D11")
def test_a_name_too_long_for_its_output_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    save(tmp_path / "in" / ("n" * 251 + ".png"))
    save(tmp_path / "in/a.png")
    out = tmp_path / "out"
    summary = infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), out), out, overlay=True)
    assert summary.done == 1
    assert "name too long" in summary.failed[0].reason


@pytest.mark.promise("E8")
def test_a_damaged_image_is_left_out_and_told_and_the_others_are_done(tmp_path: Path) -> None:
    source, out, counted = tmp_path / "in", tmp_path / "out", list[int]()
    for seed in range(10):
        save(source / f"{seed}.jpg", seed, (40, 60))
    whole = (source / "4.jpg").read_bytes()
    (source / "4.jpg").write_bytes(whole[: len(whole) // 2])
    summary = infer(strongest_colour, info(), find_inputs(str(source), out), out, on_image=counted.append)
    assert summary.done == 9
    assert files(out) == [f"{seed}.png" for seed in range(10) if seed != 4]
    assert [failure.path for failure in summary.failed] == [source / "4.jpg"]
    assert "4.jpg" in summary.failed[0].reason
    assert sum(counted) == 10


@pytest.mark.promise("E8")
def test_an_output_that_cannot_be_written_is_told_with_its_image_and_the_others_are_done(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        save(source / f"{seed}.jpg", seed, (40, 60))
    (out / "1.png").mkdir(parents=True)
    inputs = find_inputs(str(source), out)
    summary = infer(strongest_colour, info(), inputs, out, overwrite=True)
    assert (summary.done, [failure.path for failure in summary.failed]) == (2, [source / "1.jpg"])
    assert f"What comes of {source}/1.jpg cannot be written: {out}/1.png" in summary.failed[0].reason
    assert files(out) == ["0.png", "2.png"]


@pytest.mark.promise("E9")
def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", 1)
    out = tmp_path / "out"
    save(out / "a.png", 2)
    before = (out / "a.png").read_bytes()
    inputs = find_inputs(str(tmp_path / "in"), out)

    def never(image: Tensor) -> Tensor:
        raise AssertionError("nothing is computed")

    with pytest.raises(UsageError, match=r"a\.png is there already"):
        infer(never, info(), inputs, out)
    assert (out / "a.png").read_bytes() == before
    infer(strongest_colour, info(), inputs, out, overwrite=True)
    assert np.array_equal(read_ids(out / "a.png"), noise(6, 9, 1).argmax(2))


@pytest.mark.promise("S8")
def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match="replace an image of the input"):
            infer(strongest_colour, info(), find_inputs(str(tmp_path / "a.png"), out), out, overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.promise("S6")
def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "in/sub/a.png")
    image, out, victim = tmp_path / "in/sub/a.png", tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(victim, target_is_directory=True)
    for relative in ("sub/a.png", "../victim/a.png", "x/../../victim/a.png", str(victim / "a.png")):
        with pytest.raises(UsageError, match="outside"):
            infer(strongest_colour, info(), [Input(image, Path(relative))], out, overwrite=True)
    assert files(victim) == []


@pytest.mark.promise("S7")
def test_a_link_in_the_place_of_an_output_is_replaced_and_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    (out / "a.png").symlink_to(victim)
    infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), out), out, overwrite=True)
    assert victim.read_text() == "mine"
    assert not (out / "a.png").is_symlink()


def test_an_output_folder_that_cannot_be_is_a_usage_error(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="cannot be made a folder"):
        infer(strongest_colour, info(), find_inputs(str(tmp_path / "in"), tmp_path / "out"), tmp_path / "out")


def network() -> Callable[[Tensor], Tensor]:
    """A real network with random weights; without its means, so that every class is somewhere."""
    torch.manual_seed(0)
    deployed = Deployed(build_network(NetworkConfig(network="pspnet-resnet18-half"), 3))

    def predict(image: Tensor) -> Tensor:
        logits: Tensor = deployed(image)
        return logits - logits.mean(dim=(2, 3), keepdim=True)

    return predict


@torch.no_grad()
@pytest.mark.parametrize("size", [None, (40, 56)])
def test_the_classes_are_those_that_evaluation_takes(size: tuple[int, int] | None) -> None:
    image, predict = noise(75, 101), network()
    seen = image if size is None else to_size(image, size)
    batch = torch.from_numpy(seen).permute(2, 0, 1).unsqueeze(0).float()
    expected = predict_labels(predict, batch, (75, 101))[0].numpy()
    assert np.array_equal(segment(predict, image, size), expected)
    assert len(np.unique(expected)) == 3


@pytest.mark.promise("D10")
@torch.no_grad()
def test_bands_of_a_large_image_make_up_the_whole() -> None:
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
def test_tiles_of_a_large_image_make_up_the_whole(shape: tuple[int, int]) -> None:
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
def test_of_large_images_it_is_told_how_much_the_tiles_change(tmp_path: Path) -> None:
    for name, seed, size in (("a", 1, (300, 400)), ("b", 2, (200, 300)), ("small", 3, (100, 200))):
        save(tmp_path / "in" / f"{name}.png", seed, size)
    bright = noise(300, 400, 1) // 2
    bright[140, 180] = (9, 255, 9)  # in the middle, which some tiles do not see
    Image.fromarray(bright).save(tmp_path / "in/a.png")

    def apart(predict: Callable[[Tensor], Tensor], out: str) -> Apart | None:
        inputs = find_inputs(str(tmp_path / "in"), tmp_path / out)
        return infer(predict, info(), inputs, tmp_path / out, tiling=SMALL_TILES).apart

    assert apart(strongest_colour, "local") == (2, 1.0)
    found = apart(by_the_brightest, "global")
    part = np.ascontiguousarray(bright[86:214, 72:328])  # 128x256 of the middle of the first
    whole, tiled = (segment(by_the_brightest, part, None, own) for own in (SMALL_TILES, SMALL_TILES.always()))
    assert found == (2, (whole == tiled).mean())
    assert (whole == tiled).mean() < 0.9
    inputs = find_inputs(str(tmp_path / "in/small.png"), tmp_path / "one")
    assert infer(strongest_colour, info(), inputs, tmp_path / "one", tiling=SMALL_TILES).apart is None
    assert infer(Local(), info((64, 64)), inputs, tmp_path / "sized", tiling=SMALL_TILES.always()).apart is None


@torch.no_grad()
@pytest.mark.promise("D10")
def test_tiles_are_scored_beside_the_whole() -> None:
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
    assert found.apart.miou == pytest.approx(expected.miou)
    assert found.apart.miou < 1
    assert seen == [1, 1]


@torch.no_grad()
@pytest.mark.reliability
@pytest.mark.promise("D10")
@pytest.mark.parametrize("name", ["enet", "espnet", "fcn-resnet18-half"])
def test_networks_that_see_no_further_than_the_margin_give_the_same_classes_tile_by_tile(name: str) -> None:
    pixels = load_data("streets").split("val").read(0).image
    image = to_size(pixels, (1024, 1024))
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=name), 19).train()
    with torch.no_grad():  # the norms take their statistics from such images
        network(torch.from_numpy(to_size(pixels, (256, 256))).permute(2, 0, 1)[None].float().repeat(2, 1, 1, 1))
    deployed = Deployed(network)
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
    tiled = segment(strongest_colour, image, None, Tiling(max_pixels=96 * 97, side=96, margin=32))
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


@pytest.mark.promise("S5")
def test_patterns_that_descend_again_and_again_are_as_one_that_descends_once(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("a" * 12)
    deep.mkdir(parents=True)
    (deep / "0.png").touch()
    started = time.process_time()
    found = find_inputs(f"{tmp_path}/{'**/' * 30}*.png", tmp_path / "out")
    assert [file.path for file in found] == [deep / "0.png"]
    with pytest.raises(UsageError, match="more than 2 times"):
        find_inputs(f"{tmp_path}/{'**/*/' * 30}*.png", tmp_path / "out")
    assert time.process_time() - started < 2
