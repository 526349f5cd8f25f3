"""The names of a run's files, and which files of a folder belong to a run."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from segdistill.storage.atomic import name_of_target

WEIGHT_FILES = {"last": "checkpoints/final", "ema": "checkpoints/average", "best": "checkpoints/best"}
"""Model files of weights beside those that a run ships: of the last step, averaged, and of the best validation."""
LOCAL = "local.json"
"""File of what holds on this machine alone: paths and the command line. It is in no manifest, and nothing copies it."""
RUN_FILES = (
    "config.toml",
    "environment.json",
    "data.json",
    LOCAL,
    "teacher.json",
    "train.log",
    "metrics.jsonl",
    "manifest.json",
    "README.md",
    "model.safetensors",
    "model.onnx",
    "scores.json",
    "gain.json",
    "curves.png",
    "picture.png",
    "checkpoints/last",
    "checkpoints/last.prev",
    *WEIGHT_FILES.values(),
)
"""Files that a run writes, and so all that `--overwrite` may delete."""
PRETRAINED = re.compile(
    r"pretraining-[a-z0-9][a-z0-9-]{0,35}\.safetensors|autoencoder(-of-map-\d+)?(-\d+)?\.safetensors"
)
"""Further such files: of the stages that terms have trained beforehand, whatever they call them.

The second form is that of version 0.1, which knew auto-encoders alone. The name has 60 characters at most, because that
of its temporary file has no more of them.
"""
LOCK = ".lock"
"""File whose lock a run holds while it is at work in a folder."""
LOCK_SIGNATURE = b"segdistill "
"""First bytes of a run's lock, before the process's number: other programs have a .lock too."""
LEASE = ".lock.held"
"""File that says who holds a folder where the file system has no locks: one process alone can create it."""
BASELINE_FOLDER = "baseline"
"""Folder of the student that is trained without a teacher, in the folder of the one that has it."""
SEED_FOLDER = re.compile(r"seed-(0|[1-9]\d*)")
"""Names of the folders of further seeds."""
NEXT, READY, MOVING = ".next", ".next-ready", ".next-moving"
"""Folders in a run's folder for the run that replaces it, by how far that is: see `replacement`."""
DELETED_FIRST = ("manifest.json", "model.safetensors")
"""Files that an old run loses first, so that what is left of it is never taken for a finished run."""
WRITTEN_FIRST = ("data.json", "environment.json", LOCAL, "config.toml")
"""Files that a run writes first, in this order: without the last there is nothing to continue and nothing to lose."""


def is_run_folder(path: Path) -> bool:
    """Whether a run has written in a folder, so that its files with the names of a run's are a run's."""
    try:
        # No link is followed, and no pipe waited for: anybody may have put something of that name there.
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as lock:
            return lock.read(len(LOCK_SIGNATURE)) == LOCK_SIGNATURE
    except OSError:
        return False


def is_occupied(path: Path, *, is_run: bool) -> bool:
    """Whether a folder has files, at any depth, beside its lock and what a run left that never began.

    Args:
        path: the folder, which may be missing.
        is_run: whether it is a run's, as `is_run_folder` says.
    """
    if not is_run and _has_foreign_lock(path):
        return True
    ignored: set[Path] = set()
    if is_run and not (path / "config.toml").exists():
        ignored = {path / name for name in WRITTEN_FIRST}
        ignored.update(temporary_files(path))
    # The first file decides: the folder may be / itself.
    return any(file not in ignored for file in _files_below(path))


def holds_begun_run(path: Path) -> bool:
    """Whether a folder, or one of a run inside it, has something of a run that began."""
    if not is_run_folder(path):
        return False
    names = {name for name in run_file_names(path) if _is_file_or_link(path / name)}
    if "config.toml" not in names:
        names.difference_update(WRITTEN_FIRST)
    return bool(names) or any(holds_begun_run(inner) for inner in inner_folders(path))


def belongs_to_run(path: Path, folder: Path) -> bool:
    """Whether a path is a run's folder, one of its own files, or a folder of either; both paths are resolved."""
    if not path.is_relative_to(folder):
        return False
    parts = list(path.relative_to(folder).parts)
    while parts and _is_inner_name(parts[0]):
        parts.pop(0)
    name = "/".join(parts)
    return name in ("", LOCK, "checkpoints", *RUN_FILES) or PRETRAINED.fullmatch(name) is not None


def inner_folders(path: Path) -> list[Path]:
    """Return the folders in a run's folder where it has runs of its own; the baseline's may be missing."""
    seeds = [entry for entry in path.glob("seed-*") if SEED_FOLDER.fullmatch(entry.name)]
    return [path / BASELINE_FOLDER, *seeds]


def run_file_names(folder: Path) -> list[str]:
    """Return the names that a run's files may have in a folder, those of pretrained networks if they are there."""
    return [*RUN_FILES, *(path.name for path in pretrained_files(folder))]


def pretrained_files(folder: Path) -> list[Path]:
    """Return the files of what terms had trained beforehand."""
    return sorted(path for path in folder.glob("*.safetensors") if PRETRAINED.fullmatch(path.name))


def temporary_files(path: Path) -> list[Path]:
    """Return the temporary files that are left where a process was killed while it wrote one of a run's."""
    run_files = {path / name for name in RUN_FILES}
    leftovers = []
    for temporary in [*path.glob(".*.tmp"), *(path / "checkpoints").glob(".*.tmp")]:
        target = name_of_target(temporary)
        if temporary.parent / target in run_files or PRETRAINED.fullmatch(target):
            leftovers.append(temporary)
    return leftovers


def delete_temporary_files(path: Path) -> None:
    """Delete what `temporary_files` finds; the caller holds the folder's lock, so nobody is writing them."""
    for temporary in temporary_files(path):
        temporary.unlink()


def delete_run_files(path: Path) -> None:
    """Delete what an earlier run wrote, and only that. Links in the folder are removed, not followed."""
    for inner in (path / "checkpoints", *inner_folders(path)):
        if inner.is_symlink():
            inner.unlink()
        elif is_run_folder(inner):
            delete_run_files(inner)
    delete_temporary_files(path)
    for name in (*DELETED_FIRST, *run_file_names(path)):
        if _is_file_or_link(path / name):
            (path / name).unlink()


def next_folder(parent: Path, stem: str) -> Path:
    """Return `parent/stem-NNN` with the first number behind all that are taken."""
    suffixes = [path.name[len(stem) + 1 :] for path in parent.glob(f"{stem}-*")]
    # At most 9 digits: of a longer number, which somebody else gave, the next one might be no file's name any more.
    taken = [int(suffix) for suffix in suffixes if re.fullmatch("[0-9]{1,9}", suffix)]
    return parent / f"{stem}-{max(taken, default=0) + 1:03d}"


def _files_below(path: Path) -> Iterator[Path]:
    """Yield the files and links in a folder and below, but for locks; what cannot be read is passed over."""
    for folder, folders, names in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + links:
            if name not in (LOCK, LEASE):
                yield Path(folder, name)


def _has_foreign_lock(path: Path) -> bool:
    """Whether a folder that is no run's has the lock of another program: a run's own is empty until it is signed."""
    lock = path / LOCK
    return lock.is_file() and lock.stat().st_size > 0


def _is_file_or_link(path: Path) -> bool:
    """Whether there is something to delete as a file; of a link to a folder, the folder counts."""
    return os.path.lexists(path) and not path.is_dir()


def _is_inner_name(name: str) -> bool:
    """Whether a folder of that name in a run's folder has files of a run."""
    return name in (BASELINE_FOLDER, NEXT, READY, MOVING) or SEED_FOLDER.fullmatch(name) is not None


def pretrained_names(stage: str) -> list[str]:
    """Return the names that the file of a pretraining stage may have: its own, then that of version 0.1 if it had one.

    Raises:
        ValueError: if a term gave the stage a name by which its file would not be known as the run's.
    """
    names = [f"pretraining-{stage}.safetensors", f"{stage}.safetensors"]
    if not PRETRAINED.fullmatch(names[0]):
        raise ValueError(f"pretraining stage {stage!r}: expected up to 36 lower-case letters, digits and hyphens")
    return [name for name in names if PRETRAINED.fullmatch(name)]
