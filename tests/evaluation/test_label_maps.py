"""Label maps of images: which images are found, where outputs go, and what is refused."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.label_maps import PALETTE, Pixels, info, network, noise, save, strongest_color
from segdistill.data import to_size
from segdistill.errors import DataError, UsageError
from segdistill.evaluation.evaluate import predict_labels
from segdistill.evaluation.input_images import InputImage, find_inputs
from segdistill.evaluation.label_maps import infer
from segdistill.evaluation.tiling import segment


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_ids(path: Path) -> Pixels:
    with Image.open(path) as file:
        assert file.mode == "P"
        assert tuple(file.getpalette() or ())[:9] == sum(PALETTE, ())
        return np.asarray(file)


def test_infer_finds_images_recursively_in_any_case(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt", ".hidden.png", "d.tiff"):
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no image")
    inputs = find_inputs(str(tmp_path), tmp_path.parent / "out")
    assert [str(found.relative) for found in inputs] == ["a.png", "b.JPG", "d.tiff", "deep/er/c.webp"]
    assert all(found.path == tmp_path / found.relative for found in inputs)


def test_infer_places_outputs_relative_to_a_file_or_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/a.png", "x/y/b.png", "x/y/c.jpg"):
        save(tmp_path / name)
    out = tmp_path / "out"
    assert find_inputs(str(tmp_path / "x/y/b.png"), out) == [InputImage(tmp_path / "x/y/b.png", Path("b.png"))]
    found = find_inputs(f"{tmp_path}/x/**/*.png", out)
    assert [str(image.relative) for image in found] == ["a.png", "y/b.png"]
    monkeypatch.chdir(tmp_path / "x")
    assert find_inputs("?.png", out) == [InputImage(Path("a.png"), Path("a.png"))]


def test_file_name_with_glob_characters_is_taken_literally(tmp_path: Path) -> None:
    save(tmp_path / "frame[1].png")
    assert len(find_inputs(str(tmp_path / "frame[1].png"), tmp_path / "out")) == 1


def test_earlier_outputs_below_the_source_are_not_inputs(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "out/a.png")
    assert [str(image.relative) for image in find_inputs(str(tmp_path), tmp_path / "out")] == ["a.png"]
    assert len(find_inputs(str(tmp_path), tmp_path)) == 2, "a source that is the output as well keeps its images"


@pytest.mark.promise("E8")
def test_infer_follows_links_and_reports_broken_ones(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save(tmp_path / "elsewhere/b.png")
    save(source / "a.png")
    (source / "more").symlink_to(tmp_path / "elsewhere")
    (source / "more/again").symlink_to(source)
    (source / "gone.png").symlink_to(tmp_path / "nothing.png")
    (source / "round.png").symlink_to(source / "round.png")
    summary = infer(strongest_color, info(), find_inputs(str(source), out), out)
    assert files(out) == ["a.png", "more/b.png"]
    assert [failure.path.name for failure in summary.failed] == ["gone.png", "round.png"]
    assert len(find_inputs(f"{source}/*.png", out)) == 3


def test_too_deep_folders_are_refused(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(300):
        deep = deep / "a"
        deep.mkdir()
    with pytest.raises(DataError, match="more than 200 deep"):
        find_inputs(str(tmp_path), tmp_path.parent / "out")


def test_missing_source_differs_from_source_without_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no .*nowhere"):
        find_inputs(str(tmp_path / "nowhere"), tmp_path / "out")
    for source in (str(tmp_path), f"{tmp_path}/*.png"):
        with pytest.raises(DataError, match="no image"):
            find_inputs(source, tmp_path / "out")


def test_infer_mirrors_the_source_with_labels_and_overlays(tmp_path: Path) -> None:
    source, out, counted = tmp_path / "in", tmp_path / "out", list[int]()
    images = {name: save(source / f"{name}.png", seed) for seed, name in enumerate(["a", "deep/b"])}
    inputs = find_inputs(str(source), out)
    summary = infer(strongest_color, info(), inputs, out, overlay=True, on_image=counted.append)
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
    infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), out), out, overlay=True)
    label_maps = [name for name in files(out) if not name.endswith("_overlay.png")]
    assert label_maps == ["A.png.png", "a.jpg.png", "b.png", "x/a.png"]
    assert len(files(out)) == 8


def test_image_named_like_an_overlay_keeps_its_label_map(tmp_path: Path) -> None:
    save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/a_overlay.jpg")
    out = tmp_path / "out"
    infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), out), out, overlay=True)
    assert len(files(out)) == 4
    save(tmp_path / "in/a.jpg.jpg")
    save(tmp_path / "in/a.png")
    with pytest.raises(UsageError, match="another image would both"):
        infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), out), out, overwrite=True)


@pytest.mark.promise("D11")
@pytest.mark.parametrize("name", ["with space.png", "ünï–🚗.jpg", "new\nline.png", "a.b.c.png", "n" * 200 + ".png"])
def test_odd_file_names_are_labeled(name: str, tmp_path: Path) -> None:
    save(tmp_path / "in" / name)
    out = tmp_path / "out"
    assert infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), out), out).done == 1
    assert files(out) == [Path(name).stem + ".png"]


@pytest.mark.promise("D11")
def test_too_long_output_name_is_reported_and_others_are_done(tmp_path: Path) -> None:
    save(tmp_path / "in" / ("n" * 251 + ".png"))
    save(tmp_path / "in/a.png")
    out = tmp_path / "out"
    summary = infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), out), out, overlay=True)
    assert summary.done == 1
    assert "name too long" in summary.failed[0].reason


@pytest.mark.promise("E8")
def test_damaged_image_is_reported_and_others_are_done(tmp_path: Path) -> None:
    source, out, counted = tmp_path / "in", tmp_path / "out", list[int]()
    for seed in range(10):
        save(source / f"{seed}.jpg", seed, (40, 60))
    whole = (source / "4.jpg").read_bytes()
    (source / "4.jpg").write_bytes(whole[: len(whole) // 2])
    summary = infer(strongest_color, info(), find_inputs(str(source), out), out, on_image=counted.append)
    assert summary.done == 9
    assert files(out) == [f"{seed}.png" for seed in range(10) if seed != 4]
    assert [failure.path for failure in summary.failed] == [source / "4.jpg"]
    assert "4.jpg" in summary.failed[0].reason
    assert sum(counted) == 10


@pytest.mark.promise("E8")
def test_unwritable_output_is_reported_and_others_are_done(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        save(source / f"{seed}.jpg", seed, (40, 60))
    (out / "1.png").mkdir(parents=True)
    inputs = find_inputs(str(source), out)
    summary = infer(strongest_color, info(), inputs, out, overwrite=True)
    assert (summary.done, [failure.path for failure in summary.failed]) == (2, [source / "1.jpg"])
    assert f"What comes of {source}/1.jpg cannot be written: {out}/1.png" in summary.failed[0].reason
    assert files(out) == ["0.png", "2.png"]


@pytest.mark.promise("E9")
def test_existing_outputs_are_replaced_only_with_overwrite(tmp_path: Path) -> None:
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
    infer(strongest_color, info(), inputs, out, overwrite=True)
    assert np.array_equal(read_ids(out / "a.png"), noise(6, 9, 1).argmax(2))


@pytest.mark.promise("S8")
def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match="replace an image of the input"):
            infer(strongest_color, info(), find_inputs(str(tmp_path / "a.png"), out), out, overwrite=True)
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
            infer(strongest_color, info(), [InputImage(image, Path(relative))], out, overwrite=True)
    assert files(victim) == []


@pytest.mark.promise("S7")
def test_link_in_place_of_an_output_is_replaced_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    (out / "a.png").symlink_to(victim)
    infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), out), out, overwrite=True)
    assert victim.read_text() == "mine"
    assert not (out / "a.png").is_symlink()


def test_impossible_output_folder_is_a_usage_error(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="cannot be made a folder"):
        infer(strongest_color, info(), find_inputs(str(tmp_path / "in"), tmp_path / "out"), tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("size", [None, (40, 56)])
def test_infer_predicts_the_classes_of_evaluate(size: tuple[int, int] | None) -> None:
    image, predict = noise(75, 101), network()
    seen = image if size is None else to_size(image, size)
    batch = torch.from_numpy(seen).permute(2, 0, 1).unsqueeze(0).float()
    expected = predict_labels(predict, batch, (75, 101))[0].numpy()
    assert np.array_equal(segment(predict, image, size), expected)
    assert len(np.unique(expected)) == 3


@pytest.mark.promise("S5")
def test_repeated_recursive_patterns_are_cheap_or_refused(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("a" * 12)
    deep.mkdir(parents=True)
    (deep / "0.png").touch()
    started = time.process_time()
    found = find_inputs(f"{tmp_path}/{'**/' * 30}*.png", tmp_path / "out")
    assert [file.path for file in found] == [deep / "0.png"]
    with pytest.raises(UsageError, match="more than 2 times"):
        find_inputs(f"{tmp_path}/{'**/*/' * 30}*.png", tmp_path / "out")
    assert time.process_time() - started < 2
