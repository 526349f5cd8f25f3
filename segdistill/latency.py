"""The honest stopwatch: what a network takes for one image, with the first call, the spread and the slow calls told.

Several networks are measured in turns, call by call, so that a machine that is busy for a while slows all of them and
the ratios between them stay fair. No sample is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MAX_RUNS = 100
MAX_SECONDS = 20.0
"""Per network, whichever comes first."""
WARM_UP = (10, 40)
"""Rounds: at least, and at most where the calls keep getting faster."""


class Subject(NamedTuple):
    """Something to measure."""

    run: Callable[[], object]
    """One call, from the image in memory to the result; it returns when the result is there."""
    provider: str
    """What computes."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call."""

    first: float
    """The very first call, which allocates and plans. It stands for a cold start only if nothing ran before."""
    p50: float
    p90: float
    p99: float | None
    """None below 100 calls: fewer cannot tell it."""
    n: int
    """Calls after the warm-up."""
    threads: int
    provider: str

    @property
    def fps(self) -> float:
        """Images per second at the median."""
        return 1000 / self.p50


def measure(
    subjects: Mapping[str, Subject], *, threads: int, max_runs: int = MAX_RUNS, max_seconds: float = MAX_SECONDS
) -> dict[str, Latency]:
    """Measure several networks in turns.

    Args:
        subjects: by name, in the order in which they take turns.
        threads: how many each of them uses; only reported.
        max_runs: calls of each, after the warm-up.
        max_seconds: a subject that has run for as long is left out of the rounds that follow.
    """
    first = {name: _milliseconds(subject) for name, subject in subjects.items()}
    _warm_up(subjects, max_seconds / 4)
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    turns = list(subjects)
    while turns:
        for name in turns:
            samples[name].append(_milliseconds(subjects[name]))
        turns = [name for name in turns if len(samples[name]) < max_runs and sum(samples[name]) < 1000 * max_seconds]
    return {name: _summary(first[name], own, threads, subjects[name].provider) for name, own in samples.items()}


def torch_subject(predict: Callable[[Tensor], Tensor], image: Tensor) -> Subject:
    """Return what predicts in PyTorch, on an image that is where it computes, in its memory format."""

    def run() -> None:
        with torch.inference_mode():
            predict(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)

    return Subject(run, f"PyTorch {image.device}")


def _warm_up(subjects: Mapping[str, Subject], max_seconds: float) -> None:
    """Call all in turns until none gets faster any more: the last three calls are no improvement by 5 %.

    Only the fastest calls are compared, since on a busy machine the others say more about the neighbours.
    """
    least, most = WARM_UP
    times: dict[str, list[float]] = {name: [] for name in subjects}
    started = perf_counter()
    for done in range(most):
        settled = done >= least and all(min(own[-3:]) > 0.95 * min(own[:-3]) for own in times.values())
        if settled or perf_counter() - started > max_seconds * len(subjects):
            break
        for name, subject in subjects.items():
            times[name].append(_milliseconds(subject))


def _milliseconds(subject: Subject) -> float:
    started = perf_counter()
    subject.run()
    return 1000 * (perf_counter() - started)


def _summary(first: float, samples: list[float], threads: int, provider: str) -> Latency:
    p50, p90, p99 = (float(np.percentile(samples, rank)) for rank in (50, 90, 99))
    return Latency(first, p50, p90, p99 if len(samples) >= MAX_RUNS else None, len(samples), threads, provider)
