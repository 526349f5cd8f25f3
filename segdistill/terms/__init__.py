"""The kinds of knowledge a preset can list under [terms.NAME]: one file each, found by its name.

A term's module has `Options`, the table's own keys, and `build(options, pair)`, which returns the `Term`. One whose
options are `Layers` compares feature maps: it is given the networks' outputs up to the map that it compares.
"""

from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import losses
from segdistill.config import TermConfig, find, validated
from segdistill.distributed import share_of_step
from segdistill.errors import UsageError
from segdistill.terms._layers import Layer, Layers, Pairing, feature_layers, paired
from segdistill.types import Batch, Term


@dataclass(frozen=True)
class Pair:
    """What a term may need to know of the two networks it stands between."""

    student: nn.Module
    teacher: nn.Module
    num_classes: int
    lacking: int = 0
    """Of how many classes the teacher knows nothing: logits are compared without these."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What several terms have in common: the first that needs it puts it here, under a name that they know."""

    def layers(self, wanted: Layers) -> Pairing:
        """Return which feature maps a term compares, with their channels and strides.

        Raises:
            UsageError: if one of the networks has none, or not the one that is asked for.
        """
        own, target = (self._maps(network) for network in (self.student, self.teacher))
        return paired(own, target, wanted)

    def _maps(self, network: nn.Module) -> list[Layer]:
        key = f"maps of {id(network)}"
        if key not in self.shared:
            self.shared[key] = feature_layers(network)
        maps: list[Layer] = self.shared[key]
        return maps


class Weighted(NamedTuple):
    """A term and its weight in the loss."""

    weight: float
    term: Term
    layers: Pairing | None = None
    """Which feature maps it is given as the last of the two outputs; None of a term that has no use for them."""


def compared_at(batch: Batch, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return which positions of a grid count, (B, h, w), and this batch's share of the step's mean over them."""
    valid = losses.at_size(batch.compared(), size)
    return valid, share_of_step(batch, lambda part: losses.at_size(part.compared(), size).sum())


def bounded(features: Tensor, most: int, valid: Tensor | None = None) -> Tensor:
    """Return features (B, D, h, w) average-pooled by the smallest kernel that leaves at most `most` positions.

    Args:
        features: of any size.
        most: positions.
        valid: bool (B, h, w), the positions that are averaged; where a kernel has none there are zeros. Default all.
    """
    if (side := _side(features, most)) == 1:
        return features
    if valid is None:
        return F.avg_pool2d(features, side, ceil_mode=True)
    weight = valid.unsqueeze(1).to(features.dtype)
    kept, share = (F.avg_pool2d(x, side, ceil_mode=True) for x in (features * weight, weight))
    return kept / share.clamp(min=1 / side**2)


def bounded_mask(valid: Tensor, most: int) -> Tensor:
    """Return where `bounded` had something to average: (B, h, w) bool from the same."""
    side = _side(valid, most)
    return valid if side == 1 else F.max_pool2d(valid.float(), side, ceil_mode=True) > 0


def _side(maps: Tensor, most: int) -> int:
    h, w = maps.shape[-2:]
    return next(side for side in count(1) if -(-h // side) * -(-w // side) <= most)


def averaged(term: str, full: Tensor, pooled: Tensor) -> tuple[str, ...]:
    """Return what a term's notes say where `bounded` pooled its features; nothing where it did not."""
    (height, width), (h, w) = full.shape[-2:], pooled.shape[-2:]
    if (height, width) == (h, w):
        return ()
    return (f"{term}: {height}x{width} positions are averaged to {h}x{w}, for its memory's sake",)


def check_terms(terms: dict[str, TermConfig]) -> dict[str, dict[str, Any]]:
    """Check every term's name and table, before anything is built; return the tables with all of their keys.

    Raises:
        UsageError: an unknown term or key, with the nearest names.
    """
    return {
        name: config.model_dump(mode="json", exclude_none=True)
        | _module_and_options(name, config)[1].model_dump(mode="json", exclude_none=True)
        for name, config in terms.items()
    }


def build_terms(terms: dict[str, TermConfig], pair: Pair) -> dict[str, Weighted]:
    """Build the terms that weigh something. A weight of 0 leaves a term out: it costs nothing and changes nothing.

    Raises:
        UsageError: a term that does not know its options, or cannot compare these two networks, by its name.
    """
    built = {}
    for name, config in terms.items():
        module, options = _module_and_options(name, config)
        if config.weight > 0:
            try:
                of_features = isinstance(options, Layers) and options.compares_features
                layers = pair.layers(options) if of_features else None
                built[name] = Weighted(config.weight, module.build(options, pair), layers)
            except UsageError as error:
                raise UsageError(f"[terms.{name}] {error.what}", error.fix) from None
    return built


def _module_and_options(name: str, config: TermConfig) -> tuple[Any, Any]:
    module = import_module(find("terms", config.term or name, "term"))
    return module, validated(module.Options, config.options(), f"[terms.{name}]")
