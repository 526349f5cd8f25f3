"""Splits that are a share of the training pairs, drawn by a hash of the images' names."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence

from segdistill.data.datasets._toml.pairs import FoundPairs
from segdistill.errors import DataError
from segdistill.wording import counted

HASH_RANGE = 1 << 64
"""Numbers that the hash of a name may be."""


def draw_shares(train: FoundPairs, shares: Mapping[str, float]) -> dict[str, FoundPairs]:
    """Return the training pairs and those of other splits that are drawn from them.

    Whether an image is drawn depends on its own name alone: further images change the split of none that was there
    before. Of a few images each split gets at least one.

    Args:
        train: all pairs.
        shares: share of each other split.

    Raises:
        DataError: if there are fewer images than splits.
    """
    count = len(train.images)
    if count <= len(shares):
        raise DataError(
            f"The train split has {counted(count, 'pair')}, of which {' and '.join(shares)} are to get a share.",
            "Add images, or give val images of its own.",
        )
    places = sorted(range(count), key=lambda place: name_fraction(train.keys[place]))
    fractions = [name_fraction(train.keys[place]) for place in places]
    splits: dict[str, FoundPairs] = {}
    begin, limit = 0, 0.0
    for number, (split, share) in enumerate(shares.items()):
        limit += share
        remaining = len(shares) - number  # each of these, and train, is to get one
        end = max(begin + 1, min(_count_below(fractions, limit), count - remaining))
        splits[split] = train.part(sorted(places[begin:end]))
        begin = end
    kept = train.part(sorted(places[begin:]))
    return {"train": FoundPairs(kept.images, kept.labels, kept.keys, train.unlabeled, train.notes), **splits}


def name_fraction(key: str) -> float:
    """Return a number in 0..1 that a name alone decides, the same in each of its Unicode forms."""
    name = unicodedata.normalize("NFC", key.casefold())
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / HASH_RANGE


def _count_below(fractions: Sequence[float], limit: float) -> int:
    return sum(1 for fraction in fractions if fraction < limit)
