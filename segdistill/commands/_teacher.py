"""Where a teacher comes from: given ready-made, or named by its network and then found among the runs, or trained."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segdistill.checkpoints.model_file import ModelInfo, load_model, model_path
from segdistill.commands._context import Options, RunContext
from segdistill.commands._find_teacher import TeacherRun, find_teacher, runs_beside
from segdistill.commands._inputs import Input, model_inputs, refuse_run_over
from segdistill.commands._load_teacher import in_data_classes, load_teacher
from segdistill.commands._networks import model_info
from segdistill.commands._run_record import record, resume_or_restart
from segdistill.commands._teacher_record import refuse_other_teacher
from segdistill.commands._teacher_run import run_teacher_training, teacher_stem
from segdistill.config.schema import RunConfig, Size
from segdistill.config.toml import read_toml
from segdistill.data import AUXILIARY, load_data, with_auxiliary_split
from segdistill.data.unlabeled import NAME
from segdistill.errors import BusyError, UsageError
from segdistill.runtime import distributed
from segdistill.runtime.reporter import Reporter
from segdistill.storage.locks import check_free
from segdistill.storage.run_files import next_folder
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.external import parse_external
from segdistill.teachers.label_assisted import build_teacher, check_kind
from segdistill.teachers.teacher import Teacher, refuse_views_of_labels
from segdistill.teachers.views import views_of

SECONDS_BETWEEN_LOOKS = 5.0
"""Seconds between two looks whether another process has trained a teacher."""


def is_pretrained(spec: str) -> bool:
    """Whether a teacher is given ready-made (a run's folder, a file, SCHEME:WHERE), not by its network's name.

    Raises:
        UsageError: if it is SCHEME:WHERE with an unknown scheme.
    """
    return parse_external(spec) is not None or Path(spec).exists() or "/" in spec or spec.endswith(".safetensors")


def teacher_source(
    spec: str, config: RunConfig, options: Options, reporter: Reporter
) -> "PretrainedTeacher | NamedTeacher":
    """Return where the teacher comes from; one that is given is loaded, before images are read or anything is written.

    Raises:
        UsageError: if it is not of the kind that the configuration asks for.
        ModelError: if it cannot be loaded.
    """
    if not is_pretrained(spec):
        check_unmapped(config)
        if config.teacher.label_embedding is not None:
            refuse_views_of_labels(views_of(config.teacher))
        return NamedTeacher(spec)
    teacher = load_teacher(spec, config.teacher.input, options.device, reporter).shown(views_of(config.teacher))
    check_kind(teacher.info, config)
    return PretrainedTeacher(spec, teacher)


def check_unmapped(config: RunConfig) -> None:
    """Refuse a class map for a teacher that is trained on the data's own classes."""
    if config.teacher.class_map is not None:
        raise UsageError(
            "A class map is for a pretrained teacher: one that is trained here has the data's classes.",
            "Leave out --class-map and [teacher.class_map], or give --teacher as a file, a folder or SCHEME:WHERE.",
        )


@dataclass(frozen=True)
class PretrainedTeacher:
    """A teacher that was given ready-made."""

    spec: str
    teacher: Teacher

    def inputs(self, context: RunContext) -> list[Input]:
        """Return the files that are read of it."""
        external = parse_external(self.spec)
        if external is None:
            return model_inputs("--teacher", Path(self.spec))
        file = external.path
        return [] if file is None else [Input("--teacher", file, run=file.is_dir())]

    def bind_to_dataset(self, context: RunContext) -> tuple[RunContext, "PretrainedTeacher"]:
        """Return the teacher, made to speak of the data's classes, and the context whose configuration says what it is.

        Raises:
            UsageError: if it is of other classes, without a class map; if a resumed run has another teacher.
        """
        config, data, reporter = context.config, context.data, context.reporter
        teacher = in_data_classes(self.teacher, config.teacher.class_map, data.classes, reporter)
        info, class_map = teacher.info, teacher.class_map
        if self.teacher.is_external:
            info = _with_size(info, config, reporter)
        architecture = {f"teacher.{key}": value for key, value in info.network.model_dump().items()}
        if class_map is not None and config.data.name == NAME:  # it names the classes, in the order of their mention
            class_map = dict(sorted(class_map.items(), key=lambda entry: _place(entry[1], data.classes)))
        embedding = None if info.label_embedding is None else info.label_embedding.model_dump()
        config = config.changed(
            **architecture, **{"teacher.label_embedding": embedding, "teacher.class_map": class_map}
        )
        network = teacher.network.to(context.runtime.device, torch.float32)
        teacher = replace(teacher, network=network, info=info)
        if context.options.resume:
            refuse_other_teacher(context.out, teacher)
        return replace(context, config=config), PretrainedTeacher(self.spec, teacher)

    def obtain(self, context: RunContext, folder: RunFolder) -> Teacher:
        """Return the teacher."""
        return self.teacher

    def on_images_at(self, before: Size | None, now: Size | None) -> "PretrainedTeacher":
        """Return the teacher where images are brought to another size than was known when it was bound to the data.

        An external one without a size of its own is scored on images as it sees them in training.
        """
        info = self.teacher.info
        if not self.teacher.is_external or info.size != before:
            return self
        return replace(self, teacher=replace(self.teacher, info=info.model_copy(update={"size": now})))


def _place(name: str, classes: Sequence[str]) -> int:
    """Return the place of a class; what is none of them comes last."""
    return classes.index(name) if name in classes else len(classes)


def _with_size(info: ModelInfo, config: RunConfig, reporter: Reporter) -> ModelInfo:
    """Return an external teacher's header with the size that it is scored at: the data's, unless it has its own."""
    training_size = config.data.size
    if info.size is None or info.size == training_size:
        return info.model_copy(update={"size": training_size})
    scored_at = "x".join(map(str, info.size))
    taught_at = "x".join(map(str, training_size)) if training_size else "their own size"
    reporter.info(
        f"Teacher: it is scored on images at {scored_at}, as it wants them; it teaches on crops of images at "
        f"{taught_at}."
    )
    return info


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher that was named by its network: found among the runs, or trained first."""

    spec: str

    @property
    def teacher(self) -> None:
        """The teacher as far as it is there: it has yet to be found or trained."""
        return None

    def inputs(self, context: RunContext) -> list[Input]:
        """Return the files that are read of it: what it will be is not known yet."""
        return []

    def bind_to_dataset(self, context: RunContext) -> tuple[RunContext, "NamedTeacher"]:
        """Return the same: it will be trained on the data's classes."""
        return context, self

    def on_images_at(self, before: Size | None, now: Size | None) -> "NamedTeacher":
        """Return the same: it will be trained on images of that size."""
        return self

    def obtain(self, context: RunContext, folder: RunFolder) -> Teacher:
        """Find the run that trained this network so, or train it; where another process does so, wait for it.

        Args:
            context: of the student.
            folder: of the student's run, which records where its teacher lies.

        Raises:
            UsageError: if it is in the distillation's own folder.
        """
        teacher_context = _teacher_context(context, self.spec)
        run = self._waited_for(teacher_context, context.out, folder)
        if run is None:
            return untrained_teacher(teacher_context)
        network, info = load_model(model_path(run))
        return Teacher(network.to(context.runtime.device), info).shown(views_of(context.config.teacher))

    def _waited_for(self, context: RunContext, student_out: Path, folder: RunFolder) -> Path | None:
        waiting = False
        while True:
            try:
                return self._found_or_trained(context, student_out, folder)
            except BusyError as error:
                if not waiting:
                    context.reporter.info(
                        f"{error.what} It trains the teacher that this run needs, which waits for it."
                    )
                waiting = True
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def _found_or_trained(self, context: RunContext, student_out: Path, folder: RunFolder) -> Path | None:
        """Return the folder of the run that trained this network so; None in a dry run where there is none yet.

        Raises:
            BusyError: in all processes, if another one is training it.
        """
        new, run = distributed.run_on_main(lambda: _look(context, student_out))
        path = new if run is None else run.folder
        refuse_run_over(student_out, model_inputs(f"--teacher {self.spec}, found in", path))
        options = context.options
        if run is None:
            is_lost = options.resume and (student_out / "teacher.json").exists()
            _refuse_lost(student_out, is_lost=distributed.broadcast_object(is_lost))
        record(folder, teacher_run=os.path.relpath(path, student_out))
        if run is not None and run.finished:
            context.reporter.info(f"Teacher: {path}, trained before, with these settings on this data.")
            return path
        context.reporter.info(
            f"Teacher: no finished {self.spec} with these settings on this data under {runs_beside(student_out)}/, so "
            "it is trained first."
        )
        if options.dry_run:
            return None
        run_teacher_training(_training_context(context, path, folder, begun=run is not None))
        return path


def untrained_teacher(context: RunContext) -> Teacher:
    """Return a teacher of random weights in the place of one that is trained later: its steps cost as much."""
    network = build_teacher(context.config.teacher, len(context.data.classes)).to(context.runtime.device)
    teacher = Teacher(network, model_info(context, context.config.teacher, "teacher", steps=0))
    return teacher.shown(views_of(context.config.teacher))


def _teacher_context(context: RunContext, spec: str) -> RunContext:
    """Return the context of a teacher that is trained on the way to a student: labeled images, its own backbone."""
    config, options, data = context.config.changed(**{"data.unlabeled": []}), context.options, context.data
    backbones = {name.partition("-")[2] or name for name in (config.teacher.network, config.student.network)}
    if options.backbone_weights is not None and len(backbones) > 1:
        context.reporter.warning(f"--backbone-weights are the student's: a {spec} trained on the way starts without.")
        options = replace(options, backbone_weights=None)
    context = replace(context, config=config, options=options)
    if AUXILIARY not in data.splits:
        return context
    # a teacher has no use for images without labels
    labeled = with_auxiliary_split(load_data(config.data.name), config.data, unlabeled=False)
    if AUXILIARY in labeled.splits:  # another set of files than the student's: read again
        return replace(context, data=labeled).with_verified_data()
    return replace(context, data=context.verified_data.view(labeled))


def _look(context: RunContext, student_out: Path) -> tuple[Path, TeacherRun | None]:
    """Return the folder that a new run would have, and the run that trained the teacher, if there is one.

    Raises:
        BusyError: if another process is about to train it.
    """
    runs, stem = runs_beside(student_out), teacher_stem(context.config)
    # the free folder first: a process that begins from here on takes the same, and is then found busy
    new = next_folder(runs, stem)
    for folder in runs.glob(f"{stem}-*"):
        if not (folder / "config.toml").exists():  # nothing says yet what is trained there
            check_free(folder)
    return new, find_teacher(context, student_out)


def _refuse_lost(student_out: Path, *, is_lost: bool) -> None:
    if is_lost:
        raise UsageError(
            f"The teacher of {student_out} is not found: it was trained on the way, and lies neither where it was nor "
            f"under {runs_beside(student_out)}/.",
            "Put its run's folder there again, or start a new run.",
        )


def _training_context(context: RunContext, path: Path, student_folder: RunFolder, *, begun: bool) -> RunContext:
    """Return the context in which a teacher is trained on the way, or goes on, perhaps begun for another student."""
    config, command = context.config, context.resume_command
    options = replace(
        context.options,
        out=path,
        resume=begun,
        overwrite=False,
        # these are the student's
        baseline=None,
        seeds=1,
        init_weights=None,
        teacher="",
        lengthened_from=None,
    )
    if student_folder.writes:  # a signal ends both, and the command that continues them is the student's
        command = resume_or_restart(student_folder, context)
    if begun:
        begun_config = RunConfig.model_validate(read_toml(path / "config.toml"))
        config = begun_config.changed(**{"data.name": config.data.name})
    return replace(context, config=config, options=options, out=path, resume_command=command)
