"""A score over fewer classes than declared says so in every output."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.commands import NETWORK, succeeds
from helpers.tiny import model_info
from segdistill.checkpoints.model_file import save_model
from segdistill.cli._show import show_export
from segdistill.cli.console import Terminal
from segdistill.commands._results import Outcome
from segdistill.config.schema import NetworkConfig
from segdistill.deployment.parity import ParityResult
from segdistill.deployment.report import ExportReport
from segdistill.evaluation.latency import Latency
from segdistill.networks import build_network

pytestmark = pytest.mark.usefixtures("elsewhere")

OPTIONS = "--data yard/data.toml --set data.crop=[32,48] --set data.batch_size=2 --steps 2 --workers 0 --accept-teacher"
WORDS = "(over 2 of 3 classes)"
DATA = """name = "yard"
classes = ["ground", "plant", "tool"]
absent = ["tool"]
[ids]
0 = "ground"
1 = "plant"
2 = "tool"
[train]
images = "images/train"
labels = "labels/train"
[val]
images = "images/val"
labels = "labels/val"
"""


def write_yard() -> None:
    """Write images of ground and plants, and of no tool."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            Path(f"yard/{kind}/{split}").mkdir(parents=True)
        for i in range(count):
            label = np.kron(rng.integers(0, 2, (4, 6)), np.ones((8, 8))).astype(np.uint8)
            image = rng.integers(0, 90, (32, 48, 3)) + 100 * label[..., None]
            Image.fromarray(image.astype(np.uint8)).save(f"yard/images/{split}/{i}.png")
            Image.fromarray(label).save(f"yard/labels/{split}/{i}.png")
    Path("yard/data.toml").write_text(DATA)


def blind_to_tools() -> str:
    """Write a model file of a network that never answers "tool"; return its path."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=NETWORK), 3)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if name.endswith("bias") and tensor.shape == (3,):
                tensor[2] = -1e4
    save_model(Path("blind.safetensors"), network, model_info(NETWORK, ("ground", "plant", "tool"), data="yard"))
    return "blind.safetensors"


@pytest.mark.promise("D7")
def test_every_output_names_the_number_of_scored_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_yard()
    blind = blind_to_tools()
    line = f"distill --preset skd --teacher {blind} --student {NETWORK} {OPTIONS} --init-weights {blind} --out run"
    told = succeeds(f"{line} --baseline steps")
    for role in ("teacher", "baseline", "distilled"):
        trained = role != "teacher"
        assert told.out.partition(f"│ {role} ")[2].partition("\n")[0].count(WORDS) == 1 + trained
    assert f" mIoU points {WORDS} [" in told.out.replace("\n", " ")
    assert " step 2: mIoU" in told.err
    assert all(WORDS in row for row in told.err.splitlines() if " step 2: mIoU" in row)
    assert "mIoU" in told.err
    scores = json.loads(Path("run/scores.json").read_text())
    assert {(row["classes_scored"], row["classes_declared"]) for row in scores.values()} == {(2, 3)}
    assert [row["best_classes_scored"] for row in scores.values()] == [None, 2, 2], "the teacher was not trained here"
    gain = json.loads(Path("run/gain.json").read_text())
    assert (gain["classes_scored"], gain["classes_declared"]) == (2, 3)
    card = Path("run/README.md").read_text()
    assert card.count(WORDS) == len(scores) + 1, "each row of the table, and the gain"
    assert "neither in the ground truth nor predicted" in card
    validations = [json.loads(row) for row in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {entry["classes_scored"] for entry in validations if "miou" in entry} == {2}
    _evaluate_says_it("run")


def test_mean_over_seeds_has_the_fewest_scored_classes() -> None:
    def result(miou: float, scored: int) -> dict[str, float]:
        return {"miou": miou, "classes_scored": scored, "classes_declared": 3}

    outcome = Outcome(Path("run"), {"distilled": result(0.5, 3), "distilled, seed 1": result(0.7, 2)})
    std = outcome.across_seeds()["distilled"]
    assert std == {
        **{"of": "miou", "mean": pytest.approx(0.6), "std": pytest.approx(0.02**0.5), "seeds": 2},
        **{"classes_scored": 2, "classes_declared": 3},
    }


def _evaluate_says_it(run: str) -> None:
    shown = succeeds(f"evaluate {run} --data yard/data.toml --workers 0 --count-void --tiled")
    for row in ("mIoU", "mIoU counting void", "mIoU tile by tile"):
        assert f"{WORDS}" in shown.out.partition(f"│ {row} ")[2].partition("\n")[0]
    assert "neither in the ground truth nor predicted" in shown.err
    found = json.loads(succeeds(f"evaluate {run} --data yard/data.toml --workers 0 --json").out)
    assert (found["classes_scored"], found["classes_declared"], found["iou"]["tool"]) == (2, 3, None)


def test_export_check_names_the_number_of_scored_classes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    check = ParityResult(0.0, 0.0, 1.0, 1.0, 0, 0.9, 0.5, images=2, classes_scored=2, classes_declared=3)
    assert check.failures() == [f"the mIoU {WORDS} goes from 0.9000 to 0.5000, by more than 0.001"]
    latency = Latency(first=1, p50=1, p90=1, p99=1, n=1, threads=1, provider="")
    latencies = {"student": latency, "onnxruntime": latency}
    show_export(Terminal(), ExportReport(Path("a.onnx"), "", (32, 48), "of --size", check, latencies))
    assert f"mIoU in PyTorch, in onnxruntime {WORDS}" in capsys.readouterr().out
