"""The files that label maps are written to: named after their images, and refused where they would do harm."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from segdistill.errors import UsageError
from segdistill.evaluation.input_images import InputImage
from segdistill.storage.atomic import sweep

CheckTargets = Callable[[list[Path]], object]
"""Function that is called with all outputs, and raises if one of them must not be written."""


class LabelMapJob(NamedTuple):
    """An image that is to be labeled, and the files that are to be written."""

    image: Path
    targets: tuple[Path, ...]
    """The label map and, where asked for, the overlay."""


def plan_outputs(
    inputs: Iterable[InputImage], out: Path, check_targets: CheckTargets, *, overlay: bool, overwrite: bool
) -> list[LabelMapJob]:
    """Decide on the outputs' names, refuse what would do harm, and make the folder.

    Args:
        inputs: the images.
        out: a folder, made where it is missing; all outputs lie in it.
        check_targets: called with all outputs.
        overlay: plan `<stem>_overlay.png` too.
        overwrite: allow outputs that are there.

    Raises:
        UsageError: if an output is there already, would replace an input, lie outside `out`, or share its name with
            another.
    """
    inputs = list(inputs)
    jobs = _name_outputs(inputs, out, overlay=overlay)
    claims = _count_claims(jobs)
    # By what the system knows a file by: an output may have another name for an input, through a link.
    input_files = {_file_identity(image.path) for image in inputs} - {None}
    for image, targets in jobs:
        for target in targets:
            _check_inside(target, out)
            if claims[_folded(target)] > 1:
                raise UsageError(f"{image} and another image would both be written to {target}.", "Rename one of them.")
            _check_replacing(target, input_files, overwrite=overwrite)
    # Only now, so that a command that is refused makes no folder and deletes nothing.
    all_targets = [target for job in jobs for target in job.targets]
    check_targets(all_targets)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made a folder: {error.strerror}.", "Choose another --out.") from None
    sweep(all_targets)
    return jobs


def _name_outputs(inputs: list[InputImage], out: Path, *, overlay: bool) -> list[LabelMapJob]:
    """Name the outputs: the suffix gives way to .png; where two would share a name it is kept (`a.jpg.png`)."""
    short = [_job(image, out, image.relative.with_suffix(""), overlay=overlay) for image in inputs]
    claims = _count_claims(short)
    jobs = []
    for image, job in zip(inputs, short, strict=True):
        is_unique = all(claims[_folded(target)] == 1 for target in job.targets)
        jobs.append(job if is_unique else _job(image, out, image.relative, overlay=overlay))
    return jobs


def _job(image: InputImage, out: Path, stem: Path, *, overlay: bool) -> LabelMapJob:
    endings = (".png", "_overlay.png") if overlay else (".png",)
    return LabelMapJob(image.path, tuple(out / stem.with_name(stem.name + ending) for ending in endings))


def _count_claims(jobs: list[LabelMapJob]) -> Counter[str]:
    """Count how many outputs would have each name."""
    return Counter(_folded(target) for job in jobs for target in job.targets)


def _check_inside(target: Path, out: Path) -> None:
    """Refuse an output that a link in the folder would lead out of it.

    Raises:
        UsageError: if it would lie outside `out`.
    """
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{target} would lie outside {out}.", "Remove the link, or choose another --out.")


def _check_replacing(target: Path, input_files: set[tuple[int, int] | None], *, overwrite: bool) -> None:
    """Refuse an output in whose place there is a file that is to stay.

    Raises:
        UsageError: if it would replace an input, or any file without `overwrite`.
    """
    if _file_identity(target) in input_files:
        raise UsageError(f"{target} would replace an image of the input.", "Choose another --out.")
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} is there already.", "Add --overwrite, or choose another --out.")


def _folded(path: Path) -> str:
    """Return what two names have in common that some file systems do not tell apart."""
    return str(path).casefold()


def _file_identity(path: Path) -> tuple[int, int] | None:
    """Return what two names of one file have in common; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
