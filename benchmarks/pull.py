"""How hard each term pulls at the end of a finished distillation, beside cross entropy: norms of gradients.

    python benchmarks/pull.py TEACHER RUN [RUN ...] [--data camvid:PATH] [--batches 12]

The student, its adapters and a critic are those of the run's last step; each figure is the mean over as many batches of
two training images, in float32.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from segdistill.checkpoints.model_file import load_model, model_path
from segdistill.checkpoints.training_state import load_state
from segdistill.commands import _pretraining
from segdistill.config.presets import load_preset
from segdistill.data import load_data, training_batches
from segdistill.networks import build_network
from segdistill.runtime.precision import Precision
from segdistill.teachers.teacher import Teacher
from segdistill.terms import TermContext, build_terms
from segdistill.training.objectives import Distillation
from segdistill.training.state import Training
from segdistill.training.term_gradients import IMAGES, term_gradients
from segdistill.types import Batch, Stage

CROSS_ENTROPY = "cross_entropy"
PRECISION = Precision("fp32", torch.device("cpu"), torch.float32)


def trained_stage(run: Path, teacher: Path, classes: int) -> Stage:
    """Return a finished run's last stage as its last checkpoint left it."""
    config = load_preset(run / "config.toml")
    network, info = load_model(model_path(teacher))
    student = build_network(config.student, classes)
    frozen, terms = Teacher(network, info).frozen(), build_terms(config.terms, TermContext(student, network, classes))
    for weighted in terms.values():
        for stage in weighted.term.pretraining_stages(frozen):
            _pretraining.load(run / f"{stage.name}.safetensors", stage)
    stage = Stage("student", student, Distillation(config.aux_weight, frozen, terms), config.optim)
    Training(stage, PRECISION).load(load_state(run / "checkpoints/last")["training"])
    return stage


def mean_gradients(stage: Stage, batches: Iterable[Batch]) -> dict[str, float]:
    """Return each term's mean gradient norm over batches."""
    found: dict[str, list[float]] = defaultdict(list)
    for batch in batches:
        for name, pull in term_gradients(stage, batch, PRECISION).items():
            found[name].append(pull.gradient)
    return {name: statistics.fmean(gradients) for name, gradients in found.items()}


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="the finished run or model file that the runs followed")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run of distill")
    parser.add_argument("--data", help="NAME:PATH; else the one that the run's configuration names")
    parser.add_argument("--batches", type=int, default=12)
    arguments = parser.parse_args()
    for run in arguments.runs:
        config = load_preset(run / "config.toml")
        data = load_data(arguments.data or config.data.name)
        own = config.data.model_copy(update={"batch_size": IMAGES})
        batches = training_batches(data.split("train"), own, seed=config.seed, steps=arguments.batches, workers=0)
        found = mean_gradients(trained_stage(run, arguments.teacher, len(data.classes)), batches)
        against = found.pop(CROSS_ENTROPY)
        shares = (f"{name} {gradient / against:.2g}" for name, gradient in found.items())
        print(f"{run}: cross entropy {against:.2f}; times that, {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
