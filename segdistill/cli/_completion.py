"""Values that a shell completes: presets, networks, data sets, runs and models.

Each function is asked with the beginning of a word and returns what it may become. Nothing slow is imported, and what
cannot be listed is not: an error here would be printed into somebody's prompt.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from segdistill.errors import SegdistillError

RUNS = Path("runs")
"""Folder of the runs that were given no `--out`."""
PART = re.compile(r"baseline|seed-\d+")
"""Names of runs that are parts of another, and go on with it."""
DEVICES = ("auto", "cpu", "cuda")
SPLITS = ("train", "val", "test")


def complete_preset(incomplete: str) -> list[str]:
    """Complete a preset's name, or the path of a .toml file."""
    return [*complete_preset_name(incomplete), *_paths(incomplete, _is_toml)]


def complete_preset_name(incomplete: str) -> list[str]:
    """Complete the name of a preset that comes with the package."""
    from segdistill.config.presets import preset_names

    return _beginning(incomplete, preset_names())


def complete_network(incomplete: str) -> list[str]:
    """Complete a network's full name."""
    return _beginning(incomplete, _network_names())


def complete_data(incomplete: str) -> list[str]:
    """Complete a data set: its name, with a colon where a path follows, or the path of a data.toml."""
    from segdistill.config.registry import BUILT_IN, components

    names = [name if name == BUILT_IN else f"{name}:" for name in _listed(lambda: components("data.datasets"))]
    name, colon, path = incomplete.partition(":")
    if colon:  # bash asks for what is behind a colon as for a word of its own
        return [f"{name}:{folder}" for folder in _paths(path, _is_nothing)]
    return [*_beginning(incomplete, names), *_paths(incomplete, _is_toml)]


def complete_run(incomplete: str) -> list[str]:
    """Complete the folder of a run: those in runs/ first, then any."""
    runs = [run for run in _runs(incomplete) if not PART.fullmatch(Path(run).name)]
    return runs or _paths(incomplete, _is_nothing)


def complete_model(incomplete: str) -> list[str]:
    """Complete a run's folder, a model file or an exported graph."""
    return list(dict.fromkeys([*_runs(incomplete), *_paths(incomplete, _is_model)]))


def complete_teacher(incomplete: str) -> list[str]:
    """Complete a teacher: a run's folder, a model file, a network, or the beginning of one from another library."""
    from segdistill.config.registry import components

    schemes = [f"{scheme}:" for scheme in _listed(lambda: components("teachers.external"))]
    return [*complete_model(incomplete), *_beginning(incomplete, [*schemes, *_network_names()])]


def complete_device(incomplete: str) -> list[str]:
    """Complete a device."""
    return _beginning(incomplete, DEVICES)


def complete_split(incomplete: str) -> list[str]:
    """Complete a split."""
    return _beginning(incomplete, SPLITS)


def _network_names() -> list[str]:
    from segdistill.config.network_names import network_names

    return _listed(network_names)


def _runs(incomplete: str) -> list[str]:
    """Return the folders in runs/, and below what was typed, that hold a run."""
    folders = {*_entries(RUNS), *_entries(Path(incomplete).parent), *_entries(Path(incomplete))}
    return _beginning(incomplete, sorted(str(folder) for folder in folders if (folder / "config.toml").is_file()))


def _paths(incomplete: str, is_wanted: Callable[[Path], bool]) -> list[str]:
    """Return the files that are wanted, and the folders in which more may be, that begin with what was typed."""
    folder = Path(os.path.expanduser(incomplete or "."))
    if not incomplete.endswith("/") and incomplete:
        folder = folder.parent
    found = []
    for entry in _entries(folder):
        if entry.name.startswith(".") and not Path(incomplete).name.startswith("."):
            continue
        if entry.is_dir():
            found.append(f"{entry}/")
        elif is_wanted(entry):
            found.append(str(entry))
    return _beginning(os.path.expanduser(incomplete).removeprefix("./"), sorted(found))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (OSError, ValueError):
        return []


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _listed(names: Callable[[], list[str]]) -> list[str]:
    """Return names; none where another package's cannot be asked."""
    try:
        return names()
    except SegdistillError:
        return []


def _is_toml(path: Path) -> bool:
    return path.suffix == ".toml"


def _is_model(path: Path) -> bool:
    return path.suffix in (".safetensors", ".onnx")


def _is_nothing(path: Path) -> bool:
    return False
