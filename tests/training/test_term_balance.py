"""Weights scaled by the terms' gradients: measured again with them, they are the multiples that were asked for."""

from itertools import islice

import pytest

from helpers.tiny import CPU, distillation, optim, scenes, tiny
from segdistill.training.objectives import Distillation
from segdistill.training.term_balance import BATCHES, balanced_weights, mean_gradients, rescaled
from segdistill.training.term_gradients import TermGradient
from segdistill.types import Stage


def stage_of(weights: dict[str, float]) -> tuple[Stage, Distillation]:
    student = tiny(0)
    objective = distillation(student, tiny(1), weights)
    return Stage("student", student, objective, optim(1)), objective


def measured(weights: dict[str, float]) -> tuple[dict[str, TermGradient], Distillation]:
    stage, objective = stage_of(weights)
    return mean_gradients(stage, islice(scenes(BATCHES), BATCHES), CPU), objective


def test_balanced_terms_have_the_gradients_that_were_asked_for() -> None:
    gradients, objective = measured({"pixel": 100.0, "pairwise": 3.0})
    weights = balanced_weights(objective, gradients, {"pixel": 1.0, "pairwise": 0.5})
    again, _ = measured(weights)  # independently: the whole passes, with other weights
    cross_entropy = again["cross_entropy"].gradient
    assert cross_entropy == pytest.approx(gradients["cross_entropy"].gradient)
    assert again["pixel"].gradient == pytest.approx(cross_entropy, rel=0.01)
    assert again["pairwise"].gradient == pytest.approx(0.5 * cross_entropy, rel=0.01)
    shown = rescaled(gradients, {"pixel": 100.0, "pairwise": 3.0}, weights)
    for name in again:
        assert shown[name].gradient == pytest.approx(again[name].gradient, rel=1e-4)
        assert shown[name].value == pytest.approx(again[name].value, rel=1e-4)


def test_balancing_twice_gives_the_same_weights() -> None:
    weights = {"pixel": 10.0, "pairwise": 10.0}
    ratios = dict.fromkeys(weights, 1.0)
    first, second = (balanced_weights(objective, found, ratios) for found, objective in map(measured, (weights,) * 2))
    assert first == second != weights


def of_norms(cross_entropy: float, pixel: float, holistic: float = 1.0) -> dict[str, TermGradient]:
    norms = {"cross_entropy": cross_entropy, "pixel": pixel, "holistic": holistic}
    return {name: TermGradient(1.0, norm, "logits") for name, norm in norms.items()}


def test_weights_are_scaled_by_hand_values() -> None:
    _, objective = stage_of({"pixel": 10.0, "holistic": 0.1})
    assert balanced_weights(objective, of_norms(10.2, 96.8), {"pixel": 1.0}) == {"pixel": 1.05}  # 10 * 10.2 / 96.8
    assert balanced_weights(objective, of_norms(10.0, 2.0), {"pixel": 1.0}) == {"pixel": 50.0}
    assert balanced_weights(objective, of_norms(10.0, 0.1), {"pixel": 1.0}) == {"pixel": 100.0}, "ten times at most"
    assert balanced_weights(objective, of_norms(10.0, 1.0), {}) == {}


def test_weights_stay_where_there_is_no_gradient() -> None:
    _, objective = stage_of({"pixel": 10.0, "holistic": 0.1})
    for norms in (of_norms(10.0, 0.0), of_norms(0.0, 10.0)):
        assert balanced_weights(objective, norms, {"pixel": 1.0}) == {"pixel": 10.0}


def test_a_critic_s_term_is_lowered_and_never_raised() -> None:
    _, objective = stage_of({"pixel": 10.0, "holistic": 0.1})
    assert balanced_weights(objective, of_norms(10.0, 1.0, 0.01), {"holistic": 0.1}) == {"holistic": 0.1}
    assert balanced_weights(objective, of_norms(10.0, 1.0, 10.0), {"holistic": 0.1}) == {"holistic": 0.01}
