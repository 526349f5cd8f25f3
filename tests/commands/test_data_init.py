"""`data init`: what people bring, each layout accepted by `data check` as it was written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.annotated import COLORS, SIZE, binary, box, coco, colored, label, labelme, pairs, photo, ring, save
from helpers.commands import Result, contents, refused, segdistill, succeeds
from segdistill.data import DataSource, load_data
from segdistill.types import IGNORE

pytestmark = pytest.mark.usefixtures("elsewhere")

ROOT = Path("mine")


def made(line: str = "mine", *, out: str = "data.toml") -> DataSource:
    """Run `data init`, then `data check` on what it wrote; return the data set."""
    succeeds(f"data init {line} --out {out}")
    succeeds(f"data check {out}")
    return load_data(out)


def labels_of(source: DataSource) -> dict[str, list[list[int]]]:
    """Return the label of each image by its number, over all splits."""
    found = {}
    for split in source.splits.values():
        for index, name in enumerate(split.names):
            (number,) = set(re.findall(r"\d{3}", Path(name).stem))
            assert number not in found
            found[number] = split.read(index).label.tolist()
    return found


def expected(count: int = 10, values: tuple[int, ...] = (0, 1, 2)) -> dict[str, list[list[int]]]:
    return {f"{number:03}": label(number, values).tolist() for number in range(count)}


# Names


@pytest.mark.parametrize(
    ("image", "label_name"),
    [
        ("images/{}.jpg", "masks/{}.png"),
        ("images/{}.png", "labels/{}.png"),
        ("imgs/{}.jpg", "gt/{}.png"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
        ("{}.jpg", "{}.png"),
        ("{}.jpg", "{}_mask.png"),
        ("{}.png", "{}_L.png"),
        ("photos of site/{}.jpg", "photos of site/{}-label.png"),
        ("in/ISIC_{}.jpg", "out/ISIC_{}_segmentation.png"),
        ("leftImg8bit/a/a_{}_leftImg8bit.png", "gtFine/a/a_{}_gtFine_labelIds.png"),
        ("images/{}.jpg", "masks/{}.jpg.png"),
        ("images/IMG_{}.JPG", "masks/img_{}.PNG"),
        ("images/cam1/{}.png", "labels/cam1/{}.png"),
        ("cam1/rgb/{}.png", "cam1/seg/{}.png"),
        ("{}/image.png", "{}/mask.png"),
        ("x/img{}.jpg", "y/lbl{}.png"),
        ("a/{}.jpg", "b/{}.tif"),
        ("data/{}.jpg", "data/annotated/{}.png"),
        ("images/{}.jfif", "masks/{}.gif"),
        ("images/{}.jpg", "masks/m{}x.bmp"),
        ("train_images/{}.jpg", "train_masks/{}.png"),
        ("train/{}.jpg", "trainannot/{}.png"),
        ("images/train/{}.jpg", "annotations/train/{}.png"),
    ],
)
def test_images_find_their_label_maps(image: str, label_name: str) -> None:
    if image == "{}/image.png":
        for number in range(10):
            save(ROOT / f"{number:03}/image.png", photo(number))
            save(ROOT / f"{number:03}/mask.png", label(number))
        source = made()
        assert sum(len(split.names) for split in source.splits.values()) == 10
        return
    pairs(ROOT, image, label_name)
    source = made()
    assert source.classes == ("background", "class_1", "class_2")
    assert labels_of(source) == expected()
    assert set(source.splits) == {"train", "val"}


def test_several_cameras_are_paired_by_their_paths() -> None:
    for number, camera in enumerate(("left", "right", "Rear 2")):
        pairs(ROOT, f"images/{camera}/{{}}.jpg", f"labels/{camera}/{{}}.png", 4, first=4 * number)
        shutil.move(ROOT / f"images/{camera}/{4 * number:03}.jpg", ROOT / f"images/{camera}/000.jpg")
        shutil.move(ROOT / f"labels/{camera}/{4 * number:03}.png", ROOT / f"labels/{camera}/000.png")
    source = made()
    assert sum(len(split.names) for split in source.splits.values()) == 12


@pytest.mark.parametrize(
    ("image", "label_name"),
    [
        ("{}/images/{{}}.jpg", "{}/masks/{{}}.png"),
        ("{}/{{}}.jpg", "{}/{{}}_mask.png"),
        ("images/{}/{{}}.jpg", "labels/{}/{{}}.png"),
        ("{}/{{}}.jpg", "{}annot/{{}}.png"),
        ("{}/{{}}.jpg", "{}_labels/{{}}_L.png"),
        ("x_{}/{{}}.png", "y_{}/{{}}.png"),
        ("Task1_{}_Input/{{}}.jpg", "Task1_{}_GroundTruth/{{}}_segmentation.png"),
        ("leftImg8bit/{}/a/{{}}_leftImg8bit.png", "gtFine/{}/a/{{}}_gtFine_labelIds.png"),
        ("images/{}/{{}}.jpg", "masks/{{}}.png"),
    ],
)
@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_folders_of_splits_are_splits(image: str, label_name: str, val: str) -> None:
    for first, count, split in ((0, 6, "train"), (6, 3, val), (9, 2, "test")):
        pairs(ROOT, image.format(split), label_name.format(split), count, first=first)
    source = made()
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 6, "val": 3, "test": 2}
    assert labels_of(source) == expected(11)


def test_lists_are_splits() -> None:
    pairs(ROOT, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    folder = ROOT / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("".join(f"{number:03}\n" for number in range(7)))
    (folder / "val.txt").write_text("".join(f"{number:03}\n" for number in (7, 9)))
    source = made()
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 7, "val": 2}
    assert 'list = "mine/ImageSets/Segmentation/train.txt"' in Path("data.toml").read_text()
    result = segdistill("data init mine --overwrite")
    assert "which are left out: 1." in result.err


def test_lists_of_two_columns_are_splits() -> None:
    pairs(ROOT, "x/{}.jpg", "y/lab_{}.png")
    for split, numbers in (("train", range(6)), ("val", range(6, 10))):
        (ROOT / f"{split}_list.txt").write_text("".join(f"x/{n:03}.jpg y/lab_{n:03}.png\n" for n in numbers))
    source = made()
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 6, "val": 4}


def test_pairs_that_no_folder_tells_are_listed() -> None:
    for number in range(10):  # a folder for each image, of another depth
        deep = "/deep" * (number % 3)
        save(ROOT / f"f{number}{deep}/{number:03}.jpg", photo(number))
        save(ROOT / f"f{number}{deep}/{number:03}_gt.png", label(number))
    save(ROOT / "f1/stray_gt.png", label(3))
    source = made()
    assert labels_of(source) == expected()


# Classes


def classes_of(source: DataSource) -> dict[str, tuple[int, int, int]]:
    return dict(zip(source.classes, source.palette, strict=True))


NAMES = ("background", "road", "tree")
TABLE = dict(zip(NAMES, [(0, 0, 0), (128, 64, 128), (0, 200, 0)], strict=True))


def hex_of(color: tuple[int, ...]) -> str:
    return "#" + "".join(f"{channel:02X}" for channel in color)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ntree:0,200,0::\n"),
        ("class_dict.csv", "name,r,g,b\nbackground,0,0,0\nroad, 128, 64, 128\ntree,0,200,0\n"),
        ("classes.csv", '"class";"red";"green";"blue"\nbackground;0;0;0\nroad;128;64;128\ntree;0;200;0\n'),
        ("label_colors.txt", "0 0 0\tbackground\n128 64 128\troad\n0 200 0\ttree\n"),
        ("meta.json", json.dumps({"classes": [{"title": name, "color": hex_of(TABLE[name])} for name in TABLE]})),
    ],
)
@pytest.mark.parametrize("palette", [False, True])
def test_tables_of_colors_name_the_classes(file: str, text: str, palette: bool) -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=colored)
    (ROOT / file).write_text(text)
    if palette:  # indices in an order of their own
        for path in (ROOT / "masks").iterdir():
            with Image.open(path) as image:
                image.quantize(8).save(path)
    source = made()
    assert classes_of(source) == TABLE
    assert labels_of(source) == expected()


@pytest.mark.parametrize(
    ("file", "text", "values"),
    [
        ("train/_classes.csv", "Pixel Value, Class\n 0, background\n 1, road\n 2, tree\n", (0, 1, 2)),
        ("_classes.csv", "Pixel Value, Class\n0, background\n7, road\n9, tree\n", (0, 7, 9)),
        ("classes.txt", "background\nroad\ntree\n", (0, 1, 2)),
        ("labels.txt", "road\ntree\n", (0, 1, 2)),
        ("id2label.json", '{"0": "background", "1": "road", "2": "tree"}', (0, 1, 2)),
        ("names.txt", "0: background\n10: road\n20: tree\n", (0, 10, 20)),
    ],
)
def test_tables_of_ids_name_the_classes(file: str, text: str, values: tuple[int, int, int]) -> None:
    pairs(ROOT, "train/{}.jpg", "train/{}_mask.png", make=lambda number: label(number, values))
    (ROOT / file).write_text(text)
    source = made()
    assert source.classes == NAMES
    assert labels_of(source) == expected()


def test_void_of_a_table_counts_nowhere() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=colored)
    (ROOT / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nVoid,128,64,128\ntree,0,200,0\nrare,1,2,3\n")
    source = made()
    assert source.classes == ("sky", "tree", "rare")
    assert 'absent = ["rare"]' in Path("data.toml").read_text()
    assert labels_of(source)["000"][5][5] == IGNORE


def test_colors_without_a_table_become_classes() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=colored)
    source = made()
    assert source.classes == ("background", "color_0_200_0", "color_128_64_128")
    assert "give them names" in Path("data.toml").read_text()


def test_palettes_give_the_classes_their_colors() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png")
    for number in range(10):
        image = Image.fromarray(label(number))
        image.putpalette(COLORS.tobytes())
        image.save(ROOT / f"masks/{number:03}.png")
    assert made().palette == tuple(map(tuple, COLORS.tolist()))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((0, 255), ("background", "foreground")),
        ((0, 1), ("background", "foreground")),
        ((0, 1, 255), ("background", "foreground")),
        ((0, 128, 255), ("background", "class_128", "class_255")),
        ((7, 26, 33), ("class_7", "class_26", "class_33")),
        ((0, 1, 2, 255), ("background", "class_1", "class_2")),
    ],
)
def test_ids_without_a_table_become_classes(values: tuple[int, ...], classes: tuple[str, ...]) -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=lambda number: label(number, values))
    source = made()
    assert source.classes == classes
    ids = [index if index < len(classes) else IGNORE for index in range(len(values))]
    assert labels_of(source) == expected(values=tuple(ids))


def test_masks_with_soft_borders_are_read_by_ranges() -> None:
    def soft(number: int) -> np.ndarray:
        mask = binary(number)
        mask[4 + number % 4, 4:14] = 40 + 10 * np.arange(10)
        mask[19, 4:14] = 140 + 10 * np.arange(10)
        return mask

    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=soft)
    made()
    assert '"128-255" = "foreground"' in Path("data.toml").read_text()


def test_wide_and_three_channel_label_maps_are_read() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.tif", make=lambda number: label(number).astype(np.float32))
    assert labels_of(made()) == expected()
    shutil.rmtree(ROOT)
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=lambda number: np.repeat(label(number)[..., None], 3, 2))
    assert labels_of(made("mine", out="other.toml")) == expected()


def test_every_class_is_left_to_train_on() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=lambda n: label(n, (0, 1, *([2 + n] if n < 5 else []))))
    source = made()
    assert len(source.classes) == 7
    shutil.rmtree(ROOT)
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", 2, make=lambda n: label(n, (0, 1 + n)))
    made("mine", out="two.toml")


# Masks of one class each


@pytest.mark.parametrize(
    "mask",
    [
        "masks/{}/{{}}.png",
        "masks/{{}}_{}.png",
        "{}/{{}}.png",
        "images/{{}}-{}.png",
        "masks/{{}}/{}.png",
        "m/{{}}_{}_0.png",
    ],
)
def test_masks_of_one_class_each_are_merged(mask: str) -> None:
    for number in range(10):
        save(ROOT / f"images/{number:03}.jpg", photo(number))
        for index, name in enumerate(("road", "tree"), 1):
            if number != 9 or name == "road":  # not every image has all of them
                path = mask.format(name).format(f"{number:03}")
                save(ROOT / path, np.where(label(number) == index, 255, 0).astype(np.uint8))
    source = made()
    assert source.classes == NAMES
    wanted = expected()
    wanted["009"] = np.where(label(9) == 1, 1, 0).tolist()
    assert labels_of(source) == wanted


def test_masks_of_single_objects_are_one_class() -> None:
    for number in range(6):
        save(ROOT / f"{number:03}/images/{number:03}.png", photo(number))
        for index in (1, 2):
            name = f"{hash((number, index)) & 0xFFFFFFFF:08x}q"
            save(ROOT / f"{number:03}/masks/{name}.png", np.where(label(number) == index, 255, 0).astype(np.uint8))
    source = made()
    assert source.classes == ("background", "foreground")
    assert {number: sum(map(sum, rows)) for number, rows in labels_of(source).items()} == {
        f"{number:03}": int((label(number) > 0).sum()) for number in range(6)
    }


def test_overlapping_masks_keep_the_smaller_one() -> None:
    for number in range(4):
        save(ROOT / f"images/{number:03}.jpg", photo(number))
        for name, inner in (("car", 8), ("wheel", 3)):
            mask = np.zeros(SIZE, np.uint8)
            mask[10 : 10 + inner, 10 : 10 + inner] = 1
            save(ROOT / f"masks/{number:03}_{name}.png", mask)
    source = made()
    counts = np.bincount(np.array(labels_of(source)["000"]).ravel())
    assert (source.classes, counts[1:].tolist()) == (("background", "car", "wheel"), [64 - 9, 9])


def test_one_kind_of_mask_names_its_class() -> None:
    pairs(ROOT, "photos/{}.jpg", "photos/{}_crack.png", make=binary)
    assert made().classes == ("background", "crack")
    shutil.rmtree(ROOT)
    pairs(ROOT, "Task1_Input/{}.jpg", "Task1_GroundTruth/{}_segmentation.png", make=binary)
    assert made("mine", out="other.toml").classes == ("background", "foreground")
    shutil.rmtree(ROOT)
    pairs(ROOT, "photos/{}.jpg", "masks/rust/{}.png", make=binary)
    assert made("mine", out="third.toml").classes == ("background", "rust")


# Other files of the same images


def test_what_was_made_to_look_at_is_no_label_map() -> None:
    pairs(ROOT, "leftImg8bit/train/a/{}_leftImg8bit.png", "gtFine/train/a/{}_gtFine_labelIds.png")
    for number in range(10):
        save(ROOT / f"gtFine/train/a/{number:03}_gtFine_color.png", colored(number))
        save(ROOT / f"gtFine/train/a/{number:03}_gtFine_instanceIds.png", label(number, (0, 200, 201)))
    assert labels_of(made()) == expected()
    shutil.rmtree(ROOT)
    pairs(ROOT, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    pairs(ROOT, "JPEGImages/{}.jpg", "SegmentationObject/{}.png", make=lambda number: label(number, (0, 3, 4)))
    assert labels_of(made("mine", out="other.toml")) == expected()


def test_what_lies_beside_does_not_disturb() -> None:
    pairs(ROOT, "training/image_2/{}.png", "training/semantic/{}.png")
    for number in range(10):
        save(ROOT / f"training/semantic_rgb/{number:03}.png", colored(number))
        save(ROOT / f"overlays/{number:03}.png", photo(number))
        save(ROOT / f"training/instance/{number:03}.png", photo(number)[..., 0].astype(np.uint16) * 7)
    assert labels_of(made()) == expected()


def test_machine_masks_of_supervisely_are_the_label_maps() -> None:
    pairs(ROOT, "ds0/img/{}.jpg", "ds0/masks_machine/{}.jpg.png")
    for number in range(10):
        save(ROOT / f"ds0/masks_human/{number:03}.jpg.png", photo(number))
    table = [{"title": name, "color": hex_of(TABLE[name])} for name in ("background", "road", "tree")]
    (ROOT / "meta.json").write_text(json.dumps({"classes": table}))
    source = made()
    assert (source.classes, labels_of(source)) == (NAMES, expected())


def test_lists_may_name_images_without_a_label_map() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png")
    save(ROOT / "images/new.jpg", photo(77))
    (ROOT / "train.txt").write_text("new\n" + "".join(f"{number:03}\n" for number in range(7)))
    (ROOT / "val.txt").write_text("007\n008\n009\n")
    (ROOT / "test.txt").write_text("011\n")
    told = succeeds("data init mine")
    assert "Not used as a list of the test split: mine/test.txt has lines that name no image" in told.err
    succeeds("data check data.toml")
    source = load_data("data.toml")
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 7, "val": 3}


def test_unlabeled_images_are_left_out_and_told() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png")
    save(ROOT / "images/new.jpg", photo(77))
    told = succeeds("data init mine")
    assert "Images without a label map, which are left out (1): images/new.jpg." in told.err
    assert 'unlabeled = "leave-out"' in Path("data.toml").read_text()
    assert labels_of(load_data("data.toml")) == expected()


# Shapes


def test_labelme_polygons_are_drawn() -> None:
    for number in range(5):
        save(ROOT / f"{number:03}.jpg", photo(number))
        shapes = [
            ("road", box(4, 4, 20, 12)),
            ("tree", box(10, 6, 30, 20)),
            ("line", {"points": [[0, 0], [9, 9]], "shape_type": "line"}),
        ]
        (ROOT / f"{number:03}.json").write_text(labelme(shapes, f"{number:03}.jpg"))
    told = succeeds("data init mine")
    assert "1 line" in told.err or "5 lines" in told.err
    succeeds("data check data.toml")
    source = load_data("data.toml")
    assert source.classes == NAMES
    wanted = np.zeros(SIZE, np.uint8)
    wanted[4:12, 4:20] = 1
    wanted[6:20, 10:30] = 2
    assert labels_of(source)["003"] == wanted.tolist()


def test_labelme_in_a_folder_of_its_own_with_every_kind_of_shape() -> None:
    import base64
    import io

    part = io.BytesIO()
    Image.fromarray(np.array([[1, 0], [1, 1]], np.uint8) * 255).save(part, "PNG")
    for number in range(4):
        save(ROOT / f"images/{number:03}.png", photo(number))
        shapes = [
            ("tree", {"points": [[20, 20], [24, 20]], "shape_type": "circle"}),
            ("road", {"points": [[10, 8], [2, 4]], "shape_type": "rectangle"}),
            (
                "tree",
                {
                    "points": [[40, 4], [41, 5]],
                    "shape_type": "mask",
                    "mask": base64.b64encode(part.getvalue()).decode(),
                },
            ),
            ("__ignore__", box(0, 30, 48, 32)),
        ]
        path = ROOT / f"json/{number:03}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(labelme(shapes, f"..\\\\images\\\\{number:03}.png" if number else "elsewhere/000.png"))
    found = np.array(labels_of(made())["000"])
    assert (found[4:8, 2:10] == 1).all()
    assert found[4:6, 40:42].tolist() == [[2, 0], [2, 2]]
    assert abs((found == 2).sum() - 3 - np.pi * 16) < 6
    assert (found[30:] == IGNORE).all()


def test_a_shape_that_later_ones_would_hide_stays_seen() -> None:
    for number in range(3):
        save(ROOT / f"{number:03}.jpg", photo(number))
        shapes = [("lamp", box(10, 10, 14, 14)), ("wall", box(4, 4, 40, 30))]
        (ROOT / f"{number:03}.json").write_text(labelme(shapes, f"{number:03}.jpg"))
    source = made()
    assert np.bincount(np.array(labels_of(source)["000"]).ravel())[1:].tolist() == [16, 36 * 26 - 16]


RUNS = {"size": list(SIZE), "counts": [0, 3, 32 * 48 - 3]}


def test_coco_polygons_and_run_lengths_are_drawn() -> None:
    names = [f"{number:03}.jpg" for number in range(6)]
    for number, name in enumerate(names):
        save(ROOT / f"images/{name}", photo(number))
    shapes = [(number, 2, [ring(10, 6, 14, 10)]) for number in range(6)]  # small, and first
    shapes += [(number, 1, [ring(4, 4, 30, 20), ring(6, 14, 10, 18)]) for number in range(6)]  # with a hole
    shapes += [(0, 1, [ring(32, 4, 34, 8), ring(36, 4, 38, 8)])]  # two parts
    (ROOT / "annotations").mkdir()
    annotated = json.loads(coco(names, shapes, ("unused", "road", "tree")))
    annotated["annotations"].append({"id": 99, "image_id": 1, "category_id": 2, "segmentation": RUNS, "iscrowd": 1})
    (ROOT / "annotations/instances_default.json").write_text(json.dumps(annotated))
    told = succeeds("data init mine")
    assert "Categories without a shape, which are left out (1): unused." in told.err
    succeeds("data check data.toml")
    source = load_data("data.toml")
    assert source.classes == NAMES
    wanted = np.zeros(SIZE, np.uint8)
    wanted[4:20, 4:30] = 1
    wanted[14:18, 6:10] = 0
    wanted[6:10, 10:14] = 2
    found = labels_of(source)
    assert found["002"] == wanted.tolist()
    wanted[4:8, 32:34] = wanted[4:8, 36:38] = 1
    assert found["000"] == wanted.tolist()
    assert np.array(found["001"])[:4, 0].tolist() == [2, 2, 2, 0]


def test_packed_run_lengths_are_those_of_coco_s_own_tools(rng: np.random.Generator) -> None:
    from pycocotools import mask as coco_mask

    from segdistill.data.discovery.drawing import run_length_mask

    for density in (0.01, 0.5, 0.99):
        area = rng.random((37, 23)) < density
        packed = coco_mask.encode(np.asfortranarray(area.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(run_length_mask(packed, 37, 23, "here"), area)


def test_coco_of_roboflow_has_a_file_for_each_split() -> None:
    for first, split in ((0, "train"), (4, "valid")):
        names = [f"{number:03}.jpg" for number in range(first, first + 4)]
        for number, name in enumerate(names, first):
            save(ROOT / split / name, photo(number))
        shapes = [(number, 1, [ring(4, 4, 20, 12)]) for number in range(4)]
        (ROOT / split / "_annotations.coco.json").write_text(coco(names, shapes, ("things", "crack")))
    source = made()
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 4, "val": 4}
    assert source.classes == ("background", "crack")


@pytest.mark.parametrize(
    ("shape", "expected_text"),
    [
        ({"size": [2, 2], "counts": [4]}, "another size"),
        ({"size": list(SIZE), "counts": [5]}, "run lengths are 5 pixels"),
        ({"size": list(SIZE), "counts": [-1, 1537]}, "damaged"),
        ({"size": list(SIZE), "counts": "\u00ff"}, "damaged"),
        ([[1, 1, 2]], "no three corners"),
        ([ring(0, 0, 1e9, 5)], "far outside"),
        ([ring(0, 0, float("nan"), 5)], "far outside"),
        (["x" * 8], "no three corners"),
    ],
)
def test_damaged_shapes_are_refused_and_leave_nothing(shape: object, expected_text: str) -> None:
    names = ["000.jpg", "001.jpg"]
    for number, name in enumerate(names):
        save(ROOT / name, photo(number))
    (ROOT / "a.json").write_text(coco(names, [(0, 0, [ring(1, 1, 9, 9)]), (1, 0, shape)], ("road",)))
    before = contents(Path())
    refused("data init mine", expected_text, "annotation 1 (road)", code=3)
    assert contents(Path()) == before


# Where other commands advise it


def advised(result: Result) -> str:
    """Return the line of `data init` that a message advises."""
    found = re.search(r"`segdistill (data init [^`]*)`", " ".join(result.err.split()))
    assert found is not None, result.err
    return found[1]


def test_commands_on_other_layouts_advise_what_works() -> None:
    for first, split in ((0, "train"), (6, "val")):
        pairs(Path("CamVid"), f"{split}/{{}}.png", f"{split}_labels/{{}}_L.png", 6, first=first, make=colored)
    Path("CamVid/class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,128,64,128\ntree,0,200,0\n")
    for line in ("data check camvid:CamVid", "data check voc:CamVid", "data check CamVid"):
        told = segdistill(line)
        assert told.code in (2, 3)
        succeeds(f"{advised(told)} --overwrite")
        succeeds("data check data.toml")
    assert load_data("data.toml").classes == ("sky", "road", "tree")


def test_labels_in_json_and_several_masks_advise_what_works() -> None:
    table = 'name = "mine"\nclasses = ["a", "b"]\n[train]\nimages = "mine/images"\nlabels = "mine/labels"\n'
    Path("mine.toml").write_text(table)
    for number in range(4):
        save(ROOT / f"images/{number:03}.png", photo(number))
        (ROOT / "labels").mkdir(exist_ok=True)
        path = ROOT / f"labels/{number:03}.json"
        path.write_text(labelme([("road", box(4, 4, 20, 12))], f"{number:03}.png"))
    succeeds(advised(segdistill("data check mine.toml")))
    succeeds("data check data.toml")
    shutil.rmtree(ROOT / "labels")
    for number in range(4):
        for index, name in enumerate(("road", "tree"), 1):
            mask = np.where(label(number) == index, 255, 0).astype(np.uint8)
            save(ROOT / f"labels/{number:03}_{name}.png", mask)
    told = segdistill("data check mine.toml")
    assert "Several label maps have an image's name in theirs" in told.err
    succeeds(f"{advised(told)} --overwrite")
    succeeds("data check data.toml")


# Refusals


def _nothing() -> None:
    ROOT.mkdir()


def _photos_alone() -> None:
    for number in range(3):
        save(ROOT / f"{number}.jpg", photo(number))


def _masks_alone() -> None:
    for number in range(3):
        save(ROOT / f"masks/{number}.png", label(number))


def _unread() -> None:
    ROOT.mkdir()
    (ROOT / "a.heic").write_bytes(b"x")


def _unrelated() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png")
    for number, path in enumerate(sorted((ROOT / "masks").iterdir())):
        path.rename(path.with_name("qrstuvwxyz"[number] + ".png"))


def _label_studio() -> None:
    for number, name in enumerate("abcdef"):
        save(ROOT / f"images/{name}x.jpg", photo(number))
        for tag in ("road", "tree"):
            save(ROOT / f"masks/task-{number + 1}-annotation-{number + 1}-by-1-tag-{tag}-0.png", binary(number))


def _jpeg_masks() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.jpg", make=binary)


def _one_class() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=lambda number: label(number, (1,)))


def _one_pair() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", 1)


def _boxes() -> None:
    save(ROOT / "000.jpg", photo(0))
    table = json.loads(coco(["000.jpg"], [(0, 0, [])], ["road"]))
    table["annotations"][0]["bbox"] = [1, 1, 5, 5]
    (ROOT / "a.json").write_text(json.dumps(table))


def _missing_image() -> None:
    save(ROOT / "000.jpg", photo(0))
    (ROOT / "a.json").write_text(coco(["000.jpg", "gone.jpg"], [(0, 0, [ring(1, 1, 5, 5)])], ["road"]))


def _another_size() -> None:
    save(ROOT / "000.jpg", photo(0)[:9])
    (ROOT / "a.json").write_text(coco(["000.jpg"], [(0, 0, [ring(1, 1, 5, 5)])], ["road"]))


def _unknown_color() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", make=colored)
    (ROOT / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\ntree,0,200,0\n")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_nothing, ("mine has no files", "no images")),
        (_photos_alone, ("3 .jpg files", "label maps are missing", "labelme or COCO", "distill --images mine")),
        (_masks_alone, ("images are missing",)),
        (_unread, ("1 .heic file", "PNG or JPEG")),
        (_unrelated, ("no label map has the name of an image",)),
        (_label_studio, ("Label Studio", "COCO")),
        (_jpeg_masks, ("JPEG's compression",)),
        (_one_class, ("one class alone",)),
        (_one_pair, ("Labeled images: 1",)),
        (_boxes, ("1 annotation is a box", "polygons or masks")),
        (_missing_image, ("not in mine (1): gone.jpg",)),
        (_another_size, ("48x9 pixels", "drawn on 48x32")),
        (_unknown_color, ("128,64,128", "class_dict.csv")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_missing_is_said_and_nothing_written(make: Callable[[], None], words: tuple[str, ...]) -> None:
    make()
    before = contents(Path())
    refused("data init mine", *words, code=3)
    assert contents(Path()) == before


def test_paths_that_are_wrong_are_refused() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png")
    Path("a.zip").write_bytes(b"")
    refused("data init gone", "gone does not exist")
    refused("data init a.zip", "a.zip is an archive")
    refused("data init mine --out x.json", "does not end in .toml")
    refused("data init mine --out no/data.toml", "The folder no does not exist")
    Path("data.toml").write_text("mine")
    refused("data init mine", "data.toml exists", "--overwrite")
    assert Path("data.toml").read_text() == "mine"
    succeeds("data init mine --overwrite")


def test_drawn_label_maps_are_replaced_and_no_folder_of_others() -> None:
    for number in range(3):
        save(ROOT / f"{number:03}.jpg", photo(number))
        (ROOT / f"{number:03}.json").write_text(labelme([("road", box(4, 4, 20, 12))], f"{number:03}.jpg"))
    Path("data-labels").mkdir()
    Path("data-labels/mine.txt").write_text("x")
    refused("data init mine", "data-labels is in the way")
    shutil.rmtree("data-labels")
    succeeds("data init mine")
    refused("data init mine --out data.toml", "data.toml exists")
    Path("data.toml").unlink()
    refused("data init mine", "data-labels exists", "--overwrite")
    succeeds("data init mine --overwrite")
    made("mine --overwrite", out="mine/data.toml")
    made("mine --overwrite", out="mine/data.toml")


def test_output_names_pairs_classes_and_the_next_commands() -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png", 20)
    entry = json.loads(succeeds("data init mine --json").out)
    assert (entry["out"], entry["classes"]) == ("data.toml", ["background", "class_1", "class_2"])
    assert sum(entry["images"].values()) == 20
    told = succeeds("data init mine --overwrite")
    assert "Wrote data.toml" in told.out
    commands = [line.strip() for line in told.err.splitlines() if line.strip().startswith("segdistill ")]
    assert len(commands) == 2
    assert commands[1].endswith("--baseline steps --seeds 3")
    for command in commands:
        succeeds(
            command.removeprefix("segdistill ")
            .replace(
                "--seeds 3", "--seeds 3 --dry-run --steps 2 --set data.crop=[32,48] --set data.batch_size=2 --workers 0"
            )
            .replace("pspnet50", "pspnet18")
            .replace("resnet18 ", "resnet18-half ")
        )


@pytest.mark.parametrize("out", ["data.toml", "mine/data.toml", "other/deep/data.toml"])
def test_paths_fit_the_place_of_the_file(out: str) -> None:
    pairs(ROOT, "images/{}.jpg", "masks/{}.png")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    assert labels_of(made(out=out)) == expected()


def test_links_to_images_elsewhere_are_their_own_names() -> None:
    pairs(Path("disk"), "{}.jpg", "x{}.png")
    for kind, suffix, before in (("images", "jpg", ""), ("masks", "png", "x")):
        (ROOT / kind).mkdir(parents=True)
        for number in range(10):
            link = ROOT / kind / f"frame{number:03}.{suffix}"
            link.symlink_to(Path("../../disk") / f"{before}{number:03}.{suffix}")
    assert labels_of(made()) == expected()
    (ROOT / "images/a\nb.jpg").symlink_to("../../disk/000.jpg")
    refused("data init mine --overwrite", "cannot hold")
