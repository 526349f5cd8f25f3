"""Nobody is told anything: no command reaches for the network or leaves behind what is not documented."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segdistill as package
from helpers.commands import NETWORK, SMALL, files, process
from helpers.models import model_of
from helpers.network import WAYS, at_home, best_way, listened_to, require, segdistill_words
from segdistill.runtime.telemetry import SWITCHES, switched_off

DOCUMENTED = (".cache/matplotlib/", ".config/matplotlib/")
"""What the README says about the home folder."""
ATTEMPTS = {
    "address": 'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))',
    "address of IPv6": 'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect(("2001:db8::1", 9))',
    "name": 'socket.getaddrinfo("segdistill.invalid", 80)',
}
"""By addresses and a name that are nobody's: they are reserved for documentation."""


def undocumented(folder: Path) -> set[str]:
    """Return what was left in the home folder and the one of temporary files, but for what is documented."""
    return {name for name in files(folder / "home") if not name.startswith(DOCUMENTED)} | files(folder / "tmp")


@pytest.mark.parametrize(
    ("way", "what"),
    [("strace", "address"), ("strace", "address of IPv6"), ("strace", "name"), ("namespace", "address")],
)
def test_listener_detects_a_connection_attempt(way: str, what: str, tmp_path: Path) -> None:
    require(way)
    assert listened_to([sys.executable, "-c", f"import socket; {ATTEMPTS[what]}"], tmp_path / "a", way)[1]
    assert not listened_to([sys.executable, "-c", "import socket"], tmp_path / "b", way)[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.promise("S11")
def test_commands_open_no_connection(way: str, tmp_path: Path) -> None:
    require(way)
    result, heard = listened_to(segdistill_words("doctor"), tmp_path / "work", way)
    assert "onnxruntime providers" in result.out, result.err
    assert heard == []
    assert undocumented(tmp_path / "work") == set()


@pytest.mark.slow  # four commands in processes of their own
@pytest.mark.promise("S10", "S11")
def test_model_commands_open_no_connection(tmp_path: Path) -> None:
    way, folder = best_way(), tmp_path / "work"
    folder.mkdir()
    model_of("streets", str(folder / "model.safetensors"))
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(folder / "a.png")
    for line in (
        f"train-teacher --teacher {NETWORK} --data streets {SMALL} --workers 1 --out run",
        "export model.safetensors --data streets --output model.onnx --workers 0",
        "infer model.onnx a.png --out labels",
        "evaluate model.onnx --data streets --workers 1",
    ):
        result, heard = listened_to(segdistill_words(line), folder, way)
        assert result.code == 0, result.err
        assert heard == [], line
    assert undocumented(folder) == set()
    assert {name.partition("/")[0] for name in files(folder)} == (
        {"home", "run", "labels", "a.png", "model.safetensors", "model.onnx"}
    )


@pytest.mark.reliability
@pytest.mark.promise("S10", "S11")
def test_whole_workflow_opens_no_connection(tmp_path: Path) -> None:
    words = segdistill_words("quickstart --steps 2 --out quick --workers 1")
    result, heard = listened_to(words, tmp_path / "work", best_way())
    assert result.code == 0, result.err
    assert heard == []
    assert undocumented(tmp_path / "work") == set()
    assert len(files(tmp_path / "work/quick/labels")) == 24


@pytest.mark.slow  # torchrun
@pytest.mark.promise("S11")
def test_a_process_of_torchrun_leaves_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    # It speaks to its processes by way of this machine's network, so what they leave must do.
    result = process(*at_home([*words, "-m", "segdistill", "doctor"], tmp_path / "work"), cwd=tmp_path)
    assert "onnxruntime providers" in result.out, result.err
    assert undocumented(tmp_path / "work") == set()


@pytest.mark.promise("S11")
def test_library_use_is_silent_and_keeps_the_environment(tmp_path: Path) -> None:
    program = (
        "import os, cv2; before = dict(os.environ); import segdistill.deployment.session, segdistill.data.transforms; "
        "assert dict(os.environ) == before"
    )  # OpenCV's own import adds to LD_LIBRARY_PATH
    result, heard = listened_to([sys.executable, "-c", program], tmp_path / "work", best_way())
    assert result.code == 0, result.err
    assert heard == []
    assert undocumented(tmp_path / "work") == set()


def test_importing_the_package_changes_nothing() -> None:
    program = (
        "import os; before = dict(os.environ); import segdistill, segdistill.cli; print(dict(os.environ) == before)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment |= {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_telemetry_environment_variables_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = SWITCHES
    monkeypatch.setenv(first, "0")
    for name in others:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with switched_off():
        assert os.environ.items() >= SWITCHES.items()
    assert dict(os.environ) == before


@pytest.mark.promise("S11")
def test_unwritable_home_folder_gives_no_message() -> None:
    program = (
        "import sys; sys.argv = ['segdistill', '--version']; from segdistill import cli\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    import matplotlib.font_manager"
    )
    done = process(sys.executable, "-c", program, HOME="/proc/none", MPLCONFIGDIR="/proc/none")
    assert (done.code, done.err) == (0, "")
