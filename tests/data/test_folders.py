"""Data in folders: which files belong together, what is refused, and when two data sets are the same."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.data_files import camvid, config, ids, picture, write
from segdistill.data import (
    VerifiedData,
    check_files,
    load_data,
    scan_dataset,
    training_batches,
    verify_data,
    with_auxiliary_split,
)
from segdistill.data.folder import image_folder
from segdistill.errors import DataError, UsageError
from segdistill.runtime.reporter import NullReporter
from segdistill.types import IGNORE

# Folders


def test_camvid_void_is_ignored_and_other_ids_are_classes(tmp_path: Path) -> None:
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
def test_unknown_id_is_named_with_its_file_and_count(tmp_path: Path) -> None:
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
def test_exif_rotated_image_with_unrotated_label_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(camvid(tmp_path) / "train" / "00.png", exif=exif)
    with pytest.raises(DataError, match="EXIF"):
        load_data(f"camvid:{tmp_path}").split("train").read(0)


@pytest.mark.promise("D5")
@pytest.mark.parametrize(("height", "width"), [(12, 16), (12, 12)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_ambiguous_exif_rotation_is_a_warning(tmp_path: Path, orientation: int, height: int, width: int) -> None:
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
def test_files_without_a_partner_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    camvid(tmp_path, train=13)
    for i in range(12):
        (tmp_path / "trainannot" / f"{i:02}.png").unlink()
    write(tmp_path / "trainannot" / "stray.png", ids())
    with pytest.raises(DataError) as caught:
        load_data(f"camvid:{tmp_path}")
    assert f"Files in {tmp_path / 'train'} without a partner of the same name in " in caught.value.what
    assert "(12): 00.png, " in caught.value.what
    assert "08.png, 09.png and 2 more." in caught.value.what
    assert "10.png" not in caught.value.what
    assert f"Files in {tmp_path / 'trainannot'} without" in caught.value.what
    assert "stray" in caught.value.what


@pytest.mark.promise("D6")
def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write(camvid(tmp_path) / "train" / "03.jpg", picture())
    with pytest.raises(DataError, match=r"more than one ending \(1\): 03\.") as caught:
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
def test_odd_file_names_work_and_non_images_are_skipped(tmp_path: Path) -> None:
    stems = ["with space", "UPPER", "dots.in.name", "ünïcödé 街", "new\nline", "x" * 200, "%s{stem}"]
    for stem, ending in zip(stems, ["JPG", "Png", "jpeg", "BMP", "tiff", "webp", "TIF"], strict=True):
        write(tmp_path / "train" / f"{stem}.{ending}", picture())
        write(tmp_path / "trainannot" / f"{stem}.PNG", ids())
    for name in (".DS_Store", "._UPPER.png", "Thumbs.db", "README.txt"):
        (tmp_path / "train" / name).write_bytes(b"no image")
    split = load_data(f"camvid:{tmp_path}").split("train")
    assert sorted(Path(name).stem for name in split.names) == sorted(stems)
    assert {split.read(i).label.shape for i in range(len(stems))} == {(12, 16)}


def test_missing_splits_and_unusual_counts_are_warnings(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("folder", "message"), [("trainannot", "has train/ and no trainannot/"), ("train", "train")])
def test_split_without_images_or_labels_folder_is_refused(tmp_path: Path, folder: str, message: str) -> None:
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


def test_unknown_home_folder_is_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="path not found: ~nobody-at-all/camvid does not exist"):
        load_data("camvid:~nobody-at-all/camvid")
    with pytest.raises(UsageError, match=r"Data file not found: ~nobody-at-all/data\.toml"):
        load_data("~nobody-at-all/data.toml")
    with pytest.raises(UsageError, match="Folder of unlabeled images not found: ~nobody-at-all"):
        image_folder("~nobody-at-all")


def test_an_unknown_data_set_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="Did you mean camvid"):
        load_data("camvit:/somewhere")


def test_fingerprint_depends_on_the_files_not_their_folder(tmp_path: Path) -> None:
    def fingerprint(folder: str) -> str:
        return load_data(f"camvid:{tmp_path / folder}").listing_fingerprint

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
def test_same_size_image_with_other_content_is_other_data(tmp_path: Path) -> None:
    camvid(tmp_path)
    folder = tmp_path / "train"
    for path in [*folder.iterdir()]:
        path.unlink()
        write(path.with_suffix(".bmp"), np.zeros((12, 16, 3), np.uint8))
    source = load_data(f"camvid:{tmp_path}")
    before = check_files(source, ["train", "val"]).contents
    write(folder / "01.bmp", np.full((12, 16, 3), 7, np.uint8))
    after = check_files(source, ["train", "val"]).contents
    assert load_data(f"camvid:{tmp_path}").listing_fingerprint == source.listing_fingerprint, (
        "names and lengths are as before"
    )
    assert (after["train"] == before["train"], after["val"] == before["val"]) == (False, True)


@pytest.mark.promise("D13")
def test_contents_digest_tells_swapped_label_maps_apart(tmp_path: Path) -> None:
    def read() -> tuple[dict[str, str], str]:
        data = verify_data(load_data(f"camvid:{tmp_path}"), NullReporter())
        return dict(data.contents), data.fingerprint

    camvid(tmp_path)
    folder = tmp_path / "trainannot"
    for i in range(2):
        (folder / f"{i:02}.png").unlink()
        write(folder / f"{i:02}.bmp", np.full((12, 16), i, np.uint8))
    before, first = read()
    assert read() == (before, first)
    names = load_data(f"camvid:{tmp_path}").listing_fingerprint
    for i in range(2):
        write(folder / f"{i:02}.bmp", np.full((12, 16), 1 - i, np.uint8))  # the same maps in another order
    swapped, second = read()
    assert load_data(f"camvid:{tmp_path}").listing_fingerprint == names
    assert (swapped["train"] == before["train"], swapped["val"] == before["val"]) == (False, True)
    assert second != first


def test_verified_data_cannot_gain_an_unread_split(tmp_path: Path) -> None:
    source = load_data(f"camvid:{camvid(tmp_path)}")
    data = verify_data(source, NullReporter())
    one_split = replace(source, splits={"train": source.split("train")})
    view = data.view(one_split)
    assert view.contents == {"train": data.contents["train"]}
    assert view.fingerprint == verify_data(one_split, NullReporter()).fingerprint != data.fingerprint
    with pytest.raises(ValueError, match="The train split was not read"):
        data.view(with_auxiliary_split(source, config(labeled=0.5)))


def test_damaged_data_is_never_verified_data(tmp_path: Path) -> None:
    path = camvid(tmp_path) / "train" / "03.png"
    path.write_bytes(path.read_bytes()[:100])
    source = load_data(f"camvid:{tmp_path}")
    with pytest.raises(DataError, match=r"03\.png cannot be read"):
        verify_data(source, NullReporter())
    with pytest.raises(DataError, match=r"03\.png cannot be read"):
        VerifiedData.from_report(source, scan_dataset(source, source.splits))


def test_splits_that_are_not_read_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    camvid(tmp_path)
    before = with_auxiliary_split(load_data(f"camvid:{tmp_path}"), config())
    write(tmp_path / "test" / "00.png", picture())
    write(tmp_path / "testannot" / "00.png", ids())
    after = with_auxiliary_split(load_data(f"camvid:{tmp_path}"), config())
    assert list(after.splits) == ["train", "val"]
    assert after.listing_fingerprint == before.listing_fingerprint


# Images without labels


def test_unlabeled_images_are_found_through_links_only_once(tmp_path: Path) -> None:
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


def test_folder_with_many_links_is_found_under_its_first_name(tmp_path: Path) -> None:
    write(tmp_path / "images" / "m" / "deep" / "1.png", picture())
    for name in random.sample("abcdefghijklnopqrstuvwxyz", 25):
        (tmp_path / "images" / name).symlink_to(tmp_path / "images" / "m")
    assert image_folder(str(tmp_path / "images")).names == ("a/deep/1.png",)


# The real data


def test_real_camvid_is_complete() -> None:
    path = os.environ.get("SEGDISTILL_TEST_CAMVID")
    if not path:
        pytest.skip("SEGDISTILL_TEST_CAMVID is not set to a CamVid folder")
    source = load_data(f"camvid:{path}")
    report = check_files(source, ["train", "val"])
    assert (len(source.split("train").names), len(source.split("val").names)) == (367, 101)
    assert not report.warnings
    assert "train" not in " ".join(source.warnings)
    train = report.splits["train"]
    assert 0.03 < train.ignored / (train.ignored + train.pixels.sum()) < 0.05
    assert source.classes[int(train.pixels.argmax())] == "road"
    sample = source.split("val").read(0)
    assert sample.image.shape == (360, 480, 3)
    assert sample.label.shape == (360, 480)
    (batch,) = training_batches(source.split("train"), config(crop=(120, 160)), seed=0, steps=1, workers=2)
    assert batch.image.shape == (4, 3, 120, 160)


# What every data set has


def test_streets_need_no_files_and_are_the_same_every_time() -> None:
    source = load_data("streets")
    assert not check_files(source, ["train", "val"]).warnings
    assert source.listing_fingerprint == load_data("streets").listing_fingerprint
    sample = source.split("val").read(3)
    assert (sample.image.shape, sample.label.shape, sample.name) == ((96, 128, 3), (96, 128), "val/0003")
    with pytest.raises(UsageError, match="built in"):
        load_data("streets:/somewhere")
