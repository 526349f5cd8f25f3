import hashlib
import multiprocessing
import multiprocessing.reduction
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from commands import Result, process
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segdistill import distributed
from segdistill.config import DataConfig
from segdistill.data import (
    DataSource,
    Joined,
    Sample,
    _batches,
    check_files,
    evaluation_batches,
    load_data,
    mixture,
    read_image,
    read_label,
    to_size,
    training_batches,
)
from segdistill.data._batches import shared_memory_shortage
from segdistill.data._check import AT_ONCE
from segdistill.data._folder import image_folder
from segdistill.data._mixture import Part
from segdistill.data._transforms import Augment
from segdistill.errors import DataError, ResourceError, UsageError
from segdistill.signals import Interrupted, stop_signals
from segdistill.types import IGNORE, Batch

Pixels = npt.NDArray[np.uint8]
RNG = np.random.default_rng(0)
PLAIN = {"scale": (1.0, 1.0), "flip": 0.0, "batch_size": 1}


def picture(height: int = 12, width: int = 16) -> Pixels:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def ids(height: int = 12, width: int = 16, most: int = 11) -> Pixels:
    return RNG.integers(0, most + 1, (height, width), np.uint8)


def write(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def camvid(root: Path, train: int = 5, val: int = 3) -> Path:
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            write(root / split / f"{i:02}.png", picture())
            write(root / f"{split}annot" / f"{i:02}.png", ids())
    return root


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """A grey PNG of any depth, or one whose header lies about its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Drawn:
    """A split that needs no files: image i is filled with i (of 256), and what `on_read` does happens first."""

    count: int
    on_read: Callable[[int], object] = abs
    sizes: tuple[tuple[int, int], ...] = ((8, 10),)
    fingerprint: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{i}.png" for i in range(self.count))

    def read(self, index: int) -> Sample:
        self.on_read(index)
        height, width = self.sizes[index % len(self.sizes)]
        ramp = np.arange(height * width, dtype=np.uint8).reshape(height, width)
        return Sample(np.full((height, width, 3), index % 256, np.uint8), ramp, f"{index}.png")

    def digest(self, index: int) -> bytes:
        return b"%d" % index


def config(**changes: object) -> DataConfig:
    return DataConfig.model_validate({"crop": (6, 8), "batch_size": 4} | changes)


def same(one: Batch, other: Batch) -> bool:
    pairs = zip((one.image, one.label, one.seeds), (other.image, other.label, other.seeds), strict=True)
    return one.names == other.names and all(torch.equal(a, b) for a, b in pairs)


# Decoding


@pytest.mark.promise("D3")
def test_label_maps_of_every_kind_are_read_as_the_ids_in_the_file(tmp_path: Path) -> None:
    label = ids()
    palette = Image.fromarray(label)
    palette.putpalette(RNG.integers(0, 256, 768, np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    write(tmp_path / "grey.png", label)
    write(tmp_path / "grey.tif", label)
    write(tmp_path / "grey.bmp", label)
    write(tmp_path / "deep.png", label.astype(np.uint16))
    write(tmp_path / "deep.tif", label.astype(np.uint16))
    rows = b"".join(b"\0" + bytes(a << 4 | b for a, b in row.reshape(-1, 2)) for row in label)
    (tmp_path / "4bit.png").write_bytes(png(16, 12, 4, rows))
    with Image.open(tmp_path / "palette.png") as file:
        assert file.mode == "P"
    for path in tmp_path.iterdir():
        assert np.array_equal(read_label(path), label), path


@pytest.mark.promise("D3")
def test_ids_above_255_survive_and_a_bilevel_map_holds_zeros_and_ones(tmp_path: Path) -> None:
    deep = np.array([[0, 399, 65535]], np.uint16)
    assert np.array_equal(read_label(write(tmp_path / "deep.png", deep)), deep)
    assert read_label(write(tmp_path / "two.png", np.array([[True, False]]))).tolist() == [[1, 0]]


@pytest.mark.promise("D3")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_a_label_map_in_colours_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "label.tif"
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(DataError, match="colour map") as caught:
        read_label(path)
    assert str(path) in caught.value.what
    assert mode in caught.value.what


def test_a_label_map_in_jpeg_is_refused_because_jpeg_changes_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compression"):
        read_label(write(tmp_path / "label.jpg", ids()))
    several = tmp_path / "label.png"
    Image.fromarray(ids()).save(several, "MPO", save_all=True, append_images=[Image.fromarray(ids())])
    with pytest.raises(DataError, match="compression"):
        read_label(several)
    assert read_image(several).shape[:2] == ids().shape  # as phones write photographs


@pytest.mark.promise("D3")
@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (1, b"\x50", [0, 1, 0, 1]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x12\x34", [1, 2, 3, 4]),
        (8, b"\0\1\2\3", [0, 1, 2, 3]),
    ],
)
def test_a_tiff_in_which_white_is_0_is_refused(bits: int, row: bytes, expected: list[int], tmp_path: Path) -> None:
    # one row of four pixels, stored after the header
    tags = [
        (256, 3, 4),
        (257, 3, 1),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 0),
        (273, 4, 8),
        (277, 3, 1),
        (279, 4, len(row)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path = tmp_path / "label.tif"
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(row)) + row + directory)
    with pytest.raises(DataError, match="white as 0"):
        read_label(path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<HHII", 262, 3, 1, 0), struct.pack("<HHII", 262, 3, 1, 1)))
    assert read_label(path).tolist() == [expected]


@pytest.mark.promise("D8")
def test_a_file_of_more_bytes_than_its_pixels_could_have_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.webp"
    path.write_bytes(b"RIFF\xf8\xff\xff\xbeWEBPVP8 ")
    os.truncate(path, 3 * 2**30)
    with pytest.raises(DataError, match="3,221,225,472 bytes"):
        read_image(path)


def test_a_label_map_in_a_tiff_is_read_unless_jpeg_has_changed_its_ids(tmp_path: Path) -> None:
    label = ids()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        Image.fromarray(label).save(tmp_path / "label.tif", compression=compression)
        assert np.array_equal(read_label(tmp_path / "label.tif"), label)
    Image.fromarray(label).save(tmp_path / "label.tif", compression="jpeg")
    with pytest.raises(DataError, match=r"label\.tif has JPEG's compression"):
        read_label(tmp_path / "label.tif")


@pytest.mark.parametrize(("kind", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_a_label_map_of_32_bits_is_refused_with_what_to_save_instead(
    tmp_path: Path, kind: type[np.generic], mode: str
) -> None:
    with pytest.raises(DataError, match=rf"label\.tif has 32 bits per pixel \(mode {mode}\)") as caught:
        read_label(write(tmp_path / "label.tif", ids().astype(kind)))
    assert "8 or 16 bits" in caught.value.fix


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    rgb, grey = picture(), ids()
    opaque = np.dstack([rgb, ids()])
    grey_rgb = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(read_image(write(tmp_path / "rgb.png", rgb)), rgb)
    assert np.array_equal(read_image(write(tmp_path / "rgba.png", opaque)), rgb)
    assert np.array_equal(read_image(write(tmp_path / "grey.png", grey)), grey_rgb)
    assert np.array_equal(read_image(write(tmp_path / "deep.png", grey.astype(np.uint16) * 256 + 77)), grey_rgb)
    coloured = Image.fromarray(rgb).quantize(16)
    coloured.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(coloured.convert("RGB")))
    Image.new("CMYK", (2, 1), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert read_image(tmp_path / "cmyk.tif").tolist() == [[[255, 0, 0], [255, 0, 0]]]


def test_an_image_of_32_bit_numbers_is_refused_because_its_range_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="32 bits"):
        read_image(write(tmp_path / "float.tif", np.zeros((2, 2), np.float32)))


@pytest.mark.promise("D1")
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "bmp", "webp"])
def test_a_file_cut_in_half_is_refused_with_its_name(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"cut.{ending}", picture(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cannot be read|is no image") as caught:
        read_image(path)
    assert str(path) in caught.value.what


@pytest.mark.promise("D1")
def test_any_byte_may_be_damaged_and_the_answer_is_an_image_or_a_data_error(tmp_path: Path) -> None:
    for ending in ("jpg", "png", "tif"):
        whole = bytearray(write(tmp_path / f"whole.{ending}", picture()).read_bytes())
        for _ in range(60):
            damaged = bytearray(whole)
            for place in RNG.integers(0, min(len(whole), 200), 3):
                damaged[place] = RNG.integers(256)
            path = tmp_path / f"damaged.{ending}"
            path.write_bytes(damaged)
            try:
                image = read_image(path)
            except DataError as error:
                message = error.what
            else:
                message = f"{path} is read"
                assert image.shape[2] == 3
            assert message.startswith(str(path))


@pytest.mark.promise("D9")
@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0", b"8BPS\0\1", b"SIMPLE  =", b"<svg>", b""])
def test_another_format_behind_an_image_s_name_is_refused(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(start + b" " * 100 if start else b"")
    with pytest.raises(DataError, match="is no image") as caught:
        read_image(path)
    assert (start[:8].hex(" ") or "empty") in caught.value.what


def test_of_a_file_that_is_no_image_the_first_bytes_are_read_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, 1 << 29)  # half a gigabyte that is nothing but a hole
    with pytest.raises(DataError, match="begins with the bytes 00 00 00 00 00 00 00 00"):
        read_image(path)


@pytest.mark.promise("D9")
def test_formats_outside_the_list_are_not_parsed_even_if_pillow_could(tmp_path: Path) -> None:
    Image.fromarray(ids()).save(tmp_path / "a.png", format="GIF")
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "GIF"
    with pytest.raises(DataError, match="is no image"):
        read_image(tmp_path / "a.png")


@pytest.mark.promise("D8")
@pytest.mark.parametrize("side", [10_001, 14_000, 30_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_an_image_of_more_than_100_megapixels_is_refused_by_its_header(
    tmp_path: Path, side: int, action: Literal["error", "ignore"]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 8, b""))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(DataError, match="too large") as caught:
            read_image(path)
    assert "100,000,000" in caught.value.fix


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png cannot be read: No such file"):
        read_image(tmp_path / "nothing.png")


def test_an_image_is_turned_as_its_exif_tag_says(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_label_map_with_a_tag_of_its_own_is_turned_like_its_image(tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    label = ids(2, 3)
    Image.fromarray(label).save(tmp_path / f"label.{ending}", exif=exif)
    assert np.array_equal(read_label(tmp_path / f"label.{ending}"), np.rot90(label, -1))


def test_halving_an_image_averages_each_square_of_four(tmp_path: Path) -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2] = [[[8] * 3, [16] * 3], [[24] * 3, [32] * 3]]
    assert to_size(image, (1, 2)).tolist() == [[[20] * 3, [0] * 3]]
    assert to_size(image, (2, 4)) is image


# Folders


def test_camvid_s_void_is_ignored_and_its_other_ids_are_its_classes(tmp_path: Path) -> None:
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = picture(3, 4)
    write(tmp_path / "train" / "a.png", image)
    write(tmp_path / "trainannot" / "a.png", label)
    source = load_data(f"camvid:{tmp_path}")
    sample = source.split("train").read(0)
    assert sample.label.ravel().tolist() == [*range(11), IGNORE]
    assert np.array_equal(sample.image, image)
    assert sample.name == "train/a.png"
    assert len(source.classes) == len(source.palette) == 11


@pytest.mark.promise("D2")
def test_an_id_outside_the_classes_is_named_with_its_file_and_count(tmp_path: Path) -> None:
    label = ids()
    label[0, :5] = 77
    label[1, 0] = 255
    path = write(camvid(tmp_path) / "trainannot" / "02.png", label)
    with pytest.raises(DataError) as caught:
        load_data(f"camvid:{tmp_path}").split("train").read(2)
    assert str(path) in caught.value.what
    assert "77 (5 px), 255 (1 px)" in caught.value.what
    assert caught.value.fix == "Allowed ids: 0-11."


@pytest.mark.promise("D5")
def test_a_label_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    write(camvid(tmp_path) / "trainannot" / "00.png", ids(12, 17))
    with pytest.raises(DataError, match=r"16x12 pixels, its label .* has 17x12") as caught:
        load_data(f"camvid:{tmp_path}").split("train").read(0)
    assert "EXIF" not in str(caught.value)


@pytest.mark.promise("D5")
def test_a_turned_image_with_a_label_that_is_not_turned_is_refused_with_the_reason(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(camvid(tmp_path) / "train" / "00.png", exif=exif)
    with pytest.raises(DataError, match="EXIF"):
        load_data(f"camvid:{tmp_path}").split("train").read(0)


@pytest.mark.promise("D5")
@pytest.mark.parametrize(("height", "width"), [(12, 16), (12, 12)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_was_turned_is_named_where_its_size_does_not_tell_whether_its_label_was(
    tmp_path: Path, orientation: int, height: int, width: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    camvid(tmp_path)
    Image.fromarray(picture(height, width)).save(tmp_path / "train" / "00.png", exif=exif)
    shown = (height, width) if orientation < 5 else (width, height)
    write(tmp_path / "trainannot" / "00.png", ids(*shown))
    warnings = check_files(load_data(f"camvid:{tmp_path}"), ["train", "val"]).warnings
    told = [warning for warning in warnings if "EXIF" in warning]
    assert bool(told) == (orientation in (2, 3, 4) or (orientation > 4 and height == width))
    assert not told or told[0].endswith(
        "(1), whose labels must have been made for them as they are shown: train/00.png."
    )


@pytest.mark.promise("D6")
def test_files_without_partners_are_counted_and_the_first_ten_named(tmp_path: Path) -> None:
    camvid(tmp_path, train=13)
    for i in range(12):
        (tmp_path / "trainannot" / f"{i:02}.png").unlink()
    write(tmp_path / "trainannot" / "stray.png", ids())
    with pytest.raises(DataError) as caught:
        load_data(f"camvid:{tmp_path}")
    assert f"12 files are in {tmp_path / 'train'} without a partner" in caught.value.what
    assert "08.png, 09.png, ..." in caught.value.what
    assert "10.png" not in caught.value.what
    assert f"1 file is in {tmp_path / 'trainannot'} without" in caught.value.what
    assert "stray" in caught.value.what


@pytest.mark.promise("D6")
def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write(camvid(tmp_path) / "train" / "03.jpg", picture())
    with pytest.raises(DataError, match="more than one ending: 03") as caught:
        load_data(f"camvid:{tmp_path}")
    assert "Images and label maps belong in folders of their own." in caught.value.fix


def test_links_are_followed_and_a_broken_one_is_named(tmp_path: Path) -> None:
    camvid(tmp_path)
    (tmp_path / "train" / "00.png").rename(tmp_path / "moved.png")
    (tmp_path / "train" / "00.png").symlink_to(tmp_path / "moved.png")
    assert len(load_data(f"camvid:{tmp_path}").split("train").names) == 5
    (tmp_path / "moved.png").unlink()
    (tmp_path / "trainannot" / "00.png").unlink()  # the pair would vanish
    with pytest.raises(DataError, match=r"train/00\.png cannot be read: No such file") as caught:
        load_data(f"camvid:{tmp_path}")
    assert caught.value.fix == f"It is a link to {tmp_path}/moved.png."


@pytest.mark.promise("D11")
def test_odd_names_and_endings_work_and_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    stems = ["with space", "UPPER", "dots.in.name", "ünïcödé 街", "new\nline", "x" * 200, "%s{stem}"]
    for stem, ending in zip(stems, ["JPG", "Png", "jpeg", "BMP", "tiff", "webp", "TIF"], strict=True):
        write(tmp_path / "train" / f"{stem}.{ending}", picture())
        write(tmp_path / "trainannot" / f"{stem}.PNG", ids())
    for name in (".DS_Store", "._UPPER.png", "Thumbs.db", "README.txt"):
        (tmp_path / "train" / name).write_bytes(b"no image")
    split = load_data(f"camvid:{tmp_path}").split("train")
    assert sorted(Path(name).stem for name in split.names) == sorted(stems)
    assert {split.read(i).label.shape for i in range(len(stems))} == {(12, 16)}


def test_absent_splits_and_unusual_numbers_of_images_are_warnings(tmp_path: Path) -> None:
    source = load_data(f"camvid:{camvid(tmp_path)}")
    assert list(source.splits) == ["train", "val"]
    assert source.warnings == (
        "camvid has no test split here.",
        "camvid's train split has 5 images here; it usually has 367.",
        "camvid's val split has 3 images here; it usually has 101.",
    )
    with pytest.raises(DataError, match="no test split"):
        source.split("test")
    with pytest.raises(UsageError, match="Did you mean val"):
        source.split("vall")


@pytest.mark.parametrize(("folder", "message"), [("trainannot", "cannot be read: No such file"), ("train", "train")])
def test_half_a_split_is_refused(tmp_path: Path, folder: str, message: str) -> None:
    shutil.rmtree(camvid(tmp_path) / folder)
    with pytest.raises(DataError, match=message):
        load_data(f"camvid:{tmp_path}")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    camvid(tmp_path, train=0)
    (tmp_path / "train").mkdir()
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(DataError, match="train has no images"):
        load_data(f"camvid:{tmp_path}")


def test_a_name_alone_is_looked_for_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    with pytest.raises(UsageError, match="camvid:PATH"):
        load_data("camvid")
    monkeypatch.setenv("SEGDISTILL_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="path not found"):
        load_data("camvid")
    camvid(tmp_path / "camvid")
    assert len(load_data("camvid").split("train").names) == 5
    with pytest.raises(UsageError, match="path not found"):
        load_data(f"camvid:{tmp_path}/nowhere")
    with pytest.raises(UsageError, match="is not a folder"):
        load_data(f"camvid:{tmp_path}/camvid/train/00.png")


def test_the_home_of_nobody_is_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="path not found: ~nobody-at-all/camvid does not exist"):
        load_data("camvid:~nobody-at-all/camvid")
    with pytest.raises(UsageError, match=r"There is no data file ~nobody-at-all/data\.toml"):
        load_data("~nobody-at-all/data.toml")
    with pytest.raises(UsageError, match="There is no folder of unlabelled images ~nobody-at-all"):
        image_folder("~nobody-at-all")


def test_an_unknown_data_set_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="Did you mean camvid"):
        load_data("camvit:/somewhere")


def test_the_fingerprint_follows_the_files_and_not_their_place(tmp_path: Path) -> None:
    def fingerprint(folder: str) -> str:
        return load_data(f"camvid:{tmp_path / folder}").fingerprint

    camvid(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = fingerprint("a")
    assert fingerprint("b") == before
    write(tmp_path / "b" / "trainannot" / "00.png", np.zeros((12, 16), np.uint8))
    assert fingerprint("b") != before
    for folder in ("val", "valannot"):
        (tmp_path / "a" / folder / "00.png").rename(tmp_path / "a" / folder / "renamed.png")
    assert fingerprint("a") != before


@pytest.mark.promise("D13")
def test_an_image_of_another_content_and_the_same_length_is_other_data(tmp_path: Path) -> None:
    camvid(tmp_path)
    folder = tmp_path / "train"
    for path in [*folder.iterdir()]:
        path.unlink()
        write(path.with_suffix(".bmp"), np.zeros((12, 16, 3), np.uint8))
    source = load_data(f"camvid:{tmp_path}")
    before = check_files(source, ["train", "val"]).contents
    write(folder / "01.bmp", np.full((12, 16, 3), 7, np.uint8))
    after = check_files(source, ["train", "val"]).contents
    assert load_data(f"camvid:{tmp_path}").fingerprint == source.fingerprint, "names and lengths are as before"
    assert (after["train"] == before["train"], after["val"] == before["val"]) == (False, True)


@pytest.mark.promise("D13")
def test_the_content_of_label_maps_tells_data_apart_where_names_and_sizes_do_not(tmp_path: Path) -> None:
    def read() -> tuple[dict[str, str], str]:
        source = load_data(f"camvid:{tmp_path}")
        contents = check_files(source, ["train", "val"]).contents
        return contents, replace(source, contents=contents).fingerprint

    camvid(tmp_path)
    folder = tmp_path / "trainannot"
    for i in range(2):
        (folder / f"{i:02}.png").unlink()
        write(folder / f"{i:02}.bmp", np.full((12, 16), i, np.uint8))
    before, first = read()
    assert read() == (before, first)
    names = load_data(f"camvid:{tmp_path}").fingerprint
    for i in range(2):
        write(folder / f"{i:02}.bmp", np.full((12, 16), 1 - i, np.uint8))  # the same maps in another order
    swapped, second = read()
    assert load_data(f"camvid:{tmp_path}").fingerprint == names
    assert (swapped["train"] == before["train"], swapped["val"] == before["val"]) == (False, True)
    assert second != first


def test_what_a_training_does_not_read_is_no_part_of_its_data(tmp_path: Path) -> None:
    camvid(tmp_path)
    before = mixture(load_data(f"camvid:{tmp_path}"), config())
    write(tmp_path / "test" / "00.png", picture())
    write(tmp_path / "testannot" / "00.png", ids())
    after = mixture(load_data(f"camvid:{tmp_path}"), config())
    assert list(after.splits) == ["train", "val"]
    assert after.fingerprint == before.fingerprint


# The check before a run


def test_the_check_reads_as_many_images_at_once_as_there_are_cores_and_in_order() -> None:
    lock, here, most = Lock(), 0, 0

    def read(index: int) -> None:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.0005)
        with lock:
            here -= 1

    drawn = Drawn(2 * AT_ONCE + 10, read)
    source = DataSource("drawn", ("a", "b"), ((0, 0, 0), (1, 1, 1)), {"train": drawn})
    done: list[int] = []
    census = check_files(source, ["train"], done.append)
    assert (len(done), census.sizes["train"]) == (len(drawn.names), {(8, 10): len(drawn.names)})
    assert most <= distributed.cores()
    assert census.contents == check_files(source, ["train"]).contents
    assert census.pixels["train"].tolist() == [len(drawn.names)] * 2


def test_the_check_counts_the_pixels_of_each_class(tmp_path: Path) -> None:
    for split, label in (("train", [[0, 0, 10], [11, 11, 11]]), ("val", [[5, 5, 5], [5, 5, 11]])):
        write(tmp_path / split / "a.png", picture(2, 3))
        write(tmp_path / f"{split}annot" / "a.png", np.array(label, np.uint8))
    census = check_files(load_data(f"camvid:{tmp_path}"), ["train", "val"])
    assert census.pixels["train"].tolist() == [2, *[0] * 9, 1]
    assert census.pixels["val"].tolist() == [0] * 5 + [5] + [0] * 5
    assert census.ignored == {"train": 3, "val": 1}
    train, val = census.warnings[:2]
    assert train.startswith("Classes without a pixel in the train split (9): building, pole, road, pavement, tree, ")
    assert train.endswith(" No label teaches tree, which the val split has: expect an IoU of 0 there.")
    assert val.startswith("Classes without a pixel in the val split (10): sky, building, ")
    assert val.endswith(" An mIoU over the val split leaves them out, unless they are predicted.")


def test_the_check_names_every_pair_that_cannot_be_used(tmp_path: Path) -> None:
    camvid(tmp_path, train=14)
    for i in range(11):
        path = tmp_path / "train" / f"{i:02}.png"
        path.write_bytes(path.read_bytes()[:100])
    wrong = write(tmp_path / "valannot" / "01.png", np.full((12, 16), 99, np.uint8))
    source = load_data(f"camvid:{tmp_path}")
    with pytest.raises(DataError, match="12 pairs cannot be used") as caught:
        check_files(source, ["train", "val"])
    assert all(f"train/{i:02}.png cannot be read" in caught.value.what for i in range(10))
    assert "... and 2 more" in caught.value.what
    with pytest.raises(DataError) as caught:
        check_files(source, ["val"])
    assert caught.value.what == f"{wrong} has class ids that this data set has not: 99 (192 px)."


@pytest.mark.promise("D6")
def test_an_image_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    camvid(tmp_path)
    shutil.copy(tmp_path / "train" / "03.png", tmp_path / "val" / "01.png")
    warning = check_files(load_data(f"camvid:{tmp_path}"), ["train", "val"]).warnings[-1]
    assert warning == "Images in two splits (1): train/03.png = val/01.png."


def test_the_names_of_splits_made_of_others_are_put_together_once() -> None:
    for split in (Joined((Drawn(3), Drawn(2))), Part(Drawn(9), (1, 4), labels=True)):
        assert split.names is split.names
    assert Joined((Drawn(2), Part(Drawn(9), (1, 4), labels=True))).names == ("0.png", "1.png", "1.png", "4.png")


# Images without labels


def test_unlabelled_images_are_found_through_links_but_not_in_hidden_folders_and_none_twice(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("b/1.png", "a.PNG", ".hidden/2.png", "__MACOSX/b/1.png", "b/.thumbs/3.png", "b/._1.png"):
        write(tmp_path / "x.png", picture())
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "x.png", root / name)
    write(tmp_path / "other" / "4.jpg", picture())
    (root / "c").symlink_to(tmp_path / "other")
    (root / "d.png").symlink_to(tmp_path / "x.png")
    (root / "b" / "again").symlink_to(root)
    (tmp_path / "other" / "round").symlink_to(tmp_path / "other")
    (root / "notes.txt").touch()
    assert image_folder(str(root)).names == ("a.PNG", "b/1.png", "c/4.jpg", "d.png")
    (tmp_path / "other" / "4.jpg").unlink()
    (root / "e.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"e\.png cannot be read: No such file"):
        image_folder(str(root))


def test_of_many_names_of_a_folder_the_first_one_counts(tmp_path: Path) -> None:
    write(tmp_path / "images" / "m" / "deep" / "1.png", picture())
    for name in random.sample("abcdefghijklnopqrstuvwxyz", 25):
        (tmp_path / "images" / name).symlink_to(tmp_path / "images" / "m")
    assert image_folder(str(tmp_path / "images")).names == ("a/deep/1.png",)


# Augmentation


@pytest.mark.promise("D4")
@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.none() | st.tuples(st.integers(4, 40), st.integers(4, 40)),
    low=st.floats(0.3, 1.5),
    span=st.floats(0, 1.5),
    seed=st.integers(0, 2**63 - 1),
)
def test_augmentation_brings_no_id_that_was_not_there(
    size: tuple[int, int],
    crop: tuple[int, int],
    resize: tuple[int, int] | None,
    low: float,
    span: float,
    seed: int,
) -> None:
    label = np.random.default_rng(seed).choice(np.array([0, 18, 200, IGNORE], np.uint8), size)
    augment = Augment(config(crop=crop, size=resize, scale=(low, low + span), color=0.5))
    image, out = augment(np.zeros((*size, 3), np.uint8), label, seed)
    assert image.shape == (*crop, 3)
    assert out.shape == crop
    assert image.dtype == out.dtype == np.uint8
    assert set(np.unique(out)) <= {0, 18, 200, IGNORE}


def test_a_sample_depends_on_its_seed_alone_and_leaves_the_global_generators_alone() -> None:
    image, label = picture(24, 32), ids(24, 32)
    before = image.copy(), label.copy()
    augment = Augment(config(color=0.4))
    first = augment(image, label, 7)
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002  # the global one
    augment(image, label, 8)
    other = Augment(config(color=0.4))(image, label, 7)
    assert np.array_equal(first[0], other[0])
    assert np.array_equal(first[1], other[1])
    assert not np.array_equal(first[0], augment(image, label, 8)[0])
    assert random.getstate() == states[0]
    assert str(np.random.get_state(legacy=False)) == str(states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert np.array_equal(image, before[0])
    assert np.array_equal(label, before[1])


def test_the_label_moves_with_the_image() -> None:
    label = np.kron(RNG.integers(0, 11, (4, 5)), np.ones((40, 40))).astype(np.uint8)
    image = np.repeat(label[..., None] * 20, 3, axis=2)
    augment = Augment(config(crop=(80, 100), scale=(0.6, 1.8)))
    for seed in range(20):
        out, moved = augment(image, label, seed)
        inside = moved != IGNORE
        assert np.mean(np.abs(out[..., 0][inside] - 20.0 * moved[inside]) < 10) > 0.75


def test_scale_crop_and_mirroring_are_drawn_independently_and_the_scale_uniformly() -> None:
    image = np.repeat(np.tile(np.arange(200, dtype=np.uint8), (100, 1))[..., None], 3, axis=2)
    augment = Augment(config(crop=(20, 20), scale=(0.5, 2.0)))
    rows = np.array([augment(image, image[..., 0], seed)[0][0, :, 0].astype(float) for seed in range(400)])
    slope = (rows[:, -3] - rows[:, 2]) / 15  # pixels of the image per pixel of the crop
    scale, flipped, left = 1 / np.abs(slope), slope < 0, rows.min(axis=1)
    assert abs(np.mean(flipped) - 0.5) < 0.1
    assert scale.min() < 0.6
    assert scale.max() > 1.8
    assert abs(np.mean(scale) - 1.25) < 0.08
    correlations = np.corrcoef([scale, flipped, left])
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.2


def test_an_image_smaller_than_the_crop_is_filled_up_with_the_mean_and_its_label_with_ignore() -> None:
    image, label = picture(3, 4), ids(3, 4)
    out, padded = Augment(config(**PLAIN))(image, label, 0)
    assert np.array_equal(out[:3, :4], image)
    assert np.array_equal(padded[:3, :4], label)
    assert (padded[3:] == IGNORE).all()
    assert (padded[:, 4:] == IGNORE).all()
    assert (out[3:] == (124, 116, 104)).all()
    assert (out[:, 4:] == (124, 116, 104)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_an_image_of_a_pixel_is_scaled_down_all_the_same(shape: tuple[int, int]) -> None:
    augment = Augment(config(**PLAIN | {"scale": (0.1, 0.5)}))
    for seed in range(20):
        image, label = augment(picture(*shape), ids(*shape), seed)
        assert (image.shape, label.shape) == ((6, 8, 3), (6, 8))


def test_training_and_evaluation_bring_images_to_one_size_in_the_same_way() -> None:
    sample = Sample(picture(12, 16), ids(12, 16), "a")
    image, label = Augment(config(**PLAIN, size=(6, 8)))(sample.image, sample.label, 0)
    assert np.array_equal(image, to_size(sample.image, (6, 8)))
    assert np.array_equal(label, sample.label[1::2, 1::2])


def test_colours_change_the_image_and_not_the_label() -> None:
    image, label = picture(6, 8), ids(6, 8)
    out, same_label = Augment(config(**PLAIN, color=0.5))(image, label, 3)
    assert not np.array_equal(out, image)
    assert np.array_equal(same_label, label)


# The order of a training


@pytest.mark.promise("R7")
def test_each_epoch_has_every_image_once_and_batches_straddle_epochs() -> None:
    batches = list(training_batches(Drawn(10), config(batch_size=4), seed=1, steps=5))
    names = [name for batch in batches for name in batch.names]
    assert [len(batch.names) for batch in batches] == [4] * 5
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(Drawn(10).names)
    assert names[:10] != names[10:]


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    (batch,) = training_batches(Drawn(3), config(batch_size=7), seed=0, steps=1)
    assert len(batch.names) == 7
    assert set(batch.names) == set(Drawn(3).names)
    assert len(set(batch.seeds.tolist())) == 7


def test_a_batch_is_what_the_networks_are_given() -> None:
    (batch,) = training_batches(Drawn(4), config(**PLAIN | {"batch_size": 4}), seed=0, steps=1)
    assert batch.image.shape == (4, 3, 6, 8)
    assert batch.image.dtype == torch.float32
    assert batch.label.shape == (4, 6, 8)
    assert batch.label.dtype == torch.int64
    assert batch.seeds.shape == (4,)
    assert batch.seeds.dtype == torch.int64
    assert (batch.seeds >= 0).all()
    assert [f"{int(image.mean())}.png" for image in batch.image] == list(batch.names)


def test_a_resumed_training_gets_what_the_uninterrupted_one_got() -> None:
    whole = list(training_batches(Drawn(10), config(), seed=3, steps=6, accumulate=2))
    rest = list(training_batches(Drawn(10), config(), seed=3, steps=6, accumulate=2, start_step=4))
    assert len(whole) == 12
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(whole[8:], rest, strict=True))


@pytest.mark.promise("R9")
def test_processes_and_micro_batches_together_get_what_one_process_gets() -> None:
    one = list(training_batches(Drawn(10), config(batch_size=8), seed=3, steps=3))
    parts = [
        list(training_batches(Drawn(10), config(batch_size=8), seed=3, steps=3, accumulate=2, rank=rank, world=2))
        for rank in range(2)
    ]
    for step in range(3):
        micro = [batch for rank in range(2) for batch in parts[rank][2 * step : 2 * step + 2]]
        assert torch.equal(torch.cat([batch.image for batch in micro]), one[step].image)
        assert torch.equal(torch.cat([batch.label for batch in micro]), one[step].label)
        assert torch.equal(torch.cat([batch.seeds for batch in micro]), one[step].seeds)


def test_a_batch_that_cannot_be_divided_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="8 images cannot be divided into 2 x 3"):
        training_batches(Drawn(10), config(batch_size=8), seed=0, steps=1, world=2, accumulate=3)


@pytest.mark.promise("R9")
def test_neither_workers_nor_a_validation_in_between_change_the_batches(tmp_path: Path) -> None:
    source = load_data(f"camvid:{camvid(tmp_path)}")

    def hashes(workers: int, validate: bool) -> list[str]:
        found = []
        batches = training_batches(source.split("train"), config(color=0.3), seed=5, steps=3, workers=workers)
        for batch in batches:
            digest = hashlib.sha256(batch.image.numpy().tobytes() + batch.label.numpy().tobytes())
            found.append(digest.hexdigest() + "".join(batch.names))
            if validate:
                list(evaluation_batches(source.split("val"), None))
        return found

    expected = hashes(0, validate=False)
    assert len(set(expected)) == 3
    assert hashes(0, validate=True) == hashes(1, validate=False) == hashes(2, validate=True) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_takes_nothing_from_the_global_generators(workers: int) -> None:
    before = random.getstate(), torch.get_rng_state()
    list(training_batches(Drawn(4), config(), seed=0, steps=2, workers=workers))
    list(evaluation_batches(Drawn(4), None, workers=workers))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_another_seed_gives_another_order_and_other_augmentation() -> None:
    one, other = (next(training_batches(Drawn(50), config(), seed=seed, steps=1)) for seed in (0, 1))
    assert one.names != other.names
    assert not set(one.seeds.tolist()) & set(other.seeds.tolist())


def test_what_workers_are_given_survives_the_way_into_a_fresh_process(tmp_path: Path) -> None:
    split = load_data(f"camvid:{camvid(tmp_path)}").split("train")
    samples = split, Augment(config(color=0.3))
    results = []
    for here, augment in (samples, pickle.loads(pickle.dumps(samples))):
        sample = here.read(3)
        results.append(augment(sample.image, sample.label, 9))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])


# Workers


@pytest.mark.promise("R3")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_comes_out_of_a_worker_as_the_data_error_it_is(tmp_path: Path, workers: int) -> None:
    path = camvid(tmp_path) / "train" / "03.png"
    path.write_bytes(path.read_bytes()[:100])
    split = load_data(f"camvid:{tmp_path}").split("train")
    with pytest.raises(DataError, match=r"03\.png cannot be read"):
        list(training_batches(split, config(), seed=0, steps=5, workers=workers))


def fail(index: int) -> None:
    raise ZeroDivisionError("a mistake of ours")


@pytest.mark.promise("R3")
@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_says_which_image_was_being_read(workers: int) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(evaluation_batches(Drawn(1, fail), None, workers=workers))
    assert "while reading 0.png" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


def die(index: int) -> None:
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def hang(index: int) -> None:
    time.sleep(30)


@pytest.mark.promise("R2")
def test_a_killed_worker_is_a_resource_error_with_advice() -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError, match="killed") as caught:
        list(evaluation_batches(Drawn(6, die), None, workers=1))
    assert "--workers" in caught.value.fix
    assert time.monotonic() - start < 10


def test_a_worker_s_death_interrupts_nothing_but_the_wait_for_its_batch() -> None:
    batches = evaluation_batches(Drawn(6, die), None, workers=1)
    next(batches)
    time.sleep(1)  # the worker dies now; a handler that raised would do so here
    with pytest.raises(ResourceError, match="killed"):
        list(batches)


@pytest.mark.promise("R2")
def test_a_stuck_worker_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "TIMEOUT", 1.0)
    start = time.monotonic()
    with pytest.raises(ResourceError, match="nothing for 1 s"):
        next(evaluation_batches(Drawn(1, hang), None, workers=2))
    assert time.monotonic() - start < 8, "workers are not asked to end by themselves, 5 s each, one after the other"


@pytest.mark.promise("R1")
def test_a_signal_is_heeded_while_no_worker_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "POLL", 0.5)
    before, start = set(multiprocessing.active_children()), time.monotonic()
    with stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            next(evaluation_batches(Drawn(4, hang), None, workers=2))
    assert time.monotonic() - start < 8
    assert set(multiprocessing.active_children()) <= before


# Shared memory


CROWDED = """
import sys, warnings
warnings.filterwarnings("ignore", "This DataLoader will create")
from tiny import Scenes
from segdistill.data import evaluation_batches
split = Scenes(12, height=400, width=500)  # 800 kB each
batches = list(evaluation_batches(split, None, batch_size=2, workers=2))
print([batch.names for batch in batches] == [split.names[i:i + 2] for i in range(0, 12, 2)])
print(all((batch.label[0].numpy() == split.read(2 * i).label).all() for i, batch in enumerate(batches)))
"""


def with_shared_memory(size: str, *command: str) -> Result:
    """Run a command where the system has so much shared memory, as in a container."""
    mounted = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if process("unshare", "-m", "sh", "-c", mounted).code:
        pytest.skip("mounting a small /dev/shm needs root")
    return process(
        "unshare", "-m", "sh", "-c", f'{mounted} && exec "$@"', "sh", *command, PYTHONPATH=str(Path(__file__).parent)
    )


@pytest.mark.promise("R2")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm and namespaces")
def test_batches_that_do_not_fit_into_shared_memory_go_through_pipes() -> None:
    done = with_shared_memory("1m", sys.executable, "-c", CROWDED)
    assert (done.code, done.out, done.err) == (0, "True\nTrue\n", "")


@pytest.mark.promise("R2")
def test_batches_go_through_pipes_where_the_temporary_folder_is_too_deep_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = process(sys.executable, "-c", CROWDED, TMPDIR=str(deep), PYTHONPATH=paths)
    assert (done.code, done.out, done.err) == (0, "True\nTrue\n", "")
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert "too long for the sockets" in str(shared_memory_shortage(config(crop=(8, 8), batch_size=2), 1, 1))
    assert shared_memory_shortage(config(crop=(8, 8), batch_size=2), 0, 1) is None


@pytest.mark.promise("R2")
def test_too_little_shared_memory_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(workers: int, free: int | None, world: int = 1) -> str | None:
        monkeypatch.setattr(_batches, "free_shared_memory", lambda: free)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
        return shared_memory_shortage(config(crop=(512, 1024), batch_size=8), workers, world)

    batch, docker = 8 * 512 * 1024 * 4, 64 << 20
    assert told(2, 6 * batch) is None  # four read ahead, one in use and one on its way
    assert told(2, 6 * batch, world=2) is None, "two processes have twice the workers and half the batch, plus a rest"
    assert "/dev/shm has 64 MiB free, the batches of 7 loader workers need 257 MiB" in str(told(7, docker))
    assert "--shm-size=1g" in str(told(7, docker))
    assert told(0, docker) is None
    assert told(7, None) is None, "the system does not tell"


def unhandable(index: int) -> None:
    if index == 1:
        raise_when_pickled = multiprocessing.reduction.ForkingPickler.register
        raise_when_pickled(torch.Tensor, refuse)


def refuse(tensor: torch.Tensor) -> str:
    raise RuntimeError("unable to allocate shared memory")


@pytest.mark.promise("R2")
def test_a_batch_that_cannot_be_handed_over_ends_the_wait_with_advice(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError, match="killed") as caught:
        list(evaluation_batches(Drawn(4, unhandable), None, workers=1))
    assert time.monotonic() - start < 10
    assert "shared memory" in caught.value.fix
    assert capfd.readouterr().err == ""


@dataclass(frozen=True)
class Workers(Drawn):
    """A split whose images are called after the process group that read them."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return Sample(sample.image, sample.label, f"{os.getpgrp()} {cv2.getNumThreads()}")


def test_workers_are_out_of_reach_of_ctrl_c_and_have_one_thread() -> None:
    (batch,) = evaluation_batches(Workers(1), None, workers=1)
    group, threads = batch.names[0].split()
    assert int(group) != os.getpgrp()
    assert int(threads) <= 1


# Evaluation


def test_evaluation_yields_every_image_once_and_in_order_at_one_size_with_labels_at_their_own() -> None:
    split = Drawn(5, sizes=((8, 10), (8, 10), (8, 10), (5, 6), (7, 4)))
    batches = list(evaluation_batches(split, (4, 5), batch_size=2))
    assert [batch.names for batch in batches] == [("0.png", "1.png"), ("2.png",), ("3.png",), ("4.png",)]
    assert [tuple(batch.label.shape[1:]) for batch in batches] == [(8, 10), (8, 10), (5, 6), (7, 4)]
    assert {tuple(batch.image.shape[1:]) for batch in batches} == {(3, 4, 5)}
    assert batches[2].label.flatten().tolist() == list(range(30))
    assert [int(image.mean()) for batch in batches for image in batch.image] == list(range(5))


def test_evaluation_without_a_size_keeps_each_image_s_own() -> None:
    batches = evaluation_batches(Drawn(2, sizes=((8, 10), (5, 6))), None, batch_size=2)
    assert [tuple(batch.image.shape) for batch in batches] == [(1, 3, 8, 10), (1, 3, 5, 6)]


def test_processes_share_an_evaluation_without_doing_anything_twice() -> None:
    names = [b.names for rank in range(3) for b in evaluation_batches(Drawn(7), None, rank=rank, world=3)]
    assert sorted(name for part in names for name in part) == sorted(Drawn(7).names)


def test_the_seeds_of_an_evaluation_are_the_same_every_time_and_one_per_image() -> None:
    one, other = ([int(b.seeds[0]) for b in evaluation_batches(Drawn(9), None)] for _ in range(2))
    assert one == other
    assert len(set(one)) == 9


# The real data


def test_the_real_camvid_is_complete_and_its_usual_self() -> None:
    path = os.environ.get("SEGDISTILL_TEST_CAMVID")
    if not path:
        pytest.skip("SEGDISTILL_TEST_CAMVID is not set to a CamVid folder")
    source = load_data(f"camvid:{path}")
    census = check_files(source, ["train", "val"])
    assert (len(source.split("train").names), len(source.split("val").names)) == (367, 101)
    assert not census.warnings
    assert "train" not in " ".join(source.warnings)
    share = census.ignored["train"] / (census.ignored["train"] + census.pixels["train"].sum())
    assert 0.03 < share < 0.05
    assert source.classes[int(census.pixels["train"].argmax())] == "road"
    sample = source.split("val").read(0)
    assert sample.image.shape == (360, 480, 3)
    assert sample.label.shape == (360, 480)
    (batch,) = training_batches(source.split("train"), config(crop=(120, 160)), seed=0, steps=1, workers=2)
    assert batch.image.shape == (4, 3, 120, 160)


# What every data set has


def test_streets_need_no_files_and_are_the_same_every_time() -> None:
    source = load_data("streets")
    census = check_files(source, ["train", "val"])
    assert not census.warnings
    assert source.fingerprint == load_data("streets").fingerprint
    sample = source.split("val").read(3)
    assert (sample.image.shape, sample.label.shape, sample.name) == ((96, 128, 3), (96, 128), "val/0003")
    with pytest.raises(UsageError, match="built in"):
        load_data("streets:/somewhere")
