"""`--baseline time`: the baseline's steps fill the time that the distilled student took, pretraining included."""

from pathlib import Path

import pytest
import torch

from helpers.tiny import CLASSES, CPU, source
from helpers.trainings import configuration
from segdistill.commands import _baseline
from segdistill.commands._baseline import baseline_context
from segdistill.commands._context import Options, RunContext
from segdistill.commands._results import NetworkResult
from segdistill.evaluation.metrics import Scores
from segdistill.runtime.reporter import NullReporter
from segdistill.training.jobs import Runtime


@pytest.mark.parametrize(
    ("training", "pretraining", "steps"), [(10.0, 0.0, 20), (10.0, 5.0, 30), (0.1, 0.0, 1), (0.9, 0.0, 2)]
)
def test_steps_of_the_baseline_fill_training_and_pretraining(
    training: float, pretraining: float, steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_baseline, "_seconds_per_step", lambda context: 0.5)
    runtime = Runtime(torch.device("cpu"), CPU, 0, NullReporter(), 1)
    context = RunContext(configuration(), Options(baseline="time"), source(2, 2), runtime, tmp_path, "", "")
    distilled = NetworkResult(
        "distilled",
        "tiny",
        Scores.empty(len(CLASSES)),
        parameters=1,
        macs=1,
        training_seconds=training,
        pretraining_seconds=pretraining,
    )
    baseline = baseline_context(context, distilled)
    assert baseline.config.optim.steps == steps
    assert baseline.config.terms == {}
