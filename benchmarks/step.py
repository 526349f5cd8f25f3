"""What distillation costs: a step against the same networks' bare work, alternating in one process.

The bare work is the least that a distillation can do: teacher forward, student forward, backward, optimiser step,
in the same precision and memory layout, with cross entropy alone. Ratios hold across machines, milliseconds do not.

    python benchmarks/step.py [--size 180x240] [--batch 4] [--rounds 15] [--data camvid:PATH] [--json FILE]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice, repeat
from pathlib import Path

import torch
from torch.nn import functional as F

from segdistill.config import DataConfig, NetworkConfig, OptimConfig, TermConfig, load_preset
from segdistill.data import load_data, training_batches
from segdistill.engine import Precision, Report, fit, peak_bytes, resolve_device, resolve_precision
from segdistill.networks import SegNetwork, build_network
from segdistill.objectives import Distillation
from segdistill.record import cpu_name, versions
from segdistill.terms import Pair, build_terms
from segdistill.types import IGNORE, Batch, Frozen, Stage

CLASSES, AUX_WEIGHT, WARM_UP = 11, 0.4, 2
LIMITS = {"pixel + pairwise": 1.10, "pixel + pairwise + holistic": 1.35}
OPTIM = OptimConfig(lr=1e-4, steps=1)


def networks(device: torch.device) -> tuple[SegNetwork, SegNetwork]:
    """Return PSPNet-ResNet50 and PSPNet-ResNet18 with fixed weights."""
    torch.manual_seed(0)
    teacher, student = (build_network(NetworkConfig(network=f"pspnet-resnet{n}"), CLASSES) for n in (50, 18))
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


def distillation(terms: dict[str, TermConfig], precision: Precision, steps: int) -> Stage:
    """Return the stage that the tool itself would run."""
    teacher, student = networks(precision.device)
    teacher.to(memory_format=torch.channels_last)
    built = build_terms(terms, Pair(student, teacher, CLASSES))
    objective = Distillation(AUX_WEIGHT, Frozen(teacher), built)
    return Stage("benchmark", student, objective, OPTIM.model_copy(update={"steps": steps}))


def alternate(
    terms: dict[str, TermConfig], batch: Batch, precision: Precision, rounds: int
) -> tuple[list[float], list[float]]:
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

    stage = distillation(terms, precision, rounds + WARM_UP)
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
    parser.add_argument("--preset", default="skd")
    parser.add_argument("--size", default="180x240")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--data", default="streets", help="for the loader: camvid:PATH reads real files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", choices=["bare", *LIMITS], help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    height, width = map(int, arguments.size.split("x"))
    batch = a_batch((height, width), arguments.batch, device)
    preset = load_preset(arguments.preset).terms
    variants = {name: {term: preset[term] for term in name.split(" + ")} for name in LIMITS}

    if arguments.peak:
        if arguments.peak == "bare":
            step = bare_step(batch, precision)
            step(), step()
        else:
            stage = distillation(variants[arguments.peak], precision, 2)
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
    slowest = 0.0
    for name, limit in LIMITS.items():
        bare, own = alternate(variants[name], batch, precision, arguments.rounds)
        ratio = statistics.median(a / b for a, b in zip(own, bare, strict=True))
        memory = peak(name)
        slowest = statistics.median(own)
        print(
            f"{name:<28} bare {1000 * statistics.median(bare):7.0f} ms  step {1000 * slowest:7.0f} ms  "
            f"ratio {ratio:.3f} (limit {limit})  peak {memory:.2f} GiB (bare {result['peak_gib_bare']})"
        )
        result[name] = {
            "bare_ms": round(1000 * statistics.median(bare), 1),
            "step_ms": round(1000 * slowest, 1),
            "ratio": round(ratio, 3),
            "limit": limit,
            "peak_gib": round(memory, 2),
            "images_per_second": round(arguments.batch / slowest, 2),
        }
    rate = loader_rate(arguments.data, (height, width), arguments.batch)
    consumed = arguments.batch / slowest
    print(f"loader, 2 workers: {rate:.1f} images per second, {rate / consumed:.1f} times what the step consumes")
    result["loader"] = {"images_per_second": round(rate, 1), "times_consumption": round(rate / consumed, 2)}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
