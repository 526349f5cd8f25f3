"""What exactness and safety cost: training as it is, against the same steps without any of it, alternating in one run.

With: per-step seeds, undo of batch norm, the check of every gradient, the log, and a checkpoint every 200 steps (finite
tensors only, sha256, fsync, the one before kept). Without: forward, backward, optimizer step, nothing written.

    python benchmarks/safety.py [--preset skd] [--size 120x160] [--batch 8] [--rounds 60] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import repeat
from pathlib import Path

import torch
from step import a_batch, distillation

from segdistill.config.presets import load_preset
from segdistill.data import load_data
from segdistill.runtime.precision import Precision, resolve_precision
from segdistill.runtime.reporter import NullReporter
from segdistill.runtime.versions import cpu_name, versions
from segdistill.storage.run_folder import open_run
from segdistill.training.engine import Report, backward, fit
from segdistill.training.jobs import PretrainingJob, Runtime
from segdistill.training.recorder import Recorder
from segdistill.training.state import Training
from segdistill.training.stopping import StopRequest
from segdistill.training.validator import NoValidation
from segdistill.types import Batch

EVERY, LIMIT, WARM_UP, SAVES = 200, 2.0, 3, 8
"""Steps between two checkpoints; the most that all may cost, in percent of the time without."""


def bare_step(training: Training, batch: Batch, precision: Precision) -> None:
    """Train one step with nothing around it."""
    training.train_module.train()
    with precision.training():
        step = training.stage.objective(training.stage.model, batch)
    backward(training, step, batch)
    for optimizer in training.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def alternate(
    preset: str, batch: Batch, precision: Precision, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of steps without and with all of it, in turns, and of checkpoints."""
    config = load_preset(preset, [f"checkpoint.every={rounds // SAVES}"], data="camvid")
    stage = distillation(preset, precision, rounds + WARM_UP)
    without, with_, saves = list[float](), list[float](), list[float]()
    with (
        tempfile.TemporaryDirectory(dir=".") as folder,  # on the disk that runs are written to, not in memory
        open_run(Path(folder) / "run", resume=False, overwrite=False) as run,
    ):
        place = Runtime(precision.device, precision, 0, NullReporter())
        job = PretrainingJob(stage, config, load_data("streets"))
        recorder = Recorder(
            job,
            run,
            place,
            validator=NoValidation(),
            stop=StopRequest(lambda: None, command=""),
            advance=lambda count, text: None,
        )
        started = time.perf_counter()

        def on_step(report: Report) -> None:
            nonlocal started
            stepped = time.perf_counter()
            recorder(report)
            ended = time.perf_counter()
            if report.step % config.checkpoint.every == 0:
                saves.append(ended - stepped)
            elif report.step > WARM_UP:
                with_.append(ended - started)
            bare_step(report.training, batch, precision)
            if len(with_) > len(without):
                without.append(time.perf_counter() - ended)
            started = time.perf_counter()

        fit(stage, repeat(batch), precision=precision, seed=0, on_step=on_step)
    return without, with_, saves


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="skd")
    parser.add_argument("--size", default="120x160")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cpu = torch.device("cpu")
    precision = resolve_precision("auto", cpu)
    height, width = map(int, arguments.size.split("x"))
    batch = a_batch((height, width), arguments.batch, cpu)
    without, with_, saves = alternate(arguments.preset, batch, precision, arguments.rounds)

    step = statistics.median(without)
    share = 100 * (statistics.median(a / b for a, b in zip(with_, without, strict=True)) - 1)
    save = 100 * statistics.median(saves) / (EVERY * step)
    result = {
        "machine": cpu_name(),
        "threads": torch.get_num_threads(),
        "precision": precision.name,
        "preset": arguments.preset,
        "size": arguments.size,
        "batch": arguments.batch,
        "versions": versions(),
        "step_ms": round(1000 * step, 1),
        "checkpoint_ms": round(1000 * statistics.median(saves), 1),
        "steps_percent": round(share, 2),
        "checkpoints_percent": round(save, 2),
        "percent": round(share + save, 2),
        "limit_percent": LIMIT,
    }
    print(f"{result['machine']}, {precision.name}, {arguments.preset} at {arguments.size}, batch {arguments.batch}:")
    print(f"steps of {result['step_ms']} ms take {share:.2f} % longer,")
    print(f"checkpoints of {result['checkpoint_ms']} ms every {EVERY} steps {save:.2f} %,")
    print(f"together {share + save:.2f} % (limit {LIMIT} %)")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
