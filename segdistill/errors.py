"""Everything a user can do wrong, and the exit code it earns.

    SegdistillError            1  internal error
    |-- ResourceError          1  out of memory, disk full, a worker killed
    |-- UsageError             2  wrong flag, preset, network, key, class or path; changed settings on resume
    |   |-- BusyError          2  another process is at work there
    |   `-- ShapeError         2  tensors that do not belong together
    |-- DataError              3  missing, mismatched or unreadable data
    |-- CheckError             4  a check or a gate failed: parity, speed, non-finite loss, doctor
    |-- ModelError             5  a damaged or unusable checkpoint, model file or ONNX file
    `-- Stopped          130/143  stopped by a signal; everything is saved and can be resumed

Each error says what was found; `fix` says what to do next. The functions below put names and numbers into words.
"""

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches

OUT_OF_MEMORY = (
    # Python and NumPy, also where a loader process says it
    r"^(RuntimeError: Caught )?([\w.]*_Array)?MemoryError(:|$| in DataLoader worker)",
    r"\bUnable to allocate [\d.]+ ([KMGTPE]iB|bytes) for an array",
    # PyTorch's tensors, on Linux and on Windows, and what its processes share
    r"\bDefaultCPUAllocator: (can't allocate|not enough) memory: you tried to allocate \d",
    r"\bunable to (mmap|allocate shared memory)\b.*: Cannot allocate memory \(12\)",
    r"\bCUDA out of memory\. Tried to allocate |\bCUDA error: out of memory$",
    r"\bCU(DNN|BLAS|SOLVER|SPARSE)_STATUS_ALLOC_FAILED\b|\bCUFFT_ALLOC_FAILED\b",
    # oneDNN, which needs some for its kernels, OpenCV, onnxruntime
    r"^RuntimeError: could not (create|execute) a primitive$",
    r"\(-4:Insufficient memory\) ",
    r"\bFailed to allocate memory for requested buffer of size \d",
    # protobuf, which gives no reason where it writes
    r"^EncodeError: Failed to serialize proto$|^DecodeError: .*: Arena alloc failed$",
    # C++, on Linux and on Windows, and the system, as Python and as Rust tell it
    r"(^|: )(std::bad_alloc|bad allocation)$",
    r"\[Errno 12\] Cannot allocate memory|\bCannot allocate memory \(os error 12\)",
)
"""Lines in which libraries say that memory ran out, where the error is not of a type that says so."""
CLOSE_ENOUGH = 0.5
"""Similarity, as difflib has it, from which on a known word may be the one that the user meant."""
MAX_SUGGESTIONS = 3


class SegdistillError(Exception):
    """An error that a user is told without a traceback.

    Args:
        what: what was found, in one sentence.
        fix: what to do about it.
    """

    exit_code = 1
    told_by_another = False
    """Whether another process tells the user: under torchrun all raise it, and one prints it."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what


class ResourceError(SegdistillError):
    """The machine ran out of something: memory, disk, a worker process."""


class UsageError(SegdistillError):
    """The command cannot be what the user meant."""

    exit_code = 2


class BusyError(UsageError):
    """Another process is at work in a run's folder."""


class ShapeError(UsageError):
    """Tensors of shapes that do not belong together were given to a loss or a network."""


class DataError(SegdistillError):
    """A data set is missing, incomplete, mismatched or unreadable."""

    exit_code = 3


class CheckError(SegdistillError):
    """A check or a gate said no."""

    exit_code = 4


class ModelError(SegdistillError):
    """A checkpoint, model file or ONNX file is damaged or not what it should be."""

    exit_code = 5


class Stopped(SegdistillError):  # noqa: N818  # it is not an error
    """A signal stopped the run after it had saved everything; the exit code is 128 + the signal's number."""

    def __init__(self, what: str, fix: str, signal_number: int) -> None:
        super().__init__(what, fix)
        self.exit_code = 128 + signal_number


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known names that the user may have meant, or all of them: the tail of a message on an unknown name."""
    names = sorted({*known})
    close = get_close_matches(word, names, n=MAX_SUGGESTIONS, cutoff=CLOSE_ENOUGH)
    if close:
        return "Did you mean " + " or ".join(close) + "?"
    return "Known are: " + ", ".join(names) + "."


def out_of_memory(error: BaseException) -> str | None:
    """Return the line of an error that says that memory ran out; None where it says something else."""
    if isinstance(error, SegdistillError):
        return None
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".strip().splitlines()]
    if isinstance(error, MemoryError):
        return lines[0]
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return lines[0]
    patterns = "|".join(OUT_OF_MEMORY)
    return next((line for line in lines if re.search(patterns, line)), None)
