"""Single runs: overwritten, resumed elsewhere, stopped and logged, with a teacher trained on the way."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from PIL import Image

from helpers.commands import (
    DISTILL,
    NETWORK,
    SMALL,
    UNTRAINED,
    contents,
    files,
    process,
    refused,
    segdistill,
    succeeds,
    write_camvid,
)
from helpers.run_folders import held
from helpers.runs import RUN_FILES
from segdistill.checkpoints.training_state import load_state
from segdistill.commands import _teacher
from segdistill.commands._run_log import log_writer
from segdistill.commands._run_record import finish
from segdistill.config.presets import load_preset
from segdistill.runtime.signals import stopped_error
from segdistill.runtime.versions import versions
from segdistill.storage.manifest import verify_file
from segdistill.storage.run_folder import open_run

pytestmark = pytest.mark.usefixtures("elsewhere")


# Models


def test_training_continues_after_its_output_is_closed(camvid: Path, tmp_path: Path) -> None:
    line = f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --out run --verbose"
    words = [sys.executable, "-m", "segdistill", *shlex.split(line)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as training:
        assert training.stderr is not None
        training.stderr.readline()
        training.stderr.close()
        assert training.stdout is not None
        assert b"Run: run" in training.stdout.read()
    assert training.returncode == 0
    assert (tmp_path / "run/manifest.json").exists()


def test_training_continues_after_its_terminal_is_gone(camvid: Path, tmp_path: Path) -> None:
    line = f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --out run".replace(
        "--steps 2", "--steps 9"
    )
    words = [sys.executable, "-m", "segdistill", *shlex.split(line)]
    ours, theirs = os.openpty()
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs, stdin=theirs) as training:
        os.close(theirs)
        while b"camvid" not in os.read(ours, 1000):
            pass
        os.close(ours)
    assert training.returncode == 0
    assert (tmp_path / "run/manifest.json").exists()


# A run's folder


@pytest.mark.promise("C10")
def test_a_second_run_in_a_folder_names_the_first(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", resume=False, overwrite=False):
        (tmp_path / "run" / "config.toml").write_text("")
        for flag in ("", "--resume", "--overwrite"):
            started = time.monotonic()
            line = f"train-teacher --data streets {SMALL} --out run {flag}"
            refused(line, f"Another run is at work in run (process {os.getpid()})")
            assert time.monotonic() - started < 2


@pytest.mark.promise("S7", "S8")
def test_overwrite_replaces_a_run_and_keeps_foreign_files(camvid: Path, tmp_path: Path) -> None:
    line = f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --out run"
    succeeds(line)
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "last").write_text("mine")
    (run / "notes.txt").write_text("mine")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    (run / "checkpoints").rmdir()
    (run / "checkpoints").symlink_to(outside)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(outside / "last")
    succeeds(f"{line} --overwrite --seed 1")
    assert contents(outside).keys() == {str(outside / "last")}
    assert (outside / "last").read_text() == "mine"
    assert files(run) == RUN_FILES | {"notes.txt"}
    config = load_preset(run / "config.toml")
    assert (config.seed, config.data.name) == (1, "camvid")
    named = {path.name for path in run.rglob("*") if path.is_file() and bytes(camvid) in path.read_bytes()}
    assert named == {"local.json"}, "no other file has the data's path"


def test_a_training_that_is_interrupted_says_how_to_go_on(camvid: Path, tmp_path: Path) -> None:
    log, words = tmp_path / "run" / "metrics.jsonl", f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL}"

    def interrupt() -> None:
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    line = words.replace("--steps 2", "--steps 100000") + " --out run"
    refused(line, "everything is saved", "segdistill resume run", code=130)
    assert (tmp_path / "run" / "checkpoints" / "last").exists()
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.promise("C4")
def test_resume_elsewhere_says_why_bits_may_differ(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --out run"
    succeeds(line)
    Path("run/manifest.json").unlink()  # as if it had been killed at its end
    began = json.loads(Path("run/environment.json").read_text())
    began["versions"]["torch"], began["threads"] = "1.0", 64
    Path("run/environment.json").write_text(json.dumps(began))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    reporter, log = succeeds(f"{line} --resume").err, Path("run/train.log").read_text()
    for difference in (
        f"torch 1.0, now {versions()['torch']}",
        f"threads 64, now {torch.get_num_threads()}",
        "ONEDNN_MAX_CPU_ISA unset, now AVX2",
    ):
        said = f"Part of this run was computed with {difference}: results may not be bit-identical to the first part."
        assert said in reporter
        assert f"warning: {said}" in log
    environment = json.loads(Path("run/environment.json").read_text())
    (part,) = environment.pop("resumed_with")
    assert environment == began
    assert part["versions"] == versions()
    assert part["threads"] == torch.get_num_threads()
    assert part["switches"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    again = succeeds(f"{line} --resume").err  # it is finished: nothing is computed
    assert "bit-identical" not in again
    Path("run/manifest.json").unlink()
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert "ONEDNN_MAX_CPU_ISA AVX2, now unset" in succeeds(f"{line} --resume").err, "neither part is forgotten"
    assert len(json.loads(Path("run/environment.json").read_text())["resumed_with"]) == 2


@pytest.mark.promise("C4")
def test_old_run_resumes_with_its_settings_and_no_difference(camvid: Path) -> None:
    line = f"distill --preset skd --teacher resnet18-half --student {NETWORK} --data camvid:{camvid} {UNTRAINED}"
    succeeds(f"{line} --out run")
    for folder in (Path("run"), *Path("runs").iterdir()):
        (folder / "manifest.json").unlink()
        config = tomllib.loads((folder / "config.toml").read_text())
        del config["terms"]["holistic"]["critic_weight"], config["aux_weight"], config["data"]["auxiliary_share"]
        config["about"], config["paper"] = "In other words.", "Somebody"
        (folder / "config.toml").write_text(tomli_w.dumps(config))
        environment = json.loads((folder / "environment.json").read_text())
        for name in ("cpu", "libraries", "flags", "switches"):
            del environment[name]
        (folder / "environment.json").write_text(json.dumps(environment))
    for run in (Path("run"), *Path("runs").iterdir()):
        (run / "local.json").unlink()
    for resume in (f"{line} --out run --resume", "resume run --data camvid:{camvid} --accept-teacher --workers 0"):
        reporter = succeeds(resume.format(camvid=camvid)).err
        assert "bit-identical" not in reporter
        Path("run/manifest.json").unlink()
    changed = f"{line} --out run --resume --set aux_weight=0.3"
    refused(changed, "aux_weight: 0.4 -> 0.3", "`segdistill resume run`")


# Numbers


@pytest.mark.promise("R5")
def test_exploding_training_names_step_images_and_terms(camvid: Path) -> None:
    line = f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --steps 9 --out run"
    what = ("not finite 4 steps in a row", "cross_entropy nan", "Its images: train/", "Lower optim.lr")
    refused(f"{line} --set optim.lr=1e30 --set optim.warmup=0 --set checkpoint.every=1", *what, code=4)
    assert not Path("run/model.safetensors").exists()
    weights = load_state(Path("run/checkpoints/last"))["training"]["weights"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.promise("R6")
def test_images_without_labeled_pixels_are_counted_and_trained(own_camvid: Path) -> None:
    for index in (0, 1, 2):
        Image.new("L", (64, 48), 11).save(own_camvid / f"trainannot/{index}.png")
    reporter = succeeds(f"train-teacher --teacher {NETWORK} --data camvid:{own_camvid} {SMALL} --out run").err
    assert "Images without a labeled pixel (3): train/0.png, train/1.png, train/2.png." in reporter
    for entry in map(json.loads, Path("run/metrics.jsonl").read_text().splitlines()):
        assert None not in entry.values()


@pytest.mark.promise("R6")
@pytest.mark.parametrize(("split", "images"), [("train", 4), ("val", 2)])
def test_a_split_that_is_void_throughout_is_refused(own_camvid: Path, split: str, images: int) -> None:
    for index in range(images):
        Image.new("L", (64, 48), 11).save(own_camvid / f"{split}annot/{index}.png")
    line = f"train-teacher --teacher {NETWORK} --data camvid:{own_camvid} {SMALL} --out run"
    refused(line, f"Not one pixel of the {split} split has a class", "--preview", code=3)
    assert not Path("run").exists()


@pytest.mark.promise("R7")
def test_batch_norm_refuses_single_images_and_batches_are_even(tmp_path: Path) -> None:
    data = write_camvid(tmp_path / "five", train=5)
    line = f"train-teacher --teacher {NETWORK} --data camvid:{data} {SMALL} --out run"
    succeeds(f"{line} --set data.batch_size=4 --steps 3")
    before = contents(tmp_path)
    refused(f"{line} --overwrite --set data.batch_size=1", "Batch norm needs at least 2 images at a time")
    refused(f"{line} --overwrite --set optim.accumulate=2", "Batch norm needs at least 2 images at a time")
    assert contents(tmp_path) == before


# How a run ended, in its log


def log(folder: str = "run") -> str:
    return Path(folder, "train.log").read_text()


def last_line(folder: str = "run") -> str:
    return log(folder).splitlines()[-1].partition("  ")[2]


SHORT = f"train-teacher --preset skd --teacher resnet18-half --data streets {SMALL} --out run"


@pytest.mark.promise("C4")
def test_the_log_of_a_run_says_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **options: object) -> None:
        raise MemoryError(f"no room for {Path.cwd()}/deep/a.png or\n{Path.home()}/b.png")

    with monkeypatch.context() as patched:
        patched.setattr("segdistill.commands._teacher_run.train", fail)
        assert segdistill(SHORT).code == 1
    assert last_line() == "ended: MemoryError: no room for .../a.png or ~/b.png"
    assert segdistill(f"{SHORT} --resume").code == 0
    assert last_line() == "ended (exit 0): finished"
    verify_file(Path("run"), "train.log")
    assert "ended before" not in log()


@pytest.mark.promise("R1")
@pytest.mark.parametrize(
    ("action", "code", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGUSR1)", 138, "ended (exit 138): Stopped by SIGUSR1."),
        (
            "raise errors.CheckError('It is\\nwrong.')",
            4,
            "ended (exit 4): It is wrong.",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "ended before: nothing says how"),
    ],
)
def test_log_says_how_signals_refusals_and_kills_ended_a_run(action: str, code: int, expected: str) -> None:
    program = (
        "import os, signal, sys\nfrom segdistill import cli, errors\nfrom segdistill.commands import _teacher_run\n"
    )
    program += f"sys.argv = {['segdistill', *SHORT.split()]}\ndef end(*given, **options):\n    {action}\n"
    program += "_teacher_run.train = end\ncli.main()\n"
    done = process(sys.executable, "-c", program, OMP_NUM_THREADS="1")
    assert done.code == code, done.err
    if code < 0:
        assert segdistill(f"{SHORT} --resume").code == 0
    assert expected in log()


@pytest.mark.promise("C4")
def test_finished_log_is_never_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        finish(*given)
        raise MemoryError

    monkeypatch.setattr("segdistill.commands._teacher_run.finish", fail)
    assert segdistill(SHORT).code == 1
    verify_file(Path("run"), "train.log")


@pytest.mark.promise("C4")
def test_log_line_containing_ended_is_not_an_end() -> None:
    assert segdistill(SHORT).code == 0
    Path("run/manifest.json").unlink()
    with Path("run/train.log").open("a") as file:
        file.write("2026-01-01 00:00:00  warning: three seeds are recommended, and the run is extended.\n")
    assert segdistill(f"{SHORT} --resume").code == 0
    assert "ended before: nothing says how" in log()


@pytest.mark.promise("S10")
@pytest.mark.parametrize("home", ["/", "", "nowhere"])
def test_log_leaves_paths_out_without_a_home_folder(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)  # a container's for a user whom it does not know
    with open_run(Path("run"), resume=False, overwrite=False) as folder:
        log_writer(folder)("/data/a/b.png is 3/4 read.")
    assert last_line() == ".../b.png is 3/4 read."


# A teacher that is trained on the way


@pytest.mark.promise("S8", "C6")
def test_run_stopped_in_its_teacher_restarts_its_replacement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*given: object, command: str, **options: object) -> None:
        raise stopped_error(signal.SIGTERM, "after step 1 of 2", command)

    succeeds(SHORT)
    before = contents(Path("run"))
    monkeypatch.setattr("segdistill.commands._teacher_run.train", stopped)
    refused(f"{DISTILL} --out run --overwrite", "Continue with: segdistill distill", "--out run --overwrite", code=143)
    assert contents(Path("run")) == before, "there is nothing that --resume could go on with"


@pytest.mark.slow
@pytest.mark.promise("C4", "S10")
@pytest.mark.parametrize("out", ["run", "../b/deep/run"])
def test_resume_from_another_folder_finds_the_trained_teacher(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{DISTILL} --accept-teacher --out"
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    folder = (tmp_path / "a" / out).resolve()
    with monkeypatch.context() as patched:

        def fail(*given: Any, **options: Any) -> Any:
            raise RuntimeError("the power is off")

        patched.setattr("segdistill.commands._student.train", fail)
        assert segdistill(f"{line} {out}").code == 1
    (teacher,) = (path.parent for path in tmp_path.rglob("train-teacher-*/config.toml"))
    kept = json.loads((folder / "environment.json").read_text())["teacher_run"]
    assert (folder / kept).resolve() == teacher
    assert not {*tmp_path.parts[1:]} & {*Path(kept).parts}, "it names no folder above the two"
    monkeypatch.chdir(tmp_path / "c")
    teacher.rename(tmp_path / "away")
    refused(f"{line} {folder} --resume", "teacher of", "is not found")
    assert not Path("runs").exists()
    (tmp_path / "away").rename(teacher)
    done = segdistill(f"{line} {folder} --resume")
    assert done.code == 0, done.err
    assert "trained before, with these settings" in done.err
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.promise("C10")
def test_distillation_waits_for_a_process_training_its_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_teacher, "SECONDS_BETWEEN_LOOKS", 0.2)
    begun = succeeds(f"train-teacher --preset skd --teacher pspnet18 --data streets {SMALL} --out runs/t").err
    assert "at work" not in begun
    (Path("runs/t/manifest.json")).unlink()  # so it is not finished
    with held(Path("runs/t"), resume=True) as holder:
        threading.Timer(1.5, holder.kill).start()
        done = segdistill(f"{DISTILL} --accept-teacher --out run")
    assert done.code == 0, done.err
    assert done.err.count("Another run is at work in runs/t") == 1
    assert "which waits for it" in done.err
    assert [path.name for path in Path("runs").iterdir()] == ["t"]


@pytest.mark.slow
@pytest.mark.promise("C10")
def test_distillation_waits_for_a_process_that_just_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_teacher, "SECONDS_BETWEEN_LOOKS", 0.2)
    with held(Path("runs/train-teacher-skd-pspnet-resnet18-001")) as holder:  # it has written nothing yet
        threading.Timer(3, holder.kill).start()
        done = segdistill(f"{DISTILL} --accept-teacher --out run")
    assert done.code == 0, done.err
    assert "which waits for it" in done.err
