"""List the presets, and copy one to edit it."""

from pathlib import Path
from typing import Any

from segdistill.config.preset_text import preset_text
from segdistill.config.presets import load_preset, preset_names
from segdistill.errors import UsageError
from segdistill.storage.atomic import write_atomic


def list_presets() -> list[dict[str, Any]]:
    """Return what `presets list --json` prints."""
    # Presets are resolved, not only read: what is listed is what a run would get.
    entries = []
    for name in preset_names():
        preset = load_preset(name)
        entries.append(
            {"name": preset.preset, "about": preset.about, "paper": preset.paper, "terms": sorted(preset.terms)}
        )
    return entries


def copy_preset(name: str, file: Path, *, overwrite: bool) -> None:
    """Write a preset, whole, to a file of the user's.

    Raises:
        UsageError: if there is no such preset, or the file cannot be written or is there.
    """
    if file.suffix != ".toml":
        raise UsageError(f"{file} does not end in .toml.", f"For example: segdistill presets copy {name} mine.toml")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists.", "Choose another name, or add --overwrite.")
    # With its recipes merged in: the copy needs no other file.
    write_atomic(file, preset_text(name).encode())
