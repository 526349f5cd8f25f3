"""Is this machine all right? Versions, devices, memory, and the two installations that are known to be broken."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from segdistill.errors import SegdistillError
from segdistill.store import SHARED_MEMORY, free_shared_memory, open_run
from segdistill.telemetry import switched_off

EXTRAS = {"hf": "transformers", "timm": "timm"}
"""Packages that can be installed beside it: the extras of pyproject.toml."""
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux says how much memory a container, or a job of a batch system, may use."""
ENOUGH_SHARED = 1 << 30
"""Bytes in which the batches of eight workers find room, up to 64 MB each."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: str
    cure: str = ""
    """What to do where it is not all right; empty where it is."""

    @property
    def ok(self) -> bool:
        """Whether it is all right."""
        return not self.cure


def examine() -> list[Finding]:
    """Look at everything a run needs; nothing is imported that could fail without being caught."""
    findings = [Finding("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    findings += [_package(name) for name in _packages()]
    findings += [_extra(name, package) for name, package in EXTRAS.items()]
    findings += [_torchvision(), _opencv(), *_devices(), _onnxruntime(), _memory(), _shared_memory()]
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    findings.append(Finding("free disk here", f"{free:.1f} GiB", "" if free > 2 else "Runs write some GiB: free some."))
    findings.append(_file_system(Path.cwd()))
    return findings


def _packages() -> list[str]:
    """Return what this installation of segdistill says that it needs, extras left out."""
    try:
        needed = metadata.requires("segdistill") or []
    except metadata.PackageNotFoundError:
        return ["segdistill"]
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed if "extra ==" not in line]


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", f"pip install {name}")


def _extra(extra: str, package: str) -> Finding:
    """Say whether an extra is there; nothing is broken without it."""
    try:
        return Finding(f"extra {extra}", f"{package} {metadata.version(package)}")
    except metadata.PackageNotFoundError:
        return Finding(f"extra {extra}", f"not installed: pip install 'segdistill[{extra}]'")


def _memory() -> Finding:
    """Say how much memory there is, and how much of it the container may use."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return Finding("memory", "unknown")
    least = min([*_memory_limits(), total])
    limit = f", of which this process group may use {least / 2**30:.1f} GiB" if least < total else ""
    return Finding("memory", f"{total / 2**30:.1f} GiB{limit}")


def _memory_limits() -> Iterator[int]:
    """Yield the limits in bytes of the control groups that this process is in, of version 2 and of version 1."""
    own = PurePosixPath(_text(OWN_CGROUP).rpartition("0::")[2].strip().strip("/"))
    files = [CGROUPS / group / "memory.max" for group in (own, *own.parents)]
    for file in (*files, CGROUPS / "memory/memory.limit_in_bytes"):
        if (limit := _text(file).strip()).isdecimal():
            yield int(limit)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _shared_memory() -> Finding:
    """Say how much shared memory is free, through which loader workers hand over their batches."""
    free = free_shared_memory()
    if free is None:
        return Finding("shared memory", "unknown")
    size = f"{free / 2**20:.0f} MiB free in {SHARED_MEMORY}"
    if free < ENOUGH_SHARED:
        return Finding("shared memory", f"{size}: large batches go through pipes, slower; docker run --shm-size=8g")
    return Finding("shared memory", size)


def _file_system(folder: Path) -> Finding:
    """Try in a folder of its own what a run asks of the file system."""
    name = "file system here"
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".segdistill-doctor-", dir=folder) as scratch,
            open_run(Path(scratch), resume=False, overwrite=False) as run,
        ):
            lacks = " ".join(run.warnings).replace(scratch, "this folder")
    except SegdistillError as error:
        return Finding(name, error.what, error.fix or "Work in another folder.")
    except OSError as error:
        return Finding(name, f"cannot be written: {error.strerror}", "Work in another folder.")
    return Finding(name, lacks or "locks, syncs folders and replaces files")


def _torchvision() -> Finding:
    try:
        import torchvision.ops  # noqa: F401  # the operators fail to register beside another build of torch
    except (ImportError, RuntimeError) as error:
        cure = "torch and torchvision are of different builds: pip install --force-reinstall torch torchvision"
        return Finding("torchvision operators", str(error).splitlines()[0], cure)
    return Finding("torchvision operators", "load")


def _opencv() -> Finding:
    found = [d.metadata["Name"] for d in metadata.distributions() if (d.metadata["Name"] or "").startswith("opencv-")]
    if len(found) > 1:
        cure = f"They overwrite each other: pip uninstall {' '.join(sorted(found))}, then pip install segdistill"
        return Finding("OpenCV packages", ", ".join(sorted(found)), cure)
    return Finding("OpenCV packages", "one")


def _devices() -> list[Finding]:
    try:
        import torch

        from segdistill.convolutions import untrusted
        from segdistill.engine import has_bf16
    except (ImportError, OSError, RuntimeError) as error:
        return [Finding("torch", str(error).splitlines()[0], "pip install --force-reinstall torch torchvision")]
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    findings = []
    if len(devices) == 1:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        findings.append(Finding("GPU", f"none that this PyTorch sees; it is {build}"))
    for device in devices:
        cpu = device.type == "cpu"
        name = f"{torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name(device)
        if not cpu:
            name += f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
        findings.append(Finding(str(device), f"{name}, {'fast bf16' if has_bf16(device) else 'no fast bf16'}"))
    if has_bf16(devices[0]):
        findings.append(Finding("cpu, bf16 training", f"float32 is used for {untrusted()}"))
    return findings


def _onnxruntime() -> Finding:
    try:
        with switched_off():
            import onnxruntime
    except (ImportError, OSError) as error:
        return Finding("onnxruntime providers", str(error).splitlines()[0], "pip install --force-reinstall onnxruntime")
    return Finding("onnxruntime providers", ", ".join(onnxruntime.get_available_providers()))
