"""A distillation in a process of its own, stopped by signals and resumed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.commands import assert_same_run
from helpers.trainings import camvid, untrained_teacher


@contextmanager
def distilling(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `segdistill distill` on the data and the teacher in `folder`, at the longest as long as the block."""
    settings = ["data.size=[48, 64]", "data.crop=[32, 32]", "data.batch_size=2", "checkpoint.every=3"]
    settings += ["validate.every=10", "optim.warmup=0", "terms.holistic.weight=0"]
    command = [
        *(sys.executable, "-m", "segdistill", "distill", "--preset", "skd", "--student", "pspnet-resnet18-half"),
        *("--teacher", "teacher.safetensors", "--data", "camvid:camvid", "--steps", "16", "--workers", "1"),
        "--accept-teacher",
        *("--device", "cpu", "--precision", "fp32", *more),
        *(word for context in settings for word in ("--set", context)),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_checkpoint(file: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the process has written the file anew."""
    before = file.stat().st_ino if file.exists() else None
    end = time.monotonic() + 300
    while not file.exists() or file.stat().st_ino == before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.promise("R1")
@pytest.mark.reliability
def test_distillation_stopped_by_signals_resumes_exactly(tmp_path: Path) -> None:
    camvid(tmp_path / "camvid")
    untrained_teacher(tmp_path / "teacher.safetensors")
    with distilling(tmp_path, "--out", "whole") as process:
        reporter = process.communicate(timeout=300)[1]
        assert process.returncode == 0, reporter
    resume: tuple[str, ...] = ()
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with distilling(tmp_path, "--out", "cut", *resume) as process:
            wait_for_checkpoint(tmp_path / "cut/checkpoints/last", process)
            process.send_signal(number)
            reporter = process.communicate(timeout=60)[1]
            assert process.returncode == code, reporter
        assert f"Stopped by {number.name} after step" in reporter
        assert "Continue with: segdistill resume cut" in reporter
        assert "Traceback" not in reporter
        resume = ("--resume",)
    with distilling(tmp_path, "--out", "cut", *resume) as process:
        reporter = process.communicate(timeout=300)[1]
        assert process.returncode == 0, reporter
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
