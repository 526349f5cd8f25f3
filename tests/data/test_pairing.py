"""How images and label maps of a data.toml find each other: names, patterns, sub-folders, lists, shares."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.commands import refused, segdistill, succeeds
from helpers.data_files import picture, write
from segdistill.config.schema import DataConfig
from segdistill.data import AUXILIARY, DataSource, load_data, with_auxiliary_split
from segdistill.data.datasets._toml.shares import name_fraction
from segdistill.data.file_names import NamePattern, looks
from segdistill.data.name_differences import find_differences
from segdistill.errors import DataError

pytestmark = pytest.mark.usefixtures("elsewhere")

HEAD = 'name = "yard"\nclasses = ["ground", "plant"]\n'
LABEL = np.array([[0, 1], [1, 255]], np.uint8)


def data(images: dict[str, str], table: str, head: str = HEAD) -> str:
    """Write image files with their label maps, each pair of a number of its own, and a data.toml."""
    for number, (image, label) in enumerate(images.items()):
        if image:
            write(Path(image), picture(2, 2, seed=number))
        if label:
            write(Path(label), LABEL)
    Path("data.toml").write_text(head + table)
    return "data.toml"


def pairs(source: DataSource, split: str = "train") -> list[tuple[str, str]]:
    found = source.split(split)
    return list(zip(found.names, found.labels, strict=True))  # type: ignore[attr-defined]


FOLDERS = '[train]\nimages = "images"\nlabels = "labels"\n'


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.jpg", "a.png"),
        ("a.jpg", "a.jpg.png"),
        ("A.JPG", "a.PNG"),
        ("IMG_0001.JPG", "img_0001.jpg.png"),
        (unicodedata.normalize("NFC", "hügel.png"), unicodedata.normalize("NFD", "hügel.png")),
        ("a 1.png", "a\u00a01.png"),
        ("a1.png", "a\u200b1.png"),
        ("a1.png", "\uff411.png"),
        ("a1.png", "\u04301.png"),
        ("a 1.png", "a  1 .png"),
        ("a-1.png", "a\u20131.png"),
        ("Straße.png", "STRASSE.png"),
        ("cam1/0001.png", "cam1/0001.png"),
        ("Cam1/0001.png", "cam1/0001.PNG"),
        ("a.png", "a.gif"),
        ("a.tif", "a.bmp"),
    ],
)
def test_names_that_look_the_same_are_paired(image: str, label: str) -> None:
    others = (
        {"images/other.png": "labels/other.png"}
        if "/" not in image
        else {"images/cam2/0001.png": "labels/cam2/0001.png"}
    )
    source = load_data(data({f"images/{image}": f"labels/{label}", **others}, FOLDERS))
    assert (f"images/{image}", f"labels/{label}") in pairs(source)
    assert len(pairs(source)) == 2


def test_pairs_that_only_look_alike_are_told() -> None:
    source = load_data(data({"images/A.png": "labels/a.png", "images/b.png": "labels/b.png"}, FOLDERS))
    assert any("only look the same" in warning and "(1): A.png and a.png" in warning for warning in source.warnings)


def test_names_of_which_several_look_alike_are_not_guessed() -> None:
    data({"images/A.png": "", "": "labels/a.png"}, FOLDERS)
    write(Path("images/a_.png"), picture(2, 2))
    Path("images/a_.png").rename("images/Ａ.png")  # a full-width letter
    refused("data check data.toml", "A.png", "without a partner", code=3)


def test_two_label_maps_of_one_image_are_refused() -> None:
    data({"images/a.jpg": "labels/a.png", "": "labels/a.bmp"}, FOLDERS)
    refused("data check data.toml", "more than one ending (1): a.", code=3)


@pytest.mark.parametrize(
    ("image", "label", "keys"),
    [
        ("d/{}.jpg", "d/{}_mask.png", 'images = "d"\nlabels = "d"\nlabel_pattern = "*_mask"'),
        ("d/{}.png", "d/{}_mask.png", 'images = "d"\nlabels = "d"\nlabel_pattern = "*_mask.png"'),
        ("d/{}_img.png", "d/{}.png", 'images = "d"\nlabels = "d"\nimage_pattern = "*_img"'),
        ("i/{}_leftImg8bit.png", "l/{}_gtFine_labelIds.png",
         'images = "i"\nlabels = "l"\nimage_pattern = "*_leftImg8bit"\nlabel_pattern = "*_gtFine_labelIds"'),
        ("i/img{}.png", "l/GT{}.png", 'images = "i"\nlabels = "l"\nimage_pattern = "img*"\nlabel_pattern = "gt*"'),
        ("s/{}/rgb/1.png", "s/{}/seg/1.png",
         'images = "s"\nlabels = "s"\nimage_pattern = "rgb/*"\nlabel_pattern = "seg/*"'),
        ("i/{}.png", "i/masks/{}.png", 'images = "i"\nlabels = "i/masks"'),
        ("d/images/{}.png", "d/{}.png", 'images = "d/images"\nlabels = "d"'),
    ],
)  # fmt: skip
def test_patterns_say_how_names_differ(image: str, label: str, keys: str) -> None:
    files = {image.format(name): label.format(name) for name in ("a", "b", "c_d")}
    source = load_data(data(files, f"[train]\n{keys}\n"))
    assert sorted(pairs(source)) == sorted(files.items())


def test_sub_folders_without_partners_are_passed_over_and_told() -> None:
    source = load_data(data({"images/a.png": "labels/a.png", "images/old/b.png": ""}, FOLDERS))
    assert pairs(source) == [("images/a.png", "labels/a.png")]
    assert any("sub-folders" in warning and "images/old" in warning for warning in source.warnings)
    write(Path("labels/old/b.png"), LABEL)
    assert len(pairs(load_data("data.toml"))) == 2


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=12))
def test_looks_of_a_name_look_like_themselves(name: str) -> None:
    assert looks(looks(name)) == looks(name)
    assert looks(name.upper()) == looks(name.upper().lower()) or "\u0345" in name or not name.isascii()


def test_a_pattern_shares_folders_and_stars() -> None:
    assert NamePattern("*_mask").shared_part("cam1/a_mask.png") == "cam1/a"
    assert NamePattern("*_mask.png").shared_part("a_mask.jpg") is None
    assert NamePattern("images/*").shared_part("cam1/images/a.png") == "cam1/a"
    assert NamePattern("*_v*").shared_part("x/a_v2.png") == "x/a/2"
    assert NamePattern("*").shared_part("a.b.png") == "a.b"


# Lists


@pytest.mark.parametrize(
    "lines",
    [
        "a.png\nc.png\n",
        "a\nc",
        "images/a.png\r\nimages/c.png\r\n",
        "\ufeffimages\\a\nimages\\c\n",
        "# chosen\na\n\nc\n",
        "filename\na.png\nc.png\n",
        "/home/me/yard/images/a.png\n/home/me/yard/images/c.png\n",
        "images/a.png labels/a.png\nimages/c.png labels/c.png\n",
        "images/a.png\tlabels/a.png\nimages/c.png\tlabels/c.png\n",
        "image,mask\nimages/a.png,labels/a.png\nimages/c.png,labels/c.png\n",
        "a.png a.png\nc.png c.png\n",
        "a 1\nc -1\n",
        "A.PNG\nC.PNG\n",
        "a\na\nc\n",
    ],
)
def test_lists_of_every_form_name_the_images(lines: str) -> None:
    files = {f"images/{name}.png": f"labels/{name}.png" for name in "abc"}
    data(files, '[train]\nimages = "images"\nlabels = "labels"\nlist = "sets/train.txt"\n')
    Path("sets").mkdir()
    Path("sets/train.txt").write_text(lines)
    assert pairs(load_data("data.toml")) == [(name, files[name]) for name in ("images/a.png", "images/c.png")]


@pytest.mark.parametrize("prefix", ["", "../", "./"])
def test_a_list_of_two_columns_needs_no_folders(prefix: str) -> None:
    data({"x y/a 1.png": "z/m.png"}, '[train]\nlist = "sets/train.txt"\n')
    Path("sets").mkdir()
    Path("sets/train.txt").write_text(f"{prefix}x y/a 1.png {prefix}z/m.png\n")
    assert pairs(load_data("data.toml")) == [("x y/a 1.png", "z/m.png")]


def test_lists_that_name_what_is_not_there_are_refused_by_line() -> None:
    data({"images/cam1/a.png": "labels/cam1/a.png"}, FOLDERS + 'list = "train.txt"\n')
    Path("train.txt").write_text("cam1/a\ncam2/a\ngone.png\n")
    refused("data check data.toml", "train.txt", "(2): line 2 (cam2/a), line 3 (gone.png)", code=3)
    Path("train.txt").write_text("\n")
    refused("data check data.toml", "train.txt has no names", code=3)
    Path("train.txt").unlink()
    refused("data check data.toml", "train.txt cannot be read", code=3)
    data({}, '[train]\nlist = "train.txt"\n')
    Path("train.txt").write_text("images/cam1/a.png\n")
    refused("data check data.toml", "names images alone", 'labels = "FOLDER"', code=3)


# A share for val


def many(names: range) -> dict[str, str]:
    return {f"images/{i}.png": f"labels/{i}.png" for i in names}


def test_a_share_is_drawn_by_names_and_moves_no_image() -> None:
    text = FOLDERS + "[val]\nshare = 0.25\n"
    first = load_data(data(many(range(40)), text))
    val, train = {name for name, _ in pairs(first, "val")}, {name for name, _ in pairs(first)}
    assert not val & train
    assert len(val) + len(train) == 40
    assert 4 <= len(val) <= 16
    assert val == {f"images/{i}.png" for i in range(40) if name_fraction(str(i)) < 0.25}
    second = load_data(data(many(range(60)), text))
    assert {name for name, _ in pairs(second, "val")} & {*val, *train} == val
    shutil.copytree("images", "elsewhere/images")
    shutil.copytree("labels", "elsewhere/labels")
    shutil.copy("data.toml", "elsewhere")
    assert pairs(load_data("elsewhere/data.toml"), "val") == pairs(second, "val")


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_leaves_a_pair_on_each_side(share: float) -> None:
    source = load_data(data(many(range(3)), f"{FOLDERS}[val]\nshare = {share}\n[test]\nshare = 0.005\n"))
    assert [len(pairs(source, split)) > 0 for split in ("train", "val", "test")] == [True] * 3
    assert sum(len(pairs(source, split)) for split in ("train", "val", "test")) == 3
    data({}, f"{FOLDERS}[val]\nshare = 0.5\n")
    for i in (1, 2):
        Path(f"images/{i}.png").unlink()
        Path(f"labels/{i}.png").unlink()
    refused("data check data.toml", "The train split has 1 pair", code=3)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("[val]\nshare = 0.2\n", "there is no [train]"),
        (FOLDERS + "share = 0.2\n", "share is for [val]"),
        (FOLDERS + '[val]\nshare = 0.2\nimages = "x"\n', "share stands alone"),
        (FOLDERS + "[val]\nshare = 1.5\n", "less than 1"),
        (FOLDERS + "[val]\nshare = 0.6\n[test]\nshare = 0.5\n", "leaves nothing to train on"),
        (FOLDERS + 'label_pattern = "_mask"\n', "expected a name with *"),
        (FOLDERS + 'label_pattern = "*_*"\n', "equally many *"),
        ('[train]\nimages = "images"\n', "labels missing"),
        (FOLDERS + '[val]\nimages = "a"\nlabels = "b"\nunlabeled = "use"\n', "is for [train]"),
    ],
)
def test_mistakes_in_these_keys_are_named(table: str, expected: str) -> None:
    refused(f"data check {data({}, table)}", expected)


def test_no_val_split_names_the_share() -> None:
    data(many(range(3)), FOLDERS)
    told = segdistill("distill --teacher pspnet18 --student resnet18-half --data data.toml --dry-run")
    assert told.code == 3
    assert "has no val split" in told.err
    assert "share = 0.2" in told.err


# Partly labeled folders


def test_images_without_a_label_map_can_be_left_out_or_used() -> None:
    files = many(range(6)) | {"images/x.png": "", "images/y.png": ""}
    data(files, FOLDERS)
    refused("data check data.toml", "x.png, y.png", 'unlabeled = "leave-out"', '"use"', code=3)
    source = load_data(data(files, FOLDERS + 'unlabeled = "leave-out"\n[val]\nshare = 0.3\n'))
    assert sum(len(pairs(source, split)) for split in ("train", "val")) == 6
    assert any("left out (2): x.png, y.png" in warning for warning in source.warnings)
    config = DataConfig(crop=(2, 2), batch_size=2)
    assert AUXILIARY not in with_auxiliary_split(source, config).splits
    source = load_data(data(files, FOLDERS + 'unlabeled = "use"\n[val]\nshare = 0.3\n'))
    assert with_auxiliary_split(source, config).split(AUXILIARY).names == ("images/x.png", "images/y.png")
    assert AUXILIARY not in with_auxiliary_split(source, config, unlabeled=False).splits
    write(Path("labels/stray.png"), LABEL)
    refused("data check data.toml", "stray.png", code=3)


# Messages


def test_a_common_suffix_is_found_and_the_advice_works() -> None:
    data({f"images/{i}.jpg": f"labels/{i}_segmentation.png" for i in range(8)}, FOLDERS)
    told = segdistill("data check data.toml")
    assert told.code == 3
    assert 'label_pattern = "*_segmentation"' in told.err
    data({}, FOLDERS + 'label_pattern = "*_segmentation"\n[val]\nshare = 0.3\n')
    succeeds("data check data.toml")


def test_files_that_were_passed_over_are_named() -> None:
    data({f"images/{i}.png": "" for i in range(3)}, FOLDERS)
    Path("labels").mkdir()
    for i in range(3):
        Path(f"labels/{i}.jp2").write_bytes(b"\0")
    refused("data check data.toml", "Not read in labels: 3 .jp2 files.", code=3)
    for i in range(3):
        Path(f"labels/{i}.jp2").rename(f"labels/{i}.json")
    refused(
        "data check data.toml", "Not read in labels: 3 .json files.", "Labels must be images",
        "segdistill data init . --out data.toml", code=3
    )  # fmt: skip
    shutil.rmtree("images")
    Path("images").mkdir()
    Path("images/a.heic").write_bytes(b"\0")
    refused("data check data.toml", "images has no images.", "Not read in images: 1 .heic file.", code=3)


def test_soft_borders_are_told_with_the_ranges_that_read_them() -> None:
    soft = np.zeros((20, 20), np.uint8)
    soft[:, 10:] = 255
    soft[:, 8:12] = [40, 90, 160, 210]
    files = many(range(6))
    data(files, FOLDERS + "[val]\nshare = 0.3\n")
    for name, label in files.items():
        write(Path(name), picture(20, 20, seed=int(Path(name).stem)))
        write(Path(label), soft)
    told = segdistill("data check data.toml")
    assert told.code == 3
    ranges = '[ids]\n"0-127" = "ground"\n"128-255" = "plant"\n'
    assert all(line in told.err for line in ranges.splitlines())
    data({}, FOLDERS + "[val]\nshare = 0.3\n" + ranges)
    source = load_data("data.toml")
    assert source.split("train").read(0).label[0].tolist() == [0] * 10 + [1] * 10
    succeeds("data check data.toml")


def test_differences_of_names_are_found() -> None:
    images = [f"aachen/aachen_{i:06}_000019_leftImg8bit" for i in range(5)]
    labels = [f"aachen/aachen_{i:06}_000019_gtFine_{kind}" for i in range(5) for kind in ("color", "labelIds")]
    found = find_differences(images, labels)
    assert {one[:2] for one in found[:2]} == {
        ("*_leftImg8bit", "*_gtFine_color"),
        ("*_leftImg8bit", "*_gtFine_labelIds"),
    }
    assert find_differences(["img_1", "img_2", "img_12"], ["mask_1", "mask_2", "mask_12"])[0][:3] == (
        "img_*",
        "mask_*",
        3,
    )
    assert not find_differences(["a", "b"], ["x", "y"])
    assert not find_differences([], ["x"])


def test_an_unreadable_split_prints_no_table() -> None:
    data(many(range(2)), FOLDERS)
    for i in range(2):
        Path(f"labels/{i}.png").write_bytes(b"no image")
    told = segdistill("data check data.toml")
    assert told.code == 3
    assert "0.00" not in told.out
    with pytest.raises(DataError):
        load_data("data.toml").split("train").read(0)
