"""The doctor finds what is broken and says how to mend it."""

import json
import sys
from pathlib import Path

import pytest
from commands import segdistill

from segdistill import doctor


def write_package(folder: Path, name: str, *needed: str) -> None:
    """Write what an installer leaves of a package that needs others."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + "".join(f"Requires-Dist: {line}\n" for line in needed)
    )


def test_every_finding_says_what_was_found() -> None:
    findings = doctor.examine()
    assert {finding.name for finding in findings} >= {
        *("torch", "opencv-python-headless", "scipy", "tomli-w"),
        *("cpu", "onnxruntime providers", "free disk here"),
    }
    assert all(finding.value for finding in findings)
    assert "timm" not in {finding.name for finding in findings}, "that is an extra"
    assert "CPUExecutionProvider" in next(f.value for f in findings if f.name == "onnxruntime providers")


def test_where_bf16_is_fast_it_is_told_what_is_trained_in_float32_all_the_same() -> None:
    found = {finding.name: finding.value for finding in doctor.examine()}
    fast = "fast bf16" in found["cpu"] and "no fast bf16" not in found["cpu"]
    assert ("cpu, bf16 training" in found) == fast
    if fast:
        told = found["cpu, bf16 training"]
        assert told.startswith("float32 is used for convolutions: dilated ones that are depthwise or whose channels")


def test_a_missing_package_is_broken_and_its_cure_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "segdistill", "typer>=0.20", "no-such-package[all]>=1", "no-such-extra; extra == 'more'")
    monkeypatch.syspath_prepend(tmp_path)
    result = segdistill("doctor --json")
    assert result.code == 4
    broken = [entry for entry in json.loads(result.out) if not entry["ok"]]
    assert [entry["name"] for entry in broken] == ["no-such-package"]
    assert broken[0]["cure"] == "pip install no-such-package"
    assert "no-such-package: pip install no-such-package" in result.err


def test_two_opencv_packages_are_told_apart_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(f for f in doctor.examine() if f.name == "OpenCV packages").ok
    write_package(tmp_path, "opencv-python")
    monkeypatch.syspath_prepend(tmp_path)
    found = next(f for f in doctor.examine() if f.name == "OpenCV packages")
    assert found.value == "opencv-python, opencv-python-headless"
    assert "pip uninstall opencv-python opencv-python-headless" in found.cure


def test_a_torchvision_of_another_build_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "ops.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    found = next(f for f in doctor.examine() if f.name == "torchvision operators")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    assert "nms does not exist" in found.value
    assert "pip install --force-reinstall torch torchvision" in found.cure


def test_the_table_says_which_part_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "segdistill", "no-such-package")
    monkeypatch.syspath_prepend(tmp_path)
    result = segdistill("doctor")
    assert result.code == 4
    assert "BROKEN" in next(line for line in result.out.splitlines() if "no-such-package" in line)
