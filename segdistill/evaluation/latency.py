"""The time that a network takes for one image, with the first call, the spread and the slow calls told.

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
"""Calls of each network."""
MAX_SECONDS = 20.0
"""Seconds of all calls of each network, where these come first."""
MIN_WARM_UP, MAX_WARM_UP = 10, 40
"""Rounds of warm-up at least, and at most where the calls keep getting faster."""
RECENT_CALLS = 3
"""Last calls of the warm-up, which are compared with those before them."""
SETTLED = 0.95
"""Share of the fastest call's time that a recent one takes at least where calls get no faster any more."""
MIN_RUNS_FOR_P99 = 100
"""Calls from which on the slowest hundredth can be told."""


class Subject(NamedTuple):
    """A network to measure."""

    run: Callable[[], object]
    """Call from the image in memory to the result; it returns when the result is there."""
    provider: str
    """Name of the library and the device that compute."""
    images: int = 1
    """Images of a call."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call."""

    first: float
    """Time of the very first call, which allocates and plans. It is a cold start's only if nothing ran before."""
    p50: float
    """Median."""
    p90: float
    """90th percentile."""
    p99: float | None
    """99th percentile; None below 100 calls, as fewer cannot tell it."""
    n: int
    """Calls after the warm-up."""
    threads: int
    """Threads that it used."""
    provider: str
    """Name of the library and the device that computed."""
    images: int = 1
    """Images of a call."""

    @property
    def fps(self) -> float:
        """Images per second at the median."""
        return 1000 * self.images / self.p50

    @property
    def milliseconds_per_image(self) -> float:
        """Median of a call, by image."""
        return self.p50 / self.images


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
    _warm_up(subjects, max_seconds / 4)  # most of a slow network's time is for what is reported
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    unfinished = list(subjects)
    while unfinished:
        for name in unfinished:
            samples[name].append(_milliseconds(subjects[name]))
        unfinished = [
            name for name in unfinished if len(samples[name]) < max_runs and sum(samples[name]) < 1000 * max_seconds
        ]
    latencies = {}
    for name, subject in subjects.items():
        latencies[name] = _latency(first[name], samples[name], threads=threads, subject=subject)
    return latencies


def torch_subject(predict: Callable[[Tensor], Tensor], image: Tensor) -> Subject:
    """Return what predicts in PyTorch, on images (B, 3, H, W) that are where it computes, in its memory format."""

    def run() -> None:
        with torch.inference_mode():
            predict(image)
        if image.is_cuda:  # a call returns before the GPU has computed
            torch.cuda.synchronize(image.device)

    return Subject(run, f"PyTorch {image.device}", images=len(image))


def _warm_up(subjects: Mapping[str, Subject], max_seconds: float) -> None:
    """Call all in turns until none gets faster any more, or the time for all of them is over."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    started = perf_counter()
    for done in range(MAX_WARM_UP):
        if done >= MIN_WARM_UP and all(_is_settled(times) for times in samples.values()):
            break
        if perf_counter() - started > max_seconds * len(subjects):
            break
        for name, subject in subjects.items():
            samples[name].append(_milliseconds(subject))


def _is_settled(times: list[float]) -> bool:
    """Whether the last calls are no improvement by 5 %.

    Only the fastest calls are compared, since on a busy machine the others say more about the neighbors.
    """
    return min(times[-RECENT_CALLS:]) > SETTLED * min(times[:-RECENT_CALLS])


def _milliseconds(subject: Subject) -> float:
    started = perf_counter()
    subject.run()
    return 1000 * (perf_counter() - started)


def _latency(first: float, samples: list[float], *, threads: int, subject: Subject) -> Latency:
    p50, p90, p99 = (float(np.percentile(samples, rank)) for rank in (50, 90, 99))
    return Latency(
        first=first,
        p50=p50,
        p90=p90,
        p99=p99 if len(samples) >= MIN_RUNS_FOR_P99 else None,
        n=len(samples),
        threads=threads,
        provider=subject.provider,
        images=subject.images,
    )
