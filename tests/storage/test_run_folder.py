"""A run's folder: one run at a time, and only its own files are touched."""

import errno
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from helpers.commands import contents, files
from helpers.run_folders import held, run_in
from segdistill.errors import ModelError, ResourceError, UsageError
from segdistill.storage.atomic import write_atomic, write_json
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.run_files import RUN_FILES, WRITTEN_FIRST, belongs_to_run, next_folder, pretrained_names
from segdistill.storage.run_folder import NullRunFolder, RunFolder, open_run
from segdistill.storage.write_errors import check_writable

PRETRAINED = (
    *("pretraining-autoencoder.safetensors", "pretraining-critic-2.safetensors"),
    *("autoencoder.safetensors", "autoencoder-of-map-3-2.safetensors"),
)
"""Files of stages that terms have trained beforehand; the last two are as version 0.1 named them."""


@pytest.mark.promise("C10")
def test_second_run_in_a_folder_is_refused_with_the_process_id(tmp_path: Path) -> None:
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
    assert f"segdistill resume {run}" in caught.value.fix
    assert "--overwrite" in caught.value.fix
    check_folder(run, resume=True, overwrite=False)
    check_folder(run, resume=False, overwrite=True)


@pytest.mark.promise("C6")
def test_folder_of_a_run_killed_before_it_began_is_free(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", *WRITTEN_FIRST[:2])
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


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        check_folder(tmp_path, resume=True, overwrite=False)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", resume=False, overwrite=False)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.promise("S8")
@pytest.mark.parametrize("stage", ["autoencoder", "critic-2", "model", "a" * 36])
def test_file_of_any_pretraining_stage_belongs_to_its_run(stage: str) -> None:
    for name in pretrained_names(stage):
        assert belongs_to_run(Path("run", name), Path("run"))
        assert not belongs_to_run(Path("run", "other", name), Path("run"))


def test_stage_has_its_earlier_file_name_only_if_it_had_one() -> None:
    assert pretrained_names("critic-2") == ["pretraining-critic-2.safetensors"]
    earlier = ["pretraining-autoencoder-2.safetensors", "autoencoder-2.safetensors"]
    assert pretrained_names("autoencoder-2") == earlier


@pytest.mark.parametrize("stage", ["", "Critic", "critic 2", "critic.2", "../critic", "-critic", "a" * 37])
def test_stage_whose_file_no_run_would_know_is_refused(stage: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        pretrained_names(stage)


@pytest.mark.promise("S8")
def test_overwrite_removes_files_of_a_run_and_keeps_others(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", *RUN_FILES, *PRETRAINED)
    run_in(run / "baseline")
    run_in(run / "seed-1")
    run_in(run / "seed-1/baseline")
    (run / "seed-7/checkpoints").mkdir(parents=True)
    run_in(run / "seed-01", "notes.txt")
    foreign = [
        *("notes.txt", ".config.tmp", "autoencoder_mine.safetensors", "autoencoder-best.safetensors"),
        *("pretraining-.safetensors", "pretraining-Mine.safetensors", "pretrained-resnet18.safetensors"),
        *("checkpoints/mine.bin", "checkpoints/.mine.tmp", "checkpoints/.last-week.x.tmp", "baseline/notes.txt"),
        *("seed-7/README.md", "seed-7/config.toml", "seed-7/checkpoints/last", "seed-01/README.md"),
    ]
    for name in foreign:
        (run / name).write_text("mine")
    strays = (".config.toml.k3x2.tmp", ".autoencoder-2.safetensors.k3x2.tmp", "checkpoints/.last.k3x2.tmp")
    half_written = (".pretraining-autoencoder.safetensors.k3x2.tmp", "baseline/checkpoints/.last.k3x2.tmp")
    for stray in (*strays, *half_written):
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
def test_refused_run_has_changed_nothing(tmp_path: Path) -> None:
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
def test_overwrite_refuses_while_a_seed_is_in_use(tmp_path: Path) -> None:
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


def test_unwritable_folder_is_reported_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert not os.listdir(tmp_path)
    for folder in (tmp_path / "none", Path("/proc/self")):
        with pytest.raises(UsageError, match="cannot be written"):
            check_writable(folder)


@pytest.mark.promise("C2")
def test_full_disk_at_the_start_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_full_disk_is_not_a_usage_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder = RunFolder(Path("/dev"))
    with pytest.raises(ResourceError, match=r"disk is full.*while writing /dev/full"):
        folder.append("full", "line")
    folder.close()


def test_null_run_folder_has_all_methods_of_a_run_folder() -> None:
    inherited = {"__init__", "__truediv__", "_release_inner_locks"}
    methods = {name for name, value in vars(RunFolder).items() if callable(value) or isinstance(value, property)}
    assert methods - inherited <= vars(NullRunFolder).keys()
    assert vars(NullRunFolder(Path("run"))).keys() == vars(RunFolder(Path("run"))).keys()


def test_a_null_run_folder_reads_and_writes_nothing(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml", "metrics.jsonl", "checkpoints/last")
    before = contents(run)
    folder = NullRunFolder(run)
    written = list[Path]()
    folder.write("model.safetensors", written.append)
    folder.append("metrics.jsonl", "line")
    folder.sync("metrics.jsonl")
    folder.truncate_lines("metrics.jsonl", 5, "another digest")
    folder.promote()
    with pytest.raises(UsageError, match="cannot be written"):
        write_json(folder / "scores.json", {})
    assert not folder.lines("metrics.jsonl")
    assert not written
    assert not (folder / "checkpoints/last").exists()
    assert (folder.home, folder.warnings, folder.replaces, folder.is_resumable) == (run, (), False, True)
    folder.close()
    assert contents(run) == before
    check_folder(run, resume=True, overwrite=False)  # nobody holds its lock


def test_a_run_folder_has_files_written_where_they_are_now(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    with open_run(run, resume=False, overwrite=True) as folder:
        folder.write("checkpoints/last", lambda path: write_atomic(path, "new"))
        assert (run / ".next/checkpoints/last").read_text() == "new"
        folder.promote()
        folder.write("scores.json", lambda path: write_json(path, {}))
        assert files(run) == {".lock", "checkpoints/last", "scores.json"}


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
