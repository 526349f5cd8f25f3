"""Images and label maps are decoded as they are stored, or refused with their name."""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.data_files import ids, picture, write
from segdistill.data import images_below, read_image, read_label, to_size
from segdistill.data.label_map import decode_label
from segdistill.errors import DataError


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """A gray PNG of any depth, or one whose header lies about its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.promise("D3")
def test_label_maps_of_every_format_keep_their_ids(tmp_path: Path, rng: np.random.Generator) -> None:
    label = ids()
    palette = Image.fromarray(label)
    palette.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    write(tmp_path / "gray.png", label)
    write(tmp_path / "gray.tif", label)
    write(tmp_path / "gray.bmp", label)
    write(tmp_path / "deep.png", label.astype(np.uint16))
    write(tmp_path / "deep.tif", label.astype(np.uint16))
    rows = b"".join(b"\0" + bytes(a << 4 | b for a, b in row.reshape(-1, 2)) for row in label)
    (tmp_path / "4bit.png").write_bytes(png(16, 12, 4, rows))
    with Image.open(tmp_path / "palette.png") as file:
        assert file.mode == "P"
    for path in tmp_path.iterdir():
        assert np.array_equal(read_label(path), label), path


@pytest.mark.promise("D3")
def test_ids_above_255_and_bilevel_label_maps_are_read(tmp_path: Path) -> None:
    deep = np.array([[0, 399, 65535]], np.uint16)
    assert np.array_equal(read_label(write(tmp_path / "deep.png", deep)), deep)
    assert read_label(write(tmp_path / "two.png", np.array([[True, False]]))).tolist() == [[1, 0]]


@pytest.mark.promise("D3")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_a_label_map_in_colors_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "label.tif"
    Image.new(mode, (4, 3), (1, 1, 2, 3)[: len(mode)]).save(path)
    with pytest.raises(DataError, match=r"holds colors .*expected class ids") as caught:
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
def test_tiff_label_map_with_white_is_zero_is_refused(
    bits: int, row: bytes, expected: list[int], tmp_path: Path
) -> None:
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
    with pytest.raises(DataError, match="WhiteIsZero"):
        read_label(path)
    path.write_bytes(path.read_bytes().replace(struct.pack("<HHII", 262, 3, 1, 0), struct.pack("<HHII", 262, 3, 1, 1)))
    assert read_label(path).tolist() == [expected]


@pytest.mark.promise("D8")
def test_file_larger_than_its_pixels_could_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.webp"
    path.write_bytes(b"RIFF\xf8\xff\xff\xbeWEBPVP8 ")
    os.truncate(path, 3 * 2**30)
    with pytest.raises(DataError, match="3,221,225,472 bytes"):
        read_image(path)


def test_tiff_label_map_is_read_unless_it_is_jpeg_compressed(tmp_path: Path) -> None:
    label = ids()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        Image.fromarray(label).save(tmp_path / "label.tif", compression=compression)
        assert np.array_equal(read_label(tmp_path / "label.tif"), label)
    Image.fromarray(label).save(tmp_path / "label.tif", compression="jpeg")
    with pytest.raises(DataError, match=r"label\.tif has JPEG's compression"):
        read_label(tmp_path / "label.tif")


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.float32])
def test_whole_numbers_of_any_type_are_ids(tmp_path: Path, kind: type[np.generic]) -> None:
    label = np.array([[0, 1, 255], [300, 7, 0]])
    path = tmp_path / "label.tif"
    assert cv2.imwrite(str(path), label.astype(kind))
    assert read_label(path).tolist() == label.tolist()


@pytest.mark.parametrize("wrong", [-1, 0.5, 65536, np.inf])
def test_numbers_that_are_no_ids_are_counted(tmp_path: Path, wrong: float) -> None:
    path = write(tmp_path / "label.tif", np.array([[0, wrong, wrong], [1, 2, 3]], np.float32))
    with pytest.raises(DataError, match=rf"label\.tif holds numbers that are no class ids: {wrong:g} \(2 px\)\."):
        read_label(path)


def test_nan_in_a_label_map_counts_nowhere(tmp_path: Path) -> None:
    stored = decode_label(write(tmp_path / "label.tif", np.array([[np.nan, 2], [1, 255]], np.float32)))
    assert stored.ids.tolist() == [[0, 2], [1, 255]]
    assert stored.transparent is not None
    assert stored.transparent.tolist() == [[True, False], [False, False]]


def test_three_equal_channels_are_ids(tmp_path: Path) -> None:
    label = ids()
    rgb = np.repeat(label[..., None], 3, axis=2)
    assert np.array_equal(read_label(write(tmp_path / "rgb.png", rgb)), label)
    alpha = np.full_like(label, 255)
    alpha[0, :4] = 0
    stored = decode_label(write(tmp_path / "rgba.png", np.dstack([rgb, alpha])))
    assert np.array_equal(stored.ids, label)
    assert stored.transparent is not None
    assert stored.transparent.sum() == 4


def test_gif_label_maps_keep_the_values_that_were_saved(tmp_path: Path) -> None:
    for values in ([0, 255], [2, 0], [3, 7]):
        label = np.array([values, values[::-1]], np.uint8)
        assert read_label(write(tmp_path / "label.gif", label)).tolist() == label.tolist()
    colored = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8))
    colored.putpalette([10, 0, 0, 0, 20, 0, 0, 0, 30])
    colored.save(tmp_path / "colored.gif")
    stored = decode_label(tmp_path / "colored.gif")
    assert stored.palette is not None
    assert stored.palette[stored.ids][0, 1].tolist() == [0, 20, 0]


def test_jfif_is_jpeg(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jfif", format="JPEG")
    assert [path.name for path in images_below(tmp_path)] == ["a.jfif"]
    assert read_image(tmp_path / "a.jfif").shape == picture().shape


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    rgb, gray = picture(), ids()
    opaque = np.dstack([rgb, ids()])
    gray_rgb = np.repeat(gray[..., None], 3, axis=2)
    assert np.array_equal(read_image(write(tmp_path / "rgb.png", rgb)), rgb)
    assert np.array_equal(read_image(write(tmp_path / "rgba.png", opaque)), rgb)
    assert np.array_equal(read_image(write(tmp_path / "gray.png", gray)), gray_rgb)
    assert np.array_equal(read_image(write(tmp_path / "deep.png", gray.astype(np.uint16) * 256 + 77)), gray_rgb)
    colored = Image.fromarray(rgb).quantize(16)
    colored.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(colored.convert("RGB")))
    Image.new("CMYK", (2, 1), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert read_image(tmp_path / "cmyk.tif").tolist() == [[[255, 0, 0], [255, 0, 0]]]


def test_image_of_32_bit_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="32 bits"):
        read_image(write(tmp_path / "float.tif", np.zeros((2, 2), np.float32)))


@pytest.mark.promise("D1")
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "bmp", "webp"])
def test_truncated_image_is_refused_with_its_name(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"cut.{ending}", picture(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cannot be read|is no image") as caught:
        read_image(path)
    assert str(path) in caught.value.what


@pytest.mark.promise("D1")
def test_damaged_bytes_give_an_image_or_a_data_error(tmp_path: Path, rng: np.random.Generator) -> None:
    for ending in ("jpg", "png", "tif"):
        whole = bytearray(write(tmp_path / f"whole.{ending}", picture()).read_bytes())
        for _ in range(60):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 200), 3):
                damaged[place] = rng.integers(256)
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
def test_file_that_is_not_an_image_is_refused(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(start + b" " * 100 if start else b"")
    with pytest.raises(DataError, match="is no image") as caught:
        read_image(path)
    assert (start[:8].hex(" ") or "empty") in caught.value.what


def test_only_the_first_bytes_of_a_non_image_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, 1 << 29)  # half a gigabyte that is nothing but a hole
    with pytest.raises(DataError, match="begins with the bytes 00 00 00 00 00 00 00 00"):
        read_image(path)


@pytest.mark.promise("D9")
def test_formats_outside_the_list_are_not_parsed(tmp_path: Path) -> None:
    Image.fromarray(ids()).save(tmp_path / "a.png", format="GIF")
    with Image.open(tmp_path / "a.png") as file:
        assert file.format == "GIF"
    with pytest.raises(DataError, match="is no image"):
        read_image(tmp_path / "a.png")


@pytest.mark.promise("D8")
@pytest.mark.parametrize("side", [10_001, 14_000, 30_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_image_above_100_megapixels_is_refused_by_its_header(
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


def test_image_is_rotated_by_its_exif_tag(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_label_map_is_rotated_by_its_own_exif_tag(tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    label = ids(2, 3)
    Image.fromarray(label).save(tmp_path / f"label.{ending}", exif=exif)
    assert np.array_equal(read_label(tmp_path / f"label.{ending}"), np.rot90(label, -1))


def test_halving_an_image_averages_2x2_squares(tmp_path: Path) -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2] = [[[8] * 3, [16] * 3], [[24] * 3, [32] * 3]]
    assert to_size(image, (1, 2)).tolist() == [[[20] * 3, [0] * 3]]
    assert to_size(image, (2, 4)) is image
