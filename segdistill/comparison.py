"""Whether a gain is shown: the distilled student against the plain one, with an interval around the difference.

Two things could have come out otherwise. The validation images are one sample of all that could have been taken, so
images are drawn again with replacement, the same for all students; each draw gives a gain (Efron and Tibshirani 1993,
chapter 13). And another seed would have ended elsewhere: only several seeds show by how much, so one seed gives no
verdict. Images are taken to be independent of each other: neighboring frames of a video are less, and an interval over
them is too narrow. `benchmarks/gain_interval.py` measures how often the intervals contain a gain that is known.
"""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from scipy.special import stdtrit
from torch import Tensor

from segdistill.metrics import Scores, coverage, mean_iou

LEVEL = 0.95
MAX_DRAWS_BYTES = 16 << 20
"""Draws that exist at once, in float64."""
IMAGES_AT_ONCE = 4096
"""Images whose counts are multiplied at once."""
FEW_IMAGES = 10
"""From so many images on a verdict is given: there the interval of a mean covers it in 90 % of all cases, with 5 images
in 84 % and with 2 in half of them (simulated)."""
FEW_SEEDS = 3
"""With fewer, Student's t makes the interval three times as wide and more: 12.7 standard errors to each side with 2
seeds where they differ more than the images, 4.3 with 3."""

FREEDOM_POWER = 0.8
"""How fast the degrees of freedom rise with the images' part of the variance. Of normal parts in any ratio, 0.8 lets
95 % be 92 to 97 % with 2 seeds and 94.5 to 97 % with 3; Hillis's square goes down to 88 and 92 %. It was chosen for
that and is not derived. Of other draws, with 2, 3, 4, 5 and 8 seeds, normal or with the tails of Student's t of 5
degrees, it lets them be 92 to 97 %."""


@dataclass(frozen=True)
class Verdict:
    """How much a distilled student is better than a plain one; differences of mIoU in fractions 0..1."""

    gain: float
    """Of the whole validation split, mean over the seeds."""
    low: float
    high: float
    spread: float | None
    """Standard deviation of the gain between the seeds; None where there is one."""
    images: int
    seeds: int
    budget: str
    """What both students had alike, as the sentence says it: "at the same steps"."""
    classes_scored: int | None = None
    """Number of classes that the mIoUs are means over, the fewest of any student."""
    classes_declared: int | None = None

    @classmethod
    def from_json(cls, table: Any) -> "Verdict":
        """Read what `to_json` returned, of this or an earlier version.

        Raises:
            ValueError: if it is something else.
        """
        return TypeAdapter(cls).validate_json(json.dumps(table), strict=True)

    @property
    def holds(self) -> bool:
        """Whether a gain is shown: the whole interval lies above 0, and nothing lacks for a verdict."""
        return not self.lacking() and self.low > 0

    @property
    def harms(self) -> bool:
        """Whether a loss is shown: the whole interval lies below 0, and nothing lacks for a verdict."""
        return not self.lacking() and self.high < 0

    def lacking(self) -> list[str]:
        """Say what lacks for a verdict; nothing to say means that there is one."""
        reasons = []
        if self.seeds == 1:
            reasons.append("the spread between seeds was not measured")
        if self.images < FEW_IMAGES:
            reasons.append(f"fewer than {FEW_IMAGES} images are too few to tell")
        return reasons

    def sentence(self) -> str:
        """Return the verdict for people, in mIoU points."""
        gain, low, high = (100 * value for value in (self.gain, self.low, self.high))
        over_classes = coverage(self.classes_scored, self.classes_declared)
        images = f"{self.images} validation image{'s' * (self.images != 1)}"
        if self.spread is None:
            interval = f"bootstrap interval over {images}, 1 seed"
        else:
            spread = f"whose gains have a standard deviation of {100 * self.spread:.2f}"
            interval = f"interval over {images} and {self.seeds} seeds, {spread}"
        return (
            f"Gain {gain:+z.2f} mIoU points{over_classes} [{low:z.2f}, {high:z.2f}] {self.budget} "
            f"({100 * LEVEL:.0f} % {interval}): {self._conclusion()}"
        )

    def _conclusion(self) -> str:
        if reasons := self.lacking():
            remedy = "; distill --seeds 3 measures it" if self.seeds == 1 else ""
            return f"{' and '.join(reasons)}, so this is no verdict{remedy}."
        conclusion = "the interval contains 0, so no gain is shown."
        if self.holds:
            conclusion = f"it holds with {100 * LEVEL:.0f} % confidence."
        if self.harms:
            conclusion = f"it harms, with {100 * LEVEL:.0f} % confidence."
        if self.seeds < FEW_SEEDS:
            conclusion += f" With {self.seeds} seeds the interval is very wide: --seeds 3 narrows it."
        return conclusion

    def to_json(self) -> dict[str, Any]:
        """Return the verdict in numbers."""
        return asdict(self) | {"level": LEVEL, "holds": self.holds, "harms": self.harms}


def compare(plain: Sequence[Scores], distilled: Sequence[Scores], budget: str, resamples: int = 2000) -> Verdict:
    """Judge the gain of distillation over one or several seeds.

    With one seed the interval is that of the bootstrap over images alone. With several, the mean gain varies in two
    parts: between seeds, by spread ** 2 / seeds, and by what an image draws from all seeds alike, which is the mean
    covariance of two seeds' gains over the draws of images. What an image draws from one seed alone is part of the
    spread already and is not counted again. This is the variance of Obuchowski and Rockette (1995), who compare
    diagnostic tests by several readers on the same cases; seeds are our readers.

    The width is Student's t with (seeds - 1) * (1 + common / between) ** FREEDOM_POWER degrees of freedom: seeds - 1
    where the seeds differ far more than the images, the normal distribution in the limit where they do not differ.
    Hillis (2007) takes the square, which is too narrow with 2 or 3 seeds. In the simulated comparisons of
    `benchmarks/results/gain-interval.json`, of 2, 3 and 5 seeds, these intervals contain the truth in 90 to
    96 %; where neighboring images gain alike from all seeds, as frames of a video may, in 61 to 93 % only.

    Args:
        plain: scores with `each`, one per seed, of students trained without distillation.
        distilled: the same for their twins, on the same images in the same order.
        budget: what both had alike, in words that end "Gain +0.90 mIoU points [0.40, 1.30] ...".
        resamples: draws of images.
    """
    images, seeds = plain[0].images, len(plain)
    gains = _gains(plain, distilled, draw(np.random.default_rng(0), images, resamples))
    whole = [other.miou - one.miou for one, other in zip(plain, distilled, strict=True)]
    gain = statistics.fmean(whole)
    scored = min(one.classes_scored for one in (*plain, *distilled))
    classes = scored, plain[0].classes_declared
    if seeds == 1:
        low, high = gains[:, 0].quantile(gains.new_tensor([1 - LEVEL, 1 + LEVEL]) / 2).tolist()
        return Verdict(gain, low, high, None, images, seeds, budget, *classes)
    spread = statistics.stdev(whole)
    reach = half_width(spread**2 / seeds, common_variance(gains), seeds)
    return Verdict(gain, gain - reach, gain + reach, spread, images, seeds, budget, *classes)


def half_width(between: float, common: float, seeds: int) -> float:
    """Return how far the interval reaches to each side of the mean gain.

    Args:
        between: variance of the mean over the seeds, estimated from their spread.
        common: variance of what the images draw from all seeds alike.
        seeds: at least 2.
    """
    freedom = (seeds - 1) * (1 + common / between) ** FREEDOM_POWER if between else math.inf
    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(between + common)


def common_variance(gains: Tensor) -> float:
    """Return the mean covariance of the gains of two seeds over the draws of images (B, S), and 0 below it."""
    covariance, seeds = gains.T.cov(), gains.shape[1]
    return max(0.0, ((covariance.sum() - covariance.trace()) / (seeds * (seeds - 1))).item())


def draw(rng: np.random.Generator, images: int, resamples: int) -> Iterator[Tensor]:
    """Draw as many images as there are, with replacement, so many times: how often each is drawn, (images,) float64."""
    even = np.full(images, 1 / images)
    for _ in range(resamples):
        yield torch.from_numpy(rng.multinomial(images, even)).double()


def _gains(plain: Sequence[Scores], distilled: Sequence[Scores], draws: Iterator[Tensor]) -> Tensor:
    """Return the gain of each seed over each draw of images (N,): (B, S).

    The mIoU of a draw is that of `Scores` over its images: a class that a network neither meets nor predicts in them is
    left out of that network's mean. Both follow the same rule, each with its own predictions.
    """
    truth = torch.stack(plain[0].each)[..., 1]

    def counts(scores: Scores) -> Tensor:
        each = torch.stack(scores.each)  # (N, C, 3)
        assert torch.equal(each[..., 1], truth), "students are compared on the same images in the same order"
        return each

    def miou(each: Tensor, drawn: Tensor) -> Tensor:
        sums = drawn.new_zeros(len(drawn), each[0].numel())
        for start in range(0, len(each), IMAGES_AT_ONCE):  # sums of whole numbers: exact in any order
            some = slice(start, start + IMAGES_AT_ONCE)
            sums += drawn[:, some] @ each[some].double().flatten(1)
        return mean_iou(sums.view(len(drawn), *each.shape[1:]))

    twins = [(counts(one), counts(other)) for one, other in zip(plain, distilled, strict=True)]
    at_once, gains = max(1, MAX_DRAWS_BYTES // (8 * len(truth))), []
    while some := list(islice(draws, at_once)):
        drawn = torch.stack(some)
        gains.append(torch.stack([miou(other, drawn) - miou(one, drawn) for one, other in twins], dim=1))
    return torch.cat(gains)
