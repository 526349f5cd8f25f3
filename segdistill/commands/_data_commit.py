"""The git commit of a data set's folder: who keeps labels under version control finds the ones that a run has read."""

import os
import shutil
import subprocess
from pathlib import Path

from segdistill.commands._context import RunContext
from segdistill.data.source_files import files_of

PATIENCE = 10
"""Seconds that git may take, on a slow network drive, say."""


def data_commit(context: RunContext) -> str | None:
    """Return the commit that is checked out where the data lies; None where no commit has a file of that folder."""
    folder, git = _folder(context), shutil.which("git")
    if folder is None or git is None:
        return None
    # HEAD:./ is the folder as the commit has it: of one that a repository ignores there is none
    return _last_line([git, "-C", str(folder), "rev-parse", "HEAD:./", "HEAD"])


def _last_line(command: list[str]) -> str | None:
    """Return the last line that a program prints; None if it fails."""
    try:
        environment = os.environ | {"GIT_NO_LAZY_FETCH": "1"}  # what a partial clone lacks is not asked of the network
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, env=environment)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode(errors="replace").split()
    return lines[-1] if lines else None


def _folder(context: RunContext) -> Path | None:
    """Return the folder of a data set; None of one that is rendered."""
    spec = context.config.data.name
    if spec.endswith(".toml"):
        return Path(spec).resolve().parent
    return next((root for root, _ in files_of(context.data)), None)
