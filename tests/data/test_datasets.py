"""What holds for every public data set: ids become classes, and known mistakes are caught."""

import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from helpers.dataset_layouts import FOREIGN, LAYOUTS, MEANING, load, tree
from segdistill.config.registry import components, find_data
from segdistill.config.schema import DataConfig
from segdistill.data import check_files, load_data, with_auxiliary_split
from segdistill.data.base import UNLABELED
from segdistill.data.layout import data_source
from segdistill.errors import DataError, UsageError
from segdistill.types import IGNORE

# One image with its label, in each layout


USUAL = {
    "ade20k": ("20210", "2000"),
    "camvid": ("367", "101"),
    "cityscapes": ("2975", "500"),
    "coco-stuff-10k": ("9000", "1000"),
    "coco-stuff-164k": ("118287", "5000"),
    "pascal-context": ("4998 or 4996", "5105 or 5104"),
    "voc": ("10582 or 1464", "1449"),
}
NAMES = sorted(LAYOUTS)


# What holds for all of them


def test_every_data_set_that_lies_in_a_folder_is_tested_here() -> None:
    assert set(components("data.datasets")) - {"streets"} == set(LAYOUTS) == set(MEANING) == set(FOREIGN) == set(USUAL)


@pytest.mark.parametrize("name", components("data.datasets"))
def test_classes_have_different_names_and_a_color_each(name: str) -> None:
    module = import_module(find_data(name))
    assert len(module.CLASSES) == len(module.PALETTE) == len(set(module.CLASSES))
    assert len(module.CLASSES) <= UNLABELED
    assert all(word == word.strip() and word for word in module.CLASSES)
    assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in module.PALETTE)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_asks_where_the_data_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    with pytest.raises(UsageError, match=f"{name}:PATH"):
        load_data(name)


@pytest.mark.parametrize("name", NAMES)
def test_folder_of_another_layout_is_described(name: str, tmp_path: Path) -> None:
    (tmp_path / "nothing of it").mkdir()
    with pytest.raises(DataError, match=rf"does not have the layout of {name}: it has nothing of it\.") as caught:
        load(name, tmp_path)
    assert caught.value.fix.startswith("Expected ")


@pytest.mark.parametrize("name", NAMES)
def test_ids_in_files_become_the_classes_of_the_published_lists(name: str, tmp_path: Path) -> None:
    source = load(name, tree(tmp_path, name))
    meant = list(MEANING[name].values())
    for split in ("train", "val"):
        sample = source.split(split).read(0)
        assert sample.label.tolist() == [[IGNORE if entry is None else entry[0] for entry in meant]]
        assert (tmp_path / sample.name).is_file()
    assert all(source.classes[entry[0]] == entry[1] for entry in meant if entry is not None)
    report = check_files(source, ["train"])
    assert report.splits["train"].ignored == 2 * meant.count(None)


@pytest.mark.parametrize(("name", "foreign"), [(name, id_) for name in NAMES for id_ in FOREIGN[name]])
def test_foreign_id_is_refused_with_its_file(name: str, foreign: int, tmp_path: Path) -> None:
    path = LAYOUTS[name](tree(tmp_path, name), "train", "999999", [foreign, *MEANING[name]])
    with pytest.raises(DataError, match=rf"{foreign} \(1 px\)") as caught:
        load(name, tmp_path).split("train").read(2)
    assert str(path) in caught.value.what


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_its_label_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    path = LAYOUTS[name](tree(tmp_path, name), "train", "999999", list(MEANING[name]))
    path.unlink()
    with pytest.raises(DataError, match=r"Files in .* without a partner of the same name in .* \(1\): ") as caught:
        load(name, tmp_path)
    assert "999999" in caught.value.what


@pytest.mark.parametrize("name", NAMES)
def test_a_label_without_its_image_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tree(tmp_path, name), "train", "999999", list(MEANING[name]))
    source = load(name, tmp_path)
    (tmp_path / source.split("train").names[2]).unlink()
    with pytest.raises(DataError, match=r"Files in .* without a partner of the same name in .* \(1\): ") as caught:
        load(name, tmp_path)
    assert "999999" in caught.value.what


@pytest.mark.parametrize("name", NAMES)
def test_unusual_image_counts_are_warnings(name: str, tmp_path: Path) -> None:
    train, val = USUAL[name]
    assert load(name, tree(tmp_path, name)).warnings[-2:] == (
        f"{name}'s train split has 2 images here; it usually has {train}.",
        f"{name}'s val split has 1 image here; it usually has {val}.",
    )


def test_usual_image_counts_give_no_warning(tmp_path: Path) -> None:
    source = load("ade20k", tree(tmp_path, "ade20k"))
    usual = {"train": (2, 5), "val": (3, 1)}
    again = data_source("a", classes=source.classes, palette=source.palette, splits=source.splits, usual_counts=usual)
    assert again.warnings == ()


@pytest.mark.parametrize("name", NAMES)
def test_splits_survive_pickling_for_worker_processes(name: str, tmp_path: Path) -> None:
    split = load(name, tree(tmp_path, name)).split("train")
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.read(1).label, split.read(1).label)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ade20k", "ADEChallengeData2016"),
        ("coco-stuff-10k", "cocostuff-10k-v1.1"),
        ("pascal-context", "VOC2010"),
        ("pascal-context", "VOCdevkit/VOC2010"),
        ("voc", "VOC2012"),
        ("voc", "VOCdevkit/VOC2012"),
    ],
)
def test_the_folder_that_an_archive_unpacks_to_may_be_left_out(name: str, folder: str, tmp_path: Path) -> None:
    root = tree(tmp_path / folder, name)
    assert load(name, tmp_path).listing_fingerprint == load(name, root).listing_fingerprint


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "coco-stuff-164k"])
def test_an_absent_split_is_a_warning(name: str, tmp_path: Path) -> None:
    source = load(name, tree(tmp_path, name, train=0))
    assert list(source.splits) == ["val"]
    assert f"{name} has no train split here." in source.warnings
    with pytest.raises(DataError) as caught:
        with_auxiliary_split(source, DataConfig(name=name, crop=(8, 8), batch_size=2))
    assert str(caught.value.fix) == "Its splits: val."
