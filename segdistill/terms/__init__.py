"""The kinds of knowledge a preset can list under [terms.NAME]: one file each, found by its name.

A term's module has `Options`, the table's own keys, and `build(options, pair)`, which returns the `Term`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

from torch import Tensor, nn

from segdistill import losses
from segdistill.config import TermConfig, find, validated
from segdistill.distributed import share_of_step
from segdistill.types import Batch, Term


@dataclass(frozen=True)
class Pair:
    """What a term may need to know of the two networks it stands between."""

    student: nn.Module
    teacher: nn.Module
    num_classes: int


class Weighted(NamedTuple):
    """A term and its weight in the loss."""

    weight: float
    term: Term


def compared_at(batch: Batch, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return which positions of a grid count, (B, h, w), and this batch's share of the step's mean over them."""
    valid = losses.at_size(batch.compared(), size)
    return valid, share_of_step(batch, lambda part: losses.at_size(part.compared(), size).sum())


def check_terms(terms: dict[str, TermConfig]) -> None:
    """Check every term's name and table, before anything is built.

    Raises:
        UsageError: an unknown term or key, with the nearest names.
    """
    for name, config in terms.items():
        module = import_module(find("terms", name, "term"))
        validated(module.Options, config.options(), f"[terms.{name}]")


def build_terms(terms: dict[str, TermConfig], pair: Pair) -> dict[str, Weighted]:
    """Build the terms that weigh something. A weight of 0 leaves a term out: it costs nothing and changes nothing."""
    built = {}
    for name, config in terms.items():
        module = import_module(find("terms", name, "term"))
        options = validated(module.Options, config.options(), f"[terms.{name}]")
        if config.weight > 0:
            built[name] = Weighted(config.weight, module.build(options, pair))
    return built
