"""The kinds of knowledge a preset can list under [terms.NAME]: one file each, found by its name.

A term's module has `Options`, the table's own keys, and `build(options, pair)`, which returns the `Term`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

from torch import nn

from segdistill.config import TermConfig, find, validated
from segdistill.types import Term


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
