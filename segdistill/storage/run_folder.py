"""A run's folder while it is open: its logs, its lock, and how it is made, gone on with or replaced.

`run_files` has the names of its files; baseline/ and seed-N/ in it are folders of the same kind.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segdistill.errors import CheckError, ModelError
from segdistill.storage.atomic import sync, write_atomic
from segdistill.storage.files import open_file
from segdistill.storage.folder_checks import check_folder, check_replacing, missing_features
from segdistill.storage.locks import FolderLock, sign_lock, take_lock
from segdistill.storage.replacement import create_next, delete_next, has_checkpoint, promote_next, recover_locked
from segdistill.storage.run_files import (
    NEXT,
    delete_run_files,
    delete_temporary_files,
    holds_begun_run,
    inner_folders,
    is_run_folder,
)
from segdistill.storage.write_errors import explain_write_error

NOWHERE = Path(os.devnull) / "no-run-folder"
"""Path at which there is nothing and at which nothing can be written: what it begins with is no folder."""


class RunFolder:
    """An open run: its folder, held by a lock until the process ends."""

    def __init__(self, home: Path, *locks: FolderLock) -> None:
        self.home = home
        """Folder that the run is named by."""
        self.replaces = False
        """Whether the run before is still in that folder, and this one is written to .next/ in it."""
        self.warnings: tuple[str, ...] = ()
        """Sentences on what the file system lacks."""
        self._locks = locks
        """The folder's own lock, then those of the runs inside it."""
        for lock in locks:
            lock.release_in_forks()

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return True

    @property
    def path(self) -> Path:
        """Folder that the files are in now."""
        return self.home / NEXT if self.replaces else self.home

    @property
    def is_resumable(self) -> bool:
        """Whether `--resume` would find this run: it is in its folder already, or has a checkpoint."""
        return not self.replaces or has_checkpoint(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def find(self, name: str) -> Path | None:
        """Return the path of a file of the run, if it is there."""
        path = self / name
        return path if path.exists() else None

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Have a file written by a function that is given its path."""
        write(self / name)

    def promote(self) -> None:
        """Let the run take the place of the one before, where there still is one."""
        if self.replaces:
            promote_next(self.home)
            sign_lock(self.home, self._locks[0].descriptor)
            self.replaces = False
            self._release_inner_locks()

    def append(self, name: str, line: str) -> None:
        """Append a line to a log; what is no text in it, such as some names of files, is written as escapes."""
        # One write at the file's end: a kill costs at most this line, and a link may lead out of the folder.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self / name, flags, 0o666)
            with open(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:
            raise explain_write_error(error, self / name) from error

    def sync(self, name: str) -> None:
        """Make a log durable, where there is one."""
        if (self / name).exists():
            sync(self / name)

    def lines(self, name: str) -> list[bytes]:
        """Return the lines of a log with their ends; none where there is none."""
        path = self / name
        if not path.exists():
            return []
        with open_file(path) as file:
            return file.read().splitlines(keepends=True)

    def truncate_lines(self, name: str, keep: int, sha256: str | None) -> None:
        """Cut a log back to its first `keep` lines: what a resumed run has not done yet.

        Args:
            name: the log's.
            keep: lines that stay.
            sha256: digest that those have; None where a checkpoint of an earlier version does not say.

        Raises:
            ModelError: if it has fewer, or others than this digest says.
        """
        path, lines = self / name, self.lines(name)
        kept = b"".join(lines[:keep])
        is_other = sha256 is not None and sha256 != hashlib.sha256(kept).hexdigest()
        if len(lines) < keep or is_other:
            raise ModelError(
                f"{path} is damaged: its first {keep} lines are not those that the run wrote.",
                "Restore it, or start a new run.",
            )
        if lines:
            write_atomic(path, kept)

    def close(self) -> None:
        """Release the locks."""
        for lock in self._locks:
            lock.release()

    def _release_inner_locks(self) -> None:
        """Release the locks of the old run's seeds: the new ones have their own."""
        for lock in self._locks[1:]:
            lock.release()
        self._locks = self._locks[:1]


class NullRunFolder(RunFolder):
    """A run's folder that is never there: for all processes but the first, and for dry runs.

    It has the interface of `RunFolder`, so that nobody has to ask whether there is one. Reading finds nothing, also
    where the first process has written by now, and nothing is written, kept or locked.
    """

    def __init__(self, home: Path = NOWHERE) -> None:
        super().__init__(home)

    @property
    def writes(self) -> bool:
        """Whether this process writes the run's files."""
        return False

    @property
    def path(self) -> Path:
        """Path at which there is nothing; who writes there past `write` gets an error."""
        return NOWHERE

    @property
    def is_resumable(self) -> bool:
        """Whether `--resume` would find this run: the first process alone knows, and tells it."""
        return True

    def find(self, name: str) -> None:
        """Find nothing, also where the first process has written by now."""

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Do nothing; the function is not called."""

    def promote(self) -> None:
        """Do nothing."""

    def append(self, name: str, line: str) -> None:
        """Do nothing."""

    def sync(self, name: str) -> None:
        """Do nothing."""

    def lines(self, name: str) -> list[bytes]:
        """Return no lines."""
        return []

    def truncate_lines(self, name: str, keep: int, sha256: str | None) -> None:
        """Do nothing: the first process has checked the log."""

    def close(self) -> None:
        """Do nothing: there is no lock."""


@contextmanager
def open_run(
    path: Path, *, resume: bool, overwrite: bool, check: Callable[[], object] = lambda: None
) -> Iterator[RunFolder]:
    """Create or reopen a run's folder and hold its lock.

    Args:
        path: the folder.
        resume: go on in it.
        overwrite: let the new run replace what a run has left in it, at `RunFolder.promote`; one that ends before is
            forgotten, unless it has a checkpoint to go on from.
        check: called with the lock held, before anything else is written; raises if the folder is not to be used.

    Raises:
        UsageError: as `check_folder`.
    """
    check_folder(path, resume=resume, overwrite=overwrite)
    folder = _lock_folder(path, overwrite=overwrite)
    is_refused = False
    try:
        check()
        _prepare(folder, overwrite=overwrite)
        yield folder
    except CheckError:
        is_refused = True
        raise
    finally:
        try:
            _forget_unfinished(folder, is_refused=is_refused)
        finally:
            folder.close()


def _lock_folder(path: Path, *, overwrite: bool) -> RunFolder:
    """Make a folder and take its lock and, where it is to be replaced, those of the runs inside it.

    Raises:
        BusyError: if another process is at work there; no lock is held then.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        locks = [take_lock(path)]
    except OSError as error:
        raise explain_write_error(error, path) from error
    try:
        if overwrite:  # who is at work in a seed's folder of the old run would lose its files
            for inner in inner_folders(path):
                if not inner.is_symlink() and is_run_folder(inner):
                    locks.append(take_lock(inner))  # noqa: PERF401  # if the next is refused, this one is released below
    except BaseException:
        for lock in locks:
            lock.release()
        raise
    return RunFolder(path, *locks)


def _prepare(folder: RunFolder, *, overwrite: bool) -> None:
    """Make a folder that is locked ready for a run's files; decide whether it replaces another."""
    home, lock = folder.home, folder._locks[0]
    if not is_run_folder(home):  # so that a temporary file that a kill leaves from here on is known to be a run's
        sign_lock(home, lock.descriptor)
    check_replacing(home)
    folder.warnings = missing_features(home, has_locks=lock.lease is None)
    if overwrite:
        recover_locked(home, resume=False)
    if overwrite and holds_begun_run(home):
        create_next(home)
        folder.replaces = True
    else:
        sign_lock(home, lock.descriptor)
        folder._release_inner_locks()
        if overwrite:
            delete_run_files(home)
    (folder / "checkpoints").mkdir(exist_ok=True)
    delete_temporary_files(folder.path)


def _forget_unfinished(folder: RunFolder, *, is_refused: bool) -> None:
    """Delete a run that ends before it has replaced the one before, unless `--resume` can go on with it.

    One that was refused by a check could not go on anyway, with a checkpoint of what is trained beforehand or without.
    """
    if folder.replaces and (is_refused or not folder.is_resumable):
        delete_next(folder.path)
