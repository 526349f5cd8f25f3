"""The state of this machine: versions, devices, memory, and the two installations that are known to be broken."""

import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdistill.errors import SegdistillError
from segdistill.runtime.machine_memory import total_memory, usable_memory
from segdistill.runtime.shared_memory import SHARED_MEMORY, free_shared_memory
from segdistill.runtime.telemetry import switched_off
from segdistill.storage.run_folder import open_run
from segdistill.wording import counted

if TYPE_CHECKING:
    import torch

EXTRAS = {"hf": "transformers", "timm": "timm"}
"""Packages that can be installed beside it: the extras of pyproject.toml."""
ENOUGH_SHARED_BYTES = 1 << 30
"""Shared memory in which the batches of eight workers find room, up to 64 MB each."""
ENOUGH_DISK_GIB = 2
"""Free disk below which a run is likely to end for want of it: checkpoints and a graph take some of it each."""
REINSTALL_TORCH = "pip install --force-reinstall torch torchvision"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    cure: str = ""
    """Advice where it is broken; empty where it is all right."""

    @property
    def ok(self) -> bool:
        """Whether it is all right."""
        return not self.cure

    def to_json(self) -> dict[str, Any]:
        """Return an entry of what `doctor --json` prints."""
        return {"name": self.name, "value": self.value, "ok": self.ok, "cure": self.cure}


def examine() -> list[Finding]:
    """Look at everything a run needs; nothing is imported that could fail without being caught."""
    findings = [Finding("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    findings += [_package(name) for name in _required_packages()]
    findings += [_extra(name, package) for name, package in EXTRAS.items()]
    findings += [_torchvision(), _opencv(), *_devices(), _onnxruntime()]
    findings += [_memory(), _shared_memory(), _disk(), _file_system(Path.cwd())]
    return findings


# Packages


def _required_packages() -> list[str]:
    """Return what this installation of segdistill says that it needs, extras left out."""
    try:
        requirements = metadata.requires("segdistill") or []
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed: that is what is missing.
        return ["segdistill"]
    packages = []
    for requirement in requirements:
        if "extra ==" not in requirement:
            # A requirement is a name, and behind it a version, extras in brackets or a marker.
            name, *_ = re.split(r"[^\w.-]", requirement, maxsplit=1)
            packages.append(name)
    return packages


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", f"pip install {name}")


def _extra(extra: str, package: str) -> Finding:
    """Report an extra; nothing is broken without it."""
    try:
        return Finding(f"extra {extra}", f"{package} {metadata.version(package)}")
    except metadata.PackageNotFoundError:
        return Finding(f"extra {extra}", f"not installed: pip install 'segdistill[{extra}]'")


def _torchvision() -> Finding:
    try:
        import torchvision.ops  # noqa: F401  # the operators fail to register beside another build of torch
    except (ImportError, RuntimeError) as error:
        cure = f"torch and torchvision are of different builds: {REINSTALL_TORCH}"
        return Finding("torchvision operators", _first_line(error), cure)
    return Finding("torchvision operators", "load")


def _opencv() -> Finding:
    """Report the OpenCV packages: all of them install a folder cv2, over one another."""
    packages = []
    for distribution in metadata.distributions():
        # A half-removed package has no name.
        name = distribution.metadata["Name"] or ""
        if name.startswith("opencv-"):
            packages.append(name)
    if len(packages) > 1:
        names = sorted(packages)
        cure = f"They overwrite each other: pip uninstall {' '.join(names)}, then pip install segdistill"
        return Finding("OpenCV packages", ", ".join(names), cure)
    return Finding("OpenCV packages", "one")


def _onnxruntime() -> Finding:
    try:
        with switched_off():
            import onnxruntime
    except (ImportError, OSError) as error:
        return Finding("onnxruntime providers", _first_line(error), "pip install --force-reinstall onnxruntime")
    return Finding("onnxruntime providers", ", ".join(onnxruntime.get_available_providers()))


def _first_line(error: Exception) -> str:
    """Return what an import failed with; what follows the first line are paths and advice of the package's own."""
    return str(error).splitlines()[0]


# Devices


def _devices() -> list[Finding]:
    """Report the CPU and each GPU, or that PyTorch sees none, and what a CPU trains in float32 all the same."""
    try:
        import torch

        from segdistill.runtime.convolutions import describe_untrusted
        from segdistill.runtime.precision import has_bf16
    except (ImportError, OSError, RuntimeError) as error:
        return [Finding("torch", _first_line(error), REINSTALL_TORCH)]
    cpu = torch.device("cpu")
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    findings = []
    if not gpus:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        findings.append(Finding("GPU", f"none that this PyTorch sees; it is {build}"))
    for device in (cpu, *gpus):
        bf16 = "fast bf16" if has_bf16(device) else "no fast bf16"
        findings.append(Finding(str(device), f"{_describe_device(device)}, {bf16}"))
    if has_bf16(cpu):
        findings.append(Finding("cpu, bf16 training", f"float32 is used for {describe_untrusted()}"))
    return findings


def _describe_device(device: "torch.device") -> str:
    import torch

    if device.type == "cpu":
        return counted(torch.get_num_threads(), "thread")
    gibibytes = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{torch.cuda.get_device_name(device)}, {gibibytes:.0f} GiB"


# Memory and disk


def _memory() -> Finding:
    """Report how much memory there is, and how much of it the container may use."""
    total, usable = total_memory(), usable_memory()
    if total is None or usable is None:
        return Finding("memory", "unknown")
    value = f"{total / 2**30:.1f} GiB"
    if usable < total:
        value += f", of which this process group may use {usable / 2**30:.1f} GiB"
    return Finding("memory", value)


def _shared_memory() -> Finding:
    """Report how much shared memory is free, through which loader workers hand over their batches."""
    free = free_shared_memory()
    if free is None:
        return Finding("shared memory", "unknown")
    size = f"{free / 2**20:.0f} MiB free in {SHARED_MEMORY}"
    if free < ENOUGH_SHARED_BYTES:
        return Finding("shared memory", f"{size}: large batches go through pipes, slower; docker run --shm-size=8g")
    return Finding("shared memory", size)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    cure = "" if free > ENOUGH_DISK_GIB else "Runs write some GiB: free some."
    return Finding("free disk here", f"{free:.1f} GiB", cure)


def _file_system(folder: Path) -> Finding:
    """Try in a folder of its own what a run asks of the file system."""
    name = "file system here"
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".segdistill-doctor-", dir=folder) as scratch,
            open_run(Path(scratch), resume=False, overwrite=False) as run,
        ):
            missing = " ".join(run.warnings).replace(scratch, "this folder")
    except SegdistillError as error:
        return Finding(name, error.what, error.fix or "Work in another folder.")
    except OSError as error:
        return Finding(name, f"cannot be written: {error.strerror}", "Work in another folder.")
    return Finding(name, missing or "locks, syncs folders and replaces files")
