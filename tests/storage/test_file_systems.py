"""File systems without locks, renaming, permissions or write access."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import files, process
from helpers.run_folders import run_in
from segdistill.errors import UsageError
from segdistill.storage.atomic import write_atomic
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.run_folder import open_run

POOR = """
import errno, fcntl, os, stat
from segdistill.storage import leases, run_folder
fsync = os.fsync
def no_lock(descriptor, kind):
    raise OSError(errno.{lock}, os.strerror(errno.{lock}))
def no_sync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    fsync(descriptor)
fcntl.flock, os.fsync = no_lock, no_sync
leases.HEARTBEAT_SECONDS = 0.1
leases._machine_id = lambda: "{machine}"
"""
TAKES = """
import sys, time
from pathlib import Path
from segdistill.errors import UsageError
try:
    with run_folder.open_run(Path(sys.argv[1]), resume=False, overwrite=True) as folder:
        print("held", *folder.warnings, sep="\\n", flush=True)
        time.sleep(float(sys.argv[2]))
except UsageError as error:
    print(error)
    sys.exit(2)
"""


def takes(path: Path, seconds: float, lock: str = "ENOLCK", machine: str = "here") -> subprocess.Popen[str]:
    """Start a process that takes a run's folder on a file system without locks, and holds it for some seconds."""
    program = POOR.format(lock=lock, machine=machine) + TAKES
    words = [sys.executable, "-c", program, str(path), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(holder: subprocess.Popen[str]) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline()


@pytest.mark.promise("C10")
@pytest.mark.parametrize("lock", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_without_locks_a_second_run_is_refused_until_a_kill(lock: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with takes(path, 600, lock) as holder:
        assert first_line(holder) == "held\n"
        time.sleep(0.3)  # its signs of life change nothing
        second = takes(path, 0, lock)
        assert f"Another run is at work in {path} (process {holder.pid})" in second.communicate()[0]
        assert second.returncode == 2
        with pytest.raises(UsageError, match=rf"process {holder.pid}"):  # one that has locks sees it, too
            check_folder(path, resume=False, overwrite=True)
        holder.kill()
    third = takes(path, 0, lock)
    out, err = third.communicate()
    assert (third.returncode, err) == (0, "")
    assert "has no locks (flock)" in out
    assert "cannot sync a folder" in out
    assert sorted(os.listdir(path)) == [".lock", "checkpoints"]


@pytest.mark.promise("C10")
def test_without_locks_a_holder_elsewhere_is_given_time(tmp_path: Path) -> None:
    path, lease = tmp_path / "run", tmp_path / "run/.lock.held"
    with takes(path, 600, machine="there") as holder:
        assert first_line(holder) == "held\n"
        holder.kill()
    second = takes(path, 0)
    assert f"(process {holder.pid} of another machine)" in second.communicate()[0]
    os.utime(lease, (time.time() - 200,) * 2)
    third = takes(path, 0)
    assert third.communicate()[0].startswith("held\n")
    assert not lease.exists()


@pytest.mark.promise("C10")
def test_without_locks_only_one_takes_over_a_free_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_in(path, "config.toml")
    (path / ".lock.held").write_text("123456789 there 0")
    os.utime(path / ".lock.held", (time.time() - 200,) * 2)
    racers = [takes(path, 3) for _ in range(4)]
    codes = sorted((racer.communicate(), racer.returncode)[1] for racer in racers)
    assert codes.count(0) == 1
    # One that a busy machine holds up between its look and its entry replaces a holder, which stops (1).
    assert set(codes[1:]) <= {1, 2}


@pytest.mark.promise("C10")
def test_without_locks_a_replaced_holder_stops_writing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with takes(path, 600) as holder:
        assert first_line(holder) == "held\n"
        (path / ".lock.held").write_text("1 there 0")
        assert holder.wait(10) == 1
        assert holder.stderr is not None
        assert "Another process has taken over" in holder.stderr.read()
    assert (path / ".lock.held").read_text() == "1 there 0"


@pytest.mark.promise("C1")
def test_file_system_without_replace_is_refused_before_any_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(old: str, new: str) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    path = run_in(tmp_path / "run", "config.toml", "model.safetensors")
    before = files(path)
    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(UsageError, match="cannot replace a file by renaming"),
        open_run(path, resume=False, overwrite=True),
    ):
        pass
    assert files(path) == before


def test_a_file_system_without_permissions_is_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    write_atomic(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.promise("C7")
@pytest.mark.skipif(sys.platform != "linux", reason="a folder is mounted read-only in a namespace, as Linux has them")
def test_a_folder_on_read_only_storage_can_be_looked_at(tmp_path: Path) -> None:
    path = run_in(tmp_path / "run", "config.toml")
    program = "import sys\nfrom pathlib import Path\n"
    program += "from segdistill.storage.folder_checks import check_folder\n"
    program += "from segdistill.storage.run_folder import open_run\n"
    program += "check_folder(Path(sys.argv[1]), resume=True, overwrite=False)\nprint('free')\n"
    program += "try:\n    open_run(Path(sys.argv[1]), resume=True, overwrite=False).__enter__()\n"
    program += "except Exception as error:\n    print(error)\n"
    mounted = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    if process("unshare", "-m", "sh", "-c", mounted, "sh", path).code:
        pytest.skip("mounting needs root")
    done = process("unshare", "-m", "sh", "-c", f'{mounted} && "$0" -c "$2" "$1"', sys.executable, path, program)
    assert done.out.startswith(f"free\n{path} cannot be written: Read-only file system"), done.err
