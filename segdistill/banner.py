"""What is said before a training begins."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch

from segdistill import distributed
from segdistill.convolutions import Kind
from segdistill.data import AUXILIARY
from segdistill.engine import peak_bytes, probe
from segdistill.networks import SegNetwork
from segdistill.networks._base import count_parameters, countable_macs
from segdistill.objectives import Distillation
from segdistill.record import cpu_name
from segdistill.setting import Setting
from segdistill.talk import duration
from segdistill.training import Job, rehearse_validation
from segdistill.types import Term

MAX_KINDS = 2
"""Convolutions that are named in a row of the banner."""


def banner(setting: Setting, job: Job, path: Path, name: str) -> None:
    """Say what will happen: data, networks, device, time, and how to continue."""
    place, config, data = setting.place, job.config, setting.data
    images_here = config.data.batch_size // distributed.world_size()
    found = probe(job.stage, config.data.crop, len(data.classes), images_here, place.precision)
    rehearse_validation(job.network, job.info, data, place)
    peak = peak_bytes(place.device)
    optim, crop = job.stage.optim, config.data.crop
    images = {split: len(data.split(split).names) for split in ("train", "val")}
    mixed = data.splits.get(AUXILIARY)
    labelled = config.data.batch_size - (0 if mixed is None else config.data.auxiliary_images)
    epochs = optim.steps * labelled / max(images["train"], 1)
    size = "" if config.data.size is None else f" of images at {_size(config.data.size)}"
    cpu = place.device.type == "cpu"
    device = f"cpu ({cpu_name()})" if cpu else f"{place.device} ({torch.cuda.get_device_name(place.device)})"
    rows = [
        (
            "data",
            f"{data.name}: {images['train']} training and {images['val']} validation images, "
            f"{len(data.classes)} classes"
            + ("" if mixed is None else f"; {len(mixed.names)} more, unlabelled or auxiliary"),
        ),
        ("crops", f"{_size(crop)}{size}, {config.data.batch_size} per step, {optim.steps} steps ({epochs:.1f} epochs)"),
        ("network", f"{describe(job.network, crop)} at a crop, output stride {job.info.network.output_stride}"),
    ]
    if isinstance(job.stage.objective, Distillation) and job.stage.objective.teacher is not None:
        teacher, weights = job.stage.objective.teacher.network, job.stage.objective.weights
        assert isinstance(teacher, SegNetwork)
        kind = "label-assisted" if config.teacher.label_codes is not None else config.teacher.network
        rows.append(("teacher", f"{kind}: {describe(teacher, crop)}"))
        rows.append(("terms", ", ".join(f"{term} {weight:g}" for term, weight in weights.items())))
        rows += [("note", note) for term in job.stage.objective.terms.values() for note in cast(Term, term).notes]
    processes = distributed.world_size()
    rows += [
        ("device", f"{device}, {place.precision.name}, {place.workers} loader worker(s), {processes} process(es)"),
        ("estimate", f"{duration(found.seconds * optim.steps)} plus validation, {peak / 2**30:.1f} GiB with it"),
    ]
    if found.in_float32:
        rows.append(("precision", in_float32(found.in_float32)))
    if not setting.options.dry_run:
        rows += [("run", str(path)), ("resume", setting.options.again)]
    place.talk.banner(f"{name}: {job.info.network.network}", rows)


def in_float32(kinds: Iterable[Kind]) -> str:
    """Say which convolutions are computed in float32 although the training is in bf16."""
    names = sorted({str(kind) for kind in kinds})
    more = f"; and {len(names) - MAX_KINDS} more" if len(names) > MAX_KINDS else ""
    count = f"{len(names)} kind{'s' * (len(names) > 1)} of convolutions"
    return f"float32 for {count}, as bf16 is not safe here: {'; '.join(names[:MAX_KINDS])}{more}"


def describe(network: SegNetwork, size: tuple[int, int]) -> str:
    """Return parameters, MACs and FLOPs in words, as far as they can be counted."""
    macs, parameters = countable_macs(network, size), count_parameters(network)
    if macs is None:
        return f"{parameters / 1e6:.2f} M parameters, MACs not counted" if parameters else "a graph, not counted"
    return f"{parameters / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMACs ({2 * macs / 1e9:.2f} GFLOPs)"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
