"""The manifest of a finished run: size and sha256 of each file."""

import json
from pathlib import Path
from typing import Any

from segdistill.errors import ModelError
from segdistill.storage.atomic import write_json
from segdistill.storage.files import read_file, sha256_of
from segdistill.storage.run_files import LOCAL, run_file_names

MANIFEST = "manifest.json"
UNLISTED = (MANIFEST, LOCAL)
"""Files of a run that its manifest leaves out: itself, and what is of this machine and may be deleted or changed."""
SCHEMA = 1
"""Version of the manifest's layout."""


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files that the run wrote. A folder with a manifest is finished."""
    names = [name for name in run_file_names(folder) if name not in UNLISTED and (folder / name).is_file()]
    files = {name: _entry(folder / name) for name in names}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "files": files})


def add_to_manifest(folder: Path, name: str) -> None:
    """Add a file to the manifest of a finished run; the entries of the others stay as they were written."""
    manifest = json.loads(read_file(folder / MANIFEST))
    files = manifest["files"] | {name: _entry(folder / name)}
    write_json(folder / MANIFEST, manifest | {"files": files})


def verify_file(folder: Path, name: str) -> None:
    """Compare a file of a finished run with its manifest; without one there is nothing to compare.

    Raises:
        ModelError: if they differ, naming both hashes.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    path = folder / name
    expected = _expected_sha256(manifest, name)
    if expected is None:
        if path.exists():
            raise ModelError(f"{path} is not listed in {manifest}.", "Train again.")
        return
    if not path.is_file():
        raise ModelError(f"{path} is missing, and {manifest} lists it.", "Restore the file, or train again.")
    actual = sha256_of(path)
    if actual != expected:
        raise ModelError(
            f"{path} is damaged: its sha256 is {actual}, the manifest says {expected}.",
            "Restore the file, or train again.",
        )


def _expected_sha256(manifest: Path, name: str) -> Any:
    """Return the sha256 of a file by a manifest; None where it does not list it.

    Raises:
        ModelError: if the manifest is not one.
    """
    try:
        return json.loads(read_file(manifest))["files"].get(name, {}).get("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"{manifest} is damaged.", "Delete it to use the run without that check.") from None


def _entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
