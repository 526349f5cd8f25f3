"""The verdict on a gain: hand-made counts, a slow obvious bootstrap, and how often its interval covers the truth."""

import json
from collections.abc import Iterable
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.comparison import FEW_IMAGES, Verdict, compare, draw
from segdistill.metrics import Scores, class_counts, mean_iou

STEPS = "at the same steps"
Matrices = npt.NDArray[np.int64]


def scores_of(matrices: Matrices | Tensor) -> Scores:
    """Return the scores of images by their confusion matrices (N, C, C)."""
    each = F.pad(torch.as_tensor(matrices), (0, 1, 0, 1))
    return Scores(each.sum(0), len(each), tuple(class_counts(each)))


def simulated(
    rng: np.random.Generator, gain: float, seeds: int, images: int, spread: float = 0.0
) -> tuple[Matrices, Matrices]:
    """Return matrices (S, N, 3, 3) of plain and distilled students of three classes, the last of them rare.

    How well a network does on an image depends on both and on their pair; what it misses, it takes for the next class.
    """
    truth = rng.multinomial(1000, [0.6, 0.37, 0.03], size=images)
    hard = 0.7 * rng.standard_normal((images, 1))

    def student(gain: float) -> Matrices:
        skill = gain + spread * rng.standard_normal((seeds, 1, 1)) + 0.4 * rng.standard_normal((seeds, images, 3))
        hits = rng.binomial(truth, 1 / (1 + np.exp(-1 - skill - hard)))
        matrices = np.zeros((seeds, images, 3, 3), np.int64)
        matrices[..., range(3), range(3)] = hits
        matrices[..., range(3), [1, 2, 0]] = truth - hits
        return matrices

    return student(0), student(gain)


def judged(plain: Iterable[Matrices], distilled: Iterable[Matrices], resamples: int = 400) -> Verdict:
    return compare([scores_of(m) for m in plain], [scores_of(m) for m in distilled], STEPS, resamples)


# The interval


def test_two_kinds_of_images_give_the_interval_worked_out_by_hand() -> None:
    misses = torch.zeros(100, 2, 2, dtype=torch.int64)
    misses[:, 0, 0] = 10
    misses[:20, 0] = torch.tensor([0, 10])
    hits = misses.clone()
    hits[:10, 0] = torch.tensor([10, 0])
    verdict = compare([scores_of(misses)], [scores_of(hits)], STEPS, resamples=20_000)
    # class 0: 80 of 100 and 90 of 100; class 1 is predicted where it is not: 0 in both means
    assert verdict.gain == pytest.approx((0.9 - 0.8) / 2, abs=1e-12)
    # images that only one network hits are binomial(100, 0.1): between 5 and 16 in 95 % of the draws
    assert (verdict.low, verdict.high) == pytest.approx((0.05 / 2, 0.16 / 2), abs=1e-12)
    assert verdict.holds


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_slow_bootstrap_with_the_same_draws_finds_the_same_interval(seeds: int) -> None:
    plain, distilled = simulated(np.random.default_rng(5), gain=0.1, seeds=seeds, images=12, spread=0.1)
    rng = np.random.default_rng(0)
    whole = [scores_of(d).miou - scores_of(p).miou for p, d in zip(plain, distilled, strict=True)]

    def miou(matrices: Matrices, times: Tensor) -> float:
        picked = [scores_of(matrices[i : i + 1]) for i, count in enumerate(times) for _ in range(int(count))]
        return reduce(add, picked, Scores.empty(3)).miou

    gains = [
        np.mean([miou(d, times) - miou(p, times) for p, d in zip(plain, distilled, strict=True)])
        for times in draw(rng, 12, 50)
    ]
    if seeds > 1:
        shifts = rng.standard_t(seeds - 1, 50) * np.std(whole, ddof=1) / np.sqrt(seeds)
        gains = [gain + sign * shift for gain, shift in zip(gains, shifts, strict=True) for sign in (1, -1)]
    verdict = judged(plain, distilled, resamples=50)
    assert (verdict.low, verdict.high) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])), abs=1e-12)
    assert verdict.gain == pytest.approx(np.mean(whole), abs=1e-12)
    assert verdict.spread == (pytest.approx(np.std(whole, ddof=1), abs=1e-12) if seeds > 1 else None)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.3)])
def test_the_interval_covers_a_known_truth_in_about_95_percent_of_all_trials(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(1)
    plain, distilled = simulated(rng, 0.15, seeds=300, images=600, spread=spread)
    before, after = (mean_iou(class_counts(torch.from_numpy(m.sum(1)))).mean() for m in (plain, distilled))
    verdicts = [judged(*simulated(rng, 0.15, seeds, images=50, spread=spread), resamples=300) for _ in range(200)]
    covered = sum(verdict.low <= after - before <= verdict.high for verdict in verdicts)
    assert 0.91 * 200 <= covered <= 0.985 * 200


def test_several_seeds_widen_the_interval_by_the_spread_between_them() -> None:
    plain, distilled = simulated(np.random.default_rng(2), gain=0.2, seeds=1, images=60)
    one, alike = judged(plain, distilled), judged([*plain] * 3, [*distilled] * 3)
    assert (alike.low, alike.high, alike.spread) == pytest.approx((one.low, one.high, 0), abs=1e-12)
    apart = judged([*plain] * 2, [*plain, *distilled])  # one seed gains nothing
    assert apart.high - apart.low > 1.3 * (one.high - one.low)
    assert one.holds
    assert not apart.holds


# The verdict


def test_equal_students_differ_by_nothing_and_nothing_holds() -> None:
    student = simulated(np.random.default_rng(0), 0, 1, 101)[0]
    verdict = judged(student, student)
    assert (verdict.gain, verdict.low, verdict.high) == (0, 0, 0)
    assert not verdict.holds
    assert not verdict.harms


@pytest.mark.parametrize("seeds", [1, 3])
def test_exchanged_students_turn_every_sign_and_the_verdict(seeds: int) -> None:
    plain, distilled = simulated(np.random.default_rng(3), gain=0.5, seeds=seeds, images=40, spread=0.1)
    one, other = judged(plain, distilled), judged(distilled, plain)
    assert (one.gain, one.low, one.high) == pytest.approx((-other.gain, -other.high, -other.low), abs=1e-12)
    assert (one.holds, one.harms, other.holds, other.harms) == (True, False, False, True)


@pytest.mark.parametrize("images", [1, 2, FEW_IMAGES - 1])
def test_a_few_images_show_a_gain_but_not_that_it_holds(images: int) -> None:
    plain, distilled = simulated(np.random.default_rng(4), gain=3, seeds=1, images=images)
    verdict = judged(plain, distilled)
    assert verdict.low > 0
    assert not verdict.holds
    assert verdict.sentence().endswith(": too few images to tell.")


def test_a_class_that_is_nowhere_in_a_draw_is_left_out_of_its_mean() -> None:
    # the second class is in one of 20 images alone, and hit by the distilled student alone
    plain = torch.zeros(20, 3, 3, dtype=torch.int64)
    plain[:, 0, 0] = 8
    distilled = plain.clone()
    plain[0, 1, 0], distilled[0, 1, 1] = 4, 4
    verdict = compare([scores_of(plain)], [scores_of(distilled)], STEPS)
    assert verdict.gain == pytest.approx(1 - (160 / 164 + 0) / 2, abs=1e-12)
    # 36 % of the draws are without it: both students are perfect there
    assert verdict.low == 0
    assert not verdict.holds


def test_students_that_saw_other_images_are_not_compared() -> None:
    plain, distilled = simulated(np.random.default_rng(6), gain=0, seeds=1, images=12)
    with pytest.raises(AssertionError, match="the same images in the same order"):
        judged(plain, distilled[:, ::-1].copy())


# In words and numbers


@pytest.mark.parametrize(
    ("verdict", "start", "end"),
    [
        (
            Verdict(0.009, 0.004, 0.013, None, 101, 1, STEPS),
            "Gain +0.90 mIoU points [0.40, 1.30] at the same steps (95 % bootstrap interval over ",
            "101 validation images, 1 seed: the spread between seeds is not in it): it holds.",
        ),
        (
            Verdict(0.009, 0.004, 0.013, 0.0021, 500, 3, "in the same time"),
            "Gain +0.90 mIoU points [0.40, 1.30] in the same time (95 % bootstrap interval over ",
            "500 validation images and 3 seeds, whose gains spread by 0.21): it holds.",
        ),
        (
            Verdict(-0.00001, -0.004, 0.003, None, 101, 1, STEPS),
            "Gain +0.00 mIoU points [-0.40, 0.30] at the same steps (95 % bootstrap interval over ",
            "in it): the interval contains 0, so no gain is shown.",
        ),
        (
            Verdict(-0.009, -0.013, -0.004, None, 101, 1, STEPS),
            "Gain -0.90 mIoU points [-1.30, -0.40] at the same steps (95 % bootstrap interval over ",
            "in it): it harms.",
        ),
        (
            Verdict(0.009, 0.009, 0.009, None, 1, 1, STEPS),
            "Gain +0.90 mIoU points [0.90, 0.90] at the same steps (95 % bootstrap interval over ",
            "1 validation image, 1 seed: the spread between seeds is not in it): too few images to tell.",
        ),
    ],
)
def test_the_sentence_says_gain_interval_budget_and_verdict(verdict: Verdict, start: str, end: str) -> None:
    said = verdict.sentence()
    assert said.startswith(start)
    assert said.endswith(end)


def test_a_verdict_as_json_has_all_its_numbers() -> None:
    told = json.loads(json.dumps(Verdict(0.009, 0.004, 0.013, None, 101, 1, STEPS).to_json()))
    assert told == {
        **{"gain": 0.009, "low": 0.004, "high": 0.013, "level": 0.95, "holds": True, "harms": False},
        **{"spread": None, "images": 101, "seeds": 1, "budget": STEPS},
        **{"classes_scored": None, "classes_declared": None},
    }
