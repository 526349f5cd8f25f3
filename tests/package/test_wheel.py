"""What is shipped: a wheel that works where the source tree is not."""

import email
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.commands import process
from segdistill import __version__
from segdistill.config.preset_text import preset_text
from segdistill.config.presets import preset_names, recipe_names

TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as an installer puts them."""
    folder = tmp_path_factory.mktemp("wheel")
    built = process(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=TREE)
    assert built.code == 0, built.err
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_presets_license_and_type_marker_are_in_the_wheel(installed: Path) -> None:
    package, info = installed / "segdistill", installed / f"segdistill-{__version__}.dist-info"
    assert sorted(path.stem for path in (package / "presets").glob("*.toml")) == preset_names()
    assert sorted(path.stem for path in (package / "presets" / "recipes").glob("*.toml")) == recipe_names()
    assert (package / "py.typed").is_file()
    assert (info / "licenses" / "LICENSE").read_text() == (TREE / "LICENSE").read_text()
    assert "segdistill = segdistill.cli:main" in (info / "entry_points.txt").read_text()
    metadata = email.message_from_string((info / "METADATA").read_text())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not (installed / "tests").exists()


def test_installed_wheel_lists_presets_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    listed = process(
        *(sys.executable, "-m", "segdistill", "presets", "list", "--json"), cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert listed.code == 0, listed.err
    assert all(f'"name": "{name}"' in listed.out for name in preset_names())
    shown = process(
        *(sys.executable, "-m", "segdistill", "presets", "show", "at"), cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert shown.out == preset_text("at"), "the recipes are there too"
    program = "from segdistill.config import presets; print(presets.__file__, presets.preset_folder())"
    where = process(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(installed))
    package = installed / "segdistill"
    assert where.out.split() == [str(package / "config" / "presets.py"), str(package / "presets")]
