"""How often the 95 % interval of a gain over several seeds contains the true gain, on simulated students.

    python benchmarks/gain_interval.py [--trials N] [--json FILE]

Plain and distilled students of three classes, one of them rare, are confusion matrices drawn at random, so that the
true gain is known from far more seeds and images than one comparison has. A student's skill on an image is the sum of
four parts, in units of the logit of a pixel's being right: its seed's; the image's, the same for all; what the image
draws from all distilled students alike, which is the images' noise in the gain; and one of its own, which may
resemble that of the neighboring images. A line per case; the figures that the intervals are documented with are in
`benchmarks/results/gain-interval.json`.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from segdistill.evaluation.metrics import Scores, class_counts, mean_iou
from segdistill.evaluation.significance import GainEstimate, compare

PIXELS, SHARES = 1000, (0.6, 0.37, 0.03)
"""Of an image, and of its classes."""
RESAMPLES = 300
"""Draws of images in a comparison; the tool itself takes 2000."""
POPULATION = (400, 1500)
"""Seeds and images from which the true gain is taken."""

Matrices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """How much the parts of a student's skill vary: standard deviations, in logits."""

    seeds: int
    images: int
    between: float
    """Of a seed, the same on all images."""
    common: float
    """Of an image's gain, the same for all seeds: the ratio to `between` says which of the two decides."""
    own: float = 0.4
    """Of one student on one image."""
    resemblance: float = 0.0
    """Correlation of `own` with that of the image before, within one student."""
    alike: float = 0.0
    """Correlation of `common` with that of the image before: what a video has, and no interval here knows of."""
    gain: float = 0.15
    """Mean of what distillation adds."""


def cases() -> list[Case]:
    """Return the cases that are simulated."""
    ratios = [(0.4, 0.0), (0.4, 0.4), (0.2, 0.8), (0.05, 0.8), (0.0, 0.4)]
    grid = [Case(*counts, *ratio) for counts in product((2, 3, 5), (30, 100)) for ratio in ratios]
    within = [Case(seeds, 100, 0.1, 0.4, own=1.0, resemblance=0.9) for seeds in (2, 3, 5)]
    alone = [Case(seeds, 100, 0.0, 0.0, own=1.0) for seeds in (2, 3, 5)]
    video = [Case(3, 100, 0.1, 0.8, alike=alike) for alike in (0.5, 0.9)]
    return grid + within + alone + video


def students(rng: np.random.Generator, case: Case) -> tuple[Matrices, Matrices]:
    """Return confusion matrices (S, N, 3, 3) of plain and distilled students; what they miss is the next class."""
    truth = rng.multinomial(PIXELS, SHARES, size=case.images)
    hard = 0.7 * rng.standard_normal((case.images, 1))
    gain = case.gain + case.common * noise(rng, (1, case.images, 1), case.alike)

    def drawn(gain: npt.NDArray[np.float64] | float) -> Matrices:
        seed = case.between * rng.standard_normal((case.seeds, 1, 1))
        own = case.own * noise(rng, (case.seeds, case.images, 3), case.resemblance)
        right = rng.binomial(truth, 1 / (1 + np.exp(-1 - seed - hard - own - gain)))
        matrices = np.zeros((case.seeds, case.images, 3, 3), np.int64)
        matrices[..., range(3), range(3)] = right
        matrices[..., range(3), [1, 2, 0]] = truth - right
        return matrices

    return drawn(0), drawn(gain)


def noise(rng: np.random.Generator, shape: tuple[int, int, int], correlation: float) -> npt.NDArray[np.float64]:
    """Return standard normal numbers (S, N, C), each correlated with that of the image before."""
    fresh = rng.standard_normal(shape)
    if correlation == 0:
        return fresh
    found = fresh.copy()
    for image in range(1, shape[1]):
        found[:, image] = correlation * found[:, image - 1] + np.sqrt(1 - correlation**2) * fresh[:, image]
    return found


def scores_of(matrices: Matrices) -> Scores:
    """Return the scores of images by their confusion matrices (N, C, C)."""
    per_image = F.pad(torch.from_numpy(matrices), (0, 1, 0, 1))
    return Scores(per_image.sum(0), len(per_image), tuple(class_counts(per_image)))


def judged(rng: np.random.Generator, case: Case) -> GainEstimate:
    """Return the verdict on students that are drawn anew."""
    plain, distilled = ([scores_of(own) for own in matrices] for matrices in students(rng, case))
    return compare(plain, distilled, "at the same steps", RESAMPLES)


def true_gain(rng: np.random.Generator, case: Case, population: tuple[int, int] = POPULATION) -> float:
    """Return the mean gain over very many seeds, twenty at a time on very many images, so that no sample decides."""
    seeds, images = population
    gains = []
    own = replace(case, seeds=20, images=images)
    for _ in range(seeds // 20):
        before, after = (mean_iou(class_counts(torch.from_numpy(m.sum(1)))) for m in students(rng, own))
        gains.append((after - before).mean().item())
    return float(np.mean(gains))


def coverage(case: Case, trials: int, seed: int = 0, population: tuple[int, int] = POPULATION) -> dict[str, Any]:
    """Return in how many trials the interval contains the true gain, and how wide it is in the median."""
    rng = np.random.default_rng(seed)
    truth = true_gain(rng, case, population)
    verdicts = [judged(rng, case) for _ in range(trials)]
    covered = sum(verdict.low <= truth <= verdict.high for verdict in verdicts)
    width = float(np.median([verdict.high - verdict.low for verdict in verdicts]))
    return asdict(case) | {"trials": trials, "coverage": covered / trials, "median_width": round(width, 5)}


def main() -> None:
    """Simulate every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        rows.append(coverage(case, arguments.trials))
        print(" ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"level": 0.95, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
