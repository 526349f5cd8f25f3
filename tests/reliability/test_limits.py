"""Too little disk or memory, a dead worker, company in the folder: the run says so, and goes on to the same bits."""

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.commands import SMALL, assert_same_run, contents, segdistill
from helpers.forked import (
    COMMANDS,
    PATIENCE,
    SETTINGS,
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
from helpers.ports import free_port
from helpers.trainings import camvid, untrained_teacher
from segdistill.checkpoints.model_file import load_model
from segdistill.checkpoints.training_state import load_state

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="the loader processes to kill are found in /proc, which only Linux has"
)


def checkpoints(folder: Path) -> dict[str, str]:
    return {path: what for path, what in contents(folder / "run/checkpoints").items() if not path.endswith("best")}


@pytest.mark.reliability
@pytest.mark.promise("C2")
def test_quota_keeps_the_last_checkpoint_and_the_run_resumes(workshop: Workshop) -> None:
    course, folder = workshop.course("skd"), workshop.new_folder("skd")
    assert course.disturb(folder, 3, signal.SIGTERM).code == 143
    before = checkpoints(folder)
    process = course.begin_or_go_on(folder, 2, {resource.RLIMIT_FSIZE: 20_000_000})  # a state has more, a model less
    assert ended(process) == 1
    assert "disk is full (or a quota or size limit is reached) while writing run/checkpoints/" in said(folder)
    assert "segdistill resume" in said(folder)
    assert "Traceback" not in said(folder)
    assert checkpoints(folder) == before
    assert not list(folder.rglob("*.tmp"))
    course.finish(folder)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk of so many bytes at a folder."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.reliability
@pytest.mark.promise("C2")
def test_full_disk_keeps_the_last_checkpoint_and_the_run_resumes(workshop: Workshop) -> None:
    course, folder = workshop.course("skd"), workshop.new_folder("skd")
    room = (course.run / "checkpoints/last").stat().st_size
    with small_disk(folder, int(1.7 * room)):  # for one state and a model, not for a second state
        assert ended(course.begin_or_go_on(folder, 0)) == 1
        assert "disk is full" in said(folder)
        assert "while writing run/checkpoints/last" in said(folder)
        assert load_state(folder / "run/checkpoints/last")["training"]["step"] == 2
        assert not list(folder.rglob("*.tmp"))
        subprocess.run(["mount", "-o", f"remount,size={10 * room}", str(folder)], check=True)
        course.finish(folder)


@pytest.mark.reliability
@pytest.mark.promise("C2", "S8")
def test_full_disk_under_a_replacement_keeps_the_old_run(workshop: Workshop) -> None:
    course, old, folder = workshop.course("teacher"), workshop.course("skd").run, workshop.new_folder("teacher")
    command = f"{COMMANDS['teacher']} {SETTINGS} --workers 0"
    room = (course.run / "checkpoints/last").stat().st_size
    taken = sum(path.stat().st_size for path in old.rglob("*") if path.is_file())
    with small_disk(folder, taken + room // 2):  # for no state of the new run
        shutil.copytree(old, folder / "run")
        before = contents(folder / "run")
        assert ended(start(f"{command} --overwrite", folder)) == 1
        assert "disk is full" in said(folder)
        assert "Traceback" not in said(folder)
        assert {path: seen for path, seen in contents(folder / "run").items() if "/.next" not in path} == before
        load_model(folder / "run/model.safetensors")
        subprocess.run(["mount", "-o", f"remount,size={taken + 10 * room}", str(folder)], check=True)
        assert ended(start(f"{command} --overwrite", folder)) == 0, said(folder)
        assert_same_run(course.run, folder / "run")


@pytest.mark.reliability
@pytest.mark.promise("R4")
@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux enforces RLIMIT_AS; macOS takes it and gives memory all the same"
)
@pytest.mark.parametrize(
    ("setting", "workers", "advice"),
    [
        ("crop=[8192,8192]", 0, "Use a smaller data.batch_size"),
        ("size=[8192,8192]", 0, "validate.batch_size=1"),
        ("size=[8192,8192]", 1, "validate.batch_size=1"),
    ],
)
def test_too_little_memory_ends_with_advice(workshop: Workshop, setting: str, workers: int, advice: str) -> None:
    course, folder = workshop.course("teacher"), workshop.new_folder("teacher")
    limits = {resource.RLIMIT_AS: 1_000_000_000}
    process = course.begin_or_go_on(folder, workers, limits, f"--set data.{setting}")
    assert ended(process) == 1, said(folder)
    assert "Out of memory" in said(folder)
    assert advice in " ".join(said(folder).split())
    assert "Traceback" not in said(folder)


@pytest.mark.reliability
@pytest.mark.promise("R2")
@LINUX
def test_dead_worker_ends_the_run_which_then_resumes(workshop: Workshop) -> None:
    course, folder = workshop.course("skd"), workshop.new_folder("skd")
    process = course.begin_or_go_on(folder, 2)
    assert wait_until(lambda: course.steps[2] in progress(folder))
    workers, killed = children(process.pid), time.monotonic()
    os.kill(workers[-1], signal.SIGKILL)
    assert ended(process) == 1, said(folder)
    assert time.monotonic() - killed < course.soon
    assert "A process that reads images was killed" in said(folder)
    assert "--workers" in said(folder)
    assert "Traceback" not in said(folder)
    assert wait_until(lambda: not any(map(alive, workers)))
    course.finish(folder)


@pytest.mark.reliability
@pytest.mark.promise("R2")
@LINUX
def test_little_shared_memory_is_reported_and_training_completes(workshop: Workshop) -> None:
    workshop.course("teacher")
    run = "-m segdistill train-teacher --preset skd --teacher resnet18-half --data camvid:camvid --steps 4 --workers 2"
    run += " --device cpu --precision fp32 --set data.crop=[256,512] --set data.size=[256,512] --set data.batch_size=2"
    mounted = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'  # a batch has 1 MiB
    words = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, *run.split()]
    done = subprocess.run(words, cwd=workshop.folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("mounting a small /dev/shm needs root")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: Shared memory: /dev/shm has 1 MiB free") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.reliability
@pytest.mark.promise("C10")
def test_second_run_in_a_folder_is_refused_until_a_kill(workshop: Workshop) -> None:
    course, folder = workshop.course("skd"), workshop.new_folder("skd")
    both = [course.begin_or_go_on(folder, 2) for _ in range(2)]
    assert wait_until(lambda: any(process.exitcode is not None for process in both))
    (second,) = (process for process in both if process.exitcode is not None)
    (first,) = (process for process in both if process is not second)
    assert second.exitcode == 2
    assert re.search(rf"at work in run \(process ({first.pid}|unknown)\)", said(folder)), said(folder)
    assert wait_until(lambda: course.steps[1] in progress(folder))
    send(first, signal.SIGKILL)
    ended(first)
    course.finish(folder)  # its workers may be there for some seconds


@pytest.mark.reliability
@pytest.mark.promise("C10")
def test_two_distillations_train_their_missing_teacher_once(
    workshop: Workshop,
) -> None:
    workshop.course("lad")
    for name, kill in (("both", False), ("killed", True)):
        folder = workshop.new_folder(name)
        lines = [f"{COMMANDS['lad']} {SETTINGS} --workers 0 --seed 9".replace("--out run", f"--out {i}") for i in "ab"]
        first = start(lines[0], folder)
        assert wait_until(lambda: "teacher pspnet-resnet18 1/8" in said(folder) or first.exitcode is not None)  # noqa: B023
        second = start(lines[1], folder)
        assert wait_until(lambda: "which waits for it" in said(folder) or second.exitcode is not None)  # noqa: B023
        if kill:
            send(first, signal.SIGKILL)
        assert ended(first) == (-signal.SIGKILL if kill else 0), said(folder)
        assert ended(second) == 0, said(folder)
        assert said(folder).count("which waits for it") == 1
        (teacher,) = (folder / "runs").iterdir()
        assert (teacher / "manifest.json").exists()


@pytest.mark.reliability
@pytest.mark.promise("C10")
def test_evaluation_during_training_changes_nothing(workshop: Workshop) -> None:
    course, folder = workshop.course("teacher"), workshop.new_folder("teacher")
    process, codes = course.begin_or_go_on(folder, 0), []
    while process.exitcode is None:
        best = segdistill(f"evaluate {folder}/run/checkpoints/best --data camvid:{workshop.folder}/camvid --workers 0")
        whole = segdistill(f"evaluate {folder}/run --data camvid:{workshop.folder}/camvid --workers 0")
        assert (best.code, whole.code) in ((2, 2), (0, 2), (0, 0)), best.err + whole.err
        codes.append(best.code)
    assert 0 in codes
    course.finish(folder)


@pytest.mark.reliability
@pytest.mark.promise("R1", "C4")
@LINUX
def test_torchrun_processes_stop_at_the_same_step_and_resume(tmp_path: Path) -> None:
    camvid(tmp_path / "camvid")
    untrained_teacher(tmp_path / "teacher.safetensors")

    def torchrun(out: str, *more: str) -> subprocess.Popen[bytes]:
        settings = ("data.size=[48, 64]", "data.crop=[32, 32]", "data.batch_size=4", "checkpoint.every=2")
        with (tmp_path / f"{out}.log").open("w") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
                    *("--master-port", str(free_port()), "-m", "segdistill", "distill", "--preset", "skd"),
                    *("--student", "pspnet-resnet18-half", "--teacher", "teacher.safetensors", "--accept-teacher"),
                    *("--data", "camvid:camvid", "--steps", "12", "--workers", "1", "--device", "cpu"),
                    *("--precision", "fp32", "--out", out, *more),
                    *(word for setting in settings for word in ("--set", setting)),
                ],
                cwd=tmp_path,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(out: str) -> str:
        return (tmp_path / f"{out}.log").read_text()

    def saved() -> int:
        return int(load_state(last)["training"]["step"]) if last.exists() else 0

    assert torchrun("whole").wait(PATIENCE) == 0, said("whole")
    last, step = tmp_path / "cut/checkpoints/last", 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = torchrun("cut", *(["--resume"] if step else []))
        assert wait_until(lambda: saved() > step or process.poll() is not None)  # noqa: B023  # it is asked at once
        if number == signal.SIGTERM:
            os.kill(children(process.pid)[-1], number)  # one of the two
        else:
            os.killpg(process.pid, number)  # as Ctrl-C does, upon which torchrun sends them a second one
        assert process.wait(PATIENCE) != 0  # torchrun has codes of its own
        step = saved()
        assert f"Stopped by {number.name} after step {step} of 12" in said("cut")
        assert set(re.findall(r"after step (\d+) of 12", said("cut"))) == {str(step)}
    assert torchrun("cut", "--resume").wait(PATIENCE) == 0, said("cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.promise("C10")
@pytest.mark.usefixtures("elsewhere")
def test_file_system_without_locks_is_reported_once_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    done = segdistill(f"train-teacher --preset skd --teacher resnet18-half --data streets {SMALL} --out run")
    assert done.code == 0, done.err
    assert done.err.count("has no locks (flock)") == 1
    assert not list(Path("run").rglob(".lock.held"))
    assert segdistill(f"train-teacher --preset skd --teacher resnet18-half {SMALL} --out run --resume").code == 0


READ_ONLY = """
mount --bind teacher/run teacher/run && mount -o remount,ro,bind teacher/run || exit 99
! touch teacher/run/x 2>/dev/null || exit 99
run="$0 -m segdistill"
$run evaluate teacher/run --data camvid:camvid --workers 0 || exit 1
$run export teacher/run --data camvid:camvid --workers 0 --output exported/model.onnx || exit 2
cd teacher && $run $1 --resume || exit 3
"""


@pytest.mark.reliability
@pytest.mark.promise("C7")
@LINUX
def test_finished_run_works_on_read_only_storage(workshop: Workshop) -> None:
    course = workshop.course("teacher")
    before = contents(course.run)
    (workshop.folder / "exported").mkdir()
    words = ["unshare", "-m", "sh", "-c", READ_ONLY, sys.executable, f"{COMMANDS['teacher']} {SETTINGS}"]
    done = subprocess.run(words, cwd=workshop.folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip("mounting needs root")
    assert done.returncode == 0, done.stderr
    assert "Already finished: run" in done.stderr
    assert (workshop.folder / "exported/model.onnx").is_file()
    assert contents(course.run) == before
