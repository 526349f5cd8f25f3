"""What the last bits of a run depend on beside its settings and its data: processor, libraries, and their switches."""

import hashlib
import os
import platform
import re
from importlib import metadata
from typing import Any

import torch
from PIL import features

PACKAGES = ("albucore", "numpy", "pillow", "scipy", "timm", "transformers")
"""What reads, resizes and computes beside those in `record.versions`; some are extras."""
DECODERS = ("libjpeg_turbo", "libtiff", "webp", "zlib", "zlib_ng")
CACHES = ("l1d_cache_size", "l2_cache_size")
"""Bytes: oneDNN and MKL cut their loops to them, and so choose the order of sums."""
SWITCH = re.compile(
    r"(?:ATEN|CUBLAS|CUBLASLT|CUDNN|DNNL|GOMP|GOTO|KMP|MKL|MKLDNN|NPY|OMP|ONEDNN|OPENBLAS|OPENCV|PYTORCH|TORCH|XNNPACK)_\w+"
    r"|GLIBC_TUNABLES|NVIDIA_TF32_OVERRIDE|CUDA_(?:FORCE|DISABLE)_\w*JIT|NCCL_(?:ALGO|PROTO|NTHREADS|M(?:AX|IN)_\w+)"
)
"""Variables by which libraries choose kernels, or how they divide their work."""
NO_MATTER = re.compile(r"(?:OMP|MKL)_NUM_THREADS|\w+(?:_HOME|_DIR|_PATH|_FILE|_VERBOSE|_LOGS|_ALLOC_CONF)")
"""Those among them that say where something lies or what is told; the number of threads is recorded for itself."""
PLAIN_VALUE = re.compile(r"[\w.,:;=+ -]{0,200}")
ONE_VALUE = ("device", "precision", "threads", "processes", "python", "system")
TABLES = ("versions", "libraries", "flags", "cpu")
PARTS = (*ONE_VALUE, *TABLES, "switches")
"""Of an environment.json, all on which the last bits of a run depend."""
UNSET = "unset"


def conditions() -> dict[str, Any]:
    """Return what an environment.json says of processor, libraries and switches; no paths."""
    return {"cpu": cpu(), "libraries": libraries(), "flags": flags(), "switches": switches()}


def cpu() -> dict[str, Any]:
    """Return which kernels PyTorch dispatches to, the instructions that libraries choose theirs by, and the caches."""
    able = torch.cpu.get_capabilities()
    known = {"kernels": torch.backends.cpu.get_cpu_capability()}
    known |= {name: able[name] for name in CACHES if name in able}
    return known | {"features": sorted(name for name, value in able.items() if value is True)}


def libraries() -> dict[str, str]:
    """Return the versions of what is built into the packages, or comes with the system."""
    found = {"torch build": f"{torch.__version__} {torch.version.git_version}", "libc": " ".join(platform.libc_ver())}
    built = torch.__config__.show()
    for name, pattern in (("oneDNN", r"MKL-DNN v(\S+)"), ("MKL", r"Math Kernel Library Version (\S+)")):
        if version := re.search(pattern, built):
            found[name] = version[1]
    if torch.version.cuda is not None:
        found |= {"CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}
    for name in DECODERS:
        found[name] = str(features.version(name))
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def flags() -> dict[str, Any]:
    """Return what this process has PyTorch choose."""
    return {
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "oneDNN enabled": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "cuDNN deterministic": torch.backends.cudnn.deterministic,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "cuDNN TF32": torch.backends.cudnn.allow_tf32,
    }


def switches() -> dict[str, str]:
    """Return the variables that switch kernels; a digest in the place of a value that may hold a path."""
    own = {name: value for name, value in os.environ.items() if SWITCH.fullmatch(name)}
    return {name: _told(value) for name, value in sorted(own.items()) if not NO_MATTER.fullmatch(name)}


def _told(value: str) -> str:
    if PLAIN_VALUE.fullmatch(value):
        return value
    return f"sha256 {hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()[:16]}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what differs between two environments, by name, with both values; what one of them leaves out is unknown.

    Args:
        before: of an environment.json, of any version and whatever became of it.
        now: the same of today.
    """
    pairs = {name: (before.get(name), now.get(name)) for name in ONE_VALUE}
    for table in TABLES:
        one, other = _table(before, table), _table(now, table)
        pairs |= {name: (one.get(name), other.get(name)) for name in one if name != "features"}
    found = {name: pair for name, pair in pairs.items() if None not in pair}
    if "switches" in before and "switches" in now:
        one, other = _table(before, "switches"), _table(now, "switches")
        found |= {name: (one.get(name, UNSET), other.get(name, UNSET)) for name in one | other}
    first, second = _features(before), _features(now)
    if first and second:
        found["CPU features beside those in common"] = (_listed(first - second), _listed(second - first))
    return {name: (str(was), str(value)) for name, (was, value) in found.items() if was != value}


def _table(environment: dict[str, Any], name: str) -> dict[str, Any]:
    table = environment.get(name)
    return table if isinstance(table, dict) else {}


def _features(environment: dict[str, Any]) -> set[str]:
    features = _table(environment, "cpu").get("features")
    return set(map(str, features)) if isinstance(features, list) else set()


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
