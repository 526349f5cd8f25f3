"""The order of images in training and evaluation: by seed and step alone, on any number of processes."""

import hashlib
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.data_files import PLAIN, Drawn, camvid, config
from segdistill.data import (
    evaluation_batches,
    load_data,
    training_batches,
)
from segdistill.data.transforms import Augment
from segdistill.errors import UsageError
from segdistill.types import Batch


def same(one: Batch, other: Batch) -> bool:
    pairs = zip((one.image, one.label, one.seeds), (other.image, other.label, other.seeds), strict=True)
    return one.names == other.names and all(torch.equal(a, b) for a, b in pairs)


# The order of a training


@pytest.mark.promise("R7")
def test_each_epoch_has_every_image_once() -> None:
    batches = list(training_batches(Drawn(10), config(batch_size=4), seed=1, steps=5))
    names = [name for batch in batches for name in batch.names]
    assert [len(batch.names) for batch in batches] == [4] * 5
    assert sorted(names[:10]) == sorted(names[10:]) == sorted(Drawn(10).names)
    assert names[:10] != names[10:]


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    (batch,) = training_batches(Drawn(3), config(batch_size=7), seed=0, steps=1)
    assert len(batch.names) == 7
    assert set(batch.names) == set(Drawn(3).names)
    assert len(set(batch.seeds.tolist())) == 7


def test_batch_has_the_documented_shapes_and_types() -> None:
    (batch,) = training_batches(Drawn(4), config(**PLAIN | {"batch_size": 4}), seed=0, steps=1)
    assert batch.image.shape == (4, 3, 6, 8)
    assert batch.image.dtype == torch.float32
    assert batch.label.shape == (4, 6, 8)
    assert batch.label.dtype == torch.int64
    assert batch.seeds.shape == (4,)
    assert batch.seeds.dtype == torch.int64
    assert (batch.seeds >= 0).all()
    assert [f"{int(image.mean())}.png" for image in batch.image] == list(batch.names)


def test_resumed_training_gets_the_remaining_batches() -> None:
    whole = list(training_batches(Drawn(10), config(), seed=3, steps=6, accumulate=2))
    rest = list(training_batches(Drawn(10), config(), seed=3, steps=6, accumulate=2, start_step=4))
    assert len(whole) == 12
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(whole[8:], rest, strict=True))


@pytest.mark.promise("R9")
def test_processes_and_micro_batches_share_the_same_batches() -> None:
    one = list(training_batches(Drawn(10), config(batch_size=8), seed=3, steps=3))
    parts = [
        list(training_batches(Drawn(10), config(batch_size=8), seed=3, steps=3, accumulate=2, rank=rank, world=2))
        for rank in range(2)
    ]
    for step in range(3):
        micro = [batch for rank in range(2) for batch in parts[rank][2 * step : 2 * step + 2]]
        assert torch.equal(torch.cat([batch.image for batch in micro]), one[step].image)
        assert torch.equal(torch.cat([batch.label for batch in micro]), one[step].label)
        assert torch.equal(torch.cat([batch.seeds for batch in micro]), one[step].seeds)


def test_a_batch_that_cannot_be_divided_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="8 images cannot be divided into 2 x 3"):
        training_batches(Drawn(10), config(batch_size=8), seed=0, steps=1, world=2, accumulate=3)


@pytest.mark.promise("R9")
def test_workers_and_validation_do_not_change_the_batches(tmp_path: Path) -> None:
    source = load_data(f"camvid:{camvid(tmp_path)}")

    def hashes(workers: int, validate: bool) -> list[str]:
        found = []
        batches = training_batches(source.split("train"), config(color=0.3), seed=5, steps=3, workers=workers)
        for batch in batches:
            digest = hashlib.sha256(batch.image.numpy().tobytes() + batch.label.numpy().tobytes())
            found.append(digest.hexdigest() + "".join(batch.names))
            if validate:
                list(evaluation_batches(source.split("val"), None))
        return found

    expected = hashes(0, validate=False)
    assert len(set(expected)) == 3
    assert hashes(0, validate=True) == hashes(1, validate=False) == hashes(2, validate=True) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_takes_nothing_from_the_global_generators(workers: int) -> None:
    before = random.getstate(), torch.get_rng_state()
    list(training_batches(Drawn(4), config(), seed=0, steps=2, workers=workers))
    list(evaluation_batches(Drawn(4), None, workers=workers))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_another_seed_gives_another_order_and_other_augmentation() -> None:
    one, other = (next(training_batches(Drawn(50), config(), seed=seed, steps=1)) for seed in (0, 1))
    assert one.names != other.names
    assert not set(one.seeds.tolist()) & set(other.seeds.tolist())


def test_split_and_augmentation_survive_pickling(tmp_path: Path) -> None:
    split = load_data(f"camvid:{camvid(tmp_path)}").split("train")
    samples = split, Augment(config(color=0.3))
    results = []
    for here, augment in (samples, pickle.loads(pickle.dumps(samples))):
        sample = here.read(3)
        results.append(augment(sample.image, sample.label, 9))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])


# Evaluation


def test_evaluation_keeps_the_order_and_the_label_sizes() -> None:
    split = Drawn(5, sizes=((8, 10), (8, 10), (8, 10), (5, 6), (7, 4)))
    batches = list(evaluation_batches(split, (4, 5), batch_size=2))
    assert [batch.names for batch in batches] == [("0.png", "1.png"), ("2.png",), ("3.png",), ("4.png",)]
    assert [tuple(batch.label.shape[1:]) for batch in batches] == [(8, 10), (8, 10), (5, 6), (7, 4)]
    assert {tuple(batch.image.shape[1:]) for batch in batches} == {(3, 4, 5)}
    assert batches[2].label.flatten().tolist() == list(range(30))
    assert [int(image.mean()) for batch in batches for image in batch.image] == list(range(5))


def test_evaluation_without_a_size_keeps_each_image_s_own() -> None:
    batches = evaluation_batches(Drawn(2, sizes=((8, 10), (5, 6))), None, batch_size=2)
    assert [tuple(batch.image.shape) for batch in batches] == [(1, 3, 8, 10), (1, 3, 5, 6)]


def test_processes_share_an_evaluation_without_overlap() -> None:
    names = [b.names for rank in range(3) for b in evaluation_batches(Drawn(7), None, rank=rank, world=3)]
    assert sorted(name for part in names for name in part) == sorted(Drawn(7).names)


def test_evaluation_seeds_are_fixed_and_one_per_image() -> None:
    one, other = ([int(b.seeds[0]) for b in evaluation_batches(Drawn(9), None)] for _ in range(2))
    assert one == other
    assert len(set(one)) == 9
