"""What stands around a distillation in the commands: unlabeled images, the plain twin, several seeds, preparations."""

import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from helpers.commands import SMALL, contents, halve, refused, segdistill, succeeds, write_camvid
from segdistill.checkpoints.model_file import read_info
from segdistill.checkpoints.training_state import load_state
from segdistill.commands import _pretraining
from segdistill.config.schema import DataConfig
from segdistill.data import AUXILIARY, load_data, verified, with_auxiliary_split
from segdistill.data.base import UNLABELED
from segdistill.errors import Stopped
from segdistill.networks.pspnet import PSPNet
from segdistill.reports import figures
from segdistill.training import engine, recorder, step_clock
from segdistill.training.engine import Report
from segdistill.types import SegOutput

NETS = "--teacher pspnet18 --student resnet18-half"
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("data") / "CamVid", train=4, val=12)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, camvid: Path) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    run = segdistill(f"train-teacher --preset tsl --teacher resnet18-half --data camvid:{camvid} {SMALL} --out {out}")
    assert run.code == 0, run.err
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    (folder / "more").mkdir()
    for name in ("a.png", "b.jpg", "more/c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


def distilling(camvid: Path, teacher: Path | str, words: str, preset: str = "tsl") -> str:
    line = f"distill --preset {preset} --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL}"
    return f"{line} {words}"


def distill(camvid: Path, teacher: Path | str, words: str, preset: str = "tsl") -> dict[str, Any]:
    result: dict[str, Any] = json.loads(succeeds(f"{distilling(camvid, teacher, words, preset)} --json").out)
    return result


def stop_after(steps: int, stage: str = "") -> Callable[[recorder.Recorder, Report], None]:
    """Return what stops a training after so many steps of a stage, of the first one or this, as a signal would."""
    asked = recorder.Recorder.__call__

    def call(self: recorder.Recorder, report: Report) -> None:
        asked(self, report)
        if report.step == steps and stage in ("", self.job.stage.name):
            self._save(report.training)
            raise Stopped("Stopped.", "Resume.", 15)

    return call


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Unlabeled images


def test_unlabeled_images_change_the_student_and_stay_unnamed(
    camvid: Path, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    without = distill(camvid, teacher, "--out without")
    mixed = distill(camvid, teacher, f"--unlabeled {photos} --out mixed")
    assert without["results"]["distilled"]["miou"] != mixed["results"]["distilled"]["miou"]
    assert tomllib.loads(Path("mixed/config.toml").read_text())["data"]["unlabeled"] == [photos.name]
    assert json.loads(Path("mixed/data.json").read_text())["images"] == {"train": 4, "val": 12, "auxiliary": 3}
    shipped = ("config.toml", "data.json", "environment.json", "README.md", "model.safetensors")
    assert not [name for name in shipped if str(photos).encode() in Path("mixed", name).read_bytes()]


def test_teacher_with_auxiliary_labels_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = f"--data camvid:{write_camvid(tmp_path / 'data')} {SMALL} --accept-teacher"
    shutil.copytree("data/val", "data/test")
    shutil.copytree("data/valannot", "data/testannot")
    words, more = f"--preset tsl {data.removesuffix('--accept-teacher')}", "--set 'data.auxiliary=[\"test\"]'"
    assert segdistill(f"train-teacher --teacher resnet18-half {words} {more}").code == 0
    line = f"distill --preset tsl --teacher resnet18-half --student resnet18-half {data} --dry-run"
    assert "trained before, with these settings on this data" in segdistill(f"{line} {more}").err
    assert "trained before" in segdistill(f"{line} {more} --unlabeled data/train").err, "of no use to a teacher"
    for other in ("", f"{more} --set data.auxiliary_share=0.25"):
        assert "so it is trained first" in segdistill(f"{line} {other}").err


def test_fully_unlabeled_batches_train_with_zero_cross_entropy(camvid: Path, teacher: Path, photos: Path) -> None:
    words = f"--unlabeled {photos} --set data.auxiliary_share=1.0 --baseline steps --out run"
    reporter = succeeds(distilling(camvid, teacher, words)).err
    assert "leaves no labeled image in a batch" in " ".join(reporter.split())
    (entry,) = (entry for entry in metrics(Path("run")) if "loss" in entry)
    assert entry["cross_entropy"] == entry["aux"] == 0
    assert entry["probability"] > 0
    (plain,) = (entry for entry in metrics(Path("run/baseline")) if "loss" in entry)
    assert plain["loss"] == 0


@pytest.mark.parametrize(
    ("share", "batch", "count"),
    [(0.01, 4, 1), (0.5, 4, 2), (0.75, 2, 1), (0.7, 4, 3), (0.99, 8, 7), (1.0, 8, 8), (0.5, 1, 1)],
)
def test_auxiliary_share_below_1_leaves_labeled_images(share: float, batch: int, count: int) -> None:
    config = DataConfig(name="", crop=(8, 8), batch_size=batch, auxiliary_share=share)
    assert config.auxiliary_images == count


def test_run_with_unlabeled_images_resumes_with_the_same_ones(
    camvid: Path, teacher: Path, photos: Path, tmp_path: Path
) -> None:
    distill(camvid, teacher, f"--unlabeled {photos} --out run")
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    assert segdistill(f"{line} --unlabeled {photos} --resume").code == 0
    fewer = tmp_path / photos.name
    fewer.mkdir()
    (fewer / "a.png").write_bytes((photos / "a.png").read_bytes())
    Path("run/manifest.json").unlink()
    other = segdistill(f"{line} --unlabeled {fewer} --resume")
    assert other.code == 2
    assert "data set has changed" in other.err


@pytest.mark.parametrize(("make", "code"), [(False, 2), (True, 3)])
def test_missing_or_empty_unlabeled_folder_is_an_error(
    camvid: Path, teacher: Path, tmp_path: Path, make: bool, code: int
) -> None:
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    run = segdistill(f"distill {NETS} --data camvid:{camvid} {SMALL} --unlabeled {folder} --out run")
    assert run.code == code
    assert str(folder) in run.err.replace("\n", "")
    assert not Path("run").exists()


# The plain twin and the seeds


def test_skipped_steps_are_in_results_card_table_and_log(monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = PSPNet.segment

    def spoiled(self: PSPNet, image: Tensor) -> SegOutput:
        output = healthy(self, image)
        second_step = self.training and torch.initial_seed() == engine.step_seed(0, 1, 0)
        return output._replace(logits=output.logits * math.nan) if second_step else output

    monkeypatch.setattr(PSPNet, "segment", spoiled)
    line = f"train-teacher --preset skd --teacher pspnet18 --data streets {SMALL} --steps 3 --out run"
    shown = succeeds(line)
    said = "skipped, because the gradient was not finite"
    assert re.search(r"│ +skipped steps │", shown.out.replace("┃", "│"))
    assert json.loads(Path("run/scores.json").read_text())["teacher"]["skipped_steps"] == 1
    assert f"teacher: 1 step {said}." in Path("run/README.md").read_text()
    assert f"teacher: 1 of 3 steps {said}." in Path("run/train.log").read_text()
    resume_command = succeeds(f"{line} --resume")
    assert resume_command.out == shown.out


def test_gain_has_an_interval_and_a_conclusion(camvid: Path, teacher: Path) -> None:
    result = distill(camvid, teacher, "--baseline steps --out run")
    gain, results = result["gain"], result["results"]
    assert gain["gain"] == pytest.approx(results["distilled"]["miou"] - results["baseline"]["miou"])
    assert gain["low"] <= gain["gain"] <= gain["high"]
    assert (gain["images"], gain["seeds"]) == (12, 1)
    assert "at the same steps" in gain["sentence"]
    assert "the spread between seeds was not measured, so this is no verdict" in gain["sentence"]
    assert (gain["holds"], gain["harms"]) == (False, False)
    assert json.loads(Path("run/gain.json").read_text()) == gain
    assert gain["sentence"] in Path("run/README.md").read_text()
    resume_command = segdistill(
        f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} "
        "--baseline steps --out run --resume"
    )
    assert resume_command.code == 0
    assert " ".join(resume_command.out.split()).endswith(gain["sentence"]), "the last line"
    assert gain["sentence"] in resume_command.out.replace("\n", " ")


def test_gain_interval_contains_0_if_all_weights_are_0(camvid: Path, teacher: Path) -> None:
    weights = "--set terms.probability.weight=0 --set terms.consistency.weight=0"
    gain = distill(camvid, teacher, f"--baseline steps {weights} --out run")["gain"]
    assert gain["low"] <= 0 <= gain["high"]
    assert gain["gain"] == 0
    assert not gain["holds"]


def test_baseline_has_more_steps_in_the_same_time(camvid: Path, teacher: Path) -> None:
    words = "--set optim.steps=6 --steps 6 --baseline time --out run"
    result = distill(camvid, teacher, words, "skd")  # its critic takes far more time than so small a student
    steps = tomllib.loads(Path("run/baseline/config.toml").read_text())["optim"]["steps"]
    assert steps > 6
    assert metrics(Path("run/baseline"))[-1]["step"] == steps
    assert all(result["results"][name]["training_seconds"] > 0 for name in ("baseline", "distilled"))
    assert "in the same training time" in result["gain"]["sentence"]
    before = contents(Path("run"))
    distill(camvid, teacher, f"{words} --resume", "skd")
    assert contents(Path("run")) == before
    Path("run/manifest.json").unlink()  # as if it had been stopped at its end
    Path("run/baseline/config.toml").write_text("optim = 5")
    refused(distilling(camvid, teacher, f"{words} --resume", "skd"), "run/baseline cannot be continued", code=5)


@pytest.mark.slow  # it is stopped for 3 s
def test_stopped_process_gives_the_baseline_no_extra_steps(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, times, freezers = recorder.Recorder.__call__, [], []
    freeze = f"kill -STOP {os.getpid()}; sleep 3; kill -CONT {os.getpid()}"

    def call(self: recorder.Recorder, report: Report) -> None:
        times.append(time.perf_counter())
        recorded(self, report)
        if report.step == 3:
            freezers.append(subprocess.Popen(["sh", "-c", freeze], start_new_session=True))

    monkeypatch.setattr(recorder.Recorder, "__call__", call)
    result = distill(camvid, teacher, "--set optim.steps=20 --steps 20 --set validate.every=100 --out run")
    assert freezers[0].wait() == 0
    steps = [after - before for before, after in pairwise(times)]
    assert max(steps) > 3, "it was stopped during a step"
    # the stopped step counts for three times the median at most; half a second is for what is measured around it
    bound = sum(steps) - max(steps) + step_clock.MAX_STALL * statistics.median(steps) + 0.5
    assert result["results"]["distilled"]["training_seconds"] < bound < sum(steps)


def test_several_seeds_are_separate_runs_with_mean_and_std(camvid: Path, teacher: Path) -> None:
    result = distill(camvid, teacher, "--baseline steps --seeds 2 --seed 5 --out run")
    names = ["teacher", "baseline", "distilled", "baseline, seed 6", "distilled, seed 6"]
    assert list(result["results"]) == names
    values = [result["results"][name]["miou"] for name in ("distilled", "distilled, seed 6")]
    assert result["spread"]["distilled"]["mean"] == pytest.approx(sum(values) / 2)
    assert result["spread"]["distilled"]["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert result["gain"]["seeds"] == 2
    for folder, seed in (("run", 5), ("run/seed-6", 6), ("run/seed-6/baseline", 6)):
        assert tomllib.loads(Path(folder, "config.toml").read_text())["seed"] == seed
        assert Path(folder, "manifest.json").exists()
    alone = distill(camvid, teacher, "--baseline steps --seed 6 --out alone")["results"]
    assert alone["distilled"]["miou"] == result["results"]["distilled, seed 6"]["miou"]
    assert alone["baseline"]["miou"] == result["results"]["baseline, seed 6"]["miou"]


# Knowledge adaptation: what is trained beforehand


def test_autoencoder_is_trained_once_per_teacher_and_reused(camvid: Path, teacher: Path) -> None:
    line = f"distill --preset ka --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --steps 3"
    first = segdistill(f"{line} --out runs/one")
    assert first.code == 0, first.err
    assert "autoencoder: trained first, 3 steps" in first.err
    assert [entry["step"] for entry in metrics(Path("runs/one")) if entry["stage"] == "autoencoder"][-1] == 3
    second = segdistill(f"{line} --out runs/two")
    assert "autoencoder: that of one, trained before for this teacher" in second.err
    kept = [Path(run, "pretraining-autoencoder.safetensors").read_bytes() for run in ("runs/one", "runs/two")]
    assert kept[0] == kept[1]
    other = segdistill(f"{line} --set terms.adaptation.autoencoder.lr=0.05 --out runs/three")
    assert "autoencoder: trained first, 3 steps" in other.err, "of another learning rate it is another one"
    with safe_open("runs/one/model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "encoder" in name or "adapt" in name]  # noqa: SIM118  # no dict


@pytest.mark.promise("C4")
def test_run_stopped_in_the_autoencoder_resumes_exactly(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"distill --preset ka --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --steps 4"
    assert segdistill(f"{line} --out whole/run").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(2))
        assert segdistill(f"{line} --out parts/run").code == 143
    assert load_state(Path("parts/run/checkpoints/last"))["training"]["stage"] == "autoencoder"
    assert segdistill(f"{line} --out parts/run --resume").code == 0
    for name in ("metrics.jsonl", "model.safetensors"):
        assert Path("whole/run", name).read_bytes() == Path("parts/run", name).read_bytes()


@pytest.mark.promise("C3", "C4")
def test_student_resumes_only_with_its_own_autoencoder(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"distill --preset ka --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(1, "student"))
        assert segdistill(line).code == 143
    encoder, state = Path("run/pretraining-autoencoder.safetensors"), Path("run/checkpoints/last").read_bytes()
    whole = encoder.read_bytes()
    damages: tuple[Callable[[Path], None], ...] = (halve, Path.unlink)
    for damage in damages:
        damage(encoder)
        refused(f"{line} --resume", f"{encoder} is gone or damaged", code=5)
        assert Path("run/checkpoints/last").read_bytes() == state
    encoder.write_bytes(whole)
    monkeypatch.setattr(_pretraining, "cache_key", lambda *words: "that of another precision")
    assert segdistill(f"{line} --resume").code == 0


@pytest.mark.promise("C3", "C4")
def test_first_of_two_autoencoders_is_not_silently_retrained(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = "--set terms.affinity.autoencoder.latent=0.5 --set terms.adaptation.autoencoder.latent=0.25"
    line = f"distill --preset ka --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} {two}"
    line += " --out run"
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(1, "autoencoder-2"))
        assert segdistill(line).code == 143
    Path("run/pretraining-autoencoder.safetensors").rename("aside")
    refused(f"{line} --resume", "run/pretraining-autoencoder.safetensors is gone or damaged", code=5)
    Path("aside").rename("run/pretraining-autoencoder.safetensors")
    assert segdistill(f"{line} --resume").code == 0
    trained = [entry["stage"] for entry in metrics(Path("run")) if entry["step"] == 2]
    assert trained[:2] == ["autoencoder", "autoencoder-2"]


@pytest.mark.promise("C3")
def test_damaged_log_is_not_written_to_the_manifest(camvid: Path, teacher: Path) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    assert segdistill(line).code == 0
    Path("run/manifest.json").unlink()
    for content in ("junk\n", '{"stage": "student", "step": 2, "miou": 0.99}\n', None):
        Path("run/metrics.jsonl").unlink() if content is None else Path("run/metrics.jsonl").write_text(content)
        refused(f"{line} --resume", "run/metrics.jsonl is damaged", code=5)
        assert not Path("run/manifest.json").exists()


@pytest.mark.promise("C4")
def test_a_teacher_begun_by_another_distillation_is_finished(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"distill --preset tsl --teacher resnet18-half --data camvid:{camvid} {SMALL} --accept-teacher"
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(1))
        assert segdistill(f"{line} --student resnet18-half --baseline steps --seeds 2 --out a").code == 143
    other = segdistill(f"{line} --student deeplabv3-resnet18-half --set terms.probability.weight=2 --out b")
    assert other.code == 0, other.err
    assert len(list(Path("runs").iterdir())) == 1


@pytest.mark.promise("C5", "T4")
def test_run_without_its_teacher_record_takes_no_other_teacher(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(1))
        assert segdistill(line).code == 143
    Path("run/teacher.json").unlink()
    refused(f"{line} --resume", "run/teacher.json is gone", code=5)


@pytest.mark.promise("R1")
def test_signal_between_trainings_names_the_resume_command(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", sys.exit)
        patch.setattr(figures, "draw_comparison", lambda *words: os.kill(os.getpid(), signal.SIGTERM))
        assert segdistill(line).code == 143
    said = capfd.readouterr().err
    assert said == "\nStopped by SIGTERM. Continue with: segdistill resume run\n"
    assert not Path("run/manifest.json").exists()
    assert segdistill("resume run").code == 0


# Label assistance


def test_label_assisted_teacher_teaches_but_has_no_accuracy(camvid: Path) -> None:
    line = f"distill --preset lad {NETS} --data camvid:{camvid} {SMALL} --out run"
    run = segdistill(f"{line} --json")
    assert run.code == 0, run.err
    results = json.loads(run.out)["results"]
    assert results["teacher"]["miou"] is None
    assert results["teacher"]["note"].startswith("This network sees the labels")
    (trained,) = Path("runs").glob("train-teacher-lad-*")
    evaluated = segdistill(f"evaluate {trained} --data camvid:{camvid} --workers 0")
    assert evaluated.code == 0, evaluated.err
    assert "sees the labels" in " ".join(evaluated.out.split())
    assert "mIoU" not in evaluated.out
    scores = json.loads(segdistill(f"evaluate {trained} --data camvid:{camvid} --workers 0 --json").out)
    assert scores["miou"] is scores["pixel_accuracy"] is None
    for command in (f"export {trained} --data camvid:{camvid}", f"infer {trained} {camvid}/val --out labels"):
        refused = segdistill(command)
        assert refused.code == 2
        assert "labels" in refused.err
    exported = segdistill(f"export run --data camvid:{camvid} --workers 0")
    assert exported.code == 0, exported.err
    (image,) = onnx.load("run/model.onnx").graph.input
    assert image.type.tensor_type.shape.dim[1].dim_value == 3


def test_unlabeled_images_warn_with_a_label_assisted_teacher(camvid: Path, photos: Path) -> None:
    line = f"distill --preset lad {NETS} --data camvid:{camvid} {SMALL} --dry-run"
    warning = "A label-assisted teacher has nothing to say of images without labels."
    for more in (f"--unlabeled {photos}", "--set data.labeled=0.5"):
        assert warning in segdistill(f"{line} {more}").err
    assert warning not in segdistill(line).err


@pytest.mark.parametrize(
    ("preset", "more", "expected"),
    [
        ("lad", "", "This teacher is plain"),
        ("tsl", "--data streets", "classes"),
        ("tsl", "--init-weights gone", "There is no gone"),
        ("ka", "--set terms.affinity.teacher_layer=9", "has no feature map 9"),
    ],
)
def test_teacher_errors_are_reported_before_files_are_read(
    preset: str, more: str, expected: str, camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*words: object, **options: object) -> None:
        raise AssertionError("a hundred thousand files would have been read")

    for look in ("check_files", "scan_dataset"):
        monkeypatch.setattr(verified, look, read)
    line = (
        f"distill --preset {preset} --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} {more}"
    )
    refused(line, expected)


def test_error_in_all_files_is_reported_after_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_camvid(tmp_path / "many", train=40, val=20)
    for path in (data / "trainannot").iterdir():
        Image.fromarray(np.full((48, 64), 77, np.uint8)).save(path)
    monkeypatch.setattr(verified, "MANY_IMAGES", 50)
    told = segdistill(f"train-teacher --teacher pspnet18 --data camvid:{data} {SMALL} --out run")
    assert told.code == 3
    assert "77 (3072 px)" in told.err
    assert "20 pairs cannot be used" in told.err, "every second one was looked at"
    assert "`segdistill data check` reads every file." in told.err
    assert not Path("run").exists()


def test_a_teacher_of_the_other_kind_is_refused(camvid: Path, teacher: Path) -> None:
    plain = segdistill(
        f"distill --preset lad --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    )
    assert plain.code == 2
    assert "This teacher is plain" in plain.err
    assert segdistill(f"train-teacher --preset lad {SMALL} --data camvid:{camvid} --out assisted").code == 0
    assisted = segdistill(
        f"distill --preset tsl --teacher assisted --student resnet18-half --data camvid:{camvid} {SMALL}"
    )
    assert assisted.code == 2
    assert "label-assisted" in assisted.err


# Every preset


def test_every_preset_runs_from_the_command_line(camvid: Path, teacher: Path, tmp_path: Path) -> None:
    from segdistill.config.presets import preset_names

    for preset in preset_names():
        if preset != "lad":  # it has its own teacher, above
            result = distill(camvid, teacher, f"--out {preset}", preset)
            assert 0 <= result["results"]["distilled"]["miou"] <= 1
            assert all(np.isfinite(entry["loss"]) for entry in metrics(tmp_path / preset) if "loss" in entry), preset


# Labels for a part of the images


def test_part_of_the_labels_leaves_other_images_to_the_terms(camvid: Path, teacher: Path) -> None:
    data = with_auxiliary_split(load_data(f"camvid:{camvid}"), DataConfig(crop=(8, 8), batch_size=4, labeled=0.5))
    labeled, others = data.split("train"), data.split(AUXILIARY)
    assert (labeled.names, others.names) == (("train/1.png", "train/3.png"), ("train/0.png", "train/2.png"))
    assert (others.read(0).label == UNLABELED).all()
    assert (labeled.read(0).label != UNLABELED).all()
    alone = with_auxiliary_split(
        load_data(f"camvid:{camvid}"), DataConfig(crop=(8, 8), batch_size=4, labeled=0.5), unlabeled=False
    )
    assert AUXILIARY not in alone.splits
    assert len({split.fingerprint for split in (labeled, others, load_data(f"camvid:{camvid}").split("train"))}) == 3
    result = distill(camvid, teacher, "--set data.labeled=0.5 --baseline steps --out run")
    assert json.loads(Path("run/data.json").read_text())["images"] == {"train": 2, "val": 12, "auxiliary": 2}
    assert result["gain"]["images"] == 12


def test_no_label_at_all_is_refused(camvid: Path, teacher: Path) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL}"
    refused(f"{line} --set data.labeled=0.1", "data.labeled=0.1 leaves none of 4 training images with its label")


# What goes on, and what does not


@pytest.mark.slow
def test_several_seeds_resume_where_the_first_was_stopped(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --seeds 2"
    assert segdistill(f"{line} --out whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(1))
        assert segdistill(f"{line} --out parts").code == 143
    assert not Path("parts/seed-1").exists()
    refused(f"{line.replace('--seeds 2', '')} --out parts --resume", "--seeds: 2 -> 1")
    assert segdistill(f"{line} --out parts --resume").code == 0
    for name in ("model.safetensors", "seed-1/model.safetensors"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


def test_finished_run_with_an_added_baseline_is_unfinished(
    camvid: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    assert segdistill(line).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stop_after(1))
        assert segdistill(f"{line} --baseline steps --resume").code == 143
    assert not Path("run/manifest.json").exists()
    done = segdistill(f"{line} --baseline steps --resume --json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["gain"]["images"] == 12


def test_other_baseline_or_initial_weights_are_another_run(camvid: Path, teacher: Path) -> None:
    line = f"distill --preset tsl --teacher {teacher} --student resnet18-half --data camvid:{camvid} {SMALL} --out run"
    assert segdistill(f"{line} --baseline steps").code == 0
    refused(f"{line} --baseline time --resume", "--baseline: steps -> time")
    refused(f"{line} --resume", "--baseline: steps -> none")
    refused(f"{line} --baseline steps --init-weights run --resume", "--init-weights: none ->")


@pytest.mark.slow
def test_overwrite_removes_all_seeds(camvid: Path, teacher: Path) -> None:
    distill(camvid, teacher, "--seeds 2 --baseline steps --out run")
    distill(camvid, teacher, "--out run --overwrite")
    left = [path for path in Path("run").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left
    assert not [path for path in left if "seed-" in str(path)]


def test_label_assisted_scores_are_never_called_miou(camvid: Path) -> None:
    run = segdistill(f"train-teacher --preset lad {SMALL} --data camvid:{camvid} --out run --json")
    result = json.loads(run.out)["results"]["teacher"]
    assert result["best_miou"] is result["miou"] is None
    assert not [entry for entry in metrics(Path("run")) if "miou" in entry or "pixel_accuracy" in entry]
    for name in ("model.safetensors", "checkpoints/best"):
        assert not {"miou", "pixel_accuracy", "best_miou"} & read_info(Path("run", name)).metrics.keys()


def test_baseline_is_not_called_distilled(camvid: Path, teacher: Path) -> None:
    distill(camvid, teacher, "--baseline steps --out run")
    cards = [Path(folder, "README.md").read_text() for folder in ("run", "run/baseline")]
    assert ["knowledge-distillation" in card for card in cards] == [True, False]
    assert ["Distilled (probability, consistency)" in card for card in cards] == [True, False]


def test_run_configuration_caps_its_pretraining_stages(camvid: Path, teacher: Path) -> None:
    distill(camvid, teacher, "--out run", "ka")
    terms = tomllib.loads(Path("run/config.toml").read_text())["terms"]
    assert [terms[name]["autoencoder"]["steps"] for name in ("adaptation", "affinity")] == [2, 2]
