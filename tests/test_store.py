"""A run's folder: files are old or new and never half, one run at a time, and only its own files are touched."""

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import contents, files, process

from segdistill.errors import BusyError, CheckError, ModelError, ResourceError, Stopped, UsageError
from segdistill.store import (
    BEFORE_IT_BEGINS,
    OWN_FILES,
    RunFolder,
    check_folder,
    check_writable,
    next_folder,
    open_run,
    recover,
    seal,
    seal_one,
    sha256_of,
    verify_file,
    write_atomic,
    write_json,
)

HOLDER = """
import sys, time
from pathlib import Path
from segdistill.store import open_run
with open_run(Path(sys.argv[1]), resume=len(sys.argv) > 2, overwrite=False):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held(path: Path, *, resume: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a run's folder."""
    words = [sys.executable, "-c", HOLDER, str(path), *(["resume"] if resume else [])]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def run_in(path: Path, *names: str) -> Path:
    """Leave a run's files in a folder."""
    with open_run(path, resume=False, overwrite=False):
        for name in names or OWN_FILES:
            write_atomic(path / name, f"of {name}")
    return path


@pytest.mark.promise("C1")
def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    write_atomic(file, b"\x00new")
    assert file.read_bytes() == b"\x00new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.promise("C1")
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def renamed(old: str, new: Path) -> None:
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomic(tmp_path / "a", "x")
    assert calls == ["fsync file", "rename", "fsync folder"]


@pytest.mark.promise("C1")
def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    file, done = tmp_path / "a.bin", threading.Event()
    versions = [bytes([index]) * 200_000 for index in range(20)]
    write_atomic(file, versions[0])
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        write_atomic(file, version)
    done.set()
    reader.join()
    assert seen <= set(versions)


@pytest.mark.promise("C9")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_readable_by_whom_the_umask_says(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a", "x")
        assert os.umask(mask) == mask, "the mask is as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@pytest.mark.promise("C2")
def test_a_file_too_large_for_its_quota_leaves_the_old_one_and_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("old")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from segdistill.errors import ResourceError\n"
        "from segdistill.store import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_atomic(Path(sys.argv[1]), bytes(200_000))\n"
        "except ResourceError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    done = process(sys.executable, "-c", program, file)
    assert done.code == 1, done.err
    assert f"while writing {file}" in done.out
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == [file.name]


def test_a_place_that_cannot_be_written_is_the_user_s_to_change(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / "a", tmp_path / "folder", tmp_path / "file" / "a"):
        with pytest.raises(UsageError, match="cannot be written"):
            write_atomic(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.promise("S7")
def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    write_atomic(link, "new")
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("x" * 255), "x")


def test_json_is_written_as_people_read_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Straße", "none": None})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "Straße",\n  "none": null\n}\n'


@pytest.mark.promise("C10")
def test_a_second_run_in_a_folder_is_refused_with_the_first_one_s_process(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with held(path) as holder:
        for resume, overwrite in ((False, False), (False, True)):
            with pytest.raises(UsageError, match=rf"at work in .*run \(process {holder.pid}\)"):
                check_folder(path, resume=resume, overwrite=overwrite)
        before = contents(path)
        with (
            pytest.raises(UsageError, match=f"process {holder.pid}"),
            open_run(path, resume=False, overwrite=True),
        ):
            raise AssertionError
        assert contents(path) == before
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    (path / ".lock").write_text("segdistill 1234567890123")
    with open_run(path, resume=False, overwrite=False):
        assert (path / ".lock").read_text() == f"segdistill {os.getpid()}"


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "run", resume=False, overwrite=False):
        raise ZeroDivisionError
    with open_run(tmp_path / "run", resume=False, overwrite=False):
        pass


def test_a_folder_with_files_needs_resume_or_overwrite(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    with pytest.raises(UsageError, match="not empty") as caught:
        check_folder(run, resume=False, overwrite=False)
    assert "--resume" in caught.value.fix
    assert "--overwrite" in caught.value.fix
    check_folder(run, resume=True, overwrite=False)
    check_folder(run, resume=False, overwrite=True)


@pytest.mark.promise("C6")
def test_a_folder_in_which_a_run_was_killed_before_it_began_is_free(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", *BEFORE_IT_BEGINS[:2])
    (run / ".config.toml.k3x2.tmp").write_text("half of it")
    with pytest.raises(UsageError, match="no run to resume"):
        check_folder(run, resume=True, overwrite=False)
    with open_run(run, resume=False, overwrite=False):
        assert not list(run.glob("*.tmp"))
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        check_folder(run, resume=False, overwrite=False)
    (run / "notes.txt").unlink()
    (run / ".lock").unlink()  # then the files may be anyone's
    with pytest.raises(UsageError, match="not empty"):
        check_folder(run, resume=False, overwrite=False)


def test_where_no_run_is_nothing_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        check_folder(tmp_path, resume=True, overwrite=False)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", resume=False, overwrite=False)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.promise("S8")
def test_overwrite_removes_what_a_run_wrote_and_keeps_everything_else(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", *OWN_FILES, "autoencoder.safetensors", "autoencoder-of-map-3-2.safetensors")
    run_in(run / "baseline")
    run_in(run / "seed-1")
    run_in(run / "seed-1/baseline")
    (run / "seed-7/checkpoints").mkdir(parents=True)
    run_in(run / "seed-01", "notes.txt")
    foreign = [
        *("notes.txt", ".config.tmp", "autoencoder_mine.safetensors", "autoencoder-best.safetensors"),
        *("checkpoints/mine.bin", "checkpoints/.mine.tmp", "checkpoints/.last-week.x.tmp", "baseline/notes.txt"),
        *("seed-7/README.md", "seed-7/config.toml", "seed-7/checkpoints/last", "seed-01/README.md"),
    ]
    for name in foreign:
        (run / name).write_text("mine")
    strays = (".config.toml.k3x2.tmp", ".autoencoder-2.safetensors.k3x2.tmp", "checkpoints/.last.k3x2.tmp")
    for stray in (*strays, "baseline/checkpoints/.last.k3x2.tmp"):
        (run / stray).write_text("left by a killed run")
    before = contents(run)
    with open_run(run, resume=False, overwrite=True) as folder:
        assert contents(run).items() > before.items(), "the old run stays until the new one has something to lose"
        folder.promote()
        left = files(run)
    assert left == {
        ".lock",
        "baseline/.lock",
        "seed-1/.lock",
        "seed-1/baseline/.lock",
        "seed-01/.lock",
        "seed-01/notes.txt",
        *foreign,
    }


@pytest.mark.promise("S8")
@pytest.mark.parametrize("lock", [None, "", "1234"], ids=["no lock", "an empty lock", "another program's lock"])
def test_overwrite_refuses_a_folder_that_no_run_has_written(lock: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    if lock is not None:
        (tmp_path / ".lock").write_text(lock)
    before = contents(tmp_path)
    with (
        pytest.raises(UsageError, match="no run that --overwrite could replace"),
        open_run(tmp_path, resume=False, overwrite=True),
    ):
        raise AssertionError
    assert contents(tmp_path) == before


@pytest.mark.promise("S8")
def test_who_is_refused_has_changed_nothing(tmp_path: Path) -> None:
    for name in ("config.toml", "README.md", ".README.md.swp.tmp"):
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)

    def refuse() -> None:
        raise UsageError("no run of ours")

    with (
        pytest.raises(UsageError, match="no run of ours"),
        open_run(tmp_path, resume=True, overwrite=False, check=refuse),
    ):
        raise AssertionError
    after = contents(tmp_path)
    assert after.pop(str(tmp_path / ".lock"))
    assert (after, (tmp_path / ".lock").read_text()) == (before, "")
    with pytest.raises(UsageError, match="no run that --overwrite could replace"):
        check_folder(tmp_path, resume=False, overwrite=True)


@pytest.mark.promise("S8", "C10")
def test_overwrite_waits_for_who_is_at_work_inside(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    with (
        held(run / "seed-1") as holder,
        pytest.raises(UsageError, match=rf"at work in .*seed-1 \(process {holder.pid}\)"),
    ):
        check_folder(run, resume=False, overwrite=True)
    assert (run / "config.toml").exists()


def test_another_program_s_lock_is_a_file_like_any_other(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("1234")
    with pytest.raises(UsageError, match="not empty"):
        check_folder(tmp_path, resume=False, overwrite=False)


@pytest.mark.promise("S7")
def test_overwrite_removes_links_and_does_not_follow_them(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "checkpoints").mkdir(parents=True)
    for name in ("README.md", "config.toml", "last", "checkpoints/last", ".last.x.tmp"):
        (outside / name).write_text("mine")
    run_in(outside / "baseline", "config.toml")
    run = run_in(tmp_path / "run", "config.toml")
    (run / "checkpoints").rmdir()
    links = {
        **dict.fromkeys(("checkpoints", "baseline", "seed-1"), "."),
        **{"metrics.jsonl": "README.md", "data.json": "no"},
    }
    for name, target in links.items():
        (run / name).symlink_to(outside / target)
    before = contents(outside)
    with open_run(run, resume=False, overwrite=True) as folder:
        write_atomic(folder / "checkpoints/last", "ours")
        folder.append("metrics.jsonl", "ours")
        folder.promote()
    assert (run / "metrics.jsonl").read_text() == "ours\n"
    assert contents(outside) == before
    assert not any(path.is_symlink() for path in run.rglob("*"))


def test_a_run_s_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    run = run_in(tmp_path / "disk" / "run", "config.toml", "manifest.json")
    (tmp_path / "link").symlink_to(run)
    with open_run(tmp_path / "link", resume=False, overwrite=True) as folder:
        folder.promote()
        assert not (run / "config.toml").exists()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.promise("S7")
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises((UsageError, OSError)), open_run(tmp_path / "run", resume=False, overwrite=False):
        raise AssertionError
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.promise("C3")
def test_a_log_is_cut_back_to_what_is_done(tmp_path: Path) -> None:
    two = hashlib.sha256(b"one\ntwo\n").hexdigest()
    with open_run(tmp_path / "run", resume=False, overwrite=False) as folder:
        for line in ("one", "two", "three"):
            folder.append("metrics.jsonl", line)
        assert folder.lines("metrics.jsonl") == [b"one\n", b"two\n", b"three\n"]
        folder.truncate_lines("metrics.jsonl", 2, two)
        folder.append("metrics.jsonl", "other")
        folder.truncate_lines("metrics.jsonl", 3, None)
        folder.truncate_lines("absent.jsonl", 0, None)
        assert (folder / "metrics.jsonl").read_text() == "one\ntwo\nother\n"
        assert (folder.lines("absent.jsonl"), (folder / "absent.jsonl").exists()) == ([], False)
        for name, keep, digest in (("metrics.jsonl", 4, None), ("absent.jsonl", 1, None), ("metrics.jsonl", 3, two)):
            with pytest.raises(ModelError, match=f"{name} is damaged: its first {keep} lines are not those"):
                folder.truncate_lines(name, keep, digest)


@pytest.mark.promise("C3")
def test_a_manifest_holds_every_file_of_the_run_and_finds_a_flipped_bit(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    seal(run)
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["files"]) == set(OWN_FILES) - {"manifest.json"}
    assert manifest["files"]["config.toml"] == {"bytes": 14, "sha256": sha256_of(run / "config.toml")}
    verify_file(run, "config.toml")
    before = sha256_of(run / "config.toml")
    (run / "config.toml").write_text("of config.tomm")
    with pytest.raises(ModelError) as caught:
        verify_file(run, "config.toml")
    for part in (str(run / "config.toml"), before, sha256_of(run / "config.toml")):
        assert part in caught.value.what
    assert caught.value.exit_code == 5


@pytest.mark.promise("C3")
def test_a_file_that_the_manifest_does_not_name_is_not_the_run_s(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    seal(run)
    verify_file(run, "model.safetensors")
    (run / "model.safetensors").write_text("from elsewhere")
    with pytest.raises(ModelError, match=r"model\.safetensors is not the run's"):
        verify_file(run, "model.safetensors")


@pytest.mark.promise("C3")
def test_what_is_added_to_a_finished_run_leaves_the_other_seals_as_they_are(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml", "metrics.jsonl")
    seal(run)
    (run / "config.toml").write_text("damaged")
    (run / "model.onnx").write_text("new")
    seal_one(run, "model.onnx")
    verify_file(run, "model.onnx")
    verify_file(run, "metrics.jsonl")
    with pytest.raises(ModelError, match=r"config\.toml is damaged"):
        verify_file(run, "config.toml")


def test_a_folder_that_takes_no_file_is_told_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert not os.listdir(tmp_path)
    for folder in (tmp_path / "none", Path("/proc/self")):
        with pytest.raises(UsageError, match="cannot be written"):
            check_writable(folder)


def test_without_a_manifest_there_is_nothing_to_compare(tmp_path: Path) -> None:
    verify_file(run_in(tmp_path / "run", "config.toml"), "config.toml")


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"config.toml": 3}}', "{}"])
def test_a_damaged_manifest_is_told(content: str, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    (run / "manifest.json").write_text(content)
    with pytest.raises(ModelError, match=r"manifest\.json is damaged"):
        verify_file(run, "config.toml")


@pytest.mark.promise("C2")
def test_a_disk_that_is_full_from_the_start_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(ResourceError, match=r"while writing .*run/\.lock"),
        open_run(tmp_path / "run", resume=False, overwrite=False),
    ):
        pass


def test_folders_are_numbered_after_the_highest_there_is(tmp_path: Path) -> None:
    assert next_folder(tmp_path / "runs", "distill").name == "distill-001"
    for name in ("distill-001", "distill-007", "distill-x", "distill-skd-012", "distill-²", "distill-" + 200 * "9"):
        (tmp_path / name).mkdir()
    assert next_folder(tmp_path, "distill").name == "distill-008"


@pytest.mark.promise("C2")
def test_a_full_disk_is_not_taken_for_the_user_s_mistake() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder = RunFolder(Path("/dev"))
    with pytest.raises(ResourceError, match=r"disk is full.*while writing /dev/full"):
        folder.append("full", "line")
    folder.close()


@pytest.mark.promise("C10")
def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open_run(tmp_path, resume=False, overwrite=False):
        child = os.fork()
        if child == 0:  # outlives the parent's lock, as a loader worker can
            os.write(writing, b"here")
            time.sleep(30)
            os._exit(0)
        assert os.read(reading, 4) == b"here"
    try:
        with open_run(tmp_path, resume=False, overwrite=True):  # raises where the child holds the lock
            assert (tmp_path / ".lock").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# File systems that lack something


POOR = """
import errno, fcntl, os, stat
from segdistill import store
fsync = os.fsync
def no_lock(descriptor, kind):
    raise OSError(errno.{lock}, os.strerror(errno.{lock}))
def no_sync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    fsync(descriptor)
fcntl.flock, os.fsync = no_lock, no_sync
store.HEARTBEAT = 0.1
store._machine = lambda: "{machine}"
"""
TAKES = """
import sys, time
from pathlib import Path
from segdistill.errors import UsageError
try:
    with store.open_run(Path(sys.argv[1]), resume=False, overwrite=True) as folder:
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
def test_without_locks_a_second_run_is_refused_and_one_that_was_killed_leaves_the_folder_free(
    lock: str, tmp_path: Path
) -> None:
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
def test_without_locks_a_holder_on_another_machine_is_given_time_to_show_that_it_is_alive(tmp_path: Path) -> None:
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
def test_without_locks_one_of_many_takes_over_what_is_nobody_s(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run_in(path, "config.toml")
    (path / ".lock.held").write_text("123456789 there 0")
    os.utime(path / ".lock.held", (time.time() - 200,) * 2)
    racers = [takes(path, 3) for _ in range(4)]
    codes = sorted((racer.communicate(), racer.returncode)[1] for racer in racers)
    assert codes == [0, 2, 2, 2]


@pytest.mark.promise("C10")
def test_without_locks_one_that_was_frozen_and_replaced_ends_before_it_writes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with takes(path, 600) as holder:
        assert first_line(holder) == "held\n"
        (path / ".lock.held").write_text("1 there 0")
        assert holder.wait(10) == 1
        assert holder.stderr is not None
        assert "Another process has taken over" in holder.stderr.read()
    assert (path / ".lock.held").read_text() == "1 there 0"


@pytest.mark.promise("C1")
def test_a_file_system_that_cannot_rename_over_a_file_is_refused_before_anything_is_lost(
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
    program = "import sys\nfrom pathlib import Path\nfrom segdistill.store import check_folder, open_run\n"
    program += "check_folder(Path(sys.argv[1]), resume=True, overwrite=False)\nprint('free')\n"
    program += "try:\n    open_run(Path(sys.argv[1]), resume=True, overwrite=False).__enter__()\n"
    program += "except Exception as error:\n    print(error)\n"
    mounted = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    if process("unshare", "-m", "sh", "-c", mounted, "sh", path).code:
        pytest.skip("mounting needs root")
    done = process("unshare", "-m", "sh", "-c", f'{mounted} && "$0" -c "$2" "$1"', sys.executable, path, program)
    assert done.out.startswith(f"free\n{path} cannot be written: Read-only file system"), done.err


# A run that replaces another


def old_run(path: Path) -> Path:
    """Leave a run with a second seed in a folder, and a file that is not its own."""
    run = run_in(path)
    run_in(run / "seed-1")
    (run / "notes.txt").write_text("mine")
    return run


def replace_by(run: Path, *names: str, error: BaseException) -> None:
    """Begin a run that is to replace another and ends in an error once it has these files."""
    with open_run(run, resume=False, overwrite=True) as folder:
        for name in names:
            write_atomic(folder / name, "new")
        raise error


def own_contents(run: Path) -> dict[str, str]:
    """Return what is in a folder without what a run that was to replace the one in it has left."""
    return {name: value for name, value in contents(run).items() if "/.next" not in name}


def go_on_or_begin_anew(run: Path, *, resume: bool) -> None:
    """Bring a folder in order as `--resume` does, or as an `--overwrite` that is refused at once."""
    if resume:
        recover(run)
    else:
        with pytest.raises(UsageError, match="refused"):
            replace_by(run, error=UsageError("refused"))


NEW_FILES = ("config.toml", "metrics.jsonl", "checkpoints/last")
REPLACER = """
import os, sys
from pathlib import Path
from segdistill import store
from segdistill.store import open_run, write_atomic
left = int(sys.argv[2])
def dies_at(module, name):
    do = getattr(module, name)
    def call(*words, **more):
        global left
        left -= 1
        if left < 0:
            os._exit(9)  # as by SIGKILL: nothing is tidied up
        return do(*words, **more)
    setattr(module, name, call)
with open_run(Path(sys.argv[1]), resume=False, overwrite=True) as run:
    for module, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (os, "fsync")):
        dies_at(module, name)
    for name in sys.argv[3:]:
        write_atomic(run / name, "new")
    run.promote()
"""


@pytest.mark.promise("S8")
@pytest.mark.parametrize("error", [UsageError("data"), CheckError("first step"), ResourceError("disk"), SystemExit(3)])
def test_a_run_that_ends_before_its_first_checkpoint_leaves_the_old_one_as_it_was(
    error: BaseException, tmp_path: Path
) -> None:
    run = old_run(tmp_path / "run")
    before = contents(run)
    with pytest.raises(type(error)):
        replace_by(run, "config.toml", "train.log", error=error)
    assert contents(run) == before
    assert not (run / ".next").exists()


@pytest.mark.promise("S8")
def test_a_run_that_is_promoted_leaves_nothing_of_the_old_one_and_what_is_not_its_own(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    with open_run(run, resume=False, overwrite=True) as folder:
        for name in NEW_FILES:
            write_atomic(folder / name, "new")
        assert folder.path != run
        folder.promote()
        assert folder.path == run
        with open_run(run / "seed-1", resume=False, overwrite=True):  # its lock is free for the new run's own
            pass
        folder.append("metrics.jsonl", "more")
    assert files(run) == {*NEW_FILES, ".lock", "seed-1/.lock", "notes.txt"}
    assert (run / "metrics.jsonl").read_text() == "newmore\n"


BEGINNER = """
import os, sys, tempfile
from pathlib import Path
from segdistill.store import open_run
left, make = int(sys.argv[2]), tempfile.mkstemp
def dies(*words, **more):
    global left
    made, left = make(*words, **more), left - 1
    if left < 0:
        os._exit(9)
    return made
tempfile.mkstemp = dies
with open_run(Path(sys.argv[1]), resume=False, overwrite=False):
    pass
"""


@pytest.mark.promise("C6")
@pytest.mark.parametrize("moment", [0, 1])
def test_a_new_folder_in_which_a_run_was_killed_at_once_is_as_good_as_empty(moment: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert process(sys.executable, "-c", BEGINNER, run, str(moment)).code == 9
    assert list(run.glob(".*.tmp"))
    with open_run(run, resume=False, overwrite=False):
        assert files(run) == {".lock"}


@pytest.mark.promise("C10")
def test_a_run_that_is_refused_by_one_seed_lets_go_of_the_others(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    seeds = [run_in(run / f"seed-{number}", "config.toml") for number in (1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segdistill.store._inner", lambda path: seeds)
        patch.setattr("segdistill.store.check_folder", lambda path, **words: None)  # the second begins right behind it
        with (
            open_run(seeds[1], resume=True, overwrite=False),
            pytest.raises(BusyError, match="seed-2"),
            open_run(run, resume=False, overwrite=True),
        ):
            raise AssertionError
    for part in (run, seeds[0]):
        check_folder(part, resume=True, overwrite=False)


@pytest.mark.promise("S8", "C6")
@pytest.mark.slow  # a hundred processes, none of which imports torch
def test_a_replacement_that_is_killed_at_any_moment_leaves_the_old_run_or_one_that_can_go_on(tmp_path: Path) -> None:
    ends = set[str]()
    for moment in range(200):
        run = old_run(tmp_path / f"run-{moment}")
        before = contents(run)
        done = process(sys.executable, "-c", REPLACER, run, str(moment), *NEW_FILES)
        assert done.code in (0, 9), done.err
        resumed = moment % 2 == 0
        new_can_go_on = (run / ".next/checkpoints/last").exists() and resumed
        had_begun = (run / ".next").exists()
        go_on_or_begin_anew(run, resume=resumed)
        assert not any((run / name).exists() for name in (".next", ".next-ready", ".next-moving"))
        assert (run / "notes.txt").read_text() == "mine"
        if contents(run) == before:
            assert not new_can_go_on
            ends.add("old" if had_begun else "nothing had begun")
        else:
            ends.add("new")
            assert files(run) == {*NEW_FILES, ".lock", "seed-1/.lock", "notes.txt"}
            assert all((run / name).read_text() == "new" for name in NEW_FILES)
        if done.code == 0:
            break
    assert done.code == 0, "there are fewer moments than that"
    assert ends >= {"old", "new"}


@pytest.mark.promise("S8")
def test_a_new_run_with_a_checkpoint_is_gone_on_with_only_where_that_is_asked_for(tmp_path: Path) -> None:
    for resume in (False, True):
        run = old_run(tmp_path / f"run-{resume}")
        before = contents(run)
        with pytest.raises(Stopped):
            replace_by(run, *NEW_FILES, error=Stopped("Stopped in what is trained before the student.", "", 15))
        assert before.items() < contents(run).items()
        go_on_or_begin_anew(run, resume=resume)
        assert (contents(run) == before) is not resume
        assert not recover(run), "there is nothing left to do"


@pytest.mark.promise("S8", "C10")
def test_who_replaces_a_run_is_named_to_others_and_keeps_out_of_its_seeds(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    with open_run(run, resume=False, overwrite=True):
        for part in (run, run / "seed-1"):
            with pytest.raises(UsageError, match="Another run is at work"):
                check_folder(part, resume=True, overwrite=False)
        with pytest.raises(UsageError, match=rf"process {os.getpid()}\)"):
            recover(run)


@pytest.mark.promise("S8")
def test_what_is_called_like_the_folder_of_a_new_run_is_left_alone(tmp_path: Path) -> None:
    for name in (".next", ".next-ready", ".next-moving"):
        run = old_run(tmp_path / f"run{name}")
        (run / name).mkdir()
        (run / name / "mine").write_text("mine")
        before = contents(run)
        assert not recover(run)
        with pytest.raises(UsageError, match="in the way"), open_run(run, resume=False, overwrite=True):
            raise AssertionError
        assert contents(run) == before


@pytest.mark.promise("S8")
def test_a_run_is_not_given_up_for_one_whose_files_have_no_place(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    (run / "metrics.jsonl").mkdir()
    before = contents(run)
    with open_run(run, resume=False, overwrite=True) as folder:
        for name in NEW_FILES:
            write_atomic(folder / name, "new")
        with pytest.raises(UsageError, match=r"run/metrics\.jsonl is in the way"):
            folder.promote()
        assert own_contents(run) == before
