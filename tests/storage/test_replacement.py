"""A run that replaces another leaves the old one or a new one that can be resumed, whenever it is killed."""

import os
import sys
from pathlib import Path

import pytest

from helpers.commands import contents, files, process
from helpers.run_folders import run_in
from segdistill.errors import BusyError, CheckError, ResourceError, Stopped, UsageError
from segdistill.storage.atomic import write_atomic
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.replacement import recover
from segdistill.storage.run_folder import open_run


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
from segdistill.storage.atomic import write_atomic
from segdistill.storage.run_folder import open_run
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
def test_run_ending_before_a_checkpoint_keeps_the_old_run(error: BaseException, tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    before = contents(run)
    with pytest.raises(type(error)):
        replace_by(run, "config.toml", "train.log", error=error)
    assert contents(run) == before
    assert not (run / ".next").exists()


@pytest.mark.promise("S8")
def test_promoted_run_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
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
from segdistill.storage.run_folder import open_run
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
def test_new_folder_of_a_run_killed_at_once_counts_as_empty(moment: int, tmp_path: Path) -> None:
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
        patch.setattr("segdistill.storage.run_folder.inner_folders", lambda path: seeds)
        patch.setattr(
            "segdistill.storage.run_folder.check_folder", lambda path, **words: None
        )  # the second begins right behind it
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
def test_replacement_killed_anywhere_leaves_a_usable_run(tmp_path: Path) -> None:
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
def test_new_run_with_a_checkpoint_is_continued_only_with_resume(tmp_path: Path) -> None:
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
def test_replacing_run_is_named_to_others_and_locks_its_seeds(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    with open_run(run, resume=False, overwrite=True):
        for part in (run, run / "seed-1"):
            with pytest.raises(UsageError, match="Another run is at work"):
                check_folder(part, resume=True, overwrite=False)
        with pytest.raises(UsageError, match=rf"process {os.getpid()}\)"):
            recover(run)


@pytest.mark.promise("S8")
def test_foreign_folder_named_like_a_new_run_is_left_alone(tmp_path: Path) -> None:
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
def test_run_is_kept_if_new_files_have_no_place(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    (run / "metrics.jsonl").mkdir()
    before = contents(run)
    with open_run(run, resume=False, overwrite=True) as folder:
        for name in NEW_FILES:
            write_atomic(folder / name, "new")
        with pytest.raises(UsageError, match=r"run/metrics\.jsonl is in the way"):
            folder.promote()
        assert own_contents(run) == before
