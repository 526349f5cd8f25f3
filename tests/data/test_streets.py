"""The drawn scenes: the same bytes everywhere, sane shares, labels that lie where the picture says."""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from segdistill.data.datasets.streets.classes import CLASSES, PALETTE, ROAD, SKY
from segdistill.data.datasets.streets.scene import render
from segdistill.errors import UsageError
from segdistill.types import IGNORE

SIZE = (64, 96)
Pixels = npt.NDArray[np.uint8]


def digest(array: Pixels) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def scenes(split: str, count: int, size: tuple[int, int] = SIZE) -> list[tuple[Pixels, Pixels]]:
    return [render(index, split, size) for index in range(count)]


@pytest.mark.parametrize(
    ("index", "split", "size", "image", "label"),
    [
        (0, "train", (96, 128), "a9df640c68a491c3", "2e9dd4a14f57a972"),
        (7, "train", (65, 97), "fc0a57e513ea43a0", "c3c3e829c24026b7"),
        (0, "val", (96, 128), "bc9f8b8bf211695d", "998957bb24e36e34"),
        (1000, "val", (256, 512), "56064c669fe5f100", "f8a91ca03322b5e0"),
    ],
)
def test_scenes_have_the_same_bytes_on_every_machine(
    index: int, split: str, size: tuple[int, int], image: str, label: str
) -> None:
    drawn = render(index, split, size)
    assert [digest(part) for part in drawn] == [image, label]


def test_a_scene_does_not_depend_on_what_was_drawn_before() -> None:
    forwards = {index: render(index, "train", SIZE) for index in (0, 1, 2)}
    backwards = {index: render(index, "train", SIZE) for index in (2, 1, 0)}
    for index, (image, label) in forwards.items():
        assert np.array_equal(image, backwards[index][0])
        assert np.array_equal(label, backwards[index][1])


def test_no_two_of_two_hundred_scenes_are_alike_over_both_splits() -> None:
    drawn = scenes("train", 100) + scenes("val", 100)
    assert len({digest(image) for image, _ in drawn}) == 200
    assert len({digest(label) for _, label in drawn}) == 200  # so it is not the noise alone that differs


def test_every_class_has_its_share_and_void_is_rare() -> None:
    counts = np.bincount(np.concatenate([label.ravel() for _, label in scenes("train", 50)]), minlength=256)
    shares = counts / counts.sum()
    assert len(CLASSES) == len(PALETTE) == len(set(PALETTE)) == 8
    assert shares[:8].min() > 0.003
    assert shares[:8].max() < 0.5
    assert 0.002 < shares[IGNORE] < 0.05
    assert counts[8:IGNORE].sum() == 0


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (101, 64), (32, 300), (300, 32), (96, 128)])
def test_scenes_have_the_size_asked_for(size: tuple[int, int]) -> None:
    image, label = render(3, "train", size)
    assert (image.shape, label.shape) == ((*size, 3), size)
    assert image.dtype == label.dtype == np.uint8
    assert image.flags.c_contiguous
    assert label.flags.c_contiguous


def test_a_larger_picture_shows_the_same_scene() -> None:
    same = [np.mean(render(i, "val", (64, 96))[1] == render(i, "val", (128, 192))[1][::2, ::2]) for i in range(20)]
    assert min(same) > 0.85


def test_the_sky_ends_where_the_picture_changes() -> None:
    """Steps of brightness across the labels' border of the sky stand out, and no longer do where labels are shifted."""

    def contrast(image: Pixels, label: Pixels) -> float:
        steps = np.abs(np.diff(image.mean(axis=2), axis=0))
        border = np.diff((label == SKY).astype(int), axis=0) != 0
        return float(steps[border].mean() / steps.mean())

    drawn = scenes("val", 40)
    right = np.mean([contrast(image, label) for image, label in drawn])
    for shift in ((5, 0), (-5, 0), (0, 5), (0, -5)):
        assert right > 1.5 * np.mean([contrast(image, np.roll(label, shift, (0, 1))) for image, label in drawn]), shift


def test_the_road_lies_below_the_sky() -> None:
    for _, label in scenes("train", 30):
        assert np.nonzero(label == ROAD)[0].min() > np.nonzero(label == SKY)[0].mean()


def test_color_alone_does_not_give_the_class_away() -> None:
    """Guessing the class whose mean color is nearest finds less than half of the average class."""
    drawn = scenes("train", 40)
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in drawn]).astype(float)
    labels = np.concatenate([label.ravel() for _, label in drawn])
    means = np.stack([pixels[labels == index].mean(axis=0) for index in range(8)])
    guess = ((pixels[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    recall = [np.mean(guess[labels == index] == index) for index in range(8)]
    assert np.mean(recall) < 0.5


def test_too_small_scene_is_refused_with_the_minimum() -> None:
    with pytest.raises(UsageError, match="31x64") as error:
        render(0, "train", (31, 64))
    assert "32x32" in error.value.fix
