"""The composition root: one function per training command, from a resolved configuration to what it returns."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from segdistill import distributed, report
from segdistill.banner import banner
from segdistill.checkpoint import ModelInfo, load_model, model_path, read_info
from segdistill.config import NetworkConfig, RunConfig
from segdistill.errors import ModelError, UsageError
from segdistill.metrics import Scores
from segdistill.networks import SegNetwork, build_network, load_backbone
from segdistill.networks._base import count_macs, count_parameters
from segdistill.objectives import Distillation
from segdistill.record import (
    Outcome,
    Row,
    finish,
    finished,
    log_of,
    refuse_other_teacher,
    results,
    run_folder,
    versions,
)
from segdistill.setting import Options, Setting, prepared, with_auxiliary, with_out
from segdistill.store import RunFolder, next_folder, write_json
from segdistill.talk import Logged, Talk
from segdistill.teachers import RUNS, find_teacher, given_teacher, is_path
from segdistill.terms import Pair, build_terms
from segdistill.training import Job, score, train
from segdistill.types import Frozen, Stage


def train_teacher(config: RunConfig, options: Options, talk: Talk) -> Outcome:
    """Train the configuration's teacher network on its own."""
    with prepared(config, options, talk) as setting:
        out = options.out or distributed.same_for_all(
            next_folder(RUNS, f"train-teacher-{config.preset}-{config.teacher.network}")
        )
        _start(setting, config.teacher)  # weights that do not fit are told before there is a folder
        return finished(setting, out) or _teacher_run(replace(setting, options=with_out(options, out)), out)


def distill(config: RunConfig, teacher: str, options: Options, talk: Talk) -> Outcome:
    """Distil a student, after training what is missing, and with `options.baseline` its plain twin.

    Args:
        config: resolved; `config.student` is the student.
        teacher: a run's folder, a model file, or the network in `config.teacher`, found or trained first.
        options: the rest of the command line.
        talk: where to talk.
    """
    if is_path(teacher) and model_path(Path(teacher)).suffix == ".onnx":  # told before all images are read
        raise UsageError(f"{teacher} is an exported graph, which cannot teach.", "Give the run's folder it came from.")
    with prepared(config, options, talk) as setting:
        out = options.out or distributed.same_for_all(
            next_folder(RUNS, f"distill-{config.preset}-{config.student.network}")
        )
        _start(setting, config.student, options.init_weights)  # what does not fit is told before there is a folder
        given = given_teacher(setting, teacher) if is_path(teacher) else None
        if outcome := finished(setting, out, given and given[1]):
            return outcome
        setting = replace(setting, options=with_out(options, out))
        with run_folder(setting, out, "student") as folder:
            network, info = given or _obtain_teacher(setting, teacher)
            if folder is not None:
                refuse_other_teacher(folder.path, info)
                teacher_json = {"network": info.network.network, "sha256": info.sha256, "metrics": info.metrics}
                write_json(folder / "teacher.json", teacher_json)
            rows = [] if options.dry_run else [_row("teacher", network, info, _score(setting, network, info), setting)]
            roles = [("plain", out / "baseline", config.changed(terms={}))] if options.baseline else []
            roles.append(("distilled", out, config))
            networks = {"teacher": network}
            for name, path, own in roles:
                part = replace(setting, config=own)
                inner = run_folder(part, path, "baseline") if name == "plain" else nullcontext(folder)
                with inner as place:
                    student, row = _student_run(part, place, path, (network, info), name)
                    networks[name] = student
                    rows += [] if row is None else [row]
                    if name == "plain" and place is not None and row is not None:
                        finish(place, part, [row])
            if folder is not None:
                report.draw_comparison(folder / "picture.png", networks, setting.data, config.data.size)
                finish(folder, setting, rows)
            return _outcome(setting, out, rows)


def _teacher_run(setting: Setting, path: Path) -> Outcome:
    config, talk = setting.config, setting.place.talk
    with run_folder(setting, path, "teacher") as folder:
        network = _start(setting, config.teacher)
        stage = Stage("teacher", network, Distillation(config.aux_weight), config.teacher_optim())
        info = _info(setting, config.teacher, "teacher", stage.optim.steps, network)
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
    terms = build_terms(config.terms, Pair(student, teacher[0], len(setting.data.classes)))
    objective = Distillation(config.aux_weight, Frozen(teacher[0]) if terms else None, terms)
    stage = Stage("student", student, objective, config.optim)
    info = _info(setting, config.student, "student", stage.optim.steps, student)
    info = info.model_copy(update={"teacher": teacher[1].network})
    return student, _run(setting, Job(stage, student, info, config, setting.data), folder, path, name)


def _run(setting: Setting, job: Job, folder: RunFolder | None, path: Path, name: str) -> Row | None:
    """Show the banner, then train; a network that is already trained is only scored."""
    if folder is not None:
        setting = replace(setting, place=replace(setting.place, talk=Logged(setting.place.talk, log_of(folder))))
    place = setting.place
    if distributed.same_for_all(setting.options.resume and (path / "model.safetensors").exists()):
        network, info = load_model(path / "model.safetensors")
        job.network.load_state_dict(network.state_dict())
        place.talk.say(f"{name}: already trained")
        return _row(name, job.network, info, _score(setting, job.network, info), setting)
    banner(setting, job, path, name)
    if setting.options.dry_run:
        return None
    trained = train(job, folder, place, resume=setting.options.resume, command=setting.options.again)
    info = job.info if folder is None else read_info(path / "model.safetensors")
    return _row(name, job.network, info, trained.scores, setting)


def _obtain_teacher(setting: Setting, text: str) -> tuple[SegNetwork, ModelInfo]:
    """Find the run that trained this network so, or train it."""
    talk, options = setting.place.talk, setting.options
    labelled = setting.config.changed(**{"data.unlabeled": [], "data.auxiliary": []})
    setting = replace(setting, config=labelled, data=with_auxiliary(setting.data, labelled.data))
    found = distributed.same_for_all(find_teacher(setting))
    path, trained = found or (
        next_folder(RUNS, f"train-teacher-{setting.config.preset}-{setting.config.teacher.network}"),
        False,
    )
    path = distributed.same_for_all(path)
    if trained:
        talk.say(f"Teacher: {path}, trained before, with these settings on this data.")
    else:
        talk.say(f"Teacher: no finished {text} with these settings on this data under {RUNS}/, so it is trained first.")
        if options.dry_run:
            network = build_network(setting.config.teacher, len(setting.data.classes))
            return network, _info(setting, setting.config.teacher, "teacher", 0, network)
        own = replace(options, out=path, resume=found is not None, overwrite=False)
        _teacher_run(replace(setting, options=own), path)
    network, info = load_model(model_path(path))
    return network.to(setting.place.device), info


def _start(setting: Setting, config: NetworkConfig, init_weights: Path | None = None) -> SegNetwork:
    """Build a network with the weights it starts from: drawn from the seed, its backbone's, or those of a model."""
    torch.manual_seed(setting.config.seed)
    network = build_network(config, len(setting.data.classes))
    load_backbone(network, pretrained=setting.options.pretrained, weights_file=setting.options.backbone_weights)
    if init_weights is not None:
        weights, info = load_model(model_path(init_weights))
        try:
            network.load_state_dict(weights.state_dict())
        except RuntimeError as error:
            what = f"--init-weights {init_weights} holds a {info.network.network} that is not this student: {error}"
            raise ModelError(what) from None
    return network


def _info(setting: Setting, network: NetworkConfig, role: Any, steps: int, built: SegNetwork) -> ModelInfo:
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (built.mean, built.std))
    return ModelInfo(
        network=NetworkConfig.model_validate(network.model_dump(include=set(NetworkConfig.model_fields))),
        classes=setting.data.classes,
        palette=setting.data.palette,
        role=role,
        size=setting.config.data.size,
        mean=mean,
        std=std,
        data=setting.data.name,
        preset=setting.config.preset,
        steps=steps,
        versions=versions(),
    )


def _score(setting: Setting, network: SegNetwork, info: ModelInfo) -> Scores:
    return score(network, setting.data, info.size, setting.place, setting.place.exact())


def _row(name: str, network: SegNetwork, info: ModelInfo, scores: Scores, setting: Setting) -> Row:
    macs = count_macs(network, setting.config.data.crop)
    return Row(name, info.network.network, scores, info.metrics.get("best_miou"), count_parameters(network), macs)


def _outcome(setting: Setting, path: Path, rows: list[Row]) -> Outcome:
    return Outcome(path, results(setting, rows), setting.options.dry_run)
