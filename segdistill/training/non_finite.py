"""When steps without a finite gradient end a training, and what is said then."""

from torch import Tensor

from segdistill.errors import CheckError

MAX_BAD_STEPS = 3
"""Steps in a row that may have a gradient that is not finite; each is skipped."""
MAX_BAD_STEPS_FP16 = 20
"""Steps in a row that may be skipped in fp16, which finds its loss scale that way: 2^16 at first, halved each time."""
MAX_SKIPPED_SHARE = 0.1
"""Share of the steps so far that may be skipped in all, beyond as many as may be in a row. A tenth fewer steps is less
than what runs differ by that are meant to differ; a healthy run skips none, and in fp16 one in 2000."""


def too_many_skipped(*, skipped: int, in_a_row: int, steps: int, is_fp16: bool) -> str:
    """Return what is wrong where too many steps were skipped; empty where the training may go on.

    Args:
        skipped: number of steps skipped in all.
        in_a_row: number of the last steps that were skipped; 0 where the last one was not.
        steps: number of steps so far, the skipped ones included.
        is_fp16: whether a loss scale is still to be found.
    """
    allowed_in_a_row = MAX_BAD_STEPS_FP16 if is_fp16 else MAX_BAD_STEPS
    if in_a_row > allowed_in_a_row:
        return f"The gradient was not finite {in_a_row} steps in a row ({skipped} of {steps} in all)"
    # A training that was let go on with its share skipped is not stopped at a step that is good.
    if in_a_row and skipped > max(allowed_in_a_row, MAX_SKIPPED_SHARE * steps):
        return f"The gradient was not finite in {skipped} of {steps} steps, more than {100 * MAX_SKIPPED_SHARE:.0f} %"
    return ""


def non_finite_error(
    problem: str,
    *,
    step: int,
    learning_rate: float,
    terms: dict[str, Tensor],
    names: tuple[str, ...],
    precision: str,
    finite_in_float32: bool | None,
) -> CheckError:
    """Return the error that ends a training.

    Args:
        problem: what `too_many_skipped` found.
        step: number of the last bad step, counted from 1.
        learning_rate: of that step.
        terms: of that step, weighted.
        names: of its images.
        precision: its name.
        finite_in_float32: whether the same images have a finite gradient in float32; None where that is the precision.
    """
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
    found = f"{problem}, the last being step {step} (lr {learning_rate:.3g}): {values}.\nIts images: {', '.join(names)}"
    advice = "The weights are those from before. Lower optim.lr or the weight of the term that is not finite."
    if finite_in_float32 is None:
        return CheckError(found, advice)
    if finite_in_float32:
        return CheckError(
            f"{found}\nIn float32 the gradient of the last ones is finite: the first suspect is the precision, "
            f"{precision}.",
            f"Train with --precision fp32. {advice}",
        )
    return CheckError(
        f"{found}\nIn float32 the gradient of the last ones is not finite either: the precision, {precision}, is the "
        "last suspect.",
        advice,
    )
