"""JSON files of a run's folder, read with errors that say what to do."""

import json
from pathlib import Path
from typing import Any

from segdistill.errors import ModelError
from segdistill.storage.files import read_file


def read_table(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a run's folder holds.

    Raises:
        ModelError: if it cannot be read, or holds anything else.
    """
    try:
        table = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "Start a new run.") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path} is damaged: a JSON object was expected.", "Start a new run.")
    return table
