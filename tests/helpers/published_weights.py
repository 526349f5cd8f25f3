"""Weights that others publish, where they lie: no copy of them is part of this project."""

import os
from pathlib import Path

import pytest


def published_weights(name: str) -> Path:
    """Return a file of the folder in SEGDISTILL_TEST_WEIGHTS; the test is skipped without it."""
    folder = os.environ.get("SEGDISTILL_TEST_WEIGHTS")
    if folder is None or not Path(folder, name).is_file():
        pytest.skip(f"SEGDISTILL_TEST_WEIGHTS is not set to a folder with {name}")
    return Path(folder, name)
