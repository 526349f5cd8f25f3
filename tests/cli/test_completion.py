"""Values that a shell completes: the program is asked as bash and zsh ask it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import process
from segdistill.cli import _completion
from segdistill.config import network_names
from segdistill.config.presets import preset_names
from segdistill.networks import network_names as imported_names

PROGRAM = "import sys; sys.argv = ['segdistill']; from segdistill.cli import main; main()"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with two runs, one of them with a part, a data.toml and a graph."""
    for run in ("runs/first", "runs/second/seed-1", "runs/second", "elsewhere"):
        (tmp_path / run).mkdir(parents=True, exist_ok=True)
        (tmp_path / run / "config.toml").write_text("")
    (tmp_path / "camp").mkdir()
    for name in ("camp/data.toml", "runs/first/model.safetensors", "a.onnx", "notes.txt"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bash(line: str) -> list[str]:
    """Return what bash is told for the last word of a line, by its script's variables."""
    done = process(
        *(sys.executable, "-c", PROGRAM),
        cwd=Path.cwd(),
        COMP_WORDS=line,
        COMP_CWORD=str(line.count(" ")),
        _SEGDISTILL_COMPLETE="complete_bash",
    )
    assert done.err == ""
    return done.out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segdistill distill --preset c", ["canonical", "cirkd", "cwd", "camp/"]),
        ("segdistill distill --student pspnet-resnet1", [f"pspnet-resnet{n}" for n in ("18", "18-half", "101")]),
        ("segdistill distill --teacher h", ["hf:"]),
        ("segdistill distill --data cam", ["camvid:", "camp/"]),
        ("segdistill train-teacher --data camp/", ["camp/data.toml"]),
        ("segdistill resume runs/", ["runs/first", "runs/second"]),
        ("segdistill resume e", ["elsewhere"]),
        ("segdistill evaluate runs/f", ["runs/first", "runs/first/"]),
        ("segdistill export runs/first/m", ["runs/first/model.safetensors"]),
        ("segdistill infer a", ["a.onnx"]),
        ("segdistill evaluate a.onnx --split v", ["val"]),
        ("segdistill presets show sk", ["skd"]),
        ("segdistill resume no/such/pl", []),
    ],
)
def test_bash_completes_values(line: str, expected: list[str], here: Path) -> None:
    assert bash(line) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="completion is tried in bash itself, which is not installed")
def test_the_script_that_is_installed_completes_in_bash(here: Path) -> None:
    (here / "segdistill").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM} " "$@"\n')
    (here / "segdistill").chmod(0o755)
    shown = process(
        *(sys.executable, "-c", PROGRAM.replace("['segdistill']", "['segdistill', '--show-completion', 'bash']")),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    assert shown.code == 0, shown.err
    asks = "COMP_WORDS=(segdistill resume runs/s); COMP_CWORD=2; _segdistill_completion ./segdistill; "
    done = process("bash", "-c", f'{shown.out}\n{asks} echo "${{COMPREPLY[@]}}"', cwd=here)
    assert done.out.strip() == "runs/second", done.err


def test_names_are_those_that_the_networks_have() -> None:
    assert network_names.network_names() == imported_names()


def test_variants_that_are_not_plain_are_imported(tmp_path: Path) -> None:
    (tmp_path / "_other.py").write_text("TABLE = {'a': 1, 'b': 2}\nROWS = dict(a=1)\n")
    texts = {
        "BACKBONES = ('x', 'y')": ("x", "y"),
        "BACKBONES = tuple(_other.TABLE)": ("a", "b"),
        "T = {'q': 0}\nBACKBONES = tuple(T)": ("q",),
        "BACKBONES = tuple(_other.ROWS)": None,
        "BACKBONES = tuple(_missing.ROWS)": None,
        "BACKBONES = (*_other.TABLE, 'c')": None,
        "OTHER = 1": None,
    }
    for text, expected in texts.items():
        (tmp_path / "net.py").write_text(text)
        assert network_names._texts(tmp_path / "net.py", "BACKBONES") == expected, text


def test_completion_imports_no_torch(here: Path) -> None:
    program = "import sys; from segdistill.cli._completion import *; import json; "
    program += "complete_network(''), complete_teacher(''), complete_data(''), complete_preset(''); "
    program += "print(json.dumps(sorted({'torch', 'cv2', 'numpy'} & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_everything_is_completed_of_nothing(here: Path) -> None:
    assert set(preset_names()) <= set(_completion.complete_preset(""))
    assert set(imported_names()) <= set(_completion.complete_teacher(""))
    assert {"streets", "camvid:"} <= set(_completion.complete_data(""))
    assert _completion.complete_device("cu") == ["cuda"]
    assert _completion.complete_data("camvid:ca") == ["camvid:camp/"]
