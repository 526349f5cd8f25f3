"""What is printed before a training begins: data, networks, device, estimates, and how to continue."""

from collections.abc import Iterable

import torch

from segdistill.commands._context import RunContext
from segdistill.commands._estimate import Estimate
from segdistill.data import AUXILIARY
from segdistill.networks import SegNetwork, count_parameters, countable_macs
from segdistill.runtime import distributed
from segdistill.runtime.convolutions import ConvolutionKind
from segdistill.runtime.reporter import Rows, duration
from segdistill.runtime.versions import cpu_name
from segdistill.teachers.selective import Following
from segdistill.teachers.views import views_of
from segdistill.training.jobs import TrainingJob
from segdistill.training.objectives import Distillation
from segdistill.training.probe import peak_bytes
from segdistill.types import Term
from segdistill.wording import counted

MAX_KINDS = 2
"""Kinds of convolutions that are named in a row."""
GIB = 2**30
MAX_SECONDS = 24 * 60 * 60
"""Length of a training beyond which its user is warned."""


def announce(context: RunContext, job: TrainingJob, role: str, estimate: Estimate) -> None:
    """Print what will happen, how long it takes, and the memory that a step or a validation took most of."""
    context.reporter.banner(f"{role}: {job.info.network.network}", summary(context, job, estimate))
    if estimate.seconds > MAX_SECONDS:
        context.reporter.warning(
            f"The training of the {job.stage.name} takes {duration(estimate.seconds)} here: --max-minutes, --epochs or "
            "--image-size shorten it."
        )


def summary(context: RunContext, job: TrainingJob, estimate: Estimate) -> Rows:
    """Return names and values of what will happen.

    Args:
        context: of the run.
        job: what is going to be trained.
        estimate: what it costs.
    """
    config = context.config
    rows = [
        ("data", _data_row(context)),
        ("crops", _crops_row(context, job)),
        ("network", f"{describe(job.network, config.data.crop)} at a crop, {_stride(job)}"),
    ]
    rows += _backbone_rows(context, job)
    if isinstance(job.stage.objective, Distillation) and job.stage.objective.teacher is not None:
        rows += _teacher_rows(context, job.stage.objective)
    rows.append(("optimizer", _optimizer_row(context, job)))
    rows += [
        ("device", _device_row(context)),
        ("estimate", _estimate_row(context, estimate)),
    ]
    if estimate.cost.in_float32:
        rows.append(("precision", in_float32(estimate.cost.in_float32)))
    if not context.options.dry_run:
        rows += [("run", str(context.out)), ("resume", context.resume_command)]
    return rows


def _data_row(context: RunContext) -> str:
    data = context.data
    training, validation = (len(data.split(split).names) for split in ("train", "val"))
    if "train" in data.unlabeled:
        scored = "held back" if "val" in data.unlabeled else f"labeled ones of {data.name} to validate"
        classes = counted(len(data.classes), "class", "classes")
        return f"{training} images without labels, {validation} {scored}, {classes}"
    images = f"{training} training and {counted(validation, 'validation image')}"
    text = f"{data.name}: {images}, {counted(len(data.classes), 'class', 'classes')}"
    if AUXILIARY in data.splits:
        text += f"; {len(data.split(AUXILIARY).names)} more, unlabeled or auxiliary"
    return text


def _crops_row(context: RunContext, job: TrainingJob) -> str:
    config, steps = context.config.data, job.stage.optim.steps
    labeled = config.batch_size
    if AUXILIARY in context.data.splits:
        labeled -= config.auxiliary_images
    epochs = steps * labeled / max(len(context.data.split("train").names), 1)
    size = "" if config.size is None else f" of images at {_size(config.size)}"
    return f"{_size(config.crop)}{size}, {config.batch_size} per step, {counted(steps, 'step')} ({epochs:.1f} epochs)"


def _optimizer_row(context: RunContext, job: TrainingJob) -> str:
    """Return the optimizer of a training, its schedule, and what it does beside plain cross entropy."""
    optim, config = job.stage.optim, context.config
    parts = [f"{optim.algorithm}, rate {optim.lr:g} ({optim.schedule}), decay {optim.weight_decay:g}"]
    if optim.clip > 0:
        parts.append(f"gradients clipped at {optim.clip:g}")
    if optim.ema > 0:
        parts.append(f"weights averaged by {optim.ema:g}")
    loss = config.loss if job.info.role == "student" else config.teacher_loss()
    if loss.class_weights != "none":
        kind = loss.class_weights if isinstance(loss.class_weights, str) else "given"
        parts.append(f"class weights {kind}")
    if loss.ohem_threshold > 0:
        parts.append(f"hard pixels below {loss.ohem_threshold:g}")
    if loss.dice > 0:
        parts.append(f"Dice {loss.dice:g}")
    return ", ".join(parts)


def _estimate_row(context: RunContext, estimate: Estimate) -> str:
    validations = f"{counted(estimate.validations, 'validation')} of {duration(estimate.validation)}"
    memory = f"{peak_bytes(context.runtime.device) / GIB:.1f} GiB"
    return f"{duration(estimate.seconds)}: steps of {estimate.step:.2g} s and {validations}; {memory} of memory"


def _stride(job: TrainingJob) -> str:
    return f"output stride {job.info.network.output_stride}"


def _backbone_rows(context: RunContext, job: TrainingJob) -> list[tuple[str, str]]:
    """Return which weights the backbone starts from, where it starts from some or the publication does."""
    backbone = job.network.backbone
    if backbone is None:
        return []
    if backbone.weights_source:
        return [("backbone", f"starts from {backbone.weights_source}")]
    if context.options.init_weights is not None or context.config.starts_from != "imagenet":
        return []
    advice = "give --pretrained or --backbone-weights FILE"
    if not backbone.has_published_weights:
        advice = f"nobody published any for {backbone.name}; --backbone-weights FILE takes your own"
    return [("backbone", f"starts from random weights; preset {context.config.preset} wants ImageNet's: {advice}")]


def _teacher_rows(context: RunContext, objective: Distillation) -> list[tuple[str, str]]:
    assert objective.teacher is not None
    config, network = context.config, objective.teacher.network
    assert isinstance(network, SegNetwork)
    kind = config.teacher.network if config.teacher.label_embedding is None else "label-assisted"
    weights = ", ".join(f"{term} {weight:g}" for term, weight in objective.weights.items())
    rows = [("teacher", f"{kind}: {describe(network, config.data.crop)}")]
    views, following = views_of(config.teacher), Following.of(config.teacher)
    if not views.is_plain:
        rows.append(("its images", f"seen at {views}"))
    if following != Following():
        answers = f"{following.targets} targets"
        if following.threshold > 0:
            answers += f", of probability {following.threshold:g} or more"
        rows.append(("its answers", answers))
    if weights:
        is_scaled = any(config.terms[name].gradient_ratio is not None for name in objective.weights)
        rows.append(("terms", f"{weights}; scaled by their gradients, see below" if is_scaled else weights))
    for term in objective.terms.values():
        assert isinstance(term, Term)
        rows += [("note", message) for message in term.messages]
    return rows


def _device_row(context: RunContext) -> str:
    runtime = context.runtime
    if runtime.device.type == "cpu":
        device = f"cpu ({cpu_name()})"
    else:
        device = f"{runtime.device} ({torch.cuda.get_device_name(runtime.device)})"
    processes = distributed.world_size()
    return (
        f"{device}, {runtime.precision.name}, {counted(runtime.workers, 'loader worker')}, "
        f"{counted(processes, 'process', 'processes')}"
    )


def in_float32(kinds: Iterable[ConvolutionKind]) -> str:
    """Say which convolutions are computed in float32 although the training is in bf16."""
    names = sorted({str(kind) for kind in kinds})
    more = f"; and {len(names) - MAX_KINDS} more" if len(names) > MAX_KINDS else ""
    count = f"{counted(len(names), 'kind')} of convolutions"
    return f"float32 for {count}, as bf16 is not safe here: {'; '.join(names[:MAX_KINDS])}{more}"


def describe(network: SegNetwork, size: tuple[int, int]) -> str:
    """Return parameters, MACs and FLOPs in words, as far as they can be counted."""
    macs, parameters = countable_macs(network, size), count_parameters(network)
    if macs is None:
        return f"{parameters / 1e6:.2f} M parameters, MACs not counted" if parameters else "a graph, not counted"
    return f"{parameters / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMACs ({2 * macs / 1e9:.2f} GFLOPs)"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
