"""Settings of every test, and the fixtures that several files use."""

import signal
from pathlib import Path

import pytest
import torch

from segdistill.telemetry import switch_off

switch_off()  # tests import onnxruntime themselves, and start processes that do

from commands import write_camvid  # noqa: E402
from forked import Workshop  # noqa: E402

torch.set_num_threads(1)  # tiny networks gain nothing from more, and results depend on the number
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background without it


def pytest_configure(config: pytest.Config) -> None:
    # Tests that start two loader workers also run where there is one core.
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")


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
