"""What distillation costs: a step against the same networks' bare work, alternating in one process.

The bare work is the least that a distillation can do: teacher forward, student forward, backward, optimizer step,
in the same precision and memory layout, with cross entropy alone. Ratios hold across machines, milliseconds do not.

    python benchmarks/step.py [--only NAME ...] [--size 180x240] [--batch 4] [--data camvid:PATH] [--json FILE]
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from itertools import islice, repeat
from pathlib import Path

import torch
from torch.nn import functional as F

from segdistill.config.presets import load_preset, preset_names
from segdistill.config.schema import DataConfig, LabelEmbedding, NetworkConfig, OptimConfig, TeacherConfig
from segdistill.data import load_data, training_batches
from segdistill.networks import SegNetwork, build_network
from segdistill.runtime.precision import Precision, resolve_device, resolve_precision
from segdistill.runtime.versions import cpu_name, versions
from segdistill.teachers.label_assisted import LabeledFrozen, build_teacher
from segdistill.terms import TermContext, build_terms
from segdistill.training.engine import Report, fit
from segdistill.training.objectives import Distillation
from segdistill.training.probe import peak_bytes
from segdistill.types import IGNORE, Batch, Frozen, Stage

CLASSES, AUX_WEIGHT, WARM_UP = 11, 0.4, 2
LIMITS = {"skd-holistic": 1.10, "skd": 1.35} | dict.fromkeys(("tsl", "ka", "cwd", "canonical", "lad"), 1.15)
"""What a step may cost beside the bare work. PRESET-TERM is a preset without that term."""
OPTIM = OptimConfig(lr=1e-4, steps=1)


def networks(device: torch.device, codes: LabelEmbedding | None = None) -> tuple[SegNetwork, SegNetwork]:
    """Return PSPNet-ResNet50, label-assisted where there are codes, and PSPNet-ResNet18, with fixed weights."""
    torch.manual_seed(0)
    teacher = build_teacher(TeacherConfig(network="pspnet-resnet50", label_embedding=codes), CLASSES)
    student = build_network(NetworkConfig(network="pspnet-resnet18"), CLASSES)
    return teacher.to(device), student.to(device)


def a_batch(size: tuple[int, int], images: int, device: torch.device) -> Batch:
    """Return noise with labels, in channels_last on the device."""
    generator = torch.Generator().manual_seed(0)
    image = (torch.rand(images, 3, *size, generator=generator) * 255).to(device, memory_format=torch.channels_last)
    label = torch.randint(CLASSES, (images, *size), generator=generator).to(device)
    return Batch(image, label, ("noise",) * images, torch.arange(images))


def bare_step(batch: Batch, precision: Precision) -> Callable[[], None]:
    """Return one step of the bare work, written out plainly."""
    teacher, student = (n.to(memory_format=torch.channels_last) for n in networks(precision.device))
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def upsampled_loss(logits: torch.Tensor) -> torch.Tensor:
        full = F.interpolate(logits.float(), size=batch.label.shape[-2:], mode="bilinear", align_corners=False)
        return F.cross_entropy(full, batch.label, ignore_index=IGNORE)

    def step() -> None:
        student.train()
        with precision.autocast():
            with torch.no_grad():
                teacher(batch.image)
            output = student(batch.image)
            assert output.aux is not None
            loss = upsampled_loss(output.logits) + AUX_WEIGHT * upsampled_loss(output.aux)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(precision.device)

    return step


def distillation(variant: str, precision: Precision, steps: int) -> Stage:
    """Return the stage that the tool itself would run on CamVid, what it trains beforehand left untrained."""
    name, _, without = variant.partition("-")
    preset = load_preset(name, data="camvid")
    codes = preset.teacher.label_embedding
    teacher, student = networks(precision.device, codes)
    teacher.to(memory_format=torch.channels_last)
    terms = {term: config for term, config in preset.terms.items() if term != without}
    built = build_terms(terms, TermContext(student, teacher, CLASSES))
    frozen = Frozen(teacher) if codes is None else LabeledFrozen(teacher, codes)
    for term in built.values():
        deque(term.term.pretraining_stages(frozen), maxlen=0)
    return Stage(
        "benchmark", student, Distillation(AUX_WEIGHT, frozen, built), OPTIM.model_copy(update={"steps": steps})
    )


def alternate(variant: str, batch: Batch, precision: Precision, rounds: int) -> tuple[list[float], list[float]]:
    """Return seconds per bare step and per distillation step, measured in turns."""
    bare, bare_times, times = bare_step(batch, precision), list[float](), list[float]()
    started = time.perf_counter()

    def on_step(report: Report) -> None:
        nonlocal started
        synchronize(precision.device)
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
        bare()
        bare_times.append(time.perf_counter() - started)
        started = time.perf_counter()

    stage = distillation(variant, precision, rounds + WARM_UP)
    fit(stage, repeat(batch), precision=precision, seed=0, on_step=on_step)
    return bare_times[WARM_UP:], times[WARM_UP:]


def synchronize(device: torch.device) -> None:
    """Wait for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loader_rate(spec: str, size: tuple[int, int], images: int) -> float:
    """Return the images per second of the loader at full augmentation with 2 workers."""
    config = DataConfig(crop=size, batch_size=images, scale=(0.5, 2.0), color=0.2)
    batches = training_batches(load_data(spec).split("train"), config, seed=0, steps=10**6, workers=2)
    for _ in islice(batches, 10):
        pass
    started = time.perf_counter()
    count = sum(len(batch.image) for batch in islice(batches, 40))
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=[*LIMITS, *sorted(set(preset_names()) - LIMITS.keys())], metavar="NAME"
    )
    parser.add_argument("--size", default="180x240")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--data", default="streets", help="for the loader: camvid:PATH reads real files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    height, width = map(int, arguments.size.split("x"))
    batch = a_batch((height, width), arguments.batch, device)

    if arguments.peak:
        if arguments.peak == "bare":
            step = bare_step(batch, precision)
            step(), step()
        else:
            stage = distillation(arguments.peak, precision, 2)
            fit(stage, repeat(batch), precision=precision, seed=0, on_step=lambda report: None)
        print(peak_bytes(device))
        return

    def peak(name: str) -> float:
        command = [sys.executable, __file__, *sys.argv[1:], "--peak", name]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]) / 2**30

    result: dict[str, object] = {
        "machine": cpu_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision.name,
        "size": arguments.size,
        "batch": arguments.batch,
        "versions": versions(),
        "peak_gib_bare": round(peak("bare"), 2),
    }
    print(f"{result['machine']}, {precision.name}, {arguments.size}, batch {arguments.batch}")
    fastest = math.inf
    for name in arguments.only:
        limit = LIMITS.get(name)
        bare, own = alternate(name, batch, precision, arguments.rounds)
        ratio = statistics.median(a / b for a, b in zip(own, bare, strict=True))
        memory = peak(name)
        seconds = statistics.median(own)
        fastest = min(fastest, seconds)
        print(
            f"{name:<14} bare {1000 * statistics.median(bare):7.0f} ms  step {1000 * seconds:7.0f} ms  "
            f"ratio {ratio:.3f} (limit {limit or '-'})  peak {memory:.2f} GiB (bare {result['peak_gib_bare']})"
        )
        result[name] = {
            "bare_ms": round(1000 * statistics.median(bare), 1),
            "step_ms": round(1000 * seconds, 1),
            "ratio": round(ratio, 3),
            "limit": limit,
            "peak_gib": round(memory, 2),
            "images_per_second": round(arguments.batch / seconds, 2),
        }
    rate = loader_rate(arguments.data, (height, width), arguments.batch)
    consumed = arguments.batch / fastest
    print(f"loader, 2 workers: {rate:.1f} images per second, {rate / consumed:.1f} times the fastest step")
    result["loader"] = {"images_per_second": round(rate, 1), "times_consumption": round(rate / consumed, 2)}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
