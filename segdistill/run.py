"""The composition root: one function per training command, from a resolved configuration to what it returns."""

import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from segdistill import distributed, pictures, preparations
from segdistill.banner import banner
from segdistill.checkpoint import ModelInfo, identity, load_model, model_path, read_info
from segdistill.class_map import Mapped
from segdistill.comparison import Verdict, compare
from segdistill.config import NetworkConfig, RunConfig, TeacherConfig, read_toml, validated
from segdistill.data import AUXILIARY, load_data, mixture
from segdistill.engine import fit, skipped_in
from segdistill.errors import BusyError, CheckError, ModelError, UsageError
from segdistill.first_step import pulls
from segdistill.foreign import file_named, is_foreign, uri
from segdistill.inputs import Input, data_inputs, model_inputs, refuse_run_over
from segdistill.label_codes import build_teacher, check_kind, freeze
from segdistill.metrics import Scores
from segdistill.networks import SegNetwork, build_network, load_backbone, resolve
from segdistill.networks._base import count_parameters, countable_macs
from segdistill.objectives import Distillation, LabelAssisted
from segdistill.record import (
    Outcome,
    Row,
    continued_by,
    described,
    finish,
    finished,
    has_passed,
    log_of,
    note,
    note_passed,
    refuse_other_teacher,
    results,
    run_folder,
    versions,
    write_teacher,
)
from segdistill.setting import Options, Setting, prepared, with_files_read, with_out
from segdistill.store import RunFolder, check_free, next_folder
from segdistill.talk import Logged, Talk, duration
from segdistill.teacher_check import check_teacher, other_sizes
from segdistill.teachers import RUNS, adopted, find_teacher, is_given, open_teacher, runs_beside
from segdistill.terms import Pair, build_terms
from segdistill.training import (
    Job,
    Preparation,
    load_last,
    prepare,
    rehearse_validation,
    score,
    stage_reached,
    train,
    training_stream,
)
from segdistill.types import Objective, Stage, Term

OVERWHELMING = 20
"""How many times cross entropy's gradient a term's may have at the first step before it is worth a warning."""
WARM_UP, TIMED = 3, 9
"""Steps before and in a measurement of a step's time."""
WAIT = 5.0
"""Seconds between two looks whether another process has trained a teacher."""


def train_teacher(config: RunConfig, options: Options, talk: Talk) -> Outcome:
    """Train the configuration's teacher network on its own."""
    _check_unmapped(config)
    with prepared(config, options, talk, unlabeled=False) as setting:
        out = options.out or distributed.same_for_all(next_folder(RUNS, _teacher_stem(config)))
        _refuse_overlap(setting, out, [])
        _start(setting, config.teacher)  # weights that do not fit are told before there is a folder
        setting = with_files_read(setting)
        return finished(setting, out, "teacher") or _teacher_run(replace(setting, options=with_out(options, out)), out)


def distill(config: RunConfig, teacher: str, options: Options, talk: Talk) -> Outcome:
    """Distil a student, after training what is missing, and with `options.baseline` its plain twin.

    Args:
        config: resolved; `config.student` is the student.
        teacher: a run's folder, a model file, SCHEME:WHERE of one from elsewhere, or the network in `config.teacher`,
            found or trained first.
        options: the rest of the command line.
        talk: where to talk.
    """
    opened = open_teacher(teacher, config, options, talk) if is_given(teacher) else None
    if opened is None:
        _check_unmapped(config)
    else:
        check_kind(opened[1], config)
    config = _with_start(config, options.init_weights)
    with prepared(config, options, talk, unlabeled=True) as setting:
        out = options.out or distributed.same_for_all(
            next_folder(RUNS, f"distill-{config.preset}-{config.student.network}")
        )
        _refuse_overlap(setting, out, _teacher_files(teacher))
        if opened is None:  # it may be trained on the way
            _refuse_overlap(setting, runs_beside(out) / _teacher_stem(config), [])
        # what does not fit, weights here and terms below, is told before there is a folder
        student = _start(setting, config.student, options.init_weights)
        given = None
        if opened is not None:
            config, given = adopted(setting, *opened)
            if options.resume:
                refuse_other_teacher(out, given[1], config.teacher.class_map)
        setting = replace(setting, config=config, options=with_out(options, out))
        if given is not None:
            _distillation(setting, student, given)
        if config.teacher.label_codes is not None and (config.data.unlabeled or config.data.labeled < 1):
            setting.place.talk.warn("A label-assisted teacher has nothing to say of images without labels.")
        setting = with_files_read(setting)
        if outcome := finished(setting, out, "student"):
            return outcome
        class_map = config.teacher.class_map
        checked = None if given is None else _check_teacher(setting, out, *given)
        with run_folder(setting, out, "student") as folder:
            network, info = given or _obtain_teacher(setting, teacher, folder, out)
            if folder is not None:
                refuse_other_teacher(folder.path, info, class_map)
            if given is None:
                checked = _check_teacher(_logged(setting, folder), out, network, info)
            if folder is not None:
                write_teacher(folder, info, class_map)
                if checked is not None:
                    note_passed(folder, "teacher", identity(info, class_map), overruled=checked)
            rows = []
            if options.dry_run:
                rehearse_validation(network, info, setting.data, setting.place)
            else:
                rows.append(_row("teacher", network, info, _score(setting, network, info), setting))
            networks: dict[str, SegNetwork] = {"teacher": network}
            for seed in range(config.seed, config.seed + options.seeds):
                first = seed == config.seed
                part = replace(setting, config=config.changed(seed=seed))
                path = out if first else out / f"seed-{seed}"
                with nullcontext(folder) if first else run_folder(part, path, "seed") as inner:
                    if inner is not None and not first:
                        write_teacher(inner, info, class_map)
                    students, own = _twins(part, inner, path, (network, info))
                    if inner is not None and not first:
                        finish(inner, part, own)
                networks = networks | (students if first else {})
                rows += own if first else [replace(row, name=f"{row.name}, seed {seed}") for row in own]
            gain = _verdict(rows, options)
            if folder is not None:
                if info.label_assisted:
                    del networks["teacher"]  # it would need the labels of the pictured images
                pictures.draw_comparison(folder / "picture.png", networks, setting.data, config.data.size)
                finish(folder, setting, rows, gain)
            return _outcome(setting, out, rows, gain)


def _check_teacher(setting: Setting, out: Path, network: SegNetwork, info: ModelInfo) -> bool | None:
    """Say what a look at a few validation images tells of the teacher, and refuse one that would mislead.

    Args:
        setting: of the distillation.
        out: the run's folder: a resumed run whose teacher has passed there is not asked again.
        network: the teacher.
        info: the header of its file.

    Returns:
        Whether the check was overruled; None where it was not asked.

    Raises:
        CheckError: unless it is accepted all the same.
    """
    place = setting.place
    if not info.sha256:
        place.talk.say("The teacher is not trained yet, so it cannot be checked.")
        return None
    if _has_passed(setting, out, "teacher", identity(info, setting.config.teacher.class_map)):
        return None
    found = check_teacher(network, info, setting.data, place.exact()) if distributed.is_main() else None
    found = distributed.same_for_all(found)
    place.talk.banner(f"check: teacher {info.network.network}", found.rows())
    for difference in other_sizes(network, info, setting.config.data):
        place.talk.warn(difference)
    if not found.problems:
        return False
    if setting.options.accept_teacher:
        place.talk.warn("This teacher would mislead a student: " + " ".join(found.problems))
        return True
    raise CheckError(
        "This teacher would mislead a student:\n" + "\n".join(f"  {problem}" for problem in found.problems),
        "Import or train it again so that this is gone; --accept-teacher follows it as it is.",
    )


def _has_passed(setting: Setting, path: Path, check: str, of: str) -> bool:
    """Whether a run that is resumed has passed a check before; what it was stopped in front of is asked again."""
    options = setting.options
    passed: bool = distributed.same_for_all(
        options.resume and has_passed(path, check, of, accepted=options.accept_teacher)
    )
    return passed


def _refuse_overlap(setting: Setting, out: Path, inputs: list[Input]) -> None:
    """Refuse a new run whose folder is, or would replace, something that it reads."""
    options, data = setting.options, setting.config.data
    if options.resume:  # nothing is replaced; what may not change is compared
        return
    inputs = [*inputs, *(Input(what, path) for what, path in options.files)]
    if options.backbone_weights is not None:
        inputs.append(Input("--backbone-weights", options.backbone_weights))
    if options.init_weights is not None:
        inputs += model_inputs("--init-weights", options.init_weights)
    inputs += [Input("--unlabeled", Path(folder), images=True) for folder in data.unlabeled]
    refuse_run_over(out, [*inputs, *data_inputs(setting.data, data.name)])


def _teacher_files(text: str) -> list[Input]:
    """Return what is read of a teacher that is given ready-made."""
    if not is_given(text):
        return []
    place = uri(text)
    if place is None:
        return model_inputs("--teacher", Path(text))
    file = file_named(*place)
    return [] if file is None else [Input("--teacher", file, run=file.is_dir())]


def _check_unmapped(config: RunConfig) -> None:
    """Refuse a class map for a teacher that is trained on the data's own classes."""
    if config.teacher.class_map is not None:
        raise UsageError(
            "A class map is for a teacher that is given: one that is trained here has the data's classes.",
            "Leave out --class-map and [teacher.class_map], or give --teacher as a file, a folder or SCHEME:WHERE.",
        )


def _with_start(config: RunConfig, init_weights: Path | None) -> RunConfig:
    """Return a configuration whose student, where it says nothing else, takes images as the weights it starts from."""
    if init_weights is None:
        return config
    own = read_info(model_path(init_weights)).network.model_dump(include={"input", "align_corners"})
    return config.changed(**{f"student.{key}": own[key] for key in own if getattr(config.student, key) is None})


def _verdict(rows: list[Row], options: Options) -> Verdict | None:
    """Compare the distilled students with their plain twins."""
    if options.baseline is None or options.dry_run:
        return None
    plain, distilled = ([row for row in rows if row.name.startswith(name)] for name in ("plain", "distilled"))
    budget = "at the same steps"
    if options.baseline == "time":
        first, second = (sum(row.seconds for row in own) for own in (plain, distilled))
        budget = f"in the same training time ({duration(first)} plain, {duration(second)} distilled)"
    return compare([row.scores for row in plain], [row.scores for row in distilled], budget)


def _twins(
    setting: Setting, folder: RunFolder | None, path: Path, teacher: tuple[SegNetwork, ModelInfo]
) -> tuple[dict[str, SegNetwork], list[Row]]:
    """Train the distilled student and, where asked for, the plain one, for as many steps or for as long."""
    options = setting.options
    networks: dict[str, SegNetwork] = {}
    rows: list[Row] = []

    def plain(steps: int) -> None:
        part = replace(setting, config=setting.config.changed(terms={}, **{"optim.steps": steps}))
        with run_folder(part, path / "baseline", "baseline") as inner:
            networks["plain"], row = _student_run(part, inner, path / "baseline", teacher, "plain")
            rows.extend([] if row is None else [row])
            if inner is not None and row is not None:
                finish(inner, part, [row])

    # first the student that has checks: what they refuse takes no time and replaces nothing
    networks["distilled"], row = _student_run(setting, folder, path, teacher, "distilled")
    rows += [] if row is None else [row]
    if options.baseline == "steps":
        plain(setting.config.optim.steps)
    if options.baseline == "time":
        plain(_steps_in_time(setting, path, row))
    return networks, sorted(rows, key=lambda row: row.name, reverse=True)


def _steps_in_time(setting: Setting, path: Path, row: Row | None) -> int:
    """Return how many steps the plain student has in the time that the distilled one took, preparations included.

    Both are measured: the distilled student's time at work in its training (`StepClock`: no validation, checkpoints or
    stalls), and a plain step as the median of a few real ones beforehand.
    """
    settled = path / "baseline" / "config.toml"
    if setting.options.resume and settled.exists():
        try:
            return validated(RunConfig, read_toml(settled), str(settled)).optim.steps
        except UsageError as error:
            raise ModelError(f"{settled.parent} cannot be continued: {error.what}", "Start a new run.") from None
    if row is None:  # a dry run
        return setting.config.optim.steps
    if row.training_seconds is None:
        raise ModelError(f"{path} does not say how long its student was trained.", "Start a new run.")
    steps: int = distributed.same_for_all(max(1, round(row.seconds / _plain_step(setting))))
    return steps


def _plain_step(setting: Setting) -> float:
    """Return the median seconds of a few steps of the plain student, with loader and optimiser."""
    config, place = setting.config, setting.place
    student, steps = _start(setting, config.student, setting.options.init_weights), WARM_UP + TIMED
    optim = config.optim.model_copy(update={"steps": steps})
    stage = Stage("timing", student, Distillation(config.aux_weight), optim)
    times = [time.perf_counter()]
    fit(
        stage,
        training_stream(Preparation(stage, config, setting.data), place),
        precision=place.precision,
        seed=config.seed,
        on_step=lambda report: times.append(time.perf_counter()),
    )
    return statistics.median(after - before for before, after in pairwise(times[WARM_UP:]))


def _teacher_run(setting: Setting, path: Path) -> Outcome:
    config, talk = setting.config, setting.place.talk
    with run_folder(setting, path, "teacher") as folder:
        network = _start(setting, config.teacher)
        codes, aux_weight = config.teacher.label_codes, config.teacher_aux_weight()
        objective: Objective = Distillation(aux_weight)
        if codes is not None:
            objective = LabelAssisted(aux_weight, codes, len(setting.data.classes))
        stage = Stage("teacher", network, objective, config.teacher_optim())
        info = _info(setting, config.teacher, "teacher", stage.optim.steps)
        job = Job(stage, network, info, config, setting.data)
        row = _run(setting, job, folder, path, "teacher")
        rows = [] if row is None else [row]
        if folder is not None:
            finish(folder, setting, rows)
            talk.say(f"Teacher: {path}")
        return _outcome(setting, path, rows)


def _student_run(
    setting: Setting, folder: RunFolder | None, path: Path, teacher: tuple[SegNetwork, ModelInfo], name: str
) -> tuple[SegNetwork, Row | None]:
    config = setting.config
    student = _start(setting, config.student, setting.options.init_weights)
    objective = _distillation(setting, student, teacher)
    stage = Stage("student", student, objective, config.optim)
    info = _info(setting, config.student, "student", stage.optim.steps)
    info = info.model_copy(update={"terms": tuple(objective.weights)})
    # export times a teacher that it can build, and that runs on images alone
    if not teacher[1].label_assisted and not is_foreign(teacher[1].network.network):
        info = info.model_copy(update={"teacher": teacher[1].network})
    job = Job(stage, student, info, config, setting.data)

    def before(part: Setting) -> None:
        _prepare(part, folder, path, objective, teacher)

    def check(part: Setting) -> None:
        _check_first_step(part, folder, path, job, teacher[1])

    return student, _run(setting, job, folder, path, name, before, check)


def _distillation(setting: Setting, student: SegNetwork, teacher: tuple[SegNetwork, ModelInfo]) -> Distillation:
    config = setting.config
    lacking = len(teacher[0].meaning.lacking) if isinstance(teacher[0], Mapped) else 0
    terms = build_terms(config.terms, Pair(student, teacher[0], len(setting.data.classes), lacking))
    return Distillation(config.aux_weight, freeze(*teacher) if terms else None, terms)


def _prepare(
    setting: Setting,
    folder: RunFolder | None,
    path: Path,
    objective: Distillation,
    teacher: tuple[SegNetwork, ModelInfo],
) -> None:
    """Train or find what the terms need beforehand, and keep it in the run's folder; a dry run goes without."""
    place, options = setting.place, setting.options
    reached = None if folder is None or not options.resume else stage_reached(folder)
    reached = distributed.same_for_all(reached)
    settled = reached is not None  # what comes before the stage that was reached
    for term in objective.terms.values():
        assert isinstance(term, Term)
        torch.manual_seed(setting.config.seed)
        for stage in term.before(objective.teacher or teacher[0]):
            if options.dry_run:
                place.talk.say(f"{stage.name}: would be trained first, {stage.optim.steps} steps, unless found.")
                continue
            key = preparations.key_of(setting, stage, teacher[1])
            settled, runs = settled and reached != stage.name, [path]
            if reached != stage.name and not settled:
                runs += [path.parent, *sorted(RUNS.glob("*/")), *sorted(path.parent.glob("*/"))]
            # the run's own may have been trained in another precision, which was told
            found = distributed.same_for_all(preparations.find(stage, None if settled else key, runs))
            if found is None and settled:
                raise ModelError(
                    f"{path / stage.name}.safetensors is gone or damaged, and the run has gone on with it.",
                    "Restore it, or start a new run.",
                )
            if found is None:
                place.talk.say(f"{stage.name}: trained first, {stage.optim.steps} steps, and kept for this teacher.")
                job = Preparation(stage, setting.config, setting.data)
                took = prepare(job, folder, place, resume=options.resume, command=options.again)
            else:
                took = preparations.load(found, stage)
                place.talk.say(f"{stage.name}: that of {found.parent.name}, trained before for this teacher.")
            if folder is not None and found != folder / f"{stage.name}.safetensors":
                preparations.keep(folder / f"{stage.name}.safetensors", stage, key, took)


def _run(
    setting: Setting,
    job: Job,
    folder: RunFolder | None,
    path: Path,
    name: str,
    before: Callable[[Setting], None] = lambda setting: None,
    check: Callable[[Setting], None] = lambda setting: None,
) -> Row | None:
    """Show the banner, check, then train; a network that is already trained is only scored."""
    setting = _logged(setting, folder)
    place, options = setting.place, setting.options
    if distributed.same_for_all(options.resume and (path / "model.safetensors").exists()):
        network, info = load_model(path / "model.safetensors")
        job.network.load_state_dict(network.state_dict())
        place.talk.say(f"{name}: already trained")
        state = None if folder is None else load_last(folder, place.talk)
        if folder is not None and state is not None:
            folder.truncate_lines("metrics.jsonl", state["lines"], state.get("lines_sha256"))
        seconds = distributed.same_for_all(None if state is None else state["seconds"])
        skipped = distributed.same_for_all(0 if state is None else skipped_in(state["training"]))
        return _row(name, job.network, info, _score(setting, job.network, info), setting, path, seconds, skipped)
    before(setting)
    banner(setting, job, path, name)
    check(setting)
    if options.dry_run:
        return None
    trained = train(job, folder, place, resume=options.resume, command=options.again)
    info = job.info if folder is None else read_info(path / "model.safetensors")
    return _row(name, job.network, info, trained.scores, setting, path, trained.seconds, trained.skipped)


def _logged(setting: Setting, folder: RunFolder | None) -> Setting:
    """Return a setting whose talk is also written to the run's log."""
    if folder is None:
        return setting
    return replace(setting, place=replace(setting.place, talk=Logged(setting.place.talk, log_of(folder))))


def _check_first_step(setting: Setting, folder: RunFolder | None, path: Path, job: Job, teacher: ModelInfo) -> None:
    """Check a distillation's first step, unless a resumed run has passed that with this teacher and these terms."""
    assert isinstance(job.stage.objective, Distillation)
    if not job.stage.objective.weights:
        return
    config = setting.config.to_dict()
    of = [identity(teacher, setting.config.teacher.class_map), config["terms"], config["student"], config["seed"]]
    own = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    if _has_passed(setting, path, "first step", own):
        return
    _show_first_step(setting, job)
    if folder is not None:
        note_passed(folder, "first step", own, overruled=False)


def _show_first_step(setting: Setting, job: Job) -> None:
    """Say what each term of a distillation compares and how hard it pulls, beside cross entropy."""
    place = replace(setting.place, workers=0)
    found = pulls(job.stage, next(training_stream(job, place)), place.precision)
    rows = [
        (name, f"{pull.value:.3g}, gradient {pull.gradient:.3g}" + (f": {pull.compares}" if pull.compares else ""))
        for name, pull in found.items()
    ]
    place.talk.banner("check: the first step, of two images", rows)
    own = found["cross_entropy"].gradient
    for name, pull in found.items():
        if not math.isfinite(pull.value + pull.gradient):
            raise CheckError(
                f"The first step's {name} is not finite: {pull.value:.3g}, gradient {pull.gradient:.3g}.",
                "Look at what the teacher answers, and at the images.",
            )
        if pull.compares and pull.gradient == 0 and job.config.terms[name].weight > 0:
            place.talk.warn(f"{name} does not pull at the student: its gradient is 0.")
        if pull.compares and pull.gradient > OVERWHELMING * own > 0:
            times = f"{pull.gradient / own:.0f} times"
            place.talk.warn(f"{name} pulls {times} as hard as cross entropy: lower terms.{name}.weight.")


def _obtain_teacher(setting: Setting, text: str, folder: RunFolder | None, out: Path) -> tuple[SegNetwork, ModelInfo]:
    """Find the run that trained this network so, or train it; where another process does so, wait for it.

    Args:
        setting: of the student.
        text: what the teacher was called.
        folder: of the student's run, which keeps where its teacher lies.
        out: the same in all processes.

    Raises:
        UsageError: if it is the one in `out`, the distillation's own folder.
    """
    talk, options = setting.place.talk, setting.options
    labelled = setting.config.changed(**{"data.unlabeled": []})
    names = (labelled.teacher.network, labelled.student.network)
    backbones = {name.partition("-")[2] or name for name in names}
    if options.backbone_weights is not None and len(backbones) > 1:
        talk.warn(f"--backbone-weights are the student's: a {text} trained on the way starts without.")
        options = replace(options, backbone_weights=None)
        setting = replace(setting, options=options)
    data = setting.data
    if AUXILIARY in data.splits:  # a teacher has no use for those without labels
        data = replace(mixture(load_data(labelled.data.name), labelled.data, unlabeled=False), contents=data.contents)
    setting = replace(setting, config=labelled, data=data)
    if AUXILIARY in data.splits:
        setting = with_files_read(setting)
    waiting = False
    while True:
        try:
            path = _teacher_found_or_trained(setting, text, options, folder, out)
            break
        except BusyError as error:
            if not waiting:
                talk.say(f"{error.what} It trains the teacher that this run needs, which waits for it.")
            waiting = True
            time.sleep(WAIT)
    if path is None:
        network = build_teacher(setting.config.teacher, len(setting.data.classes))
        return network, _info(setting, setting.config.teacher, "teacher", 0)
    network, info = load_model(model_path(path))
    return network.to(setting.place.device), info


def _teacher_found_or_trained(
    setting: Setting, text: str, options: Options, folder: RunFolder | None, out: Path
) -> Path | None:
    """Return the folder of the run that trained this network so; None in a dry run where there is none yet.

    Raises:
        BusyError: in all processes, if another one is training it.
    """
    talk, runs = setting.place.talk, runs_beside(out)
    stem = _teacher_stem(setting.config)

    def look() -> tuple[Path, tuple[Path, bool] | None]:
        new = next_folder(runs, stem)  # first: who begins from here on takes the same
        for begun in runs.glob(f"{stem}-*"):
            if not (begun / "config.toml").exists():  # nothing says yet what is trained there
                check_free(begun)
        return new, find_teacher(setting, out)

    new, found = distributed.from_main(look)
    path, trained = found or (new, False)
    refuse_run_over(out, model_inputs(f"--teacher {text}, found in", path))
    if found is None and distributed.same_for_all(options.resume and (out / "teacher.json").exists()):
        raise UsageError(
            f"The teacher of {out} is not found: it was trained on the way, and lies neither where it was nor under "
            f"{runs}/.",
            "Put its run's folder there again, or start a new run.",
        )
    if folder is not None:
        note(folder, teacher_run=os.path.relpath(path, out))
    if trained:
        talk.say(f"Teacher: {path}, trained before, with these settings on this data.")
        return path
    talk.say(f"Teacher: no finished {text} with these settings on this data under {runs}/, so it is trained first.")
    if options.dry_run:
        return None
    own = replace(options, out=path, resume=found is not None, overwrite=False)
    own = replace(own, baseline=None, seeds=1, init_weights=None)  # which are the student's
    if folder is not None:  # a signal ends both, and the command is the student's
        own = replace(own, again=continued_by(folder, options.again))
    if found is not None:  # begun for another student, perhaps
        begun = RunConfig.model_validate(read_toml(path / "config.toml"))
        setting = replace(setting, config=begun.changed(**{"data.name": setting.config.data.name}))
    _teacher_run(replace(setting, options=own), path)
    return path


def _teacher_stem(config: RunConfig) -> str:
    """Return what the folder of a teacher's run is called, but for its number."""
    return f"train-teacher-{config.preset}-{config.teacher.network}"


def _start(setting: Setting, config: NetworkConfig, init_weights: Path | None = None) -> SegNetwork:
    """Build a network with the weights it starts from: drawn from the seed, its backbone's, or those of a model."""
    torch.manual_seed(setting.config.seed)
    classes = len(setting.data.classes)
    network = build_teacher(config, classes) if isinstance(config, TeacherConfig) else build_network(config, classes)
    load_backbone(network, pretrained=setting.options.pretrained, weights_file=setting.options.backbone_weights)
    if init_weights is not None:
        weights, info = load_model(model_path(init_weights))
        try:
            network.load_state_dict(weights.state_dict())
        except RuntimeError as error:
            what = f"--init-weights {init_weights} holds a {info.network.network} that is not this student: {error}"
            raise ModelError(what) from None
    return network


def _info(setting: Setting, network: NetworkConfig, role: Any, steps: int) -> ModelInfo:
    plain = NetworkConfig.model_validate(network.model_dump(include=set(NetworkConfig.model_fields)))
    return ModelInfo(
        network=resolve(plain),
        classes=setting.data.classes,
        palette=setting.data.palette,
        role=role,
        label_codes=network.label_codes if isinstance(network, TeacherConfig) else None,
        size=setting.config.data.size,
        data=setting.data.name,
        preset=setting.config.preset,
        steps=steps,
        versions=versions(),
    )


def _score(setting: Setting, network: SegNetwork, info: ModelInfo) -> Scores:
    return score(network, info, setting.data, setting.place, setting.place.exact())


def _row(
    name: str,
    network: SegNetwork,
    info: ModelInfo,
    scores: Scores,
    setting: Setting,
    path: Path | None = None,
    seconds: float | None = None,
    skipped: int = 0,
) -> Row:
    return Row(
        name,
        info.network.network,
        scores,
        info.metrics.get("best_miou"),
        count_parameters(network) or None,
        countable_macs(network, setting.config.data.crop),
        seconds,
        0.0 if path is None else preparations.seconds_in(path),
        info.label_assisted,
        info.metrics.get("best_classes_scored"),
        skipped,
    )


def _outcome(setting: Setting, path: Path, rows: list[Row], gain: Verdict | None = None) -> Outcome:
    return Outcome(path, results(setting, rows), described(gain) if gain else None, setting.options.dry_run)
