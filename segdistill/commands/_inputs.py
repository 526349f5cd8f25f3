"""An input is never an output: what a command reads must not lie in what it is going to write or delete.

Paths are compared as the file system resolves them, through links and "..". A file counts both where its name lies and
where a link leads: losing either is losing the input.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from segdistill.data import DataSource, files_of
from segdistill.errors import UsageError
from segdistill.storage.run_files import belongs_to_run

ResolvedFolders = dict[str, Path]
"""Folders that were resolved before, as which: data sets have few of them, and many files, each of which would ask the
disk."""


class Input(NamedTuple):
    """Something that a command reads."""

    flag: str
    """Flag or argument that names it."""
    path: Path
    run: bool = False
    """A run's folder: all of its own files are meant."""
    images: bool = False
    """A folder of images: a new file in it would be one more."""


def model_inputs(flag: str, path: Path) -> list[Input]:
    """Return what is read of a model: a run's folder and the file in it, which may be a link, or a file."""
    return [Input(flag, path, run=path.is_dir()), Input(flag, path / "model.safetensors")]


def data_inputs(data: DataSource, spec: str) -> Iterator[Input]:
    """Yield the files of a data set and the folders they are in.

    Images beside their data.toml are protected one by one: their folder is where people work.

    Args:
        data: the data set.
        spec: as `--data` names it.
    """
    if spec.endswith(".toml"):
        yield Input("--data", Path(spec))
    if data.generated:
        return
    image_folders: set[Path] = set()
    for root, names in files_of(data):
        for name in names:
            file = root / name
            yield Input("--data", file)
            if file.parent != root:
                image_folders.add(file.parent)
    for folder in image_folders:
        yield Input("--data", folder, images=True)


def refuse_run_over(out: Path, inputs: Iterable[Input]) -> None:
    """Refuse a run's folder whose run would replace or delete an input, or write among its files.

    Raises:
        UsageError: naming both.
    """
    run = _resolve(out)
    folders: ResolvedFolders = {}
    for source in inputs:
        for location in _locations(source.path, folders):
            adds_an_image = source.images and run.is_relative_to(location)
            mixes_two_runs = source.run and belongs_to_run(run, location)
            if adds_an_image or mixes_two_runs or belongs_to_run(location, run):
                raise _overlap(out, source)


def refuse_files_over(targets: Iterable[Path], inputs: Iterable[Input]) -> None:
    """Refuse files that would replace an input, or be written among its files.

    Raises:
        UsageError: naming both.
    """
    folders: ResolvedFolders = {}
    target_of = {_resolve_folder(target, folders): target for target in targets}
    for source in inputs:
        for location in _locations(source.path, folders):
            if location in target_of:
                raise _overlap(target_of[location], source)
            # Only such inputs are more than one file; to hold each of a data set's files against all targets would
            # take their product in time.
            if source.images or source.run:
                _refuse_files_among(target_of, source, location)


def _refuse_files_among(target_of: dict[Path, Path], source: Input, location: Path) -> None:
    """Refuse targets that would lie among the files of a run or of a folder of images."""
    for resolved, target in target_of.items():
        adds_an_image = source.images and resolved.is_relative_to(location)
        changes_a_run = source.run and belongs_to_run(resolved, location)
        if adds_an_image or changes_a_run:
            raise _overlap(target, source)


def _overlap(out: Path, source: Input) -> UsageError:
    return UsageError(
        f"Output {out} overlaps with an input, {source.flag} {source.path}: what is read would be replaced, or what "
        "is written would be read.",
        "Choose another path for the output.",
    )


def _locations(path: Path, folders: ResolvedFolders) -> tuple[Path, ...]:
    """Return where a path's name lies and, if that is a link, what it leads to."""
    named = _resolve_folder(path, folders)
    if os.path.islink(named):
        return (named, _resolve(path))
    return (named,)


def _resolve_folder(path: Path, folders: ResolvedFolders) -> Path:
    """Return a path of which all but the last part is resolved: renaming and deleting do not follow a last link.

    Args:
        path: any.
        folders: those resolved before, to which this path's is added.
    """
    folder, name = os.path.split(os.path.expanduser(path))
    if name in ("", ".", ".."):
        return _resolve(path)
    if folder not in folders:
        folders[folder] = _resolve(Path(folder))
    return folders[folder] / name


def _resolve(path: Path) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))
