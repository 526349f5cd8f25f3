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
from segdistill.store import belongs_to_run


class Input(NamedTuple):
    """Something that a command reads."""

    what: str
    """Flag or argument that names it."""
    path: Path
    run: bool = False
    """A run's folder: all of its own files are meant."""
    images: bool = False
    """A folder of images: a new file in it would be one more."""


def model_inputs(what: str, path: Path) -> list[Input]:
    """Return what is read of a model: a run's folder and the file in it, which may be a link, or a file."""
    return [Input(what, path, run=path.is_dir()), Input(what, path / "model.safetensors")]


def data_inputs(data: DataSource, spec: str) -> Iterator[Input]:
    """Yield the files of a data set and the folders they are in.

    Images beside their data.toml are protected one by one: their folder is where people work.
    """
    if spec.endswith(".toml"):
        yield Input("--data", Path(spec))
    if data.generated:
        return
    folders: set[tuple[Path, Path]] = set()
    for root, names in files_of(data):
        for name in names:
            yield Input("--data", root / name)
            folders.add((root, (root / name).parent))
    yield from (Input("--data", folder, images=True) for root, folder in folders if folder != root)


def refuse_run_over(out: Path, inputs: Iterable[Input]) -> None:
    """Refuse a run's folder whose run would replace or delete an input, or write among its files.

    Raises:
        UsageError: naming both.
    """
    home, parents = _resolved(out), dict[str, Path]()
    for one in inputs:
        for place in _places(one.path, parents):
            inside = one.images and home.is_relative_to(place)
            if inside or belongs_to_run(place, home) or (one.run and belongs_to_run(home, place)):
                raise _overlap(out, one)


def refuse_files_over(targets: Iterable[Path], inputs: Iterable[Input]) -> None:
    """Refuse files that would replace an input, or be written among its files.

    Raises:
        UsageError: naming both.
    """
    parents = dict[str, Path]()
    names = {_named(target, parents): target for target in targets}
    for one in inputs:
        for place in _places(one.path, parents):
            if place in names:
                raise _overlap(names[place], one)
            for own, target in names.items() if one.images or one.run else ():
                if (one.images and own.is_relative_to(place)) or (one.run and belongs_to_run(own, place)):
                    raise _overlap(target, one)


def _overlap(out: Path, one: Input) -> UsageError:
    return UsageError(
        f"Output {out} overlaps with an input, {one.what} {one.path}: what is read would be replaced, or what is "
        "written would be read.",
        "Choose another place for the output.",
    )


def _places(path: Path, parents: dict[str, Path]) -> tuple[Path, ...]:
    """Return where a path's name lies and, if that is a link, what it leads to."""
    named = _named(path, parents)
    return (named, _resolved(path)) if os.path.islink(named) else (named,)


def _named(path: Path, parents: dict[str, Path]) -> Path:
    """Return a path of which all but the last part is resolved: renaming and deleting do not follow a last link.

    Args:
        path: any.
        parents: folders that are resolved already, to which this path's is added; data sets have few, and many files.
    """
    parent, name = os.path.split(os.path.expanduser(path))
    if name in ("", ".", ".."):
        return _resolved(path)
    if parent not in parents:
        parents[parent] = _resolved(Path(parent))
    return parents[parent] / name


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))
