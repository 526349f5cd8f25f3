"""The user's own data: what a data.toml may say, what is told of its mistakes, and the check of any data set."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from commands import NETWORK, SMALL, contents, files, halve, refused, segdistill, succeeds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segdistill.config import load_preset
from segdistill.data import DataSource, check_files, load_data, take_census
from segdistill.data._own import ColorMap
from segdistill.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("elsewhere")

Pixels = npt.NDArray[np.uint8]
CLASSES = 'name = "yard"\nclasses = ["ground", "plant", "tool"]\n'
SPLITS = "".join(f'[{split}]\nimages = "images/{split}"\nlabels = "labels/{split}"\n' for split in ("train", "val"))
IDS = '[ids]\n7 = "ground"\n21 = "plant"\n22 = "plant"\n26 = "tool"\n0 = "ignore"\n'
COLORS = '[colors]\n"128,64,128" = "ground"\n"0,255,0" = "plant"\n"0, 200, 0" = "plant"\n"9,9,9" = "ignore"\n'
COLORS += '"255,0,0" = "tool"\n'
LABEL = np.array([[0, 0, 1, 2], [2, 2, 1, 255]], np.uint8)
"""Classes, and IGNORE in a corner."""


def write(path: Path, pixels: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def own(text: str = CLASSES + SPLITS, label: Pixels | npt.NDArray[np.uint16] = LABEL, root: Path = Path("yard")) -> str:
    """Write two pairs per split, no image like another, and the data file; return its path."""
    for number, split in enumerate(("train", "val")):
        for i in range(2):
            color = np.array([100 * number, 50 * i, 7], np.uint8)
            write(root / "images" / split / f"{i}.png", np.broadcast_to(color, (*label.shape[:2], 3)))
            write(root / "labels" / split / f"{i}.png", label)
    (root / "data.toml").write_text(text)
    return str(root / "data.toml")


def labels_of(source: DataSource) -> list[list[list[int]]]:
    return [source.split(split).read(i).label.tolist() for split in ("train", "val") for i in range(2)]


# What it may say


def test_ids_are_the_classes_in_their_order_and_255_counts_nowhere_unless_something_else_is_said() -> None:
    source = load_data(own())
    assert (source.name, source.classes) == ("yard", ("ground", "plant", "tool"))
    assert labels_of(source) == [LABEL.tolist()] * 4
    assert source.split("val").read(1).image[0, 0].tolist() == [100, 50, 7]
    assert not source.warnings


def test_a_label_map_brings_ids_to_classes_many_to_one() -> None:
    stored = np.array([[7, 7, 21, 26], [26, 26, 22, 0]], np.uint8)
    assert labels_of(load_data(own(CLASSES + SPLITS + IDS, stored))) == [LABEL.tolist()] * 4


def test_other_ids_can_count_nowhere_and_255_then_no_longer_does() -> None:
    stored = np.where(LABEL == 255, 9, LABEL).astype(np.uint8)
    text = "ignore = [9]\n" + CLASSES + SPLITS
    assert labels_of(load_data(own(text, stored))) == [LABEL.tolist()] * 4
    with pytest.raises(DataError, match=r"255 \(1 px\)"):
        load_data(own(text, LABEL)).split("train").read(0)


def test_colours_are_read_from_rgb_and_from_palettes_alike() -> None:
    colors = {0: (128, 64, 128), 1: (0, 200, 0), 2: (255, 0, 0), 255: (9, 9, 9)}
    stored = np.array([[colors[i] for i in row] for row in LABEL.tolist()], np.uint8)
    text = CLASSES + SPLITS + COLORS
    assert labels_of(load_data(own(text, stored))) == [LABEL.tolist()] * 4
    indexed = Image.fromarray(stored).quantize(4)
    assert indexed.mode == "P"
    indexed.save("yard/labels/train/0.png")
    assert load_data("yard/data.toml").split("train").read(0).label.tolist() == LABEL.tolist()


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.tuples(*[st.integers(0, 255)] * 3), st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_a_colour_map_finds_what_a_look_at_each_pixel_finds(
    table: dict[tuple[int, int, int], int], data: st.DataObject
) -> None:
    picks = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=6, max_size=6))
    write(Path("colors.png"), np.array(picks, np.uint8).reshape(2, 3, 3))
    codes = sorted((65536 * r + 256 * g + b, index) for (r, g, b), index in table.items())
    read = ColorMap(np.array([c for c, _ in codes], np.int32), np.array([i for _, i in codes], np.uint8))
    assert read(Path("colors.png")).ids.ravel().tolist() == [table[pick] for pick in picks]


def test_lists_of_files_are_paired_by_their_order_and_may_lie_anywhere(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "x_labels.png"
    write(other, np.zeros((2, 4), np.uint8))
    text = (
        CLASSES
        + "[train]\n"
        + f'images = ["images/train/1.png", "images/val/0.png"]\nlabels = ["labels/val/0.png", "{other}"]\n'
    )
    source = load_data(own(text))
    split = source.split("train")
    assert [split.read(i).image[0, 0].tolist() for i in range(2)] == [[0, 50, 7], [100, 0, 7]]
    assert [split.read(i).label.tolist() for i in range(2)] == [LABEL.tolist(), [[0] * 4] * 2]
    assert source.warnings == ("yard has no val split.",)


def test_a_file_from_windows_is_read_as_any_other(tmp_path: Path) -> None:
    text = CLASSES + "[train]\nimages = ['images\\train\\1.png']\nlabels = ['labels\\train\\1.png']\n"
    text += "[val]\nimages = 'images\\val'\nlabels = 'labels\\val'\n"
    (tmp_path / own(text)).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    source = load_data("yard/data.toml")
    assert source.split("train").names == ("images/train/1.png",)
    assert source.split("val").names == ("images/val/0.png", "images/val/1.png")


def test_folders_may_be_absolute(tmp_path: Path) -> None:
    text = CLASSES + SPLITS.replace('"images/', f'"{tmp_path}/yard/images/').replace('"labels/val"', '"labels/val/"')
    assert labels_of(load_data(own(text))) == [LABEL.tolist()] * 4


def test_colours_to_draw_in_are_the_classes_own_else_the_palette_else_those_of_the_label_maps_else_all_different() -> (
    None
):
    tables = 'name = "yard"\nclasses = [{name = "ground", color = [1, 2, 3]}, "plant", "tool"]\n'
    assert load_data(own(tables + SPLITS)).palette[0] == (1, 2, 3)
    palette = "palette = [[1, 1, 1], [2, 2, 2], [3, 3, 3]]\n"
    assert load_data(own(palette + CLASSES + SPLITS)).palette == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert load_data(own(CLASSES + SPLITS + COLORS)).palette == ((128, 64, 128), (0, 255, 0), (255, 0, 0))
    many = 'name = "yard"\nclasses = [' + ", ".join(f'"c{i}"' for i in range(250)) + "]\n"
    drawn = load_data(own(many + SPLITS)).palette
    assert len({*drawn, (0, 0, 0)}) == 251, "black is what counts nowhere"


def test_the_same_files_are_the_same_data_wherever_they_lie_and_another_map_is_other_data(tmp_path: Path) -> None:
    stored = np.array([[7, 7, 21, 26], [26, 26, 22, 0]], np.uint8)
    prints = [
        load_data(own(CLASSES + SPLITS + ids, stored, tmp_path / folder)).fingerprint
        for folder, ids in (("a", IDS), ("b", IDS), ("c", IDS.replace('22 = "plant"', '22 = "tool"')))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_split_of_colours_survives_the_way_into_a_fresh_process() -> None:
    stored = np.broadcast_to(np.array([0, 255, 0], np.uint8), (2, 4, 3))
    split = load_data(own(CLASSES + SPLITS + COLORS, stored)).split("val")
    assert pickle.loads(pickle.dumps(split)).read(0).label.tolist() == [[1] * 4] * 2


# Mistakes in the file: exit 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = \n", ("data.toml is not valid TOML", "line 1")),
        ("", ("2 mistakes", "name: missing", "classes: missing")),
        (CLASSES, ("no images", "[train] and [val]")),
        (CLASSES + SPLITS + "[trian]\n", ("trian: unknown key. Did you mean train?",)),
        (CLASSES + '[train]\nimage = "x"\nlabels = "y"\n', ("train.image: unknown key. Did you mean images?",)),
        (CLASSES + "[train]\nimages = []\nlabels = 3\n", ("train.images: expected a folder", "(found 3)")),
        (CLASSES + '[train]\nimages = ["a"]\nlabels = "b"\n', ("train: ", "both lists of files")),
        (CLASSES + '[train]\nimages = ["a"]\nlabels = ["b", "c"]\n', ("train: 1 images and 2 labels",)),
        (CLASSES.replace("tool", "plant") + SPLITS, ("classes: 'plant' is there twice",)),
        (CLASSES.replace("tool", "Plant") + SPLITS, ("classes: 'Plant' is there twice",)),
        (CLASSES.replace("tool", "IGNORE") + SPLITS, ("classes: 'IGNORE' is what [ids] and [colors] call",)),
        (CLASSES.replace("tool", " tool") + SPLITS, ("classes: ' tool' is no name",)),
        (CLASSES.replace("yard", "voc") + SPLITS, ("name: 'voc' is a built-in data set",)),
        (CLASSES.replace("yard", "my yard") + SPLITS, ("name: String should match", "'my yard'")),
        ('name = "yard"\nclasses = ["one"]\n' + SPLITS, ("there are 1, expected 2 to 250",)),
        (f'name = "yard"\nclasses = {[f"c{i}" for i in range(251)]}\n' + SPLITS, ("there are 251, expected 2 to 250",)),
        ('name = "yard"\nclasses = [{name = "a", colour = [1, 2, 3]}, "b"]\n', ("'colour'", "Did you mean color?")),
        ("palette = [[1, 2, 3]]\n" + CLASSES + SPLITS, ("palette: 1 colours for 3 classes",)),
        ("palette = [[1, 2, 300]]\n" + CLASSES + SPLITS, ("palette.0.2", "less than or equal to 255")),
        ("ignore = [2, 9]\n" + CLASSES + SPLITS, ("ignore: 2 is 'tool'",)),
        ("ignore = [22]\n" + CLASSES + SPLITS + IDS, ("ignore: 22 is 'plant'",)),
        (CLASSES + SPLITS + IDS + '23 = "grond"\n', ("ids: 23 is 'grond'", "Did you mean ground?")),
        (CLASSES + SPLITS + IDS + '23 = "ignored"\n', ("ids: 23 is 'ignored'", "Did you mean ignore?")),
        (CLASSES + SPLITS + IDS.replace("26", "x"), ("ids.x", "valid integer")),
        (CLASSES + SPLITS + '[ids]\n1 = "ground"\n2 = "plant"\n', ("ids: none is 'tool'",)),
        (CLASSES + SPLITS + '[colors]\n"#ff0000" = "tool"\n', ("'#ff0000' is no colour", '"128,64,128"')),
        (CLASSES + SPLITS + '[colors]\n"1,2,256" = "tool"\n', ("less than or equal to 255",)),
        (CLASSES + SPLITS + IDS + '021 = "tool"\n', ("ids: 21 is both 'plant' and 'tool'",)),
        (CLASSES + SPLITS + IDS + '21 = "tool"\n', ("is not valid TOML", "line")),
        (CLASSES + SPLITS + COLORS + '"0,255, 0" = "tool"\n', ("colors: (0, 255, 0) is both 'plant' and 'tool'",)),
        (
            'name = "yard"\nclasses = [{name = "a", color = [1, 2, 3]}, {name = "b", color = [1, 2, 3]}]\n' + SPLITS,
            ("classes: 'a' and 'b' have the same colour [1, 2, 3]",),
        ),
        (
            CLASSES + SPLITS.replace("labels/train", "images/train/"),
            ("train: images and labels are the same", '"a.png"'),
        ),
        (CLASSES + SPLITS + IDS + COLORS, ("label maps hold colours or ids, not both",)),
        ("ignore = [9]\n" + CLASSES + SPLITS + COLORS, ("not both", '"ignore" in [colors]')),
    ],
)
def test_a_mistake_in_the_file_is_named_with_what_was_meant(text: str, expected: tuple[str, ...]) -> None:
    refused(f"data check {own(text)}", "yard/data.toml", *expected)


def test_all_mistakes_are_named_at_once() -> None:
    text = (
        "ignore = [0]\n" + CLASSES.replace("yard", "camvid") + SPLITS + '[ids]\n0 = "grond"\n1 = "plant"\n2 = "tool"\n'
    )
    with pytest.raises(UsageError) as caught:
        load_data(own(text))
    assert all(
        part in caught.value.what for part in ("name: ", "ids: 0 is 'grond'", "ids: none is 'ground'", "ignore: 0")
    )


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    refused("data check gone/data.toml", "There is no data file gone/data.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 10**5)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    for name in ("deep.toml", "bytes.toml"):
        refused(f"data check {name}", f"{name} is not valid TOML")


# Mistakes in the data: exit 3, before anything is written


def _id_not_in_the_map() -> None:
    write(Path("yard/labels/val/1.png"), np.full((2, 4), 33, np.uint8))


def _no_partner() -> None:
    Path("yard/labels/train/1.png").unlink()


def _no_folder() -> None:
    shutil.rmtree("yard/images/val")


def _another_size() -> None:
    write(Path("yard/labels/train/0.png"), np.full((3, 4), 7, np.uint8))


def _half_a_file() -> None:
    halve(Path("yard/images/train/0.png"))


@pytest.mark.promise("D1", "D2", "D5", "D6")
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_id_not_in_the_map, ("labels/val/1.png has class ids", "33 (8 px)", "Allowed ids: 0, 7, 21-22, 26, 255")),
        (_no_partner, ("1.png", "labels/train", "without a partner")),
        (_no_folder, ("yard/images/val cannot be read",)),
        (_another_size, ("images/train/0.png", "4x2", "4x3")),
        (_half_a_file, ("images/train/0.png",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_data_that_cannot_be_used_is_named_before_anything_is_written(
    damage: object, expected: tuple[str, ...], tmp_path: Path
) -> None:
    data = own(CLASSES + SPLITS + IDS, np.array([[7, 7, 21, 26], [26, 26, 22, 0]], np.uint8))
    assert callable(damage)
    damage()
    before = files(tmp_path)
    for line in (f"data check {data}", f"train-teacher --teacher {NETWORK} {SMALL} --out run --data {data}"):
        refused(line, *expected, code=3)
    assert files(tmp_path) == before


def test_a_file_of_a_list_that_is_not_there_is_named() -> None:
    text = CLASSES + '[train]\nimages = ["gone.png", "also.png"]\nlabels = ["labels/train/0.png", "b.png"]\n'
    with pytest.raises(DataError, match=r"There is no yard/gone\.png, yard/also\.png\."):
        load_data(own(text))


def test_an_unknown_colour_is_named_with_its_file_and_count() -> None:
    stored = np.broadcast_to(np.array([255, 0, 0], np.uint8), (2, 4, 3)).copy()
    data = own(CLASSES + SPLITS + COLORS, stored)
    stored[0, :3], stored[1, 0] = (254, 0, 1), (0, 0, 0)
    write(Path("yard/labels/val/0.png"), stored)
    expected = "labels/val/0.png has colours that [colors] has not: 254,0,1 (3 px), 0,0,0 (1 px)."
    refused(f"data check {data}", expected, code=3)


def test_of_many_unknown_colours_the_most_frequent_are_named() -> None:
    stored = np.zeros((4, 16, 3), np.uint8)
    stored[..., 0], stored[0] = np.arange(16) + 1, (7, 7, 7)
    stored[1] = (0, 255, 0)
    with pytest.raises(DataError, match=r"has not: 7,7,7 \(16 px\), 1,0,0 \(2 px\).* and 7 more colours") as caught:
        load_data(own(CLASSES + SPLITS + COLORS, stored)).split("train").read(0)
    assert "JPEG" in caught.value.fix


# Commands


def test_a_network_is_trained_and_scored_on_it() -> None:
    rng = np.random.default_rng(0)
    data = own(
        CLASSES + SPLITS + IDS, np.kron(rng.choice([0, 7, 21, 22, 26], (4, 6)), np.ones((8, 8))).astype(np.uint8)
    )
    succeeds(f"train-teacher --teacher {NETWORK} {SMALL} --out run --set data.name={data}")
    assert json.loads(Path("run/data.json").read_text())["name"] == "yard"
    scored = json.loads(succeeds(f"evaluate run --data {data} --json --workers 0").out)
    assert (scored["data"], scored["images"], list(scored["iou"])) == ("yard", 2, ["ground", "plant", "tool"])
    assert all("yard/" not in Path(path).read_text() for path in ("run/config.toml", "run/data.json"))
    refused("evaluate run --workers 0", "run does not say where its data (yard) lies", "--data FILE.toml")


@pytest.mark.promise("C5", "D13")
def test_a_run_does_not_go_on_with_images_or_labels_of_other_content() -> None:
    text = CLASSES + SPLITS.replace('labels = "labels/train"', 'labels = ["a.bmp", "b.bmp"]').replace(
        'images = "images/train"', 'images = ["images/train/0.png", "images/train/1.png"]'
    )
    label = np.kron([[0, 1], [2, 1]], np.ones((16, 24))).astype(np.uint8)
    data = own(text, label)
    for name in "ab":
        write(Path(f"yard/{name}.bmp"), label)
    image = Path("yard/images/train/0.png")
    shape = np.asarray(Image.open(image)).shape
    Image.fromarray(np.full(shape, 100, np.uint8)).save(image, format="BMP")  # known by its content, not its name
    line = f"train-teacher --teacher {NETWORK} {SMALL} --out run --data {data}"
    succeeds(line)
    for path, other, before in (
        (Path("yard/a.bmp"), label[::-1], label),
        (image, np.full(shape, 101, np.uint8), np.full(shape, 100, np.uint8)),
    ):
        assert "Already finished" in succeeds(f"{line} --resume").err
        Image.fromarray(other).save(path, format="BMP")
        refused(f"{line} --resume", "The data set has changed since this run began.")
        Image.fromarray(before).save(path, format="BMP")


def test_files_that_take_a_while_to_read_are_counted_on_the_way() -> None:
    pairs = {kind: json.dumps([f"{kind}/train/{i % 2}.png" for i in range(301)]) for kind in ("images", "labels")}
    many = f"[train]\nimages = {pairs['images']}\nlabels = {pairs['labels']}\n"
    line = f"train-teacher --teacher {NETWORK} {SMALL} --dry-run --data"
    validation = SPLITS.partition("[val]")[2]
    label = np.kron([[0, 1], [2, 1]], np.ones((16, 24))).astype(np.uint8)
    assert "reading yard 303/303" in succeeds(f"{line} {own(f'{CLASSES}{many}[val]{validation}', label)}").err
    assert "reading" not in succeeds(f"{line} {own(label=label)}").err


def test_a_preset_can_name_it() -> None:
    data = own()
    segdistill("presets copy skd mine.toml")
    mine = Path("mine.toml")
    mine.write_text(mine.read_text().replace('name = "cityscapes"', f'name = "{data}"'))
    assert load_data(load_preset(mine).data.name).name == "yard"


# The check


def test_the_check_counts_sizes_and_says_all_as_json() -> None:
    data = own()
    write(Path("yard/images/train/2.png"), np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3))
    write(Path("yard/labels/train/2.png"), np.full((6, 5), 1, np.uint8))
    entry = json.loads(succeeds(f"data check {data} --json").out)
    assert entry["splits"]["train"] == {
        "images": 3,
        "pixels": {"ground": 4, "plant": 4 + 30, "tool": 6},
        "ignored_pixels": 2,
        "sizes": [{"size": [2, 4], "images": 2}, {"size": [6, 5], "images": 1}],
    }
    assert entry["splits"]["val"]["sizes"] == [{"size": [2, 4], "images": 2}]
    assert (entry["duplicates"], entry["errors"], entry["warnings"]) == ([], [], [])
    assert "Sizes, height x width: 2x4 (4), 6x5 (1)\n" in succeeds(f"data check {data}").out


@pytest.mark.promise("D1")
def test_the_check_of_damaged_data_still_counts_the_rest_and_names_every_file_in_its_json() -> None:
    data = own()
    for split in ("train", "val"):
        halve(Path(f"yard/images/{split}/0.png"))
    result = segdistill(f"data check {data} --json")
    assert (result.code, "2 pairs cannot be used" in result.err) == (3, True)
    entry = json.loads(result.out)
    assert [Path(error.split()[0]).parts[-2:] for error in entry["errors"]] == [("train", "0.png"), ("val", "0.png")]
    assert entry["splits"]["val"]["pixels"] == {"ground": 2, "plant": 2, "tool": 3}
    shown = segdistill(f"data check {data}")
    assert (shown.code, "2 pairs cannot be used" in shown.err) == (3, True)
    assert "tool  " in shown.out
    assert "Sizes, height x width:" in shown.out


def test_what_is_to_be_done_is_told_of_every_kind_of_mistake() -> None:
    data = own()
    halve(Path("yard/images/train/0.png"))
    write(Path("yard/labels/val/0.png"), np.full((2, 4), 200, np.uint8))
    write(Path("yard/labels/val/1.png"), np.zeros((2, 4, 3), np.uint8))
    told = segdistill(f"data check {data}").err
    for part in ("under [ids], with a class", "a data.toml, whose [colors] says"):
        assert part in told


def test_an_image_that_is_also_held_out_is_told_and_one_that_two_trainings_share_is_not() -> None:
    data = own()
    shutil.copy("yard/images/train/1.png", "yard/images/val/0.png")
    entry = json.loads(succeeds(f"data check {data} --json").out)
    assert entry["duplicates"] == [{"train": "images/train/1.png", "val": "images/val/0.png"}]
    assert "Images in two splits (1): images/train/1.png = images/val/0.png." in entry["warnings"]
    source = load_data(data)
    shared = DataSource("yard", source.classes, source.palette, {s: source.split("train") for s in ("train", "coarse")})
    assert not take_census(shared, shared.splits).twins


def test_of_many_sizes_the_most_frequent_are_told() -> None:
    data = own(CLASSES + SPLITS)
    for i in range(11):
        write(Path(f"yard/images/val/{i}.png"), np.full((3 + i, 5, 3), i, np.uint8))
        write(Path(f"yard/labels/val/{i}.png"), np.zeros((3 + i, 5), np.uint8))
    words = check_files(load_data(data), ["train", "val"]).sizes_in_words()
    assert words.startswith("2x4 (2), 3x5 (1), 4x5 (1), ")
    assert words.endswith(", 10x5 (1) and 2 more")


def test_a_preview_shows_image_labels_and_both_in_their_colours() -> None:
    text = "palette = [[10, 20, 30], [200, 100, 0], [0, 0, 250]]\nignore = [255]\n"
    text += 'absent = ["ground"]\n' + CLASSES + SPLITS
    label = np.repeat([[1, 2]], 48, 0).repeat(32, 1).astype(np.uint8)
    label[:, -8:] = 255
    data = own(text, label)
    write(Path("yard/images/train/0.png"), np.broadcast_to(np.array([250, 120, 10], np.uint8), (48, 64, 3)))
    result = succeeds(f"data check {data} --preview look.png")
    assert "Wrote look.png: images/train/0.png, images/train/1.png, images/val/0.png" in result.err
    with Image.open("look.png") as file:
        sheet = np.asarray(file.convert("RGB"))
    middle, width = 28 + 96, 256  # below the titles, half of a cell that is 192 high and, with these images, 256 wide
    image, labels, overlay = (
        [sheet[middle, 6 + column * (width + 6) + x].tolist() for x in (40, 160, 250)] for column in range(3)
    )
    assert image == [[250, 120, 10]] * 3
    assert labels == [[200, 100, 0], [0, 0, 250], [0, 0, 0]]
    assert np.allclose(overlay, (np.array(image) + labels) / 2, atol=1)
    legend = {tuple(pixel) for pixel in sheet[28 + 4 * 198 :].reshape(-1, 3).tolist()}
    assert {(10, 20, 30), (200, 100, 0), (0, 0, 250)} <= legend


def test_images_of_other_shapes_are_not_distorted_in_a_preview() -> None:
    data = own('absent = ["tool"]\n' + CLASSES + SPLITS, np.zeros((48, 96), np.uint8))
    write(Path("yard/images/train/1.png"), np.full((96, 48, 3), 77, np.uint8))
    write(Path("yard/labels/train/1.png"), np.ones((96, 48), np.uint8))
    succeeds(f"data check {data} --preview look.png")
    with Image.open("look.png") as file:
        row = np.asarray(file.convert("RGB"))[28 + 198 + 96, 6 : 6 + 384]
    assert (row == 77).all(1).nonzero()[0].tolist() == list(range(96)), "half as wide as its 192 rows are high"


def test_a_preview_replaces_nothing_and_its_place_is_looked_at_first(tmp_path: Path) -> None:
    data = own()
    (tmp_path / "mine.png").write_text("mine")
    before = contents(tmp_path)
    for name, expected in (
        ("mine.png", "mine.png exists"),
        ("a.jpg", "does not end in .png"),
        ("no/a.png", "no folder no"),
    ):
        refused(f"data check {data} --preview {name}", expected)
    assert contents(tmp_path) == before
    succeeds(f"data check {data} --preview mine.png --overwrite")
    with Image.open("mine.png") as file:
        assert file.format == "PNG"


def test_there_is_no_preview_of_damaged_data() -> None:
    data = own()
    halve(Path("yard/images/train/0.png"))
    refused(f"data check {data} --preview look.png", "images/train/0.png", code=3)
    assert not Path("look.png").exists()


def test_the_preview_of_many_classes_has_a_line_for_all_of_them() -> None:
    classes = [f"a rather long name {i}" for i in range(250)]
    data = own(
        f'name = "yard"\nclasses = {classes}\n' + SPLITS, np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 250
    )
    succeeds(f"data check {data} --preview look.png")
    with Image.open("look.png") as file:
        below = np.asarray(file.convert("RGB"))[28 + 4 * 198 :]
    colors = load_data(data).palette
    assert set(colors) <= {tuple(pixel) for pixel in below.reshape(-1, 3).tolist()}


def test_a_preview_of_the_real_camvid_shows_images_of_both_splits() -> None:
    path = os.environ.get("SEGDISTILL_TEST_CAMVID")
    if not path:
        pytest.skip("SEGDISTILL_TEST_CAMVID is not set to a CamVid folder")
    result = succeeds(f"data check camvid:{path} --preview camvid.png")
    (line,) = (line for line in result.err.splitlines() if line.startswith("Wrote camvid.png: "))
    assert line.count("train/") >= 5
    assert "val/" in line
