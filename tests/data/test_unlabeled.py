"""Folders of images as a data set: which are held back, what they are known by, and labels that a network predicts."""

from pathlib import Path

import numpy as np
import pytest

from helpers.own_data import write
from segdistill.data import verify_data
from segdistill.data.base import UNLABELED
from segdistill.data.splits import PredictedSplit, compressed
from segdistill.data.unlabeled import held_back_indices, unlabeled_source
from segdistill.errors import DataError, UsageError
from segdistill.runtime.reporter import NullReporter


def test_held_back_images_are_runs_of_neighbors() -> None:
    # 40 of 200 in ten runs of four, each at the end of its tenth
    held = list(held_back_indices(200, 0.2))
    assert held == [20 * run + offset for run in range(10) for offset in range(16, 20)]
    assert list(held_back_indices(2, 0.9)) == [1]
    assert list(held_back_indices(30, 0.1)) == [9, 19, 29]


@pytest.mark.parametrize(("images", "share"), [(2, 0.01), (7, 0.5), (101, 0.1), (5000, 0.3), (3, 0.99)])
def test_some_images_are_held_back_and_never_all(images: int, share: float) -> None:
    held = list(held_back_indices(images, share))
    assert held == sorted(set(held))
    assert 1 <= len(held) <= min(200, images - 1)
    assert set(held) <= set(range(images))
    assert len(held) in (1, 200, images - 1, round(share * images))


def folder(root: Path, count: int, first: int = 0) -> str:
    for index in range(first, first + count):
        write(root / f"{index:02d}.png", np.full((6, 8, 3), 20 * index, np.uint8))
    return str(root)


def test_folders_become_training_and_held_back_images(tmp_path: Path) -> None:
    folders = [folder(tmp_path / "a", 5), folder(tmp_path / "b", 5, first=5)]
    data = unlabeled_source(folders, ("x", "y"), ((1, 2, 3), (4, 5, 6)), held_back=0.2)
    train, val = data.split("train"), data.split("val")
    assert (train.names, val.names) == (
        ("00.png", "01.png", "02.png", "03.png", "05.png", "06.png", "07.png", "08.png"),
        ("04.png", "09.png"),
    )
    assert (train.read(4).label == UNLABELED).all()
    assert train.read(4).image[0, 0, 0] == 100
    verified = verify_data(data, NullReporter())  # no labels are no mistake here
    again = verify_data(unlabeled_source(folders, ("x", "y"), data.palette, held_back=0.2), NullReporter())
    assert verified.fingerprint == again.fingerprint
    other = verify_data(unlabeled_source(folders, ("x", "y"), data.palette, held_back=0.3), NullReporter())
    assert verified.fingerprint != other.fingerprint


def test_predicted_labels_are_read_back_with_their_images(tmp_path: Path) -> None:
    data = unlabeled_source([folder(tmp_path, 4)], ("x", "y"), ((1, 2, 3), (4, 5, 6)), held_back=0.5)
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 2, (6, 8)).astype(np.uint8) for _ in range(2)]
    val = data.split("val")
    split = PredictedSplit(val, tuple(map(compressed, labels)))
    assert (split.names, split.fingerprint, split.digest(1)) == (val.names, val.fingerprint, val.digest(1))
    for index, label in enumerate(labels):
        assert (split.read(index).label == label).all()
        assert (split.read(index).image == val.read(index).image).all()


def test_too_few_images_and_missing_folders_are_refused(tmp_path: Path) -> None:
    def load(*folders: str) -> None:
        unlabeled_source(folders, ("x", "y"), ((1, 2, 3), (4, 5, 6)), held_back=0.1)

    with pytest.raises(DataError, match="has 1 image"):
        load(folder(tmp_path / "one", 1))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no images"):
        load(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="not found"):
        load(str(tmp_path / "gone"))
