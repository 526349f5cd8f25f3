"""Data whose meaning would be lost: each kind is refused, or counted and named with its cause and the way out."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from helpers.commands import NETWORK, SMALL, halve, refused, segdistill, succeeds
from segdistill.data import load_data, scan_dataset
from segdistill.data.image import decode_image
from segdistill.data.label_map import decode_label, read_label
from segdistill.errors import DataError
from segdistill.types import IGNORE

pytestmark = pytest.mark.usefixtures("elsewhere")

Pixels = npt.NDArray[np.uint8]
Write = Callable[[Path, Pixels, int], None]
SIZE = (32, 48)
COLORS = '[colors]\n"0,0,0" = "background"\n"255,0,0" = "crack"\n'


def mask(index: int) -> Pixels:
    """Return a crack, another one for every index."""
    label = np.zeros(SIZE, np.uint8)
    label[4 + index : 8 + index, 4:40] = 1
    return label


def photo(index: int) -> Pixels:
    """Return an image with noise, in which the crack is dark."""
    noise = np.random.default_rng(index).integers(100, 180, (*SIZE, 3))
    return (noise - 60 * mask(index)[..., None]).astype(np.uint8)


def as_png(path: Path, pixels: Pixels, index: int) -> None:
    Image.fromarray(pixels).save(path.with_suffix(".png"))


def white(path: Path, label: Pixels, index: int) -> None:
    as_png(path, 255 * label, index)


def cracks(
    more: str = "",
    image: Write = as_png,
    label: Write = as_png,
    classes: tuple[str, ...] = ("background", "crack"),
    draw: Callable[[int], Pixels] = mask,
) -> str:
    """Write four pairs for training and two for validation; return the data file's path."""
    tables = ""
    for split, indices in (("train", range(4)), ("val", range(4, 6))):
        tables += f'[{split}]\nimages = "images/{split}"\nlabels = "labels/{split}"\n'
        for kind in ("images", "labels"):
            Path("cracks", kind, split).mkdir(parents=True, exist_ok=True)
        for i in indices:
            image(Path(f"cracks/images/{split}/{i}"), photo(i), i)
            label(Path(f"cracks/labels/{split}/{i}"), draw(i), i)
    above, _, below = more.rpartition("|")
    Path("cracks/data.toml").write_text(f'name = "cracks"\nclasses = {[*classes]}\n{above}\n{tables}{below}')
    return "cracks/data.toml"


def warnings_of(data: str) -> list[str]:
    """Return the warnings of a check that must pass."""
    found = json.loads(succeeds(f"data check {data} --json").out)
    return [str(warning) for warning in found["warnings"]]


def only_warning(data: str) -> str:
    (warning,) = warnings_of(data)
    return warning


def test_clean_data_has_no_findings() -> None:
    assert warnings_of(cracks()) == []


# Classes without pixels


@pytest.mark.promise("D14")
def test_masks_of_0_and_255_are_refused_with_advice(tmp_path: Path) -> None:
    data = cracks(label=white)
    told = (
        *("All labeled pixels of the train split are 'background'", "Classes without a pixel: crack."),
        *("576 pixels have the id 255, which means ignore", '[ids]\n0 = "background"\n255 = "crack"'),
    )
    for line in (f"data check {data}", f"train-teacher --teacher {NETWORK} {SMALL} --data {data} --out run"):
        refused(line, *told, code=3)
    refused(f"data check {data} --preview look.png", "Wrote look.png", code=3)  # to see why helps
    assert not Path("run").exists()
    found = json.loads(segdistill(f"data check {data} --json").out)
    assert found["errors"][0].startswith("All labeled pixels")
    shutil.rmtree("cracks")
    assert warnings_of(cracks('[ids]\n0 = "background"\n255 = "crack"\n', label=white)) == []


@pytest.mark.promise("D14")
def test_class_without_pixels_beside_an_unknown_255_is_refused() -> None:
    def draw(index: int) -> Pixels:
        label = mask(index)
        label[20:24] = 255
        return label

    classes = ("background", "crack", "joint")
    told = ("Classes without a pixel in the train split (1): joint.", '255 = "joint"', 'absent = ["joint"]')
    refused(f"data check {cracks(draw=draw, classes=classes)}", *told, code=3)
    ids = '[ids]\n0 = "background"\n1 = "crack"\n255 = "joint"\n'
    assert warnings_of(cracks(ids, draw=draw, classes=classes)) == []


@pytest.mark.promise("D14")
def test_class_without_a_training_pixel_needs_absent() -> None:
    classes = ("background", "crack", "joint")
    line = f"train-teacher --teacher {NETWORK} {SMALL} --data {cracks(classes=classes)} --out run"
    refused(line, "Classes without a pixel in the train split (1): joint.", 'absent = ["joint"]', code=3)
    assert not Path("run").exists()
    data = cracks('absent = ["joint"]|', classes=classes)
    assert [warning.partition(":")[0] for warning in warnings_of(data)] == [
        f"Classes without a pixel in the {split} split (1)" for split in ("train", "val")
    ]
    unknown = cracks('absent = ["joints"]|', classes=classes)
    refused(f"data check {unknown}", "absent: unknown class 'joints'", code=2)


def test_class_possibly_in_unlabeled_images_is_only_a_warning() -> None:
    def draw(index: int) -> Pixels:
        label = mask(index)
        label[20:24] = 255
        label[24:28] = 2 if index == 0 else 0  # the part that keeps its labels has none of it
        return label

    data = cracks(draw=draw, classes=("background", "crack", "joint"))
    line = f"train-teacher --teacher {NETWORK} {SMALL} --data {data} --dry-run"
    told = succeeds(f"{line} --set data.labeled=0.5").err
    assert "Classes without a pixel in the train split (1): joint." in told


def test_one_class_data_of_a_known_layout_is_refused(own_camvid: Path) -> None:
    for path in (own_camvid / "trainannot").iterdir():
        as_png(path, np.full((48, 64), 3, np.uint8), 0)
    refused(f"data check camvid:{own_camvid}", "All labeled pixels of the train split are 'road'", code=3)


def test_class_in_validation_but_not_in_training_is_reported() -> None:
    def draw(index: int) -> Pixels:
        return 2 * mask(index) if index == 5 else mask(index)

    (warning,) = warnings_of(cracks('absent = ["joint"]|', classes=("background", "crack", "joint"), draw=draw))
    assert warning == (
        "Classes without a pixel in the train split (1): joint. No label teaches joint, which the val split has: "
        "expect an IoU of 0 there."
    )


def test_no_table_is_printed_if_no_pair_can_be_read() -> None:
    data = cracks()
    for path in Path("cracks/images").rglob("*.png"):
        halve(path)
    result = segdistill(f"data check {data}")
    assert (result.code, result.out) == (3, "")


# Channels of images


def four_bands(path: Path, pixels: Pixels, index: int) -> None:
    infrared = np.arange(pixels.size // 3, dtype=np.uint8).reshape(*SIZE, 1)
    Image.fromarray(np.concatenate([pixels, infrared], axis=2)).save(path.with_suffix(".tif"))


def unspecified(path: Path, pixels: Pixels, index: int) -> None:
    """Write a fourth sample of which the file does not say that it is opacity."""
    four_bands(path, pixels, index)
    file = path.with_suffix(".tif")
    change_tag(file, 338, to=0)  # ExtraSamples: unspecified


def change_tag(file: Path, tag: int, to: int) -> None:
    """Give the tag of a little-endian TIFF file, a short, another value."""
    content = bytearray(file.read_bytes())
    entry = struct.pack("<HHI", tag, 3, 1)
    assert content.count(entry) == 1
    place = content.index(entry) + len(entry)
    content[place : place + 2] = struct.pack("<H", to)
    file.write_bytes(content)


def half_clear(path: Path, pixels: Pixels, index: int) -> None:
    alpha = np.full((*SIZE, 1), 255, np.uint8)
    alpha[:, :4] = 0
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(path.with_suffix(".png"))


def clear_palette(path: Path, pixels: Pixels, index: int) -> None:
    Image.fromarray(pixels).quantize(16).save(path.with_suffix(".png"), transparency=0)


def clear_gray(path: Path, pixels: Pixels, index: int) -> None:
    gray = pixels[..., 0]
    Image.fromarray(gray).save(path.with_suffix(".png"), transparency=int(gray[0, 0]))


def clear_deep_gray(path: Path, pixels: Pixels, index: int) -> None:
    deep = pixels[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(path.with_suffix(".png"), transparency=int(deep[0, 0]))


@pytest.mark.promise("D14")
@pytest.mark.parametrize("image", [four_bands, unspecified, half_clear, clear_palette, clear_gray, clear_deep_gray])
def test_images_with_an_extra_channel_are_counted_and_named(image: Write) -> None:
    warning = only_warning(cracks(image=image))
    assert warning.startswith(
        "Images with a channel beyond red, green and blue, which is left out (6): images/train/0."
    )
    assert "near infrared" in warning


def opaque(path: Path, pixels: Pixels, index: int) -> None:
    Image.fromarray(np.dstack([pixels, np.full(SIZE, 255, np.uint8)])).save(path.with_suffix(".tif"))


def cmyk(path: Path, pixels: Pixels, index: int) -> None:
    Image.fromarray(pixels).convert("CMYK").save(path.with_suffix(".tif"))


def gray_alpha(path: Path, pixels: Pixels, index: int) -> None:
    Image.fromarray(pixels).convert("LA").save(path.with_suffix(".png"))


@pytest.mark.parametrize("image", [opaque, cmyk, gray_alpha])
def test_opaque_alpha_and_cmyk_are_accepted(image: Write) -> None:
    assert warnings_of(cracks(image=image)) == []


@pytest.mark.parametrize("image", [four_bands, half_clear])
def test_colors_are_read_unchanged_whatever_the_fourth_channel(image: Write) -> None:
    data = load_data(cracks(image=image))
    assert np.array_equal(data.split("train").read(2).image, photo(2))


def of_12_bits(path: Path, pixels: Pixels, index: int) -> None:
    deep = pixels[..., 0].astype(np.uint16) << (8 if index == 0 else 4)  # the first uses the whole range
    Image.fromarray(deep).save(path.with_suffix(".png"))


def color_of_12_bits(path: Path, pixels: Pixels, index: int) -> None:
    cv2.imwrite(f"{path}.png", pixels.astype(np.uint16) << (8 if index == 0 else 4))


@pytest.mark.promise("D14")
@pytest.mark.parametrize("image", [of_12_bits, color_of_12_bits])
def test_dark_16_bit_images_are_counted(image: Write) -> None:
    warning = only_warning(cracks(image=image))
    assert warning.startswith("Images of 16 bits that use a quarter of their range or less (5): images/train/1.png, ")
    assert "multiply values of 12 bits by 16" in warning


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_zero_image_is_read_as_a_viewer_shows_it(kind: type[np.unsignedinteger]) -> None:
    most = np.iinfo(kind).max
    stored = np.array([[0, most // 4, most]], kind)
    Image.fromarray(stored).save("white.tif")
    change_tag(Path("white.tif"), 262, to=0)  # PhotometricInterpretation: WhiteIsZero
    assert decode_image(Path("white.tif"))[0][0, :, 0].tolist() == [255, 192, 0]
    with pytest.raises(DataError, match="WhiteIsZero: class ids would be inverted"):
        decode_label(Path("white.tif"))


def test_bands_not_marked_as_rgb_are_refused() -> None:
    four_bands(Path("bands"), photo(0), 0)
    change_tag(Path("bands.tif"), 262, to=1)
    with pytest.raises(DataError, match="bands that are not marked as RGB"):
        decode_image(Path("bands.tif"))


def test_dark_8_bit_image_is_accepted() -> None:
    assert warnings_of(cracks(image=lambda path, pixels, i: as_png(path, pixels // 4, i))) == []


@pytest.mark.parametrize("colors", [(0, 255), (0, 1), ((0, 0, 0), (255, 0, 0))])
def test_label_maps_in_place_of_images_are_reported(colors: tuple[object, ...]) -> None:
    data = cracks(image=lambda path, pixels, i: as_png(path, np.array(colors, np.uint8)[mask(i)], i))
    assert only_warning(data).startswith("Images with one color per class, as label maps have (6): images/train/0.png")


@pytest.mark.promise("D14")
@pytest.mark.parametrize("scale", [0, 1 / 255, 1 / 64])
def test_blank_images_are_reported(scale: float) -> None:
    """What was scaled to 0..1 for a network and saved with 8 bits has no more than two values."""
    data = cracks(image=lambda path, pixels, i: as_png(path, (pixels * (scale if i == 4 else 1)).astype(np.uint8), i))
    warning = only_warning(data)
    assert warning.startswith("Images of a single color, or nearly (1): images/val/4.png. ")
    assert "multiply them by 255" in warning


def paged(path: Path, pixels: Pixels, index: int, **options: Any) -> None:
    """Write two pages, the second the first's negative."""
    pages = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    pages[0].save(path.with_suffix(options.pop("suffix", ".tif")), save_all=True, append_images=pages[1:], **options)


@pytest.mark.promise("D14")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("label", {}),
        ("label", {"compression": "tiff_deflate"}),
        ("label", {"suffix": ".png"}),
        ("image", {}),
        ("image", {"suffix": ".png"}),
        ("image", {"suffix": ".webp", "lossless": True}),
    ],
)
def test_files_with_several_pages_are_told_and_the_first_is_read(kind: str, options: dict[str, Any]) -> None:
    def write(path: Path, pixels: Pixels, index: int) -> None:
        paged(path, pixels, index, **options)

    data = cracks(image=write) if kind == "image" else cracks(label=write)
    warning = only_warning(data)
    assert warning.startswith("Files with several pages or frames, of which only the first is read (6): ")
    sample = load_data(data).split("train").read(1)
    assert np.array_equal(sample.image, photo(1))
    assert np.array_equal(sample.label, mask(1))


def test_a_label_map_in_colors_with_several_pages_is_told() -> None:
    def write(path: Path, label: Pixels, i: int) -> None:
        paged(path, np.dstack([255 * label, 0 * label, 0 * label]), i)

    assert only_warning(cracks(f"|{COLORS}", label=write)).startswith("Files with several pages or frames")


def test_thumbnail_page_of_an_image_is_accepted() -> None:
    def overview(path: Path, pixels: Pixels, i: int) -> None:
        small = Image.fromarray(pixels[::2, ::2])
        small.encoderinfo = {"tiffinfo": {254: 1}}  # NewSubfileType: a reduced version of another page
        Image.fromarray(pixels).save(path.with_suffix(".tif"), save_all=True, append_images=[small])

    assert warnings_of(cracks(image=overview)) == []


# Label maps


def clear(colors: object) -> Write:
    """Return what writes label maps in colors, or ids, whose left columns are transparent."""

    def write(path: Path, label: Pixels, index: int) -> None:
        channels = np.array(colors, np.uint8)[label].reshape(*SIZE, -1)
        alpha = np.full(SIZE, 255, np.uint8)
        alpha[:, :10] = 0
        channels[:, :10] = 77  # whatever is stored where nothing is seen
        pixels = np.dstack([channels, alpha])
        Image.fromarray(pixels, "LA" if pixels.shape[2] == 2 else "RGBA").save(path.with_suffix(".png"))

    return write


@pytest.mark.promise("D14")
@pytest.mark.parametrize(("colors", "more"), [((0, 1), ""), (((0, 0, 0), (255, 0, 0)), COLORS)])
def test_transparent_label_pixels_are_ignored_and_reported(colors: object, more: str) -> None:
    data = cracks(more, label=clear(colors))
    expected = mask(3)
    expected[:, :10] = IGNORE
    assert np.array_equal(load_data(data).split("train").read(3).label, expected)
    assert only_warning(data).startswith(
        "Label maps with transparent pixels, which count nowhere (6): labels/train/0.png"
    )


def test_transparency_in_a_channel_or_palette_means_the_same() -> None:
    def in_palette(path: Path, label: Pixels, index: int) -> None:
        pixels = label.copy()
        pixels[:, :10] = 2
        file = Image.fromarray(pixels, "P")
        file.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0])
        file.save(path.with_suffix(".png"), transparency=2)

    source = load_data(cracks(COLORS, label=in_palette))
    expected = mask(1)
    expected[:, :10] = IGNORE
    assert np.array_equal(source.split("train").read(1).label, expected)


def test_gray_with_an_opaque_channel_is_gray() -> None:
    def gray(path: Path, label: Pixels, index: int) -> None:
        Image.fromarray(np.dstack([label, np.full(SIZE, 255, np.uint8)]), "LA").save(path.with_suffix(".png"))

    data = cracks(label=gray)
    assert warnings_of(data) == []
    assert np.array_equal(load_data(data).split("val").read(1).label, mask(5))


def test_gray_16_bit_label_map_with_transparency_is_refused() -> None:
    pixels = bytes.fromhex("00 0001ffff 0102ffff")  # a filter, then gray and opacity in two bytes each
    Path("deep.png").write_bytes(png(2, 1, bits=16, kind=4, rows=pixels))
    with pytest.raises(DataError, match=r"deep\.png has ids of 16 bits beside transparency"):
        read_label(Path("deep.png"))


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """Return a PNG file, as its specification says."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_class_drawn_transparent_is_read_and_reported() -> None:
    def overlay(path: Path, label: Pixels, index: int) -> None:
        file = Image.fromarray(label, "P")
        file.putpalette([0, 0, 0, 255, 0, 0])
        file.save(path.with_suffix(".png"), transparency=0)

    data = cracks(label=overlay)
    assert np.array_equal(load_data(data).split("train").read(0).label, mask(0))
    assert only_warning(data).startswith("Label maps that draw a class transparent (6): labels/train/0.png, ")
    ignored = '[ids]\n0 = "background"\n1 = "crack"\n2 = "ignore"\n'

    def void(path: Path, label: Pixels, index: int) -> None:
        file = Image.fromarray(np.where(label == 0, 2 * (index % 2), label).astype(np.uint8), "P")
        file.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0])
        file.save(path.with_suffix(".png"), transparency=2)

    assert warnings_of(cracks(ignored, label=void)) == [], "what is ignored may be transparent"


@pytest.mark.promise("D14")
def test_masks_of_0_and_255_beside_masks_of_0_and_1_are_told() -> None:
    data = cracks(label=lambda path, label, i: (white if i % 2 else as_png)(path, label, i))
    warning = only_warning(data)
    assert warning.startswith(
        "Label maps that hold the ids 0 and 255 alone (3): labels/train/1.png, labels/train/3.png, labels/val/5.png. "
        "Others (3, labels/train/0.png the first) hold a class beside 0"
    )


def test_void_border_beside_a_class_is_accepted() -> None:
    def draw(index: int) -> Pixels:
        label = mask(index) if index % 2 else np.zeros(SIZE, np.uint8)
        label[28:] = 255
        return label

    assert warnings_of(cracks("ignore = [255]|", draw=draw)) == []


@pytest.mark.promise("D14")
def test_palettes_with_differing_colors_of_an_id_are_reported() -> None:
    def painted(path: Path, label: Pixels, index: int) -> None:
        file = Image.fromarray(label, "P")
        file.putpalette([0, 0, 0, 255, 0, 0] if index else [0, 0, 0, 0, 255, 0, 9, 9, 9])
        file.save(path.with_suffix(".png"))

    warning = only_warning(cracks(label=painted))
    assert warning.startswith("Label maps whose palette gives an id another color than others do (5): ")
    assert "id 1 is 0,255,0 in labels/train/0.png and 255,0,0 in labels/train/1.png." in warning


def test_palettes_differing_in_unused_ids_are_accepted() -> None:
    def painted(path: Path, label: Pixels, index: int) -> None:
        file = Image.fromarray(label, "P")
        file.putpalette([0, 0, 0, 255, 0, 0, index, index, index])
        file.save(path.with_suffix(".png"))

    assert warnings_of(cracks(label=painted)) == []


def test_palette_indices_turned_gray_values_are_reported() -> None:
    def of_both_kinds(path: Path, label: Pixels, index: int) -> None:
        file = Image.fromarray(label, "P")
        file.putpalette([0, 0, 0, 2, 2, 2])
        (file if index < 3 else file.convert("L")).save(path.with_suffix(".png"))

    warnings = warnings_of(cracks(label=of_both_kinds, classes=("background", "crack", "joint")))
    assert warnings[-1].startswith(
        "Label maps in gray and label maps with a palette that share no id beside 0: 2 is in labels/train/3.png, for "
        "example, and 1 in others."
    )


def test_gray_and_indexed_label_maps_of_one_set_are_accepted() -> None:
    def of_both_kinds(path: Path, label: Pixels, index: int) -> None:
        Image.fromarray(label, "L" if index == 2 else "P").save(path.with_suffix(".png"))

    assert warnings_of(cracks(label=of_both_kinds)) == []


def test_photo_in_place_of_a_label_map_is_reported() -> None:
    data = cracks(label=lambda path, label, i: as_png(path, photo(i)[..., 0], i))
    refused(f"data check {data}", "So many come from a picture in place of a label map", code=3)


@pytest.mark.promise("D14")
def test_duplicate_image_with_other_labels_is_reported() -> None:
    data = cracks()
    shutil.copy("cracks/images/train/0.png", "cracks/images/train/3.png")
    assert only_warning(data).startswith(
        "Images that are twice in a split, with different labels (1): images/train/0.png = images/train/3.png."
    )
    shutil.copy("cracks/labels/train/0.png", "cracks/labels/train/3.png")
    assert warnings_of(data) == []
    lists = 'images = ["images/train/0.png", "images/train/0.png"]\nlabels = ["labels/train/0.png", "labels/val/5.png"]'
    text = Path(data).read_text().replace('images = "images/train"\nlabels = "labels/train"', lists)
    Path(data).write_text(text)
    assert "with different labels (1): images/train/0.png = images/train/0.png." in only_warning(data)


def turned(orientation: int) -> Write:
    """Return what writes pixels with an EXIF tag."""

    def write(path: Path, pixels: Pixels, index: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(path.with_suffix(".png"), exif=exif)

    return write


def in_colors(orientation: int) -> Write:
    return lambda path, label, i: turned(orientation)(path, np.dstack([255 * label, 0 * label, 0 * label]), i)


@pytest.mark.promise("D14")
@pytest.mark.parametrize(("label", "more"), [(turned(3), ""), (in_colors(3), f"|{COLORS}")], ids=["ids", "colors"])
def test_label_maps_rotated_by_their_own_tag_are_reported(label: Write, more: str) -> None:
    warning = only_warning(cracks(more, label=label))
    assert warning.startswith("Label maps that an EXIF tag turns or mirrors otherwise than their images (6): labels/")


@pytest.mark.parametrize("orientation", [3, 6])
def test_pairs_with_the_same_exif_tag_are_accepted(orientation: int) -> None:
    assert warnings_of(cracks(image=turned(orientation), label=turned(orientation))) == []


def test_exif_rotated_label_map_of_another_size_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        load_data(cracks(label=turned(6))).split("train").read(0)
    assert "The label map has an EXIF tag of its own" in caught.value.fix


# What the look costs


def test_the_scan_and_the_training_see_the_same_labels() -> None:
    data = load_data(cracks(label=clear((0, 1))))
    scanned = scan_dataset(data, ["train", "val"])
    for name in ("train", "val"):
        split = data.split(name)
        labels = np.stack([split.read(i).label for i in range(len(split.names))])
        assert scanned.splits[name].pixels.tolist() == [int((labels == index).sum()) for index in (0, 1)]
        assert scanned.splits[name].ignored == int((labels == IGNORE).sum())


def test_plain_files_have_no_extra_decoded_properties() -> None:
    as_png(Path("image"), photo(0), 0)
    as_png(Path("label"), mask(0), 0)
    assert decode_image(Path("image.png"))[1] == (1, False, False, False)
    label = decode_label(Path("label.png"))
    assert (label.transparent, label.palette, label.transparent_ids) == (None, None, ())
    assert (label.orientation, label.more_pages) == (1, False)
