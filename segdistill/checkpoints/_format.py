"""The version of our files, which a model file and a training's state both name."""

from pathlib import Path

from segdistill.errors import ModelError

FORMAT = 1
"""Version of both kinds of file."""
RESTORE = "Restore the file, or train again."


def later_format_error(path: Path, later: int) -> ModelError:
    """Return the error that a file is of a later version than this one reads."""
    return ModelError(
        f"{path} is of format {later}; this version of segdistill reads format {FORMAT}.", "Use a newer version."
    )
