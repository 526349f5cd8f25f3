"""Out of memory: where it was, and what helps there."""

from collections.abc import Iterator
from contextlib import contextmanager

from segdistill.errors import ResourceError, out_of_memory

TRAINING_ADVICE = (
    "Use a smaller data.batch_size, data.crop or data.size, optim.accumulate=2, or a smaller network: in a new run, by "
    "--overwrite or another --out. `segdistill resume RUN` continues this one with fewer --workers (0 reads in the "
    "main process), or where there is more memory."
)
VALIDATION_ADVICE = (
    "`segdistill resume RUN --set validate.batch_size=1 --workers 0` goes on, reads in the main process, and ends in "
    "the same weights. If that is not enough, a new run takes a smaller data.size."
)


@contextmanager
def explained_out_of_memory(where: str, advice: str) -> Iterator[None]:
    """Turn the many errors of too little memory into one that says where it was and what helps.

    Raises:
        ResourceError: in the place of any of them.
    """
    try:
        yield
    except Exception as error:
        sign = out_of_memory(error)
        if sign is None:
            raise
        raise ResourceError(f"Out of memory {where}. {sign}", advice) from error
