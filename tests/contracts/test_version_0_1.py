"""Runs, model files and graphs that version 0.1 wrote can be gone on with, evaluated, exported and followed.

They are in version-0.1.tar.xz, without pictures: `teacher`, `student` (two seeds with a baseline each, and a graph) and
`stopped`, a distillation of four steps that a signal ended after two. Each is by preset `ka`, whose terms train an
auto-encoder first, on `streets` at 24x32 with the network of minimal.py for both.
"""

import json
import tarfile
from pathlib import Path

import minimal
import pytest
import torch
from safetensors.torch import load_file

from helpers.commands import Result, succeeds
from segdistill.config.registry import components

SMALL = (
    "--data streets --set data.size=[24,32] --set data.crop=[24,32] --set data.batch_size=2 "
    "--workers 0 --device cpu --precision fp32 --accept-teacher --baseline steps"
)
DISTILL = f"distill --preset ka --student minimal {SMALL}"
EVALUATE = "--data streets --workers 0 --json"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay the files into the current folder, and let the network be known by its name."""
    with tarfile.open(Path(__file__).parent / "version-0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    names = sorted([*components("networks"), "minimal"])
    monkeypatch.setattr("segdistill.networks._registry.components", lambda kind: names)
    monkeypatch.setattr("segdistill.networks._registry.load", lambda kind, name, what: minimal)


def miou(result: Result) -> float:
    return float(json.loads(result.out)["miou"])


@pytest.mark.parametrize("model", ["student", "student/model.safetensors", "student/model.onnx", "student/seed-1"])
def test_old_models_and_graphs_keep_their_scores(model: str) -> None:
    scores = json.loads(Path("student/scores.json").read_text())
    expected = scores["distilled, seed 1" if model.endswith("seed-1") else "distilled"]["miou"]
    assert miou(succeeds(f"evaluate {model} {EVALUATE}")) == pytest.approx(expected, abs=1e-5)


def test_resume_of_old_finished_run_shows_its_results() -> None:
    again = succeeds(f"{DISTILL} --teacher teacher --steps 3 --seeds 2 --out student --resume")
    assert "Already finished: student" in again.err
    for name, row in json.loads(Path("student/scores.json").read_text()).items():
        shown = next(
            line for line in again.out.splitlines() if line.startswith(f"│ {name.replace('plain', 'baseline')} ")
        )
        assert f" {100 * row['miou']:.2f} " in shown
    assert "Gain " in again.out


def test_old_stopped_run_resumes_to_the_uninterrupted_result() -> None:
    succeeds(f"{DISTILL} --teacher teacher --steps 4 --out stopped --resume")
    succeeds(f"{DISTILL} --teacher teacher --steps 4 --keep-weights --out whole")  # as that version did
    names = {name: name for name in ("model.safetensors", "baseline/model.safetensors")}
    names["autoencoder.safetensors"] = "pretraining-autoencoder.safetensors"
    assert not Path("stopped", names["autoencoder.safetensors"]).exists(), "one file, under the name that it has"
    for name, present_name in names.items():
        one, other = load_file(f"stopped/{name}"), load_file(f"whole/{present_name}")
        assert one.keys() == other.keys()
        for key in one:  # the first part is another machine's
            assert torch.allclose(one[key].float(), other[key].float(), rtol=1e-3, atol=1e-4), key


def test_old_student_exports_and_its_teacher_can_teach_again() -> None:
    succeeds("export student --data streets --workers 0 --output again.onnx")
    assert miou(succeeds(f"evaluate again.onnx {EVALUATE}")) == pytest.approx(
        miou(succeeds(f"evaluate student {EVALUATE}")), abs=1e-5
    )
    told = succeeds(f"{DISTILL} --teacher teacher --steps 3 --out next")
    assert "that of stopped" in told.err or "that of student" in told.err, "the auto-encoder is used again"
