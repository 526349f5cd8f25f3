"""Augmentation depends on its seed alone, moves labels with images and invents no class."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data_files import PLAIN, config, ids, picture
from segdistill.data import Sample, to_size
from segdistill.data.transforms import Augment
from segdistill.types import IGNORE


@pytest.mark.promise("D4")
@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.none() | st.tuples(st.integers(4, 40), st.integers(4, 40)),
    low=st.floats(0.3, 1.5),
    span=st.floats(0, 1.5),
    seed=st.integers(0, 2**63 - 1),
)
def test_augmentation_adds_no_new_ids(
    size: tuple[int, int],
    crop: tuple[int, int],
    resize: tuple[int, int] | None,
    low: float,
    span: float,
    seed: int,
) -> None:
    label = np.random.default_rng(seed).choice(np.array([0, 18, 200, IGNORE], np.uint8), size)
    augment = Augment(config(crop=crop, size=resize, scale=(low, low + span), color=0.5))
    image, out = augment(np.zeros((*size, 3), np.uint8), label, seed)
    assert image.shape == (*crop, 3)
    assert out.shape == crop
    assert image.dtype == out.dtype == np.uint8
    assert set(np.unique(out)) <= {0, 18, 200, IGNORE}


def test_augmentation_depends_on_its_seed_alone() -> None:
    image, label = picture(24, 32), ids(24, 32)
    before = image.copy(), label.copy()
    augment = Augment(config(color=0.4))
    first = augment(image, label, 7)
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002  # the global one
    augment(image, label, 8)
    other = Augment(config(color=0.4))(image, label, 7)
    assert np.array_equal(first[0], other[0])
    assert np.array_equal(first[1], other[1])
    assert not np.array_equal(first[0], augment(image, label, 8)[0])
    assert random.getstate() == states[0]
    assert str(np.random.get_state(legacy=False)) == str(states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert np.array_equal(image, before[0])
    assert np.array_equal(label, before[1])


def test_the_label_moves_with_the_image(rng: np.random.Generator) -> None:
    label = np.kron(rng.integers(0, 11, (4, 5)), np.ones((40, 40))).astype(np.uint8)
    image = np.repeat(label[..., None] * 20, 3, axis=2)
    augment = Augment(config(crop=(80, 100), scale=(0.6, 1.8)))
    for seed in range(20):
        out, moved = augment(image, label, seed)
        inside = moved != IGNORE
        assert np.mean(np.abs(out[..., 0][inside] - 20.0 * moved[inside]) < 10) > 0.75


def test_scale_crop_and_flip_are_drawn_independently() -> None:
    image = np.repeat(np.tile(np.arange(200, dtype=np.uint8), (100, 1))[..., None], 3, axis=2)
    augment = Augment(config(crop=(20, 20), scale=(0.5, 2.0)))
    rows = np.array([augment(image, image[..., 0], seed)[0][0, :, 0].astype(float) for seed in range(400)])
    slope = (rows[:, -3] - rows[:, 2]) / 15  # pixels of the image per pixel of the crop
    scale, flipped, left = 1 / np.abs(slope), slope < 0, rows.min(axis=1)
    assert abs(np.mean(flipped) - 0.5) < 0.1
    assert scale.min() < 0.6
    assert scale.max() > 1.8
    assert abs(np.mean(scale) - 1.25) < 0.08
    correlations = np.corrcoef([scale, flipped, left])
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.2


def test_padding_has_the_mean_color_and_an_ignored_label() -> None:
    image, label = picture(3, 4), ids(3, 4)
    out, padded = Augment(config(**PLAIN))(image, label, 0)
    assert np.array_equal(out[:3, :4], image)
    assert np.array_equal(padded[:3, :4], label)
    assert (padded[3:] == IGNORE).all()
    assert (padded[:, 4:] == IGNORE).all()
    assert (out[3:] == (124, 116, 104)).all()
    assert (out[:, 4:] == (124, 116, 104)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_one_pixel_image_can_be_scaled_down(shape: tuple[int, int]) -> None:
    augment = Augment(config(**PLAIN | {"scale": (0.1, 0.5)}))
    for seed in range(20):
        image, label = augment(picture(*shape), ids(*shape), seed)
        assert (image.shape, label.shape) == ((6, 8, 3), (6, 8))


def test_training_and_evaluation_resize_images_alike() -> None:
    sample = Sample(picture(12, 16), ids(12, 16), "a")
    image, label = Augment(config(**PLAIN, size=(6, 8)))(sample.image, sample.label, 0)
    assert np.array_equal(image, to_size(sample.image, (6, 8)))
    assert np.array_equal(label, sample.label[1::2, 1::2])


def test_colors_change_the_image_and_not_the_label() -> None:
    image, label = picture(6, 8), ids(6, 8)
    out, same_label = Augment(config(**PLAIN, color=0.5))(image, label, 3)
    assert not np.array_equal(out, image)
    assert np.array_equal(same_label, label)
