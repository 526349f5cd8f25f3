"""A training that is stopped and resumed equals the uninterrupted one; what it leaves behind is whole."""

import json
import math
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.commands import assert_same_run, equal
from helpers.tiny import CPU, Scenes, source
from helpers.trainings import STEPS, Listener, a_job, configuration, terminate
from segdistill.checkpoints.model_file import read_info
from segdistill.checkpoints.training_state import load_state, save_state
from segdistill.data import Sample, loader
from segdistill.errors import CheckError, ModelError, Stopped
from segdistill.evaluation.metrics import Scores
from segdistill.reports.curves import draw_curves
from segdistill.runtime.reporter import NullReporter
from segdistill.storage.run_folder import NullRunFolder, open_run
from segdistill.training.jobs import Runtime, TrainingJob
from segdistill.training.last_state import load_last
from segdistill.training.scoring import score
from segdistill.training.step_clock import StepClock
from segdistill.training.trainer import train
from segdistill.training.validator import Validator
from segdistill.types import SegOutput

CRITIC = {"terms.holistic.weight": 0.1, "checkpoint.every": STEPS}
"""With the critic a checkpoint has 34 MB, most of it the critic's."""


@dataclass
class Announced(Listener):
    """Does something to the process when something is said."""

    beginning: str = ""

    def info(self, text: str) -> None:
        super().info(text)
        if text.startswith(self.beginning):
            self.action()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run(job: TrainingJob, path: Path, reporter: NullReporter | None = None, *, workers: int = 0) -> Scores:
    """Train in a folder; continue where there is something to continue."""
    resume = path.exists()
    if resume:
        (path / "config.toml").touch()
    place = Runtime(torch.device("cpu"), CPU, workers, reporter or NullReporter())
    with open_run(path, resume=resume, overwrite=False) as folder:
        return train(job, folder, place, resume=resume, command="segdistill again").scores


def stopped(job: TrainingJob, path: Path, listener: Listener, *, workers: int = 0) -> Stopped:
    """Train until a signal stops it; return the error without the frames that would keep the workers alive."""
    try:
        run(job, path, listener, workers=workers)
    except Stopped as error:
        return error.with_traceback(None)
    raise AssertionError("nothing stopped it")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


# Exact resume


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(a_job(configuration()), path)
    return path


@pytest.mark.promise("C4", "R1")
@pytest.mark.parametrize(("loss", "workers"), [("wgan-gp", 2), ("hinge", 0), (None, 2)])
def test_repeatedly_stopped_run_equals_the_uninterrupted_one(loss: str | None, workers: int, tmp_path: Path) -> None:
    config = configuration(**(CRITIC if loss else {}))
    path, reference = tmp_path / "run", tmp_path / "uninterrupted"
    run(a_job(config, loss), reference)
    for step in (1, 4, 6, STEPS - 1):  # the first, in the middle and at the end of an epoch, the last but one
        error = stopped(a_job(config, loss), path, Listener(at=step, action=terminate), workers=workers)
        assert error.exit_code == 143
        assert f"after step {step} of {STEPS}" in error.what
        assert "segdistill again" in error.fix
        assert load_state(path / "checkpoints/last")["training"]["step"] == step
        assert not (path / "model.safetensors").exists()
    run(a_job(config, loss), path, workers=workers)
    assert any("critic" in name for name in load_state(path / "checkpoints/last")["training"]["weights"]) == bool(loss)
    assert_same_run(reference, path)


@pytest.mark.promise("C4")
def test_run_that_died_resumes_with_each_log_line_once(uninterrupted: Path, tmp_path: Path) -> None:
    def die() -> None:
        raise RuntimeError("the power is off")

    path = tmp_path / "run"
    for step, saved in ((10, 8), (11, 10)):  # both have been logged and not yet been saved
        with pytest.raises(RuntimeError, match="power"):
            run(a_job(configuration()), path, Listener(at=step, action=die))
        assert load_state(path / "checkpoints/last")["training"]["step"] == saved
        assert [line["step"] for line in lines(path)][-1] == step
    run(a_job(configuration()), path)
    assert_same_run(uninterrupted, path)


@dataclass(frozen=True)
class Stalling(Scenes):
    """Scenes that cannot be read while there is a certain file, as on a storage that hangs."""

    stall: Path = Path()

    def read(self, index: int) -> Sample:
        while self.stall.exists():
            time.sleep(0.1)
        return super().read(index)


@pytest.mark.promise("R1", "C4")
def test_run_waiting_for_images_saves_and_stops_on_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "POLL", 0.5)
    stall, path, reference = tmp_path / "stall", tmp_path / "run", tmp_path / "uninterrupted"
    splits = {"train": Stalling(6, stall=stall), "val": Scenes(3)}
    job = a_job(configuration(**{"checkpoint.every": 100}), data=replace(source(), splits=splits))
    later = threading.Timer(2.0, terminate)

    def hang() -> None:
        stall.touch()
        later.start()

    error = stopped(job, path, Listener(at=4, action=hang), workers=1)
    stall.unlink()
    assert error.exit_code == 143
    assert error.what.startswith("Stopped by SIGTERM while no image came")
    assert 4 <= load_state(path / "checkpoints/last")["training"]["step"] < STEPS
    for folder in (path, reference):
        run(a_job(configuration(**{"checkpoint.every": 100})), folder)
    assert_same_run(reference, path)


@pytest.mark.promise("C3")
def test_damaged_checkpoint_falls_back_to_the_previous_one(uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    stopped(a_job(configuration()), path, Listener(at=9, action=interrupt))
    last = path / "checkpoints/last"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    listener = Listener()
    run(a_job(configuration()), path, listener)
    assert any("checkpoints/last is damaged" in text for text in listener.heard)
    assert any("Continuing from" in text and "last.prev, step 8" in text for text in listener.heard)
    assert_same_run(uninterrupted, path)


@pytest.mark.promise("C3", "C6")
def test_damaged_checkpoint_never_replaces_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    stopped(a_job(configuration()), path, Listener(at=9, action=interrupt))
    (path / "checkpoints/last").write_bytes(b"?")
    stopped(a_job(configuration()), path, Listener(at=9, action=interrupt))
    states = [load_state(path / "checkpoints" / name)["training"]["step"] for name in ("last", "last.prev")]
    assert states == [9, 8]


@pytest.mark.promise("C1", "C4")
def test_log_is_synced_before_a_checkpoint_counts_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, fsync = list[str](), os.fsync

    def synced(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").resolve().name.strip(".").partition(".")[0])
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not tell which file a descriptor is of")
    monkeypatch.setattr(os, "fsync", synced)
    run(a_job(configuration(terms={}, **{"validate.every": 1, "checkpoint.every": 5})), tmp_path / "run")
    written = [name for name in order if name in ("metrics", "last")]
    assert written == ["metrics", "last"] * 6  # at steps 5, 10 and 11, before the validation and after it


def test_a_finished_training_that_is_continued_changes_nothing(uninterrupted: Path) -> None:
    before = {file: file.read_bytes() for file in uninterrupted.rglob("*") if file.is_file() and file.name != ".lock"}
    run(a_job(configuration()), uninterrupted)
    for file, content in before.items():
        assert file.read_bytes() == content, file


@pytest.mark.promise("R10")
def test_validation_interval_does_not_change_the_weights(uninterrupted: Path, tmp_path: Path) -> None:
    often = configuration(**{"validate.every": 1, "checkpoint.every": 1})
    run(a_job(often), tmp_path / "often", workers=2)
    states = [load_state(path / "checkpoints/last")["training"] for path in (uninterrupted, tmp_path / "often")]
    assert equal(*states)


# What a run leaves behind


def test_log_and_model_hold_terms_learning_rate_and_scores(tmp_path: Path) -> None:
    config = configuration(terms={})
    job = a_job(config)
    scores = run(job, tmp_path / "run")
    entries = lines(tmp_path / "run")
    validated = {entry["step"]: entry["miou"] for entry in entries if "miou" in entry}
    logged = [entry for entry in entries if "loss" in entry]
    assert list(validated) == [3, 6, 9, 11]
    assert [entry["step"] for entry in logged] == [10, 11]
    assert all(entry["stage"] == "student" for entry in entries)
    assert logged[0]["loss"] == pytest.approx(logged[0]["cross_entropy"] + logged[0]["aux"])
    assert logged[0]["lr"] == pytest.approx(0.02 * (2 / 11) ** 0.9)
    assert validated[11] == scores.miou
    place = Runtime(torch.device("cpu"), CPU, 0, NullReporter())
    assert torch.equal(score(job.network, job.info, job.data, runtime=place, precision=CPU).confusion, scores.confusion)
    state = load_state(tmp_path / "run/checkpoints/last")
    best = max(validated.values())
    assert (state["best"], state["best_step"]) == (best, min(step for step, miou in validated.items() if miou == best))


def test_of_equal_validations_the_earlier_one_stays_the_best(tmp_path: Path) -> None:
    job = a_job(configuration(terms={}))
    with open_run(tmp_path / "run", resume=False, overwrite=False) as folder:
        validator = Validator(job, folder, Runtime(torch.device("cpu"), CPU, 0, NullReporter()))
        for step in (3, 6):  # of the same weights
            validator(step, CPU, lambda: None)
        assert validator.best.step == read_info(folder / "checkpoints/best").metrics["step"] == 3
        validator.best = validator.best._replace(miou=validator.best.miou - 1e-6)
        validator(9, CPU, lambda: None)
        assert validator.best.step == read_info(folder / "checkpoints/best").metrics["step"] == 9


def test_process_without_a_run_folder_ends_in_the_same_weights(uninterrupted: Path) -> None:
    job = a_job(configuration())
    place = Runtime(torch.device("cpu"), CPU, 0, NullReporter())
    trained = train(job, NullRunFolder(), place, resume=True, command="segdistill again")
    kept = load_file(uninterrupted / "model.safetensors")
    assert kept.keys() == job.network.state_dict().keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in job.network.state_dict().items())
    assert trained.scores.miou == read_info(uninterrupted / "model.safetensors").metrics["miou"]


@pytest.mark.promise("R5")
def test_huge_steps_stop_training_with_finite_checkpoints(tmp_path: Path) -> None:
    config = configuration(terms={}, **{"optim.lr": 1e20, "checkpoint.every": 1, "validate.every": 1})
    with pytest.raises(CheckError) as caught:
        run(a_job(config), tmp_path / "run")
    assert caught.value.exit_code == 4
    assert "cross_entropy nan" in caught.value.what
    states = [load_state(tmp_path / "run/checkpoints" / name)["training"]["weights"] for name in ("last", "last.prev")]
    best = load_file(tmp_path / "run/checkpoints/best")
    assert all(tensor.isfinite().all() for weights in (*states, best) for tensor in weights.values())


def test_the_log_stays_json_where_a_loss_is_not_finite(tmp_path: Path) -> None:
    config = configuration(terms={}, **{"optim.lr": 1e20, "optim.steps": 2, "checkpoint.every": 1, "validate.every": 1})
    run(a_job(config), tmp_path / "run")
    entries = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert [entry["loss"] for entry in entries if "loss" in entry] == [None]
    draw_curves(tmp_path / "run/metrics.jsonl", tmp_path / "curves.png")


@pytest.mark.promise("R5", "C4")
def test_skipped_steps_are_reported_and_counted_through_a_resume(tmp_path: Path) -> None:
    def spoiled_job() -> TrainingJob:
        job = a_job(configuration(terms={}))

        def spoil(network: nn.Module, inputs: Any, output: SegOutput) -> SegOutput:
            # what is drawn here depends on the step alone; of these eleven steps it strikes a few
            bad = network.training and torch.rand(()) < 0.1
            return output._replace(logits=output.logits * math.nan) if bad else output

        job.network.register_forward_hook(spoil)
        return job

    listener = Listener()
    run(spoiled_job(), tmp_path / "whole", listener)
    total = load_state(tmp_path / "whole/checkpoints/last")["training"]["skipped"]
    assert 0 < total <= 3
    assert f"student: {total} of {STEPS} steps skipped, because the gradient was not finite." in listener.heard
    assert [line["skipped_steps"] for line in lines(tmp_path / "whole") if "loss" in line][-1] == total
    draw_curves(tmp_path / "whole/metrics.jsonl", tmp_path / "curves.png")
    for step in (2, 7):
        stopped(spoiled_job(), tmp_path / "cut", Listener(at=step, action=terminate))
    listener = Listener()
    run(spoiled_job(), tmp_path / "cut", listener)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert f"student: {total} of {STEPS} steps skipped, because the gradient was not finite." in listener.heard


@pytest.mark.promise("C6")
def test_last_whole_state_is_found(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", resume=False, overwrite=False) as folder:
        assert load_last(folder, NullReporter()) is None
        last, previous, listener = folder / "checkpoints/last", folder / "checkpoints/last.prev", Listener()
        for step in (1, 2):
            save_state(last, a_state(step), keep_previous=True)
        assert load_last(folder, listener) == a_state(2)
        assert not listener.heard
        last.unlink()  # killed between two renames
        assert load_last(folder, listener) == a_state(1)
        assert "last.prev, step 1" in listener.heard[0]
        previous.write_bytes(b"?")
        with pytest.raises(ModelError, match=r"last\.prev is damaged"):
            load_last(folder, listener)


def a_state(step: int) -> dict[str, Any]:
    return {"training": {"stage": "s", "step": step, "weights": {}, "optimizer": {}}, "lines": 0, "seconds": 0.5}


@pytest.mark.promise("S3")
@pytest.mark.parametrize(
    "forged",
    [
        {},
        [1],
        a_state(-5),
        a_state(1) | {"lines": "x"},
        a_state(1) | {"training": {"step": 1}},
        {"training": a_state(1)},
    ],
)
def test_checkpoint_of_something_else_is_passed_over(forged: Any, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", resume=False, overwrite=False) as folder:
        save_state(folder / "checkpoints/last", a_state(1))
        save_state(folder / "checkpoints/last", forged, keep_previous=True)
        assert load_last(folder, Listener()) == a_state(1)
        (folder / "checkpoints/last.prev").unlink()
        with pytest.raises(ModelError, match="is no state of a training"):
            load_last(folder, Listener())


@pytest.mark.promise("S3")
def test_a_state_that_is_forged_in_part_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    stopped(a_job(configuration()), path, Listener(at=4, action=terminate))
    whole = load_state(path / "checkpoints/last")
    training = whole["training"]
    first = next(iter(training["weights"]))
    momentum = {key: {"momentum_buffer": torch.zeros(3)} for key in training["optimizer"]["state"]}
    for forged, said in (
        ({"best": "x"}, "does not say what was best"),
        ({"best_step": None}, "does not say what was best"),
        ({"training": {key: value for key, value in training.items() if key != "scaler"}}, "scaler"),
        ({"training": training | {"weights": training["weights"] | {first: torch.zeros(1)}}}, "size mismatch"),
        ({"training": training | {"weights": {}}}, "Missing key"),
        ({"training": training | {"optimizer": {}}}, "not of this training"),
        (
            {"training": training | {"optimizer": training["optimizer"] | {"state": momentum}}},
            "momentum_buffer of shape",
        ),
    ):
        save_state(path / "checkpoints/last", whole | forged)
        with pytest.raises(ModelError, match=said):
            run(a_job(configuration()), path)
    save_state(path / "checkpoints/last", whole)
    run(a_job(configuration()), path)


def test_a_state_beyond_the_last_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    stopped(a_job(configuration()), path, Listener(at=4, action=terminate))
    state = load_state(path / "checkpoints/last")
    state["training"]["step"] = 10**12
    save_state(path / "checkpoints/last", state)
    with pytest.raises(ModelError, match=f"of step {10**12} of {STEPS}"):
        run(a_job(configuration()), path)


@pytest.mark.promise("C3")
def test_log_without_the_counted_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    stopped(a_job(configuration()), path, Listener(at=4, action=terminate))
    written = (path / "metrics.jsonl").read_bytes()
    for content in (b"", b"\xff\xfe\n", b"junk\n" * 9, written.replace(b'"step": 3', b'"step": 2')):
        assert content != written
        (path / "metrics.jsonl").write_bytes(content)
        with pytest.raises(ModelError, match=r"metrics\.jsonl is damaged: its first 1 lines are not those"):
            run(a_job(configuration()), path)


# Signals


@pytest.mark.promise("R1", "C4")
@pytest.mark.parametrize("step", [6, STEPS])
def test_signal_during_validation_postpones_it(step: int, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    error = stopped(a_job(configuration()), path, Listener(at=step, action=terminate))
    assert (error.exit_code, error.what.partition(";")[0]) == (143, f"Stopped by SIGTERM after step {step} of {STEPS}")
    state = load_state(path / "checkpoints/last")
    assert (state["training"]["step"], state["unvalidated"]) == (step, True)
    assert not [line for line in lines(path) if line["step"] == step and "miou" in line]
    assert not (path / "model.safetensors").exists()
    resume_command = (
        stopped(a_job(configuration()), path, Listener(at=STEPS, action=interrupt)) if step < STEPS else None
    )
    assert resume_command is None or resume_command.exit_code == 130
    run(a_job(configuration()), path)
    assert_same_run(uninterrupted, path)


@pytest.mark.promise("R1")
def test_signal_after_the_last_step_saves_a_model_and_stops(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    listener = Announced(action=interrupt, beginning="student step 11")
    error = stopped(a_job(configuration(terms={})), tmp_path / "run", listener)
    assert (error.exit_code, error.what.partition(";")[0]) == (130, "Stopped by SIGINT after the last step of 11")
    assert (tmp_path / "run/model.safetensors").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# The command line, in processes of its own


def test_the_clock_counts_work_and_no_stalls_in_any_process() -> None:
    clock = StepClock()
    assert (clock.seconds, clock.median) == (0.0, None)
    for seconds in (60.0, 1.0, 1.0, 2.0, 1.0, 600.0, 1.5):  # set up, then a machine that was suspended
        clock.add(seconds)
    assert clock.median == 1.5
    assert clock.seconds == 4.5 + 1 + 1 + 2 + 1 + 4.5 + 1.5
    slow = StepClock()
    for _ in range(9):
        slow.add(60.0)
    assert slow.seconds == 540, "a loader that is slow all the time is work"
    later = StepClock(clock.seconds, clock.median)
    later.add(3600.0)
    assert later.seconds == clock.seconds + 4.5, "the first step of a process is measured by those before"
    for _ in range(9):
        later.add(2.0)
    assert (later.median, later.seconds) == (2.0, clock.seconds + 6 + 18)


def test_state_without_a_step_time_is_resumed() -> None:
    clock = StepClock(5.0, None)
    clock.add(1.0)
    assert clock.seconds == 6.0
