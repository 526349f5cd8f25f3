"""Commands in processes that may be killed, forked off a server that has imported everything: they start at once."""

import multiprocessing
import os
import random
import re
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch

from helpers.commands import assert_same_run, write_camvid
from segdistill import cli
from segdistill.config.presets import preset_names

SETTINGS = (
    "--data camvid:../camvid --steps 8 --out run --verbose --device cpu --precision fp32 --set data.size=[32,48] "
    "--set data.crop=[32,48] --set data.batch_size=2 --set checkpoint.every=2 --set validate.every=3"
)
DISTILL = "distill --student resnet18-half --accept-teacher --teacher"
COMMANDS = {
    "teacher": "train-teacher --preset skd --teacher resnet18-half",
    "ka": f"{DISTILL} ../teacher/run --preset ka",  # has an auto-encoder
    "skd": f"{DISTILL} ../teacher/run --preset skd",  # a critic
    "lad": f"{DISTILL} pspnet18 --preset lad",  # a teacher that is trained on the way
    "cirkd": f"{DISTILL} ../teacher/run --preset cirkd",  # memories
    "baseline": f"{DISTILL} ../teacher/run --preset tsl --baseline steps",  # and two students
}
COMMANDS |= {name: f"{DISTILL} ../teacher/run --preset {name}" for name in preset_names() if name not in COMMANDS}
"""A training of a teacher, and a distillation by each preset: those with parts of their own first."""
PATIENCE = 300.0
"""Seconds within which whatever is waited for happens, on the slowest machine."""
ROUNDS = int(os.environ.get("SEGDISTILL_TEST_ROUNDS", "30"))
"""How often a storm kills."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *(
            "helpers.forked",
            "segdistill.commands.distill",
            "segdistill.cli.console",
            "segdistill.evaluation.label_maps",
            "segdistill.data.transforms",
        ),
        *("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg"),  # what these import late
    ]
)


@dataclass(frozen=True)
class Course:
    """A command, and what it does where nobody disturbs it."""

    name: str
    run: Path
    steps: list[str]
    """Its lines of progress: each has a stage and a step."""
    startup: float
    """Seconds before the first."""
    pause: float
    """Seconds between two."""

    @property
    def soon(self) -> float:
        """Seconds within which it ends when it is told to: a step under way is finished on a machine that is busy."""
        return 10 + 5 * self.pause

    def begin_or_go_on(
        self, folder: Path, workers: int, limits: Mapping[int, int] | None = None, more: str = ""
    ) -> BaseProcess:
        """Start it in a folder, or go on where it has begun there.

        Args:
            folder: where its command runs.
            workers: of its loader.
            limits: as `start` has them.
            more: words of the command line.
        """
        resume = "--resume" if (folder / "run/config.toml").exists() else ""
        return start(f"{COMMANDS[self.name]} {SETTINGS} --workers {workers} {resume} {more}", folder, limits)

    def disturb(self, folder: Path, moment: int, number: int) -> "Disturbed":
        """Start it, and send a signal a random time after that line of progress, or -1: before the first."""
        process, later = self.begin_or_go_on(folder, random.choice((0, 2))), set(self.steps[moment:])
        if moment >= 0:
            assert wait_until(lambda: bool(later & set(progress(folder))) or process.exitcode is not None)
        time.sleep(random.uniform(0, 2 * self.pause if moment >= 0 else self.startup))
        workers, sent = children(process.pid), time.monotonic()
        send(process, number)
        return Disturbed(ended(process), workers, time.monotonic() - sent)

    def finish(self, folder: Path) -> None:
        """Let it come to its end in a folder, and compare what it leaves with what it leaves undisturbed."""
        assert ended(self.begin_or_go_on(folder, random.choice((0, 2)))) == 0, said(folder)
        for write_manifest in self.run.rglob("manifest.json"):
            assert_same_run(write_manifest.parent, folder / "run" / write_manifest.parent.relative_to(self.run))
        for name in ("teacher.json", "gain.json"):
            assert (
                not (self.run / name).exists() or (self.run / name).read_text() == (folder / "run" / name).read_text()
            )
        assert not list(folder.rglob("*.tmp"))


class Disturbed(NamedTuple):
    """How a process ended that was sent a signal."""

    code: int
    workers: list[int]
    """The processes that it had started."""
    seconds: float
    """From the signal to the end."""


class Workshop:
    """A folder with a data set, where each command is run undisturbed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        first = SERVER.Process(target=int)
        first.start()
        ended(first)  # now the server has imported everything, and times that are measured are those of the commands
        write_camvid(folder / "camvid")
        self.course = cache(self._undisturbed)
        self._runs = 0

    def _undisturbed(self, name: str) -> Course:
        if name not in ("teacher", "lad"):
            self.course("teacher")
        folder = self.folder / name
        course, started = Course(name, folder / "run", [], 0.0, 0.0), time.monotonic()
        process = course.begin_or_go_on(folder, 0)
        assert wait_until(lambda: bool(progress(folder)) or process.exitcode is not None)
        startup = time.monotonic() - started
        assert ended(process) == 0, said(folder)
        steps = progress(folder)
        return Course(name, folder / "run", steps, startup, (time.monotonic() - started - startup) / len(steps))

    def new_folder(self, name: str) -> Path:
        """Return a folder for another run of a command."""
        self._runs += 1
        return self.folder / f"{name}-{self._runs}"


def start(line: str, folder: Path, limits: Mapping[int, int] | None = None) -> BaseProcess:
    """Start a command in a folder; `said` returns what it says.

    Args:
        line: its words.
        folder: where it runs, made where it is missing.
        limits: of `resource` by their numbers; that of memory is beyond what a process has at its start.
    """
    folder.mkdir(exist_ok=True)
    folder.with_suffix(".log").write_text("")  # what it says is not what it said before
    process = SERVER.Process(target=_command, args=(line, str(folder), dict(limits or {})))
    process.start()
    return process


def send(process: BaseProcess, number: int) -> None:
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, number)


def said(folder: Path) -> str:
    """Return all that a command in that folder has said."""
    return folder.with_suffix(".log").read_text()


def progress(folder: Path) -> list[str]:
    """Return a command's lines of progress so far, up to the step: "student pspnet-resnet18-half 3/8"."""
    return re.findall(r"^([a-z]+ .*?\d+/\d+)  ", said(folder), flags=re.MULTILINE)


def _command(line: str, folder: str, limits: dict[int, int]) -> None:
    os.chdir(folder)
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (more := limits.pop(resource.RLIMIT_AS, None)) is not None:  # the libraries alone take gigabytes of addresses
        limits[resource.RLIMIT_AS] = (
            more + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        )
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    sys.argv = ["segdistill", *shlex.split(line)]
    cli.main()


def wait_until(reached: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it came to that."""
    end = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def ended(process: BaseProcess) -> int:
    """Wait for a process's end and return its exit code."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def peak(process: BaseProcess) -> int:
    """Wait for a process's end and return the most memory in bytes that it had, libraries included."""
    status, most = Path(f"/proc/{process.pid}/status"), 0
    while process.exitcode is None:
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            most = max(most, int(found[1]) << 10 if found else 0)
        time.sleep(0.02)
    return most


def children(number: int | None) -> list[int]:
    """Return the processes that a process has started, where the system tells."""
    file = Path(f"/proc/{number}/task/{number}/children")
    return [int(number) for number in file.read_text().split()] if file.exists() else []


def alive(number: int) -> bool:
    """Whether a process is there and at work."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
