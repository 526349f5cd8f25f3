"""The seconds that a training spends at work."""

from array import array
from statistics import median_low

MAX_STALL = 3
"""Times the median step that a step counts for at most: contention on a busy machine stays below, a stall does not."""
MIN_STEPS = 5
"""Number of steps whose median says how long a step takes: the first ones set things up."""


class StepClock:
    """Seconds that a training spends at work in its steps: without validation and checkpoints, and without stalls.

    A step counts for what it took, but for at most MAX_STALL times the median step: a process that was stopped, a
    machine that was suspended and storage that hung for a minute did no work that another training should be given.
    A slow loader counts: its steps are the median ones. So does hardly anything of the first step's setting up, as in
    the steps that the baseline is measured by.
    """

    def __init__(self, seconds_before: float = 0.0, median_before: float | None = None) -> None:
        """Go on from the seconds, and the median step, of the processes that a run was in before."""
        self._seconds_before = seconds_before
        self._median_before = median_before
        self._steps = array("d")  # 8 bytes a step: a long training has millions

    def add(self, seconds: float) -> None:
        """Count a step."""
        self._steps.append(seconds)

    @property
    def median(self) -> float | None:
        """The median step of this process, or of the ones before where this one is too young to tell; None of none."""
        if len(self._steps) < MIN_STEPS and self._median_before is not None:
            return self._median_before
        return median_low(self._steps) if self._steps else self._median_before

    @property
    def seconds(self) -> float:
        """All seconds at work, those before included."""
        limit = MAX_STALL * (self.median or 0.0)
        return self._seconds_before + sum(min(step, limit) for step in self._steps)
