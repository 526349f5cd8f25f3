"""Distill a teacher into a student, after training what is missing, and beside it the baseline without a teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from segdistill.commands._baseline import baseline_context, gain_over_baseline
from segdistill.commands._context import Options, RunContext
from segdistill.commands._derived_settings import with_derived_settings
from segdistill.commands._find_teacher import runs_beside
from segdistill.commands._label_free import (
    classes_of,
    labeled_by,
    refuse_what_needs_labels,
    without_counted_weights,
)
from segdistill.commands._measured_settings import Trainings
from segdistill.commands._networks import (
    build_initialized,
    exact_scores,
    tell_of_initial_weights,
    with_initial_preprocessing,
    with_pretrained_preprocessing,
)
from segdistill.commands._open_context import open_context
from segdistill.commands._overlap import refuse_overlap
from segdistill.commands._results import NetworkResult, Outcome
from segdistill.commands._resume import finished
from segdistill.commands._run_record import finish, open_run_folder
from segdistill.commands._student import distillation, train_student
from segdistill.commands._teacher import NamedTeacher, PretrainedTeacher, teacher_source
from segdistill.commands._teacher_check import CheckedTeacher, check_before_following, look_at_answers, record_check
from segdistill.commands._teacher_record import refuse_other_teacher, write_teacher
from segdistill.commands._teacher_run import teacher_stem
from segdistill.commands._training_run import logging_context, network_result
from segdistill.commands._usable_terms import without_unusable_terms
from segdistill.config.schema import RunConfig
from segdistill.errors import UsageError
from segdistill.evaluation.metrics import Scores
from segdistill.networks import SegNetwork
from segdistill.reports import figures
from segdistill.runtime.precision import exact_float32
from segdistill.runtime.reporter import Reporter
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.selective import Following
from segdistill.teachers.teacher import Teacher
from segdistill.training.scoring import rehearse_validation


@exact_float32()
def distill(config: RunConfig, teacher_spec: str, options: Options, reporter: Reporter) -> Outcome:
    """Distill a student, after training what is missing, and with `options.baseline` the baseline beside it.

    Args:
        config: resolved; `config.student` is the student.
        teacher_spec: a run's folder, a model file, SCHEME:WHERE of an external teacher, or the network in
            `config.teacher`, found or trained first.
        options: the rest of the command line.
        reporter: tells the user what happens.

    Raises:
        SegdistillError: whatever is wrong with settings, data, teacher or the run's folder, before anything is written.
        CheckError: if the teacher fails its check, or the first step is not finite.
    """
    options = replace(options, teacher=teacher_spec)
    source = teacher_source(teacher_spec, config, options, reporter)
    classes = None
    if config.data.images:
        refuse_what_needs_labels(config, options, source.teacher)
        assert source.teacher is not None, "another one is refused"
        classes = classes_of(source.teacher, config)
    config = with_initial_preprocessing(config, options.init_weights)
    config = with_pretrained_preprocessing(config, options, trains_teacher=source.teacher is None)
    stem = f"distill-{config.preset}-{config.student.network}"
    with open_context(config, options, reporter, stem=stem, unlabeled=True, classes=classes) as context:
        context, source = _validate(context, source)
        answers = None if source.teacher is None else look_at_answers(context, source.teacher)
        size = context.config.data.size
        context = with_derived_settings(context.with_verified_data(), Trainings(student=True, teacher=source.teacher))
        source = source.on_images_at(size, context.config.data.size)
        outcome = finished(context, "student")
        if outcome is not None:
            return outcome
        # a teacher that is there is checked before a folder exists, so that a refused one leaves nothing behind
        checked = None
        if source.teacher is not None:
            checked = check_before_following(context, source.teacher, answers)
            context = labeled_by(source.teacher, context)
        with open_run_folder(context, "student") as folder:
            teacher = _obtain_checked(context, folder, source, checked)
            results = _teacher_results(context, teacher)
            pictured = {"teacher": teacher.network}
            if teacher.is_label_assisted or "val" in context.data.unlabeled:  # it is what stands for the labels
                pictured = {}
            for seed in context.seeds:
                with _student_run(context, folder, teacher, seed) as student:
                    network, distilled = train_student(student.context, student.folder, teacher, "distilled")
                    student.add(network, distilled)
                    if options.baseline is not None:
                        with _baseline_run(student, distilled) as baseline:
                            network, result = train_student(baseline.context, baseline.folder, teacher, "baseline")
                            baseline.add(network, result)
                results += student.results
                if seed == config.seed:
                    pictured |= student.networks
            if folder.writes:
                figures.draw_comparison(folder / "picture.png", pictured, context.data, context.config.data.size)
            return finish(folder, context, results, gain_over_baseline(context, results))


def _validate(
    context: RunContext, source: PretrainedTeacher | NamedTeacher
) -> tuple[RunContext, PretrainedTeacher | NamedTeacher]:
    """Refuse what does not fit, weights and terms, before files are read and there is a folder.

    Returns:
        Context and teacher, bound to the classes of the data.
    """
    refuse_overlap(context, context.out, source.inputs(context))
    if source.teacher is None:  # its run may be written on the way
        refuse_overlap(context, runs_beside(context.out) / teacher_stem(context.config), [])
    student = build_initialized(context, context.config.student, context.options.init_weights)
    tell_of_initial_weights(context, context.config.student)
    context, source = source.bind_to_dataset(context)
    config = context.config
    if config.teacher.label_embedding is not None and Following.of(config.teacher) != Following():
        raise UsageError(
            "A label-assisted teacher knows the labels: teacher.targets and teacher.threshold do not go with it.",
            "Leave them out, or take a preset with plain teachers.",
        )
    context = without_counted_weights(context)
    context = without_unusable_terms(context, None if source.teacher is None else source.teacher.network)
    if source.teacher is not None:
        distillation(context, student, source.teacher)
    if config.teacher.label_embedding is not None and (config.data.unlabeled or config.data.labeled < 1):
        context.reporter.warning("A label-assisted teacher has nothing to say of images without labels.")
    return context, source


def _obtain_checked(
    context: RunContext,
    folder: RunFolder,
    source: PretrainedTeacher | NamedTeacher,
    checked: CheckedTeacher | None,
) -> Teacher:
    """Return the teacher, found or trained where it was only named, and record it with its check."""
    teacher = source.obtain(context, folder)
    if folder.writes:
        refuse_other_teacher(folder.path, teacher)
    if source.teacher is None:
        checked = check_before_following(logging_context(context, folder), teacher)
    write_teacher(folder, teacher)
    record_check(folder, teacher, checked)
    return teacher


def _teacher_results(context: RunContext, teacher: Teacher) -> list[NetworkResult]:
    """Score the teacher; a dry run only tries whether it can be, for the memory that it takes."""
    if context.options.dry_run:
        rehearse_validation(teacher.network, teacher.info, context.data, context.runtime)
        return []
    if "val" in context.data.unlabeled:  # it would be scored against itself
        return [
            network_result(context, teacher.network, teacher.info, "teacher", Scores.empty(len(context.data.classes)))
        ]
    scores = exact_scores(context, teacher.network, teacher.info)
    result = network_result(context, teacher.network, teacher.info, "teacher", scores)
    missing = tuple(context.data.classes[index] for index in teacher.missing_classes)
    return [replace(result, missing_classes=missing)]


@dataclass
class _StudentRun:
    """A student, or a baseline, that is being trained, and what has come of it so far."""

    context: RunContext
    folder: RunFolder
    networks: dict[str, SegNetwork] = field(default_factory=dict)
    results: list[NetworkResult] = field(default_factory=list)

    def add(self, network: SegNetwork, result: NetworkResult | None) -> None:
        """Add a trained network; a dry run has no result of it."""
        if result is not None:
            self.networks = {result.role: network} | self.networks
            self.results.insert(0, result)


@contextmanager
def _student_run(context: RunContext, folder: RunFolder, teacher: Teacher, seed: int) -> Iterator[_StudentRun]:
    """Give the run of one seed's student, and finish it where it has a folder of its own.

    The first seed's folder is the run's own, which is finished with the results of all seeds.
    """
    part = context.for_seed(seed)
    if part is context:
        yield _StudentRun(context, folder)
        return
    with open_run_folder(part, "seed") as part_folder:
        write_teacher(part_folder, teacher)
        run = _StudentRun(part, part_folder)
        yield run
        finish(part_folder, part, run.results)


@contextmanager
def _baseline_run(student: _StudentRun, distilled: NetworkResult | None) -> Iterator[_StudentRun]:
    """Give the run of a student's baseline, finish it, and add its network and result to the student's."""
    context = baseline_context(student.context, distilled)
    with open_run_folder(context, "baseline") as folder:
        run = _StudentRun(context, folder)
        yield run
        finish(folder, context, run.results)
    for network, result in zip(run.networks.values(), run.results, strict=True):
        student.add(network, result)
