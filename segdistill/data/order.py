"""Which samples a training or an evaluation reads, in which order, and what their randomness is drawn from.

The order of a training is a function of the seed and the step alone. Epochs are permutations drawn from the seed,
batches run through them end to end (one may straddle two epochs), and what is random about a sample is drawn from the
seed, the epoch and its index. So a resumed run continues exactly, and neither the number of workers nor a validation in
between matters.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

PERMUTATION, SAMPLE, AUXILIARY_PERMUTATION = 0, 1, 2
"""First number of each kind of seed, which keeps the kinds apart where all other numbers are equal."""


class SampleKey(NamedTuple):
    """A sample as it is asked for."""

    sample_index: int
    """Place of the sample in the split."""
    seed: int
    """Seed of all that is random about it, 0 <= seed < 2**63."""


KeyAt = Callable[[int], SampleKey]
"""From a position in an endless run of epochs to the sample there."""


def epoch_keys(images: int, seed: int) -> KeyAt:
    """Return the order of a training over `images` samples: each epoch is a permutation of its own."""
    return _permuted_keys(images, seed, kind=PERMUTATION, first_index=0)


def with_auxiliary_keys(
    keys: KeyAt, images: int, auxiliary_images: int, *, batch_size: int, auxiliary_per_batch: int, seed: int
) -> KeyAt:
    """Return the order in which some images of each batch are auxiliary, evenly spread over it.

    Args:
        keys: the order of the training images.
        images: how many of these there are; the auxiliary ones have the indices behind them.
        auxiliary_images: how many auxiliary ones there are; they have epochs of their own.
        batch_size: images of a whole batch, over all processes.
        auxiliary_per_batch: how many of them are auxiliary.
        seed: the training's.
    """
    auxiliary_keys = _permuted_keys(auxiliary_images, seed, kind=AUXILIARY_PERMUTATION, first_index=images)

    def key_at(position: int) -> SampleKey:
        step, slot = divmod(position, batch_size)
        # The slots in which the running share passes a whole number are the auxiliary ones.
        auxiliary_before = slot * auxiliary_per_batch // batch_size
        auxiliary_after = (slot + 1) * auxiliary_per_batch // batch_size
        if auxiliary_after > auxiliary_before:
            return auxiliary_keys(step * auxiliary_per_batch + auxiliary_before)
        return keys(step * (batch_size - auxiliary_per_batch) + slot - auxiliary_before)

    return key_at


def evaluation_keys(indices: range, batch_size: int) -> Iterator[list[SampleKey]]:
    """Yield the samples of each batch of an evaluation, in order; their seeds are the same every time."""
    for start in range(0, len(indices), batch_size):
        yield [SampleKey(index, _sample_seed(0, 0, index)) for index in indices[start : start + batch_size]]


def _permuted_keys(images: int, seed: int, *, kind: int, first_index: int) -> KeyAt:
    """Return an endless run of epochs over the indices from `first_index` on."""

    @lru_cache(maxsize=1)  # positions go up, so that one epoch's permutation is asked for at a time
    def permutation(epoch: int) -> list[int]:
        order: list[int] = np.random.default_rng([kind, seed, epoch]).permutation(images).tolist()
        return order

    def key_at(position: int) -> SampleKey:
        epoch, place = divmod(position, images)
        index = first_index + permutation(epoch)[place]
        return SampleKey(index, _sample_seed(seed, epoch, index))

    return key_at


def _sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of a sample, non-negative in 63 bits, as PyTorch's int64 has room for."""
    state = np.random.SeedSequence([SAMPLE, seed, epoch, index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
