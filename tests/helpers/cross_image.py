"""Feature maps, and slow versions of the losses across images."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pixels(*vectors: tuple[float, ...]) -> Tensor:
    """Return one image, one row high, whose pixels are these vectors: (1, D, 1, N)."""
    return torch.tensor(vectors, dtype=torch.float64).T[None, :, None]


def slow_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    q, p = (np.exp(np.array(x) / temperature) for x in (student, teacher))
    return float(sum(p / p.sum() * np.log((p / p.sum()) / (q / q.sum()))))


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def slow_key_similarity(s: Array, t: Array, keys: Array, valid: NDArray[np.bool_], temperature: float) -> float:
    rows = []
    for b, i, j in np.argwhere(valid):
        near, target = ([cosine(x[b, :, i, j], key) for key in keys] for x in (s, t))
        rows.append(slow_kl(near, target, temperature))
    return float(np.mean(rows))
