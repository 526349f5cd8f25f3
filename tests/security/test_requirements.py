"""What is installed: every dependency in one version, by its hashes."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers.commands import process

pytestmark = pytest.mark.usefixtures("elsewhere")

ROOT = Path(__file__).parents[2]


@pytest.mark.promise("S12")
def test_every_dependency_is_there_in_one_version_by_its_hashes() -> None:
    wanted = [
        Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    text = (ROOT / "requirements.txt").read_text()
    entries = [entry for entry in text.replace("\\\n", "").splitlines() if not entry.startswith("#")]
    pinned = {entry.partition("==")[0]: entry for entry in entries}
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [^@]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry
    for requirement in wanted:
        version = re.match(r"[^=]+==([\w.]+)", pinned[requirement.name])
        assert version is not None
        assert requirement.specifier.contains(version[1]), requirement
        assert requirement.url is None
    assert not re.search(r"://|--(extra-)?index|--find-links| @ ", text)
    assert len(wanted) <= 17


HEAVY = re.compile(r"(torch|torchvision|triton|cuda-\S+|nvidia-\S+)==")
"""Gigabytes: left out where the others are installed."""


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a fresh environment that can install what this package needs."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    made = process(sys.executable, "-m", "venv", folder)
    assert made.code == 0, made.err
    python = folder / "bin" / "python"
    if process(python, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "tomli-w").code != 0:
        pytest.skip("pip can fetch nothing here")
    return python


def entries_to_install() -> list[str]:
    """Return the entries of requirements.txt, each on one line, but for the heavy ones."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", "")
    return [line for line in text.splitlines() if not line.startswith("#") and not HEAVY.match(line)]


@pytest.mark.promise("S12")
@pytest.mark.reliability
def test_pip_installs_the_requirements_by_their_hashes(fresh_python: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("\n".join(entries_to_install()))
    pip = (fresh_python, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r")
    installed = process(*pip, tmp_path / "requirements.txt", timeout=1200)
    assert installed.code == 0, installed.err
    program = "import albumentations, cv2, matplotlib, numpy, onnx, onnxruntime, PIL, pydantic, rich, scipy, typer"
    imported = process(fresh_python, "-c", program, PYTHONPATH="", NO_ALBUMENTATIONS_UPDATE="1")
    assert imported.code == 0, imported.err


@pytest.mark.promise("S12")
@pytest.mark.reliability
def test_pip_refuses_a_file_of_another_hash(fresh_python: Path, tmp_path: Path) -> None:
    (entry,) = (line for line in entries_to_install() if line.startswith("tomli-w=="))
    (tmp_path / "requirements.txt").write_text(re.sub("sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, entry))
    pip = (fresh_python, "-m", "pip", "install", "--no-deps", "--force-reinstall", "--require-hashes", "-r")
    result = process(*pip, tmp_path / "requirements.txt")
    assert result.code == 1
    assert "DO NOT MATCH THE HASHES" in result.err
