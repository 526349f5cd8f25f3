"""Is this machine all right? Versions, devices, and the two installations that are known to be broken."""

import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from segdistill.telemetry import switched_off


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
    findings = [_package(name) for name in _packages()]
    findings += [_torchvision(), _opencv(), *_devices(), _onnxruntime()]
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    findings.append(Finding("free disk here", f"{free:.1f} GiB", "" if free > 2 else "Runs write some GiB: free some."))
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
    for device in devices:
        cpu = device.type == "cpu"
        name = f"{torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name(device)
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
