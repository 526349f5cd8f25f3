"""The composition root: one function per command, from a resolved configuration to what the command returns."""

import json
import os
import platform
import shlex
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
import torch

from segdistill import distributed, report
from segdistill.checkpoint import ModelInfo, load_model, model_path, read_info
from segdistill.config import DataConfig, NetworkConfig, RunConfig
from segdistill.data import AUXILIARY, SPLITS, DataSource, Joined, check_files, image_folder, load_data
from segdistill.engine import probe, resolve_device, resolve_precision
from segdistill.errors import ModelError, UsageError
from segdistill.metrics import Scores
from segdistill.networks import SegNetwork, build_network, load_backbone, network_names
from segdistill.networks._base import count_macs
from segdistill.objectives import Distillation
from segdistill.store import (
    RunFolder,
    check_folder,
    next_folder,
    open_run,
    seal,
    sha256_of,
    verify_file,
    write_atomic,
    write_json,
)
from segdistill.talk import Logged, Silence, Talk, duration
from segdistill.terms import Pair, build_terms, check_terms
from segdistill.training import Job, Workplace, score, train
from segdistill.types import Frozen, Stage

RUNS = Path("runs")


@dataclass(frozen=True)
class Options:
    """What a command was asked for beside the configuration."""

    out: Path | None = None
    device: str = "auto"
    workers: int | None = None
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    pretrained: bool = False
    backbone_weights: Path | None = None
    init_weights: Path | None = None
    baseline: bool = False
    command: tuple[str, ...] = ()
    """The command line, without the program's name."""
    again: str = ""
    """The command that continues this run."""


@dataclass(frozen=True)
class Row:
    """One network in a table of results."""

    name: str
    network: str
    scores: Scores
    best: float | None
    """mIoU of the best checkpoint, beside that of the last step."""
    parameters: int
    macs: int

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return the row in numbers."""
        own = {"network": self.network, "best_miou": self.best, "parameters": self.parameters, "macs": self.macs}
        return own | report.scores_table(self.scores, classes)


@dataclass(frozen=True)
class Outcome:
    """What a training command leaves behind."""

    folder: Path
    results: dict[str, dict[str, Any]]
    """By role (teacher, plain, distilled), as in scores.json."""
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `distill --json` prints."""
        return {"run": str(self.folder), "results": self.results}


@dataclass(frozen=True)
class Setting:
    """What every training command starts from."""

    config: RunConfig
    options: Options
    data: DataSource
    place: Workplace


def train_teacher(config: RunConfig, options: Options, talk: Talk) -> Outcome:
    """Train the configuration's teacher network on its own."""
    with prepared(config, options, talk) as setting:
        out = options.out or distributed.same_for_all(
            next_folder(RUNS, f"train-teacher-{config.preset}-{config.teacher.network}")
        )
        _start(setting, config.teacher)  # weights that do not fit are told before there is a folder
        return _finished(setting, out) or _teacher_run(replace(setting, options=with_out(options, out)), out)


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
        given = _given_teacher(setting, teacher) if is_path(teacher) else None
        if finished := _finished(setting, out, given and given[1]):
            return finished
        setting = replace(setting, options=with_out(options, out))
        with run_folder(setting, out, "student") as folder:
            network, info = given or _obtain_teacher(setting, teacher)
            if folder is not None:
                _refuse_other_teacher(folder.path, info)
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
                        _finish(place, part, [row])
            if folder is not None:
                report.draw_comparison(folder / "picture.png", networks, setting.data, config.data.size)
                _finish(folder, setting, rows)
            return _outcome(setting, out, rows)


@contextmanager
def prepared(config: RunConfig, options: Options, talk: Talk) -> Iterator[Setting]:
    """Check everything that can be checked before networks are built: flags, device, terms, data."""
    if options.resume and options.overwrite:
        raise UsageError("--resume continues a run, --overwrite replaces it: give one of them.")
    if options.resume and options.out is None:
        raise UsageError("Which run is to be continued?", "Add --out DIR, the folder that the run named at its start.")
    if options.out is not None and not options.dry_run and distributed.is_main():
        check_folder(options.out, resume=options.resume, overwrite=options.overwrite)
    device = distributed.local_device(resolve_device(options.device))
    precision = resolve_precision(config.precision, device)
    check_terms(config.terms)
    with distributed.process_group(device):
        talk = talk if distributed.is_main() else Silence()
        workers = options.workers if options.workers is not None else default_workers()
        place = Workplace(device, precision, workers, talk)
        data = with_auxiliary(load_data(config.data.name), config.data)
        for warning in data.warnings:
            talk.warn(warning)
        _check_batch(config, device)
        if distributed.is_main():
            for warning in check_files(data, [name for name in data.splits if name != "test"]).warnings:
                talk.warn(warning)
        yield Setting(config, options, data, place)


def with_auxiliary(data: DataSource, config: DataConfig) -> DataSource:
    """Return the data with its unlabelled and auxiliary images as a split of their own, which batches mix in."""
    extra = [data.split(name) for name in config.auxiliary] + [image_folder(path) for path in config.unlabeled]
    splits = {name: split for name, split in data.splits.items() if name in SPLITS}
    return replace(data, splits=splits | ({AUXILIARY: Joined(tuple(extra))} if extra else {}))


def default_workers() -> int:
    """Return the number of loader processes per training process: one for each core but one, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // distributed.world_size() - 1))


@contextmanager
def run_folder(setting: Setting, path: Path, kind: str) -> Iterator[RunFolder | None]:
    """Open a run's folder in the first process, refuse changed settings on resume, and write what the run is."""
    options = setting.options
    if options.dry_run or not distributed.is_main():
        yield None
        return
    inner = kind == "baseline"
    resume = options.resume and (not inner or (path / "config.toml").exists())
    with open_run(path, resume=resume, overwrite=options.overwrite) as folder:
        settings = folder_config(setting)
        if resume:
            _refuse_changes(path, settings, setting.data)
        else:
            write_json(folder / "data.json", _describe_data(setting.data))
            write_json(folder / "environment.json", {"kind": kind, **environment(setting)})
            write_atomic(folder / "config.toml", tomli_w.dumps(settings))
        yield folder


def folder_config(setting: Setting) -> dict[str, Any]:
    """Return the resolved configuration as a run's folder keeps it: data sets and folders by name, without paths."""
    folders = [Path(path).name for path in setting.config.data.unlabeled]
    return setting.config.changed(**{"data.name": setting.data.name, "data.unlabeled": folders}).to_dict()


def environment(setting: Setting) -> dict[str, Any]:
    """Return versions, hardware and the pretrained weights used; no paths, no names."""
    place = setting.place
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else cpu_name(),
        "precision": place.precision.name,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "weights": weights_used(setting.options),
    }


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    names = ("segdistill", "torch", "torchvision", "albumentations", "opencv-python-headless", "onnx", "onnxruntime")
    return {name: metadata.version(name) for name in names}


def cpu_name() -> str:
    """Return what the processor calls itself."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())


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
            _finish(folder, setting, rows)
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
        setting = replace(setting, place=replace(setting.place, talk=Logged(setting.place.talk, _log_of(folder))))
    place = setting.place
    if distributed.same_for_all(setting.options.resume and (path / "model.safetensors").exists()):
        network, info = load_model(path / "model.safetensors")
        job.network.load_state_dict(network.state_dict())
        place.talk.say(f"{name}: already trained")
        return _row(name, job.network, info, _score(setting, job.network, info), setting)
    banner(setting, job, path, name)
    if setting.options.dry_run:
        return None
    scores = train(job, folder, place, resume=setting.options.resume, command=setting.options.again)
    info = job.info if folder is None else read_info(path / "model.safetensors")
    return _row(name, job.network, info, scores, setting)


def _log_of(folder: RunFolder) -> Callable[[str], None]:
    """Return what appends a line with the time to the run's log, where the run's folder is a dot."""

    def write(text: str) -> None:
        line = text.replace(str(folder.path), ".")
        folder.append("train.log", f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}")

    return write


def banner(setting: Setting, job: Job, path: Path, name: str) -> None:
    """Say what will happen: data, networks, device, time, and how to continue."""
    place, config, data = setting.place, job.config, setting.data
    images_here = config.data.batch_size // distributed.world_size()
    found = probe(job.stage, config.data.crop, len(data.classes), images_here, place.precision)
    optim, crop = job.stage.optim, config.data.crop
    images = {split: len(data.split(split).names) for split in ("train", "val")}
    epochs = optim.steps * config.data.batch_size / max(images["train"], 1)
    size = "" if config.data.size is None else f" of images at {_size(config.data.size)}"
    cpu = place.device.type == "cpu"
    device = f"cpu ({cpu_name()})" if cpu else f"{place.device} ({torch.cuda.get_device_name(place.device)})"
    rows = [
        (
            "data",
            f"{data.name}: {images['train']} training and {images['val']} validation images, "
            f"{len(data.classes)} classes",
        ),
        ("crops", f"{_size(crop)}{size}, {config.data.batch_size} per step, {optim.steps} steps ({epochs:.1f} epochs)"),
        ("network", f"{describe(job.network, crop)} at a crop, output stride {job.info.network.output_stride}"),
    ]
    if isinstance(job.stage.objective, Distillation) and job.stage.objective.teacher is not None:
        teacher, weights = job.stage.objective.teacher.network, job.stage.objective.weights
        assert job.info.teacher is not None
        assert isinstance(teacher, SegNetwork)
        rows.append(("teacher", f"{job.info.teacher.network}: {describe(teacher, crop)}"))
        rows.append(("terms", ", ".join(f"{term} {weight:g}" for term, weight in weights.items())))
    processes = distributed.world_size()
    rows += [
        ("device", f"{device}, {place.precision.name}, {place.workers} loader worker(s), {processes} process(es)"),
        ("estimate", f"{duration(found.seconds * optim.steps)} plus validation, {found.peak_bytes / 2**30:.1f} GiB"),
    ]
    if not setting.options.dry_run:
        rows += [("run", str(path)), ("resume", setting.options.again)]
    place.talk.banner(f"{name}: {job.info.network.network}", rows)


def describe(network: SegNetwork, size: tuple[int, int]) -> str:
    """Return parameters, MACs and FLOPs in words."""
    macs = count_macs(network, size)
    return f"{parameters(network) / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMACs ({2 * macs / 1e9:.2f} GFLOPs)"


def parameters(network: SegNetwork) -> int:
    """Return the number of parameters that are shipped: without the auxiliary head."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("aux"))


def with_out(options: Options, out: Path) -> Options:
    """Return options that know the run's folder and the command that continues it."""
    words = [word for word in options.command if word not in ("--resume", "--overwrite")]
    words += [] if any(word == "--out" or word.startswith("--out=") for word in words) else ["--out", str(out)]
    return replace(options, out=out, again=options.again or shlex.join(["segdistill", *words, "--resume"]))


def find_teacher(setting: Setting) -> tuple[Path, bool] | None:
    """Return the newest teacher run under `runs/` with this recipe on this data, and whether it is finished."""
    wanted, data = teacher_recipe(setting.config.to_dict(), setting.options), _describe_data(setting.data)
    found = []
    for file in RUNS.glob("*/config.toml"):
        folder = file.parent
        try:
            kind = json.loads((folder / "environment.json").read_text())
            own = teacher_recipe(tomllib.loads(file.read_text()), setting.options) | {"weights": kind["weights"]}
            same = (
                kind["kind"] == "teacher" and own == wanted and json.loads((folder / "data.json").read_text()) == data
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same:
            finished = (folder / "manifest.json").exists()
            found.append((finished, file.stat().st_mtime, folder))
    if not found:
        return None
    finished, _, folder = max(found)
    return folder, finished


def teacher_recipe(table: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return all of a configuration that a teacher's weights depend on."""
    config = RunConfig.model_validate(table)
    data = config.data.model_dump(exclude={"name", "unlabeled", "auxiliary", "auxiliary_share"})
    teacher = config.teacher.model_dump(exclude={"steps", "lr"})
    recipe = {"teacher": teacher, "data": data, "optim": config.teacher_optim().model_dump()}
    return recipe | {
        "aux": config.aux_weight,
        "seed": config.seed,
        "precision": config.precision,
        "weights": weights_used(options),
    }


def weights_used(options: Options) -> str:
    """Return which weights a backbone starts from: none, ImageNet's, or a file's sha256."""
    if options.backbone_weights is not None:
        return sha256_of(options.backbone_weights)
    return "imagenet" if options.pretrained else "none"


def _given_teacher(setting: Setting, text: str) -> tuple[SegNetwork, ModelInfo]:
    """Load the teacher from a path, before anything is written."""
    network, info = load_model(model_path(Path(text)))
    _check_classes(info.classes, setting.data)
    return network.to(setting.place.device), info


def _obtain_teacher(setting: Setting, text: str) -> tuple[SegNetwork, ModelInfo]:
    """Find the run that trained this network so, or train it."""
    talk, options = setting.place.talk, setting.options
    labelled = setting.config.changed(**{"data.unlabeled": [], "data.auxiliary": []})
    setting = replace(setting, config=labelled, data=with_auxiliary(setting.data, labelled.data))
    found = distributed.same_for_all(find_teacher(setting))
    path, finished = found or (
        next_folder(RUNS, f"train-teacher-{setting.config.preset}-{setting.config.teacher.network}"),
        False,
    )
    path = distributed.same_for_all(path)
    if finished:
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


def list_networks(size: tuple[int, int], num_classes: int) -> list[dict[str, Any]]:
    """Return name, parameters, MACs and FLOPs of every network, at output stride 8 without auxiliary head."""
    entries = []
    for name in network_names():
        network = build_network(NetworkConfig(network=name, aux=False), num_classes)
        macs = count_macs(network, size)
        entries.append({"name": name, "parameters": parameters(network), "macs": macs, "flops": 2 * macs})
    return entries


def is_path(text: str) -> bool:
    """Whether a teacher is given as a run's folder or a file, not by its network's name."""
    return Path(text).exists() or "/" in text or text.endswith((".safetensors", ".onnx"))


def _check_classes(classes: tuple[str, ...], data: DataSource) -> None:
    if classes != data.classes:
        raise UsageError(
            f"The teacher's classes are not those of {data.name}.\n"
            f"  teacher ({len(classes)}): {', '.join(classes)}\n"
            f"  {data.name} ({len(data.classes)}): {', '.join(data.classes)}",
            "Train a teacher on this data (`segdistill train-teacher`), or give the data it was trained on.",
        )


def _check_batch(config: RunConfig, device: torch.device) -> None:
    """Refuse a batch that batch norm cannot take: one value per channel in the pyramid's 1x1 bin."""
    world = distributed.world_size()
    parts = world * config.optim.accumulate
    if config.data.batch_size % parts:
        raise UsageError(
            f"A batch of {config.data.batch_size} does not divide into {world} process(es) times "
            f"{config.optim.accumulate} micro-batch(es).",
            "Choose data.batch_size as a multiple of their product.",
        )
    together = 1 if device.type == "cpu" else world  # batch norm is synchronised across GPUs
    if config.data.batch_size // parts * together < 2:
        raise UsageError(
            "Batch norm needs at least 2 images at a time; this run would give it 1.",
            "Raise data.batch_size, or lower optim.accumulate or the number of processes.",
        )


def _refuse_other_teacher(folder: Path, info: ModelInfo) -> None:
    path = folder / "teacher.json"
    if path.exists() and (before := json.loads(path.read_text())["sha256"]) != info.sha256:
        raise UsageError(
            f"The teacher has changed since this run began: its weights had the sha256 {before}, now {info.sha256}.",
            "Give the same teacher, or start a new run.",
        )


def _refuse_changes(folder: Path, settings: dict[str, Any], data: DataSource) -> None:
    try:
        before = _flat(tomllib.loads((folder / "config.toml").read_text(encoding="utf-8")))
        data_before = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The run in {folder} cannot be continued: {error}", "Start a new one.") from None
    now = _flat(settings)
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {before.get(key)} -> {now.get(key)}" for key in changed)
        raise UsageError(
            f"--resume continues the same run, but these settings differ:\n{lines}",
            "Start a new run with another --out.",
        )
    if data_before != _describe_data(data):
        raise UsageError(
            "The data set has changed since this run began.", "Restore it, or start a new run with another --out."
        )


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _describe_data(data: DataSource) -> dict[str, Any]:
    counts = {name: len(split.names) for name, split in data.splits.items()}
    return {"name": data.name, "classes": list(data.classes), "images": counts, "sha256": data.fingerprint}


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


def _score(setting: Setting, network: SegNetwork, info: ModelInfo) -> Scores:
    return score(network, setting.data, info.size, setting.place, setting.place.exact())


def _row(name: str, network: SegNetwork, info: ModelInfo, scores: Scores, setting: Setting) -> Row:
    macs = count_macs(network, setting.config.data.crop)
    return Row(name, info.network.network, scores, info.metrics.get("best_miou"), parameters(network), macs)


def _outcome(setting: Setting, path: Path, rows: list[Row]) -> Outcome:
    return Outcome(path, _results(setting, rows), setting.options.dry_run)


def _results(setting: Setting, rows: list[Row]) -> dict[str, dict[str, Any]]:
    return {row.name: row.to_json(setting.data.classes) for row in rows}


def _finished(setting: Setting, path: Path, teacher: ModelInfo | None = None) -> Outcome | None:
    """Return the results of a run that has come to its end, if that is what `--resume` was given; write nothing."""
    options = setting.options
    wanted = [path, path / "baseline"] if options.baseline else [path]
    if not options.resume or not all((folder / "manifest.json").exists() for folder in wanted):
        return None
    _refuse_changes(path, folder_config(setting), setting.data)
    if teacher is not None:
        _refuse_other_teacher(path, teacher)
    verify_file(path, "scores.json")
    setting.place.talk.say(f"Already finished: {path}")
    return Outcome(path, json.loads((path / "scores.json").read_text(encoding="utf-8")))


def _finish(folder: RunFolder, setting: Setting, rows: list[Row]) -> None:
    """Write the scores, the card and the curves, then the manifest: the run is finished."""
    write_json(folder / "scores.json", _results(setting, rows))
    info = read_info(folder / "model.safetensors")
    report.draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    write_atomic(
        folder / "README.md", report.model_card(info, [(r.name, r.network, r.scores, r.parameters) for r in rows])
    )
    seal(folder.path)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
