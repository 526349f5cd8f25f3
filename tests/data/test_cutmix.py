"""CutMix: a rectangle of another image with its label, as often as asked for, drawn from the sample's seed alone."""

import numpy as np
import pytest

from helpers.data_files import Drawn, config
from segdistill.data import training_batches
from segdistill.data.base import Sample
from segdistill.data.cutmix import CutMix
from segdistill.data.transforms import Augment

IMAGES = 5
SIZE = (12, 16)


class Flat:
    """Images of one color each, whose label is the same number."""

    names = tuple(f"{index}.png" for index in range(IMAGES))
    fingerprint = ""

    def read(self, index: int) -> Sample:
        return Sample(np.full((*SIZE, 3), index, np.uint8), np.full(SIZE, index, np.uint8), self.names[index])

    def digest(self, index: int) -> bytes:
        return b""


def mix(probability: float = 1.0) -> CutMix:
    augment = Augment(config(crop=SIZE, scale=(1, 1), flip=0.0, color=0.0))
    return CutMix(Flat(), augment, probability)


def mixed(seed: int, probability: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    sample = Flat().read(4)
    return mix(probability)(sample.image, sample.label, seed)


def test_a_rectangle_of_another_image_comes_with_its_label() -> None:
    others = set[int]()
    for seed in range(300):
        image, label = mixed(seed)
        assert all(np.array_equal(image[..., channel], label) for channel in range(3))
        pasted = label != 4
        others |= set(label[pasted].tolist())
        if pasted.any():
            rows, columns = np.nonzero(pasted)
            box = label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert np.unique(box).size == 1, "a whole rectangle of one other image"
    assert others == {0, 1, 2, 3}


def test_the_rectangle_has_the_area_and_the_place_of_the_paper() -> None:
    # before it is cut at the border its area is uniform: 1/2 in the mean; independently drawn here
    generator = np.random.default_rng(0)
    expected = []
    for _ in range(20_000):
        side = np.sqrt(generator.random())
        area = 1.0
        for _ in range(2):
            center = generator.random()
            area *= min(center + side / 2, 1) - max(center - side / 2, 0)
        expected.append(area)
    areas = [np.mean(mixed(seed)[1] != 4) for seed in range(3000)]
    # a fifth of the partners is the image itself
    assert np.mean(areas) == pytest.approx((IMAGES - 1) / IMAGES * np.mean(expected), abs=0.02)


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_it_happens_as_often_as_asked_for(probability: float) -> None:
    always = [seed for seed in range(2000) if (mixed(seed)[1] != 4).any()]
    found = [seed for seed in always if (mixed(seed, probability)[1] != 4).any()]
    assert len(found) / len(always) == pytest.approx(probability, abs=0.03)


def test_what_is_not_mixed_is_augmented_as_without() -> None:
    sample = Drawn(4).read(1)
    augment = Augment(config(color=0.5))
    for seed in range(20):
        plain = augment(sample.image, sample.label, seed)
        unmixed = CutMix(Drawn(4), augment, 0.0)(sample.image, sample.label, seed)
        assert all(np.array_equal(one, other) for one, other in zip(plain, unmixed, strict=True))


@pytest.mark.promise("R9")
def test_processes_micro_batches_and_workers_change_nothing() -> None:
    settings = config(batch_size=8, cutmix=1.0)
    one = list(training_batches(Drawn(10), settings, seed=3, steps=2))
    assert any(
        not np.array_equal(mixed.image, plain.image)
        for mixed, plain in zip(one, training_batches(Drawn(10), config(batch_size=8), seed=3, steps=2), strict=True)
    )
    for step in range(2):
        parts = [
            list(training_batches(Drawn(10), settings, seed=3, steps=2, accumulate=2, rank=rank, world=2, workers=rank))
            for rank in range(2)
        ]
        micro = [batch for part in parts for batch in part[2 * step : 2 * step + 2]]
        assert np.array_equal(np.concatenate([batch.image for batch in micro]), one[step].image)
        assert np.array_equal(np.concatenate([batch.label for batch in micro]), one[step].label)
