"""Significance of a gain: the distilled student against its baseline, with an interval around the difference.

Two things could have come out otherwise. The validation images are one sample of all that could have been taken, so
they are resampled with replacement, the same for all students; each resample gives a gain (Efron and Tibshirani 1993,
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
from torch import Tensor

from segdistill.evaluation.metrics import Scores, coverage, mean_iou
from segdistill.wording import counted

LEVEL = 0.95
"""Confidence of the interval."""
MAX_RESAMPLES_BYTES = 16 << 20
"""Bytes of the resamples that exist at once, in float64."""
MAX_IMAGES_AT_ONCE = 4096
"""Images whose counts are multiplied at once."""
MIN_IMAGES = 10
"""Images from which on a verdict is given: there the interval of a mean covers it in 90 % of all cases, with 5 images
in 84 % and with 2 in half of them (simulated)."""
MIN_SEEDS = 3
"""Seeds below which Student's t makes the interval three times as wide and more: 12.7 standard errors to each side with
2 seeds where they differ more than the images, 4.3 with 3."""

FREEDOM_POWER = 0.8
"""Exponent of the rise in degrees of freedom with the images' part of the variance. Of normal parts in any ratio, 0.8
lets 95 % be 92 to 97 % with 2 seeds and 94.5 to 97 % with 3; Hillis's square goes down to 88 and 92 %. It was chosen
for that and is not derived. Of other draws, with 2, 3, 4, 5 and 8 seeds, normal or with the tails of Student's t of 5
degrees, it lets them be 92 to 97 %."""
OLD_KEYS = {"spread": "std"}
"""Names of fields by those that they have in JSON, where these differ: files of version 0.1 have them."""


@dataclass(frozen=True)
class GainEstimate:
    """The gain of a distilled student over its baseline: differences of mIoU in fractions 0..1, with an interval."""

    gain: float
    """Gain on the whole validation split, mean over the seeds."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    std: float | None
    """Standard deviation of the gain between the seeds; None where there is one."""
    images: int
    """Number of validation images."""
    seeds: int
    """Number of seeds, each with a student and its baseline."""
    budget: str
    """Words for what both students had alike, as the sentence says it: "at the same steps"."""
    classes_scored: int | None = None
    """Number of classes that the mIoUs are means over, the fewest of any student."""
    classes_declared: int | None = None
    """Number of classes of the data set."""

    @classmethod
    def from_json(cls, table: Any) -> "GainEstimate":
        """Read what `to_json` returned, of this or an earlier version.

        Raises:
            ValueError: if it is something else.
        """
        if isinstance(table, dict):
            table = {OLD_KEYS.get(key, key): value for key, value in table.items()}
        return TypeAdapter(cls).validate_json(json.dumps(table), strict=True)

    @property
    def is_significant(self) -> bool:
        """Whether a gain is shown: the whole interval lies above 0, and nothing lacks for a verdict."""
        return not self.missing_evidence() and self.low > 0

    @property
    def is_harmful(self) -> bool:
        """Whether a loss is shown: the whole interval lies below 0, and nothing lacks for a verdict."""
        return not self.missing_evidence() and self.high < 0

    def missing_evidence(self) -> list[str]:
        """Return the reasons why no verdict can be given; without any there is one."""
        reasons = []
        if self.seeds == 1:
            reasons.append("the spread between seeds was not measured")
        if self.images < MIN_IMAGES:
            reasons.append(f"fewer than {MIN_IMAGES} images are too few to tell")
        return reasons

    def sentence(self) -> str:
        """Return the verdict for people, in mIoU points."""
        gain, low, high = 100 * self.gain, 100 * self.low, 100 * self.high
        over_classes = coverage(self.classes_scored, self.classes_declared)
        images = counted(self.images, "validation image")
        if self.std is None:
            interval = f"bootstrap interval over {images}, 1 seed"
        else:
            std = f"whose gains have a standard deviation of {100 * self.std:.2f}"
            interval = f"interval over {images} and {self.seeds} seeds, {std}"
        return (
            f"Gain {gain:+z.2f} mIoU points{over_classes} [{low:z.2f}, {high:z.2f}] {self.budget} "
            f"({100 * LEVEL:.0f} % {interval}): {self._conclusion()}"
        )

    def _conclusion(self) -> str:
        reasons = self.missing_evidence()
        if reasons:
            remedy = "; distill --seeds 3 measures it" if self.seeds == 1 else ""
            return f"{' and '.join(reasons)}, so this is no verdict{remedy}."
        conclusion = "the interval contains 0, so no gain is shown."
        if self.is_significant:
            conclusion = f"it holds with {100 * LEVEL:.0f} % confidence."
        if self.is_harmful:
            conclusion = f"it harms, with {100 * LEVEL:.0f} % confidence."
        if self.seeds < MIN_SEEDS:
            conclusion += f" With {self.seeds} seeds the interval is very wide: --seeds 3 narrows it."
        return conclusion

    def to_json(self) -> dict[str, Any]:
        """Return the verdict in numbers."""
        json_keys = {field: key for key, field in OLD_KEYS.items()}
        table = {json_keys.get(field, field): value for field, value in asdict(self).items()}
        return table | {"level": LEVEL, "holds": self.is_significant, "harms": self.is_harmful}


def compare(
    baseline: Sequence[Scores], distilled: Sequence[Scores], budget: str, resamples: int = 2000
) -> GainEstimate:
    """Judge the gain of distillation over one or several seeds.

    With one seed the interval is that of the bootstrap over images alone. With several, the mean gain varies in two
    parts: between seeds, by std ** 2 / seeds, and by what an image gives all seeds alike, which is the mean covariance
    of two seeds' gains over the resamples. What an image gives one seed alone is part of the standard deviation already
    and is not counted again. This is the variance of Obuchowski and Rockette (1995), who compare diagnostic tests by
    several readers on the same cases; seeds are our readers.

    The width is Student's t with (seeds - 1) * (1 + common / between) ** FREEDOM_POWER degrees of freedom: seeds - 1
    where the seeds differ far more than the images, the normal distribution in the limit where they do not differ.
    Hillis (2007) takes the square, which is too narrow with 2 or 3 seeds. In the simulated comparisons of
    `benchmarks/results/gain-interval.json`, of 2, 3 and 5 seeds, these intervals contain the true gain in 90 to
    96 %; where neighboring images gain alike from all seeds, as frames of a video may, in 61 to 93 % only.

    Args:
        baseline: scores with `per_image`, one per seed, of students trained without distillation.
        distilled: the same of the distilled students, on the same images in the same order.
        budget: what both had alike, in words that end "Gain +0.90 mIoU points [0.40, 1.30] ...".
        resamples: resamples of the images.
    """
    images, seeds = baseline[0].images, len(baseline)
    rng = np.random.default_rng(0)  # so that a verdict is the same each time it is asked for
    resampled_gains = _gains(baseline, distilled, resample(rng, images, resamples))
    seed_gains = [student.miou - reference.miou for reference, student in zip(baseline, distilled, strict=True)]
    gain = statistics.fmean(seed_gains)
    if seeds == 1:
        std = None
        tails = resampled_gains.new_tensor([1 - LEVEL, 1 + LEVEL]) / 2
        low, high = resampled_gains[:, 0].quantile(tails).tolist()
    else:
        std = statistics.stdev(seed_gains)
        reach = half_width(std**2 / seeds, common_variance(resampled_gains), seeds)
        low, high = gain - reach, gain + reach
    return GainEstimate(
        gain=gain,
        low=low,
        high=high,
        std=std,
        images=images,
        seeds=seeds,
        budget=budget,
        classes_scored=min(scores.classes_scored for scores in (*baseline, *distilled)),
        classes_declared=baseline[0].classes_declared,
    )


def half_width(between: float, common: float, seeds: int) -> float:
    """Return how far the interval reaches to each side of the mean gain.

    Args:
        between: variance of the mean over the seeds, estimated from their standard deviation.
        common: variance of what the images give all seeds alike.
        seeds: at least 2.
    """
    # Seeds that do not differ at all leave the normal distribution.
    freedom = (seeds - 1) * (1 + common / between) ** FREEDOM_POWER if between else math.inf
    from scipy.special import stdtrit  # late: scipy takes a second to import

    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(between + common)


def common_variance(gains: Tensor) -> float:
    """Return the mean covariance of the gains of two seeds over the resamples (B, S), and 0 below it."""
    covariance, seeds = gains.T.cov(), gains.shape[1]
    pairs = seeds * (seeds - 1)  # the matrix without its diagonal, the variances
    return max(0.0, ((covariance.sum() - covariance.trace()) / pairs).item())


def resample(rng: np.random.Generator, images: int, resamples: int) -> Iterator[Tensor]:
    """Draw as many images as there are, with replacement, so many times: how often each is drawn, (images,) float64."""
    even = np.full(images, 1 / images)
    for _ in range(resamples):
        yield torch.from_numpy(rng.multinomial(images, even)).double()


def _gains(baseline: Sequence[Scores], distilled: Sequence[Scores], resamples: Iterator[Tensor]) -> Tensor:
    """Return the gain of each seed over each resample of images (N,): (B, S).

    The mIoU of a resample is that of `Scores` over its images: a class that a network neither meets nor predicts in
    them is left out of that network's mean. Both follow the same rule, each with its own predictions.
    """
    target = torch.stack(baseline[0].per_image)[..., 1]
    pairs = [
        (_counts(reference, target), _counts(student, target))
        for reference, student in zip(baseline, distilled, strict=True)
    ]
    at_once = max(1, MAX_RESAMPLES_BYTES // (8 * len(target)))  # float64 has 8 bytes
    gains = []
    while chunk := list(islice(resamples, at_once)):
        times_drawn = torch.stack(chunk)  # (b, N)
        seed_gains = [_miou(student, times_drawn) - _miou(reference, times_drawn) for reference, student in pairs]
        gains.append(torch.stack(seed_gains, dim=1))
    return torch.cat(gains)


def _counts(scores: Scores, target: Tensor) -> Tensor:
    """Return the counts of every image, (N, C, 3)."""
    per_image = torch.stack(scores.per_image)
    assert torch.equal(per_image[..., 1], target), "students are compared on the same images in the same order"
    return per_image


def _miou(per_image: Tensor, times_drawn: Tensor) -> Tensor:
    """Return the mIoU of each resample, (b,), from the counts of every image (N, C, 3) and how often each is drawn."""
    sums = times_drawn.new_zeros(len(times_drawn), per_image[0].numel())
    for start in range(0, len(per_image), MAX_IMAGES_AT_ONCE):  # sums of whole numbers: exact in any order
        chunk = slice(start, start + MAX_IMAGES_AT_ONCE)
        sums += times_drawn[:, chunk] @ per_image[chunk].double().flatten(1)
    return mean_iou(sums.view(len(times_drawn), *per_image.shape[1:]))
