"""Scores of students whose true gain is known."""

import numpy as np
from gain_interval import Case, Matrices, students


def simulated(
    rng: np.random.Generator, gain: float, seeds: int, images: int, std: float = 0.0
) -> tuple[Matrices, Matrices]:
    """Return matrices (S, N, 3, 3) of plain and distilled students of three classes, the last of them rare."""
    return students(rng, Case(seeds, images, between=std, common=0.0, gain=gain))
