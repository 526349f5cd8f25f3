"""The user's own data: what a data.toml may say, and what is reported of its mistakes."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.commands import NETWORK, SMALL, files, halve, refused
from helpers.own_data import CLASSES, IDS, LABEL, SPLITS, own, write
from segdistill.data import DataSource, load_data
from segdistill.data.datasets._toml.color_map import ColorMap
from segdistill.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("elsewhere")

COLORS = '[colors]\n"128,64,128" = "ground"\n"0,255,0" = "plant"\n"0, 200, 0" = "plant"\n"9,9,9" = "ignore"\n'
COLORS += '"255,0,0" = "tool"\n'


def labels_of(source: DataSource) -> list[list[list[int]]]:
    return [source.split(split).read(i).label.tolist() for split in ("train", "val") for i in range(2)]


# What it may say


def test_ids_are_classes_in_order_and_255_is_ignored_by_default() -> None:
    source = load_data(own())
    assert (source.name, source.classes) == ("yard", ("ground", "plant", "tool"))
    assert labels_of(source) == [LABEL.tolist()] * 4
    assert source.split("val").read(1).image[0, 0].tolist() == [100, 50, 7]
    assert not source.warnings


def test_a_label_map_brings_ids_to_classes_many_to_one() -> None:
    stored = np.array([[7, 7, 21, 26], [26, 26, 22, 0]], np.uint8)
    assert labels_of(load_data(own(CLASSES + SPLITS + IDS, stored))) == [LABEL.tolist()] * 4


def test_ignored_ids_can_replace_255() -> None:
    stored = np.where(LABEL == 255, 9, LABEL).astype(np.uint8)
    text = "ignore = [9]\n" + CLASSES + SPLITS
    assert labels_of(load_data(own(text, stored))) == [LABEL.tolist()] * 4
    with pytest.raises(DataError, match=r"255 \(1 px\)"):
        load_data(own(text, LABEL)).split("train").read(0)


def test_colors_are_read_from_rgb_and_from_palettes_alike() -> None:
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
def test_color_map_matches_a_lookup_per_pixel(table: dict[tuple[int, int, int], int], data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=6, max_size=6))
    write(Path("colors.png"), np.array(picks, np.uint8).reshape(2, 3, 3))
    codes = sorted((65536 * r + 256 * g + b, index) for (r, g, b), index in table.items())
    read = ColorMap(np.array([c for c, _ in codes], np.int32), np.array([i for _, i in codes], np.uint8))
    assert read(Path("colors.png")).ids.ravel().tolist() == [table[pick] for pick in picks]


def test_file_lists_are_paired_by_order_and_may_lie_anywhere(tmp_path: Path) -> None:
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
    (warning,) = source.warnings
    assert warning.startswith("yard has no val split.")


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


def test_palette_comes_from_classes_or_tables_or_is_generated() -> None:
    tables = 'name = "yard"\nclasses = [{name = "ground", color = [1, 2, 3]}, "plant", "tool"]\n'
    assert load_data(own(tables + SPLITS)).palette[0] == (1, 2, 3)
    palette = "palette = [[1, 1, 1], [2, 2, 2], [3, 3, 3]]\n"
    assert load_data(own(palette + CLASSES + SPLITS)).palette == ((1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert load_data(own(CLASSES + SPLITS + COLORS)).palette == ((128, 64, 128), (0, 255, 0), (255, 0, 0))
    many = 'name = "yard"\nclasses = [' + ", ".join(f'"c{i}"' for i in range(250)) + "]\n"
    drawn = load_data(own(many + SPLITS)).palette
    assert len({*drawn, (0, 0, 0)}) == 251, "black is what counts nowhere"


def test_fingerprint_ignores_the_folder_and_covers_the_map(tmp_path: Path) -> None:
    stored = np.array([[7, 7, 21, 26], [26, 26, 22, 0]], np.uint8)
    prints = [
        load_data(own(CLASSES + SPLITS + ids, stored, tmp_path / folder)).listing_fingerprint
        for folder, ids in (("a", IDS), ("b", IDS), ("c", IDS.replace('22 = "plant"', '22 = "tool"')))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_split_of_colors_survives_the_way_into_a_fresh_process() -> None:
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
        (CLASSES + '[train]\nimage = "x"\nlabels = "y"\n', ("train.image: unknown key. Did you mean ", "images")),
        (CLASSES + "[train]\nimages = []\nlabels = 3\n", ("train.images: expected a folder", "(found 3)")),
        (CLASSES + '[train]\nimages = ["a"]\nlabels = "b"\n', ("train: ", "both lists of files")),
        (CLASSES + '[train]\nimages = ["a"]\nlabels = ["b", "c"]\n', ("train: 1 image and 2 labels",)),
        (CLASSES.replace("tool", "plant") + SPLITS, ("classes: duplicate name 'plant'",)),
        (CLASSES.replace("tool", "Plant") + SPLITS, ("classes: duplicate name 'Plant'",)),
        (CLASSES.replace("tool", "IGNORE") + SPLITS, ("classes: name 'IGNORE' is reserved",)),
        (CLASSES.replace("tool", " tool") + SPLITS, ("classes: name ' tool' is not printable",)),
        (CLASSES.replace("yard", "voc") + SPLITS, ("name: 'voc' is a built-in data set",)),
        (CLASSES.replace("yard", "my yard") + SPLITS, ("name: String should match", "'my yard'")),
        ('name = "yard"\nclasses = ["one"]\n' + SPLITS, ("found 1, expected 2 to 250", '["background", "one"]')),
        (f'name = "yard"\nclasses = {[f"c{i}" for i in range(251)]}\n' + SPLITS, ("found 251, expected 2 to 250",)),
        ('name = "yard"\nclasses = [{name = "a", colour = [1, 2, 3]}, "b"]\n', ("'colour'", "Did you mean color?")),
        ("palette = [[1, 2, 3]]\n" + CLASSES + SPLITS, ("palette: 1 color for 3 classes",)),
        ("palette = [[1, 2, 300]]\n" + CLASSES + SPLITS, ("palette.0.2", "less than or equal to 255")),
        ("ignore = [2, 9]\n" + CLASSES + SPLITS, ("ignore: id 2 has the class 'tool'",)),
        ("ignore = [22]\n" + CLASSES + SPLITS + IDS, ("ignore: id 22 has the class 'plant'",)),
        (CLASSES + SPLITS + IDS + '23 = "grond"\n', ("ids: 23 has the unknown class 'grond'", "Did you mean ground?")),
        (
            CLASSES + SPLITS + IDS + '23 = "ignored"\n',
            ("class 'ignored'", "Did you mean ignore?"),
        ),
        (CLASSES + SPLITS + IDS.replace("26", "x"), ("ids: 'x' is no id", "128-255")),
        (CLASSES + SPLITS + IDS + '"9-8" = "tool"\n', ("ids: '9-8' is no range of ids",)),
        (CLASSES + SPLITS + IDS + '"20-30" = "tool"\n', ("ids: 21 is both 'plant' and 'tool'",)),
        (
            CLASSES + SPLITS + IDS + '"30-90" = "tol"\n',
            (
                "1 mistake",
                "ids: 30 and 60 more has the unknown class",
            ),
        ),
        (CLASSES + SPLITS + '[ids]\n1 = "ground"\n2 = "plant"\n', ("ids: class 'tool' has no entry",)),
        (CLASSES + SPLITS + '[colors]\n"#ff0000" = "tool"\n', ("'#ff0000' is no color", '"128,64,128"')),
        (CLASSES + SPLITS + '[colors]\n"1,2,256" = "tool"\n', ("less than or equal to 255",)),
        (CLASSES + SPLITS + IDS + '021 = "tool"\n', ("ids: 21 is both 'plant' and 'tool'",)),
        (CLASSES + SPLITS + IDS + '21 = "tool"\n', ("is not valid TOML", "line")),
        (CLASSES + SPLITS + COLORS + '"0,255, 0" = "tool"\n', ("colors: (0, 255, 0) is both 'plant' and 'tool'",)),
        (
            'name = "yard"\nclasses = [{name = "a", color = [1, 2, 3]}, {name = "b", color = [1, 2, 3]}]\n' + SPLITS,
            ("classes: 'a' and 'b' have the same color [1, 2, 3]",),
        ),
        (
            CLASSES + SPLITS.replace("labels/train", "images/train/"),
            ("train: images and labels are the same", '"a.png"'),
        ),
        (CLASSES + SPLITS + IDS + COLORS, ("label maps hold colors or ids, not both",)),
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
    for part in (
        "name: ",
        "ids: 0 has the unknown class 'grond'",
        "ids: class 'ground' has no entry",
        "ignore: id 0",
    ):
        assert part in caught.value.what


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    refused("data check gone/data.toml", "Data file not found: gone/data.toml")
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
def test_unusable_own_data_is_named_before_anything_is_written(
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
    with pytest.raises(DataError, match=r"Listed files not found \(2\): yard/gone\.png, yard/also\.png\."):
        load_data(own(text))


def test_an_unknown_color_is_named_with_its_file_and_count() -> None:
    stored = np.broadcast_to(np.array([255, 0, 0], np.uint8), (2, 4, 3)).copy()
    data = own(CLASSES + SPLITS + COLORS, stored)
    stored[0, :3], stored[1, 0] = (254, 0, 1), (0, 0, 0)
    write(Path("yard/labels/val/0.png"), stored)
    expected = "labels/val/0.png has colors that [colors] does not have: 254,0,1 (3 px), 0,0,0 (1 px)."
    refused(f"data check {data}", expected, code=3)


def test_most_frequent_unknown_colors_are_named() -> None:
    stored = np.zeros((4, 16, 3), np.uint8)
    stored[..., 0], stored[0] = np.arange(16) + 1, (7, 7, 7)
    stored[1] = (0, 255, 0)
    with pytest.raises(
        DataError, match=r"does not have: 7,7,7 \(16 px\), 1,0,0 \(2 px\).* and 7 more colors"
    ) as caught:
        load_data(own(CLASSES + SPLITS + COLORS, stored)).split("train").read(0)
    assert "JPEG" in caught.value.fix
