"""What a term needs to compare anything: feature maps of the teacher, its logits, labels."""

from typing import Any, NamedTuple

from segdistill.terms._layers import LayerOptions


class TermNeeds(NamedTuple):
    """The needs of a term under its options."""

    maps: bool
    """It compares feature maps; otherwise it compares logits."""
    labels: bool
    """It tells pixels apart by their labels, so that images without any say nothing to it."""


def needs_of(module: Any, options: Any) -> TermNeeds:
    """Return what a term needs.

    Args:
        module: the term's; one whose pixels need labels says so by `NEEDS_LABELS = True`.
        options: its table, checked.
    """
    maps = isinstance(options, LayerOptions) and options.compares_features
    return TermNeeds(maps, labels=bool(getattr(module, "NEEDS_LABELS", False)))
