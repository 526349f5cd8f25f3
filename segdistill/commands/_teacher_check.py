"""The check of a teacher before days are spent on following it."""

from typing import NamedTuple

from segdistill.commands._context import RunContext
from segdistill.commands._teacher_record import has_passed, note_passed
from segdistill.data import AUXILIARY
from segdistill.errors import CheckError
from segdistill.runtime import distributed
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.answers import AnswersCheck, check_answers
from segdistill.teachers.check import check_teacher, other_sizes
from segdistill.teachers.selective import Following
from segdistill.teachers.teacher import Teacher

NAME = "teacher"
"""Name of this check in teacher.json."""


class CheckedTeacher(NamedTuple):
    """The outcome of a check that was made."""

    overruled: bool
    """Whether it found something, and the user follows the teacher all the same."""


def look_at_answers(context: RunContext, teacher: Teacher) -> AnswersCheck | None:
    """Ask the teacher for a few training images, before all files are read: there may be a hundred thousand.

    Returns:
        What it answers; None where labels say what is in the images, or a resumed run has passed the check with it.

    Raises:
        DataError, UsageError: if there is no pixel to learn from.
    """
    if not teacher.is_trained or has_passed_before(context, NAME, teacher.identity):
        return None
    return distributed.run_on_main(lambda: _answers(context, teacher))


def check_before_following(
    context: RunContext, teacher: Teacher, answers: AnswersCheck | None = None
) -> CheckedTeacher | None:
    """Tell what a few validation images say of the teacher, and refuse one that would mislead.

    Args:
        context: with data whose files were read.
        teacher: in the classes of the data.
        answers: what it answers on training images, where that has been looked at.

    Returns:
        None where it was not checked: it is not trained yet, or a resumed run has passed the check with it.

    Raises:
        CheckError: if it fails, unless it is accepted all the same.
    """
    if not teacher.is_trained:
        context.reporter.info("The teacher is not trained yet, so it cannot be checked.")
        return None
    if has_passed_before(context, NAME, teacher.identity):
        return None
    rows: list[tuple[str, str]] = []
    found: list[str] = []
    if "val" not in context.data.unlabeled:
        report = distributed.run_on_main(
            lambda: check_teacher(teacher, context.data, context.runtime.exact(), context.config.data)
        )
        rows += report.rows()
        found += report.problems
        for warning in (*other_sizes(teacher, context.config.data), *report.warnings):
            context.reporter.warning(warning)
    if answers is None:
        answers = look_at_answers(context, teacher)
    if answers is not None:
        rows += answers.rows()
        found += answers.problems
    context.reporter.banner(f"check: teacher {teacher.name}", rows)
    if not found:
        return CheckedTeacher(overruled=False)
    if context.options.accept_teacher:
        context.reporter.warning("Teacher check failed: " + " ".join(found))
        return CheckedTeacher(overruled=True)
    problems = "\n".join(f"  {problem}" for problem in found)
    raise CheckError(
        f"Teacher check failed:\n{problems}",
        "Import or train it again so that this is gone; --accept-teacher follows it as it is.",
    )


def _answers(context: RunContext, teacher: Teacher) -> AnswersCheck | None:
    """Return what the teacher answers on training images, where no label says it, or where not all of it is taken.

    Raises:
        DataError, UsageError: if there is no pixel to learn from.
    """
    data, following = context.data, Following.of(context.config.teacher)
    images = data.splits.get(AUXILIARY)
    if "train" in data.unlabeled or (following.threshold > 0 and images is None):
        images = data.split("train")
    if images is None or teacher.is_label_assisted:
        return None
    return check_answers(teacher, images, data.classes, following, context.runtime.exact())


def record_check(folder: RunFolder, teacher: Teacher, checked: CheckedTeacher | None) -> None:
    """Write down that a teacher passed its check, so that a resumed run need not ask again."""
    if checked is not None:
        note_passed(folder, NAME, teacher.identity, overruled=checked.overruled)


def has_passed_before(context: RunContext, check: str, subject: str) -> bool:
    """Whether a resumed run has passed a check before; what it was stopped in front of is asked again."""
    options = context.options
    passed: bool = distributed.broadcast_object(
        options.resume and has_passed(context.out, check, subject, accept_overruled=options.accept_teacher)
    )
    return passed
