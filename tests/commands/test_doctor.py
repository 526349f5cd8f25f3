"""The doctor finds what is broken and says how to mend it."""

import errno
import fcntl
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from helpers.commands import segdistill
from segdistill.commands import doctor
from segdistill.runtime import machine_memory


def write_package(folder: Path, name: str, *needed: str) -> None:
    """Write what an installer leaves of a package that needs others."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + "".join(f"Requires-Dist: {line}\n" for line in needed)
    )


def test_every_finding_has_a_value() -> None:
    findings = doctor.examine()
    assert {finding.name for finding in findings} >= {
        *("torch", "opencv-python-headless", "scipy", "tomli-w"),
        *("Python", "cpu", "onnxruntime providers", "memory", "shared memory", "free disk here", "file system here"),
        *("extra hf", "extra timm"),
    }
    assert all(finding.value for finding in findings)
    assert "timm" not in {finding.name for finding in findings}, "that is an extra"
    assert "CPUExecutionProvider" in next(f.value for f in findings if f.name == "onnxruntime providers")


def test_doctor_lists_float32_layers_where_bf16_is_fast() -> None:
    values = {finding.name: finding.value for finding in doctor.examine()}
    fast = "fast bf16" in values["cpu"] and "no fast bf16" not in values["cpu"]
    assert ("cpu, bf16 training" in values) == fast
    if fast:
        told = values["cpu, bf16 training"]
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


def test_doctor_reports_two_opencv_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(f for f in doctor.examine() if f.name == "OpenCV packages").ok
    write_package(tmp_path, "opencv-python")
    monkeypatch.syspath_prepend(tmp_path)
    packages = found("OpenCV packages")
    assert packages.value == "opencv-python, opencv-python-headless"
    assert "pip uninstall opencv-python opencv-python-headless" in packages.cure


def test_a_torchvision_of_another_build_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "ops.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    operators = found("torchvision operators")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    assert "nms does not exist" in operators.value
    assert "pip install --force-reinstall torch torchvision" in operators.cure


def test_the_table_says_which_part_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "segdistill", "no-such-package")
    monkeypatch.syspath_prepend(tmp_path)
    result = segdistill("doctor")
    assert result.code == 4
    assert "BROKEN" in next(line for line in result.out.splitlines() if "no-such-package" in line)


def found(name: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.name == name)


def test_doctor_reports_python_gpu_memory_and_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{3 << 29}\n")
    (tmp_path / "slice").mkdir()
    (tmp_path / "own").write_text("0::/slice/job\n")  # of which the slice alone has a limit
    (tmp_path / "slice/memory.max").write_text(f"{1 << 30}\n")
    monkeypatch.setattr(machine_memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine_memory, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(doctor, "EXTRAS", {"hf": "no-such-package", "timm": "torch"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    values = {finding.name: finding.value for finding in doctor.examine()}
    assert values["Python"].startswith(platform.python_version())
    assert values["GPU"].startswith("none that this PyTorch sees; it is built")
    assert values["memory"].endswith("GiB, of which this process group may use 1.0 GiB")
    (tmp_path / "slice/memory.max").write_text("max\n")
    assert "may use 1.5 GiB" in found("memory").value
    limit.write_text("max\n")
    assert "may use" not in found("memory").value
    assert values["extra hf"] == "not installed: pip install 'segdistill[hf]'"
    assert values["extra timm"] == f"torch {metadata.version('torch')}"
    assert found("extra hf").ok


def test_doctor_reports_little_shared_memory_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, expected in (
        (64 << 20, "64 MiB free in /dev/shm: large batches go through pipes"),
        (8 << 30, "8192 MiB"),
    ):
        monkeypatch.setattr(doctor, "free_shared_memory", lambda free=free: free)
        assert found("shared memory").value.startswith(expected)


@pytest.mark.usefixtures("elsewhere")
def test_doctor_reports_file_system_limits_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def no_replace(old: str, new: str) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    assert found("file system here").value == "locks, syncs folders and replaces files"
    monkeypatch.setattr(fcntl, "flock", no_lock)
    told = found("file system here")
    assert told.value.startswith("The file system of this folder has no locks (flock).")
    assert told.ok, "a run goes on without"
    monkeypatch.setattr(os, "replace", no_replace)
    assert "Choose --out on another file system" in found("file system here").cure
    assert not os.listdir()
