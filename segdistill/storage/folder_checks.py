"""What a folder must be for a run to be written in it, and what its file system must be able to do."""

import os
import tempfile
from pathlib import Path
from shlex import quote

from segdistill.errors import UsageError
from segdistill.storage.atomic import sync
from segdistill.storage.files import check_utf8
from segdistill.storage.leases import EXPIRY_SECONDS, HEARTBEAT_SECONDS
from segdistill.storage.locks import check_free
from segdistill.storage.run_files import inner_folders, is_occupied, is_run_folder


def check_folder(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Look whether a run can have a folder; nothing is written.

    Raises:
        UsageError: it is not empty and neither `resume` nor `overwrite` was asked for, or what is in it is no run's;
            there is nothing to resume; another process is at work in it; its name is not UTF-8.
    """
    check_utf8(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder.", "Choose another --out.")
    is_run = is_run_folder(path)
    check_free(path)
    if overwrite and is_run:
        _check_inner_free(path)
    # --overwrite removes the link itself.
    if (path / "checkpoints").is_symlink() and not overwrite:
        raise UsageError(f"{path / 'checkpoints'} is a link: what is written there would lie outside.", "Remove it.")
    if resume:
        if not (path / "config.toml").exists():
            raise UsageError(f"There is no run to resume in {path}.", "Leave out --resume to start one.")
    elif is_occupied(path, is_run=is_run):
        _check_replaceable(path, is_run=is_run, overwrite=overwrite)


def check_replacing(path: Path) -> None:
    """Try whether a file can be replaced by renaming another, upon which every promise about kills rests.

    Raises:
        UsageError: if not.
    """
    old, new = _temporary_file(path), _temporary_file(path)
    try:
        os.replace(new, old)
    except OSError as error:
        raise UsageError(
            f"The file system of {path} cannot replace a file by renaming another ({error.strerror}): a kill "
            "while saving would cost both.",
            "Choose --out on another file system.",
        ) from error
    finally:
        old.unlink(missing_ok=True)
        new.unlink(missing_ok=True)


def missing_features(path: Path, *, has_locks: bool) -> tuple[str, ...]:
    """Return a sentence for each thing that the file system of a folder lacks, and what follows."""
    warnings = []
    if not has_locks:
        warnings.append(
            f"The file system of {path} has no locks (flock). A file that is touched every {HEARTBEAT_SECONDS:g} s "
            f"keeps other runs out; where this run is killed, another machine can go on with it {EXPIRY_SECONDS:g} s "
            "later."
        )
    if not sync(path):
        warnings.append(
            f"The file system of {path} cannot sync a folder: the power going off may cost what was saved last."
        )
    return tuple(warnings)


def _check_inner_free(path: Path) -> None:
    """Look whether no run is at work in a folder inside a run's: it would lose its files.

    Raises:
        BusyError: if one is.
    """
    for inner in inner_folders(path):
        if is_run_folder(inner):
            check_free(inner)


def _check_replaceable(path: Path, *, is_run: bool, overwrite: bool) -> None:
    """Refuse a folder with files in it, unless they are a run's that the new one is to replace.

    Raises:
        UsageError: if they are not.
    """
    if not overwrite:
        raise UsageError(
            f"{path} is not empty.",
            f"Continue the run in it with `segdistill resume {quote(str(path))}`, replace it with --overwrite, or "
            "choose another --out.",
        )
    if is_run:
        return
    advice = "Choose another --out."
    if (path / "config.toml").exists():
        advice += " Of a run that was copied without its .lock file, --resume makes one again."
    raise UsageError(f"{path} holds files, but no run that --overwrite could replace.", advice)


def _temporary_file(path: Path) -> Path:
    """Create an empty file that the next run deletes if this one is killed before it does so itself."""
    descriptor, name = tempfile.mkstemp(prefix=".config.toml.", suffix=".tmp", dir=path)
    os.close(descriptor)
    return Path(name)
