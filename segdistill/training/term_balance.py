"""Weights of terms that were chosen for other networks or data, scaled by the terms' gradients at the start."""

from collections.abc import Iterable, Mapping
from statistics import fmean

from segdistill.runtime.precision import Precision
from segdistill.training.objectives import Distillation
from segdistill.training.term_gradients import TermGradient, term_gradients
from segdistill.types import Batch, Stage, Term

BATCHES = 4
"""Batches over which gradients are averaged: between two of them norms differ by half."""
MAX_RAISE = 10.0
"""Factor by which a weight is raised at most: a term that has next to no gradient at the start may have one later."""


def mean_gradients(stage: Stage, batches: Iterable[Batch], precision: Precision) -> dict[str, TermGradient]:
    """Return the mean value and gradient norm of each term over some batches; everything stays as it was.

    Args: as `term_gradients`, of each batch.
    """
    found = [term_gradients(stage, batch, precision) for batch in batches]
    return {
        name: TermGradient(
            fmean(one[name].value for one in found), fmean(one[name].gradient for one in found), first.compares
        )
        for name, first in found[0].items()
    }


def balanced_weights(
    objective: Distillation, gradients: Mapping[str, TermGradient], ratios: Mapping[str, float]
) -> dict[str, float]:
    """Return the weights with which terms have the gradients that they should have, to three digits.

    A weight stays where its term or cross entropy has no gradient, is raised MAX_RAISE times at most, and not at all
    where a critic is trained beside it: such a gradient grows with what the critic learns.

    Args:
        objective: with the weights that the gradients are of.
        gradients: norms at the start, by term.
        ratios: norms that are wanted, in multiples of cross entropy's, of the terms whose weights are scaled.
    """
    weights = {}
    cross_entropy = gradients["cross_entropy"].gradient
    for name, ratio in ratios.items():
        weight, gradient = objective.weights[name], gradients[name].gradient
        if gradient > 0 and cross_entropy > 0:
            term = objective.terms[name]
            assert isinstance(term, Term)
            highest = MAX_RAISE if term.critic is None else 1.0
            weight = float(f"{weight * min(ratio * cross_entropy / gradient, highest):.3g}")
        weights[name] = weight
    return weights


def rescaled(
    gradients: Mapping[str, TermGradient], before: Mapping[str, float], now: Mapping[str, float]
) -> dict[str, TermGradient]:
    """Return gradients as they are with other weights: both value and norm grow with the weight.

    Args:
        gradients: of all terms.
        before: weights that they are of.
        now: other weights of some terms.
    """
    scaled = dict(gradients)
    for name, weight in now.items():
        factor = weight / before[name]
        term = gradients[name]
        scaled[name] = term._replace(value=factor * term.value, gradient=factor * term.gradient)
    return scaled
