"""The one way to replace a run by another.

A run that replaces another (`--overwrite`) is written to .next/ in that one's folder, so that the other stays as it is
until the new one has something to lose: its own first checkpoint, behind all checks. Then the new run is promoted, in
three steps between which a kill may come:

    .next/        -> .next-ready/    from here on the old run is given up: its files are deleted
    .next-ready/  -> .next-moving/   from here on none of its files is left: those of the new run are moved up
    .next-moving/ -> gone            the folder is an ordinary run's

Each arrow is one rename or the last deletion, and what comes between can be done again. `recover` finishes a promotion
that was cut short, and deletes a .next/ that came to nothing; `--resume` promotes one that has a checkpoint, be it of
what is trained before the student. The folder's lock is held throughout; .next/.lock says by whom, as the old run's own
.lock is not touched before its end. Whatever else lies in the folder stays where it is.
"""

import os
import shutil
from pathlib import Path

from segdistill.errors import UsageError
from segdistill.storage.atomic import sync, write_atomic
from segdistill.storage.locks import take_lock
from segdistill.storage.run_files import (
    LOCK,
    LOCK_SIGNATURE,
    MOVING,
    NEXT,
    READY,
    delete_run_files,
    is_run_folder,
)
from segdistill.storage.write_errors import explain_write_error


def create_next(path: Path) -> None:
    """Make the folder of a run that is to replace another.

    Raises:
        UsageError: if something else has its name, or it cannot be written.
    """
    for name in (NEXT, READY, MOVING):
        if os.path.lexists(path / name):
            raise UsageError(f"{path / name} is in the way of the new run.", "Rename it, or choose another --out.")
    try:
        (path / NEXT).mkdir()
        write_atomic(path / NEXT / LOCK, LOCK_SIGNATURE + b"%d" % os.getpid())
    except OSError as error:
        delete_next(path / NEXT)
        raise explain_write_error(error, path / NEXT) from None
    except BaseException:
        delete_next(path / NEXT)
        raise


def recover(path: Path) -> bool:
    """Bring a folder in order in which a run was killed that was to replace another, so that `--resume` continues it.

    Returns:
        Whether the new run was deleted instead, as it had no checkpoint to go on from; the one before is untouched.

    Raises:
        UsageError: if a process is at work there.
    """
    if not any(_is_replacement(path / name) for name in (NEXT, READY, MOVING)):
        return False  # without a lock, which would have to be written
    try:
        lock = take_lock(path)
    except OSError as error:
        raise explain_write_error(error, path) from error
    try:
        return recover_locked(path, resume=True)
    except OSError as error:
        raise explain_write_error(error, path) from error
    finally:
        lock.release()


def recover_locked(path: Path, *, resume: bool) -> bool:
    """Do as `recover` says, with the lock held; without `resume`, a new run is deleted unless the old one is given up.

    That is left to the moment when another run begins: a command that is refused before deletes nothing.
    """
    old_is_given_up = _is_replacement(path / READY) or _is_replacement(path / MOVING)
    if old_is_given_up:
        promote_next(path)
        return False
    if not _is_replacement(path / NEXT):
        return False
    if resume and has_checkpoint(path / NEXT):
        promote_next(path)
        return False
    delete_next(path / NEXT)
    return True


def promote_next(path: Path) -> None:
    """Replace a run by the one that is in .next/ in its folder, or go on with that where it was cut short.

    Raises:
        UsageError: if something that is no run's is at the place of one of the new run's files.
    """
    if _is_replacement(path / NEXT):
        _check_room(path)
        _rename(path / NEXT, path / READY)
    if _is_replacement(path / READY):
        delete_run_files(path)
        _rename(path / READY, path / MOVING)
    for folder, _, names in os.walk(path / MOVING):
        target = path / Path(folder).relative_to(path / MOVING)
        target.mkdir(exist_ok=True)
        for name in names:
            source = Path(folder, name)
            if source != path / MOVING / LOCK:  # the folder's own is held
                os.replace(source, target / name)
        sync(target)
    delete_next(path / MOVING)
    sync(path)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has saved a state that it can go on from."""
    return any((folder / "checkpoints" / name).exists() for name in ("last", "last.prev"))


def delete_next(folder: Path) -> None:
    """Delete .next/, or what it is called by now; its lock goes last, by which it is known."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (folder / LOCK).unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


def _is_replacement(folder: Path) -> bool:
    """Whether a folder is one that this module made; one that is empty was killed before it had its lock."""
    if is_run_folder(folder):
        return True
    return not folder.is_symlink() and folder.is_dir() and not any(folder.iterdir())


def _check_room(path: Path) -> None:
    """Refuse to give up a run for one whose files would find something else at their places.

    Raises:
        UsageError: if there is a folder where a file has to be, or a file where a folder has to be.
    """
    for folder, folders, names in os.walk(path / NEXT):
        target = path / Path(folder).relative_to(path / NEXT)
        blocked = [name for name in names if _is_folder(target / name)]
        blocked += [name for name in folders if (target / name).exists() and not (target / name).is_dir()]
        if blocked:
            raise UsageError(f"{target / blocked[0]} is in the way of the new run.", "Rename it, then add --resume.")


def _is_folder(path: Path) -> bool:
    """Whether there is a folder; a link to one gives way to a file."""
    return path.is_dir() and not path.is_symlink()


def _rename(old: Path, new: Path) -> None:
    os.rename(old, new)
    sync(old.parent)
