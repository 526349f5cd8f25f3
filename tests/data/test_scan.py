"""The scan before a run reads every file, counts what it finds and names what cannot be used."""

import shutil
import time
from pathlib import Path
from threading import Lock

import numpy as np
import pytest

from helpers.data_files import Drawn, camvid, picture, write
from segdistill.data import ConcatSplit, DataSource, check_files, load_data
from segdistill.data.scan import MAX_PENDING
from segdistill.data.splits import SubsetSplit
from segdistill.errors import DataError
from segdistill.runtime import distributed


def test_scan_reads_on_all_cores_and_keeps_the_order() -> None:
    lock, here, most = Lock(), 0, 0

    def read(index: int) -> None:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.0005)
        with lock:
            here -= 1

    drawn = Drawn(2 * MAX_PENDING + 10, read)
    source = DataSource("drawn", ("a", "b"), ((0, 0, 0), (1, 1, 1)), {"train": drawn})
    done: list[int] = []
    report = check_files(source, ["train"], done.append)
    train = report.splits["train"]
    assert (len(done), train.sizes) == (len(drawn.names), {(8, 10): len(drawn.names)})
    assert most <= distributed.cores()
    assert report.contents == check_files(source, ["train"]).contents
    assert train.pixels.tolist() == [len(drawn.names)] * 2


def test_scan_counts_the_pixels_of_each_class(tmp_path: Path) -> None:
    for split, label in (("train", [[0, 0, 10], [11, 11, 11]]), ("val", [[5, 5, 5], [5, 5, 11]])):
        write(tmp_path / split / "a.png", picture(2, 3))
        write(tmp_path / f"{split}annot" / "a.png", np.array(label, np.uint8))
    report = check_files(load_data(f"camvid:{tmp_path}"), ["train", "val"])
    assert report.splits["train"].pixels.tolist() == [2, *[0] * 9, 1]
    assert report.splits["val"].pixels.tolist() == [0] * 5 + [5] + [0] * 5
    assert {name: split.ignored for name, split in report.splits.items()} == {"train": 3, "val": 1}
    train, val = report.warnings[:2]
    assert train.startswith("Classes without a pixel in the train split (9): building, pole, road, pavement, tree, ")
    assert train.endswith(" No label teaches tree, which the val split has: expect an IoU of 0 there.")
    assert val.startswith("Classes without a pixel in the val split (10): sky, building, ")
    assert val.endswith(" An mIoU over the val split leaves them out, unless they are predicted.")


def test_scan_names_every_unusable_pair(tmp_path: Path) -> None:
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
    assert caught.value.what == f"{wrong} has class ids that this data set does not have: 99 (192 px)."


@pytest.mark.promise("D6")
def test_an_image_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    camvid(tmp_path)
    shutil.copy(tmp_path / "train" / "03.png", tmp_path / "val" / "01.png")
    warning = check_files(load_data(f"camvid:{tmp_path}"), ["train", "val"]).warnings[-1]
    assert warning == "Images in two splits (1): train/03.png = val/01.png."


def test_names_of_combined_splits_are_built_once() -> None:
    for split in (ConcatSplit((Drawn(3), Drawn(2))), SubsetSplit(Drawn(9), (1, 4), labels=True)):
        assert split.names is split.names
    assert ConcatSplit((Drawn(2), SubsetSplit(Drawn(9), (1, 4), labels=True))).names == (
        "0.png",
        "1.png",
        "1.png",
        "4.png",
    )
