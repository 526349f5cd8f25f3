"""Loader workers: errors and deaths are reported, and batches find a way without shared memory."""

import multiprocessing
import multiprocessing.reduction
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from helpers.commands import Result, process
from helpers.data_files import Drawn, camvid, config
from segdistill.data import Sample, evaluation_batches, load_data, loader, packing, training_batches
from segdistill.data.packing import shared_memory_shortage
from segdistill.errors import DataError, ResourceError
from segdistill.runtime.signals import Interrupted, stop_signals

# Workers


@pytest.mark.promise("R3")
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_file_in_a_worker_is_a_data_error(tmp_path: Path, workers: int) -> None:
    path = camvid(tmp_path) / "train" / "03.png"
    path.write_bytes(path.read_bytes()[:100])
    split = load_data(f"camvid:{tmp_path}").split("train")
    with pytest.raises(DataError, match=r"03\.png cannot be read"):
        list(training_batches(split, config(), seed=0, steps=5, workers=workers))


def fail(index: int) -> None:
    raise ZeroDivisionError("a mistake of ours")


@pytest.mark.promise("R3")
@pytest.mark.parametrize("workers", [0, 1])
def test_unexpected_reading_error_names_the_image(workers: int) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(evaluation_batches(Drawn(1, fail), None, workers=workers))
    assert "while reading 0.png" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


def die(index: int) -> None:
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def hang(index: int) -> None:
    time.sleep(30)


@pytest.mark.promise("R2")
def test_a_killed_worker_is_a_resource_error_with_advice() -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError, match="killed") as caught:
        list(evaluation_batches(Drawn(6, die), None, workers=1))
    assert "--workers" in caught.value.fix
    assert time.monotonic() - start < 10


def test_dead_worker_interrupts_only_the_wait_for_its_batch() -> None:
    batches = evaluation_batches(Drawn(6, die), None, workers=1)
    next(batches)
    time.sleep(1)  # the worker dies now; a handler that raised would do so here
    with pytest.raises(ResourceError, match="killed"):
        list(batches)


@pytest.mark.promise("R2")
def test_dead_worker_interrupts_nothing_beside_a_loader_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    try:
        callers = iter(DataLoader(range(4), num_workers=1, multiprocessing_context="fork"))  # type: ignore[arg-type]
        watching = signal.getsignal(signal.SIGCHLD)
        assert watching is not handler
        batches = evaluation_batches(Drawn(6, die), None, workers=1)
        next(batches)
        time.sleep(1)  # the worker dies now
        assert next(callers) == torch.tensor([0])
        with pytest.raises(ResourceError, match="killed"):
            list(batches)
        assert signal.getsignal(signal.SIGCHLD) is watching, "the caller's own workers are watched as before"
        assert len(list(callers)) == 3
    finally:
        signal.signal(signal.SIGCHLD, handler)


@pytest.mark.promise("R2")
def test_a_stuck_worker_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "TIMEOUT", 1.0)
    start = time.monotonic()
    with pytest.raises(ResourceError, match="nothing for 1 s"):
        next(evaluation_batches(Drawn(1, hang), None, workers=2))
    assert time.monotonic() - start < 8, "workers are not asked to end by themselves, 5 s each, one after the other"


@pytest.mark.promise("R1")
def test_signal_stops_the_wait_for_stuck_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "POLL", 0.5)
    before, start = set(multiprocessing.active_children()), time.monotonic()
    with stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            next(evaluation_batches(Drawn(4, hang), None, workers=2))
    assert time.monotonic() - start < 8
    assert set(multiprocessing.active_children()) <= before


# Shared memory


CROWDED = """
import sys, warnings
warnings.filterwarnings("ignore", "This DataLoader will create")
from helpers.tiny import Scenes
from segdistill.data import evaluation_batches
split = Scenes(12, height=400, width=500)  # 800 kB each
batches = list(evaluation_batches(split, None, batch_size=2, workers=2))
print([batch.names for batch in batches] == [split.names[i:i + 2] for i in range(0, 12, 2)])
print(all((batch.label[0].numpy() == split.read(2 * i).label).all() for i, batch in enumerate(batches)))
"""


def with_shared_memory(size: str, *command: str) -> Result:
    """Run a command where the system has so much shared memory, as in a container."""
    mounted = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if process("unshare", "-m", "sh", "-c", mounted).code:
        pytest.skip("mounting a small /dev/shm needs root")
    return process(
        "unshare",
        "-m",
        "sh",
        "-c",
        f'{mounted} && exec "$@"',
        "sh",
        *command,
        PYTHONPATH=str(Path(__file__).parents[1]),
    )


@pytest.mark.promise("R2")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm and namespaces")
def test_batches_larger_than_shared_memory_use_pipes() -> None:
    done = with_shared_memory("1m", sys.executable, "-c", CROWDED)
    assert (done.code, done.out, done.err) == (0, "True\nTrue\n", "")


@pytest.mark.promise("R2")
def test_batches_use_pipes_where_the_socket_path_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = process(sys.executable, "-c", CROWDED, TMPDIR=str(deep), PYTHONPATH=paths)
    assert (done.code, done.out, done.err) == (0, "True\nTrue\n", "")
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert "too long for the sockets" in str(shared_memory_shortage(config(crop=(8, 8), batch_size=2), 1, 1))
    assert shared_memory_shortage(config(crop=(8, 8), batch_size=2), 0, 1) is None


@pytest.mark.promise("R2")
def test_shared_memory_shortage_is_reported_in_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(workers: int, free: int | None, world: int = 1) -> str | None:
        monkeypatch.setattr(packing, "free_shared_memory", lambda: free)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
        return shared_memory_shortage(config(crop=(512, 1024), batch_size=8), workers, world)

    batch, docker = 8 * 512 * 1024 * 4, 64 << 20
    assert told(2, 6 * batch) is None  # four read ahead, one in use and one on its way
    assert told(2, 6 * batch, world=2) is None, "two processes have twice the workers and half the batch, plus a rest"
    assert "/dev/shm has 64 MiB free, the batches of 7 loader workers need 257 MiB" in str(told(7, docker))
    assert "--shm-size=1g" in str(told(7, docker))
    assert told(0, docker) is None
    assert told(7, None) is None, "the system does not tell"


def unhandable(index: int) -> None:
    if index == 1:
        raise_when_pickled = multiprocessing.reduction.ForkingPickler.register
        raise_when_pickled(torch.Tensor, refuse)


def refuse(tensor: torch.Tensor) -> str:
    raise RuntimeError("unable to allocate shared memory")


@pytest.mark.promise("R2")
def test_batch_that_cannot_be_transferred_ends_with_advice(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError, match="killed") as caught:
        list(evaluation_batches(Drawn(4, unhandable), None, workers=1))
    assert time.monotonic() - start < 10
    assert "shared memory" in caught.value.fix
    assert capfd.readouterr().err == ""


@dataclass(frozen=True)
class Workers(Drawn):
    """A split whose images are called after the process group that read them."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return Sample(sample.image, sample.label, f"{os.getpgrp()} {cv2.getNumThreads()}")


def test_workers_ignore_ctrl_c_and_have_one_thread() -> None:
    (batch,) = evaluation_batches(Workers(1), None, workers=1)
    group, threads = batch.names[0].split()
    assert int(group) != os.getpgrp()
    assert int(threads) <= 1
