"""What a function of the package leaves of the process as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segdistill.runtime.precision import exact_float32


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Have PyTorch's random generators and its switch for TF32 behind a function as they were before it.

    Trainings are seeded, and networks are built with numbers drawn on the way: whoever draws next draws what they would
    have drawn.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), exact_float32():
        yield
