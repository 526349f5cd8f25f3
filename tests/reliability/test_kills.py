"""Storms: commands that are killed and stopped at random moments, again and again, and end as if nothing had been."""

import random
import re
import shutil
import signal
import time
from collections import Counter
from itertools import count, cycle
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from helpers.commands import assert_same_run, contents
from helpers.forked import (
    COMMANDS,
    PATIENCE,
    ROUNDS,
    SERVER,
    SETTINGS,
    Course,
    Workshop,
    alive,
    children,
    ended,
    progress,
    said,
    send,
    start,
    wait_until,
)
from helpers.model_files import INFO
from helpers.tiny import pspnet
from segdistill.checkpoints.model_file import load_model, save_model
from segdistill.checkpoints.training_state import load_state, save_state
from segdistill.runtime.reporter import NullReporter
from segdistill.storage.run_folder import open_run
from segdistill.training.last_state import load_last

PER_RUN = 5
"""Kills of a run before it may come to its end."""


def moments(course: Course) -> list[int]:
    """Draw when a run is killed: once before its first step, in each of its stages, and anywhere else."""
    stages: dict[str, list[int]] = {}
    for index, step in enumerate(course.steps):
        stages.setdefault(step.partition(" ")[0], []).append(index)
    drawn = [-1, *map(random.choice, stages.values())]
    return sorted(drawn + random.choices(range(len(course.steps)), k=PER_RUN - len(drawn)))


@pytest.mark.reliability
@pytest.mark.promise("C1", "C4", "C6")
def test_runs_killed_at_random_moments_resume_exactly(workshop: Workshop) -> None:
    hits, workers = Counter[str](), list[int]()
    for name in cycle(COMMANDS):
        if hits.total() >= ROUNDS:
            break
        course, folder = workshop.course(name), workshop.new_folder(name)
        for moment in moments(course):
            code, own, _ = course.disturb(folder, moment, signal.SIGKILL)
            if code == 0:
                break
            assert code == -signal.SIGKILL, said(folder)
            hits[f"{name} {(progress(folder) or ['start'])[-1].partition(' ')[0]}"] += 1
            workers += own
            for kept in (folder / "run").glob("checkpoints/[!.]*"):  # half-written files have names of their own
                load_model(kept) if kept.name == "best" else load_state(kept)
        course.finish(folder)
    print("killed in", dict(hits))
    assert wait_until(lambda: not any(map(alive, workers))), "workers outlive the command that started them"


@pytest.mark.reliability
@pytest.mark.promise("R1", "C4")
def test_runs_stopped_at_random_moments_save_and_resume_exactly(workshop: Workshop) -> None:
    stops = 0
    for name in cycle(("skd", "ka", "teacher")):
        if stops >= max(4, ROUNDS // 5):
            break
        course, folder = workshop.course(name), workshop.new_folder(name)
        for moment in sorted(random.sample(range(len(course.steps) - 3), 3)):
            number = random.choice((signal.SIGTERM, signal.SIGINT))
            code, _, seconds = course.disturb(folder, moment, number)
            if "everything is saved" not in said(folder):  # it came between two trainings, or behind them
                assert code in (0, -number, 128 + number), said(folder)
                assert seconds < course.soon, "it was not passed over"
                continue
            stops += 1
            assert code == 128 + number, said(folder)
            assert seconds < course.soon
            assert "Continue with: segdistill" in said(folder)
            assert "Traceback" not in said(folder)
            step = re.search(r"after step (\d+) of", said(folder))
            if step is not None:
                assert load_state(folder / "run/checkpoints/last")["training"]["step"] == int(step[1])
        course.finish(folder)


@pytest.mark.reliability
@pytest.mark.promise("R1")
def test_second_signal_ends_a_run_at_once(workshop: Workshop) -> None:
    course, folder = workshop.course("skd"), workshop.new_folder("skd")
    for moment in sorted(random.choices(range(5), k=max(2, ROUNDS // 15))):
        process, later = course.begin_or_go_on(folder, 2), set(course.steps[moment:])
        assert wait_until(lambda: bool(later & set(progress(folder))) or process.exitcode is not None)  # noqa: B023
        workers, sent = children(process.pid), time.monotonic()
        send(process, signal.SIGINT)
        time.sleep(0.02)
        send(process, signal.SIGINT)
        if ended(process) == 0:
            break
        assert process.exitcode == 130, said(folder)
        assert time.monotonic() - sent < 2 + 2 * course.pause
        assert "Traceback" not in said(folder)
        assert wait_until(lambda: not any(map(alive, workers)))  # noqa: B023  # they are asked at once
    course.finish(folder)


def save_without_end(folder: str, first: int, saved: Connection) -> None:
    """Save a state and a model again and again, telling each that is saved."""
    torch.set_num_threads(1)
    network = pspnet(0)
    with open_run(Path(folder), resume=True, overwrite=False) as run:
        saved.send(("start", 0))
        for step in count(first):
            own = {"stage": "s", "step": step, "weights": {"a": torch.full((500_000,), float(step))}, "optimizer": {}}
            state = {"training": own, "lines": 0, "seconds": 0.0}
            save_state(run / "checkpoints/last", state, keep_previous=True)
            saved.send(("last", step))
            save_model(run / "checkpoints/best", network, INFO.model_copy(update={"steps": step}))
            saved.send(("best", step))


@pytest.mark.reliability
@pytest.mark.promise("C1", "C6")
def test_kill_while_saving_leaves_the_last_saved_state(tmp_path: Path) -> None:
    path, told = tmp_path / "run", {"last": 0, "best": 0}
    with open_run(path, resume=False, overwrite=False) as run:
        (run / "config.toml").touch()
    for _ in range(ROUNDS):
        reading, writing = SERVER.Pipe(duplex=False)
        process = SERVER.Process(target=save_without_end, args=(str(path), told["last"] + 1, writing))
        process.start()
        assert reading.poll(PATIENCE)
        time.sleep(random.uniform(0.02, 0.2))
        process.kill()
        ended(process)
        while reading.poll():
            name, step = reading.recv()
            told[name] = step
        with open_run(path, resume=True, overwrite=False) as run:
            assert not list(path.rglob("*.tmp"))
            state = load_last(run, NullReporter())
        found = 0 if state is None else int(state["training"]["step"])
        assert found in (told["last"], told["last"] + 1), "what was told to be saved, or what was just being saved"
        best = load_model(path / "checkpoints/best")[1].steps if (path / "checkpoints/best").exists() else 0
        assert told["best"] <= best <= found
        told["last"] = found


@pytest.mark.reliability
@pytest.mark.promise("S8", "C4", "C6")
def test_killed_replacement_leaves_the_old_or_the_new_run(workshop: Workshop) -> None:
    ends = Counter[str]()
    for name in cycle(("ka", "teacher", "baseline")):
        if ends.total() >= max(6, ROUNDS // 3):
            break
        course, old = workshop.course(name), workshop.course("skd").run
        folder = workshop.new_folder(name)
        shutil.copytree(old, folder / "run")
        (folder / "run/notes.txt").write_text("mine")
        before, moment = contents(folder / "run"), random.choice((-1, *range(4)))
        command = f"{COMMANDS[name]} {SETTINGS} --workers 0"
        process = start(f"{command} --overwrite", folder)
        later = set(course.steps[moment:])
        if moment >= 0:
            assert wait_until(lambda: bool(later & set(progress(folder))) or process.exitcode is not None)  # noqa: B023
        time.sleep(random.uniform(0, course.pause if moment >= 0 else course.startup))
        send(process, signal.SIGKILL)
        ended(process)
        left = {path: seen for path, seen in contents(folder / "run").items() if "/.next" not in path}
        if ended(start(f"{command} --resume", folder)) == 0:
            ends["the new one goes on"] += 1
        else:
            ends["the old one is as it was"] += 1
            assert left == before == contents(folder / "run")
            load_model(folder / "run/model.safetensors")
            assert ended(start(f"{command} --overwrite", folder)) == 0, said(folder)
        assert (folder / "run/notes.txt").read_text() == "mine"
        assert not list((folder / "run").glob(".next*"))
        assert_same_run(course.run, folder / "run")
    print("ended", dict(ends))


@pytest.mark.reliability
@pytest.mark.promise("T3")
def test_kill_during_teacher_training_skips_no_check(workshop: Workshop) -> None:
    course, folder = workshop.course("lad"), workshop.new_folder("lad")
    in_teacher = [index for index, step in enumerate(course.steps) if step.startswith("teacher ")]
    assert course.disturb(folder, random.choice(in_teacher[:-2]), signal.SIGKILL).code == -signal.SIGKILL
    course.finish(folder)
    log = (folder / "run/train.log").read_text()
    assert "check: teacher" in log
    assert "check: the first" in log
