"""Settings of every test, and the fixtures that several files use."""

import os
import random
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill.runtime.telemetry import switch_off

switch_off()  # tests import onnxruntime themselves, and start processes that do

from helpers.commands import write_camvid  # noqa: E402
from helpers.forked import Workshop  # noqa: E402

torch.set_num_threads(1)  # tiny networks gain nothing from more, and results depend on the number
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background without it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup without this one


def pytest_configure(config: pytest.Config) -> None:
    # Tests that start two loader workers also run where there is one core.
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would begin behind the second of the clock, since 1970, in SEGDISTILL_TEST_UNTIL."""
    until = os.environ.get("SEGDISTILL_TEST_UNTIL")
    if until is not None and time.time() > float(until):
        pytest.skip("not begun: SEGDISTILL_TEST_UNTIL is past, as this machine is too slow to run all tests by then")


def seed_of(request: pytest.FixtureRequest) -> int:
    """Return a number that depends on a test's file, name and case alone: not on its folder or on other tests."""
    return zlib.crc32(f"{request.node.path.name}::{request.node.name}".encode())


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Let a test draw the same numbers alone, and after any others."""
    torch.manual_seed(seed_of(request))
    if request.node.get_closest_marker("reliability") is None:  # these are to strike at other moments each time
        random.seed(seed_of(request))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator of the test's own."""
    return np.random.default_rng(seed_of(request))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test run in a folder of its own, and find no data that it did not name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)


@pytest.fixture(scope="session")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("data") / "CamVid")


@pytest.fixture
def own_camvid(tmp_path: Path) -> Path:
    """Write a data set that the test may damage."""
    return write_camvid(tmp_path / "data")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))
