"""Circumstances that the last bits of a run depend on beside its settings and data: processor, libraries, switches."""

import hashlib
import os
import platform
import re
from importlib import metadata
from typing import Any

import torch
from PIL import features

PACKAGES = ("albucore", "numpy", "pillow", "scipy", "timm", "transformers")
"""Packages that read, resize and compute beside those in `record.versions`; some are extras."""
DECODERS = ("libjpeg_turbo", "libtiff", "webp", "zlib", "zlib_ng")
"""Libraries in Pillow that decode images."""
BUILT_IN_LIBRARIES = {"oneDNN": r"MKL-DNN v(\S+)", "MKL": r"Math Kernel Library Version (\S+)"}
"""Patterns by which PyTorch's description of itself names the versions of libraries in it."""
CACHES = ("l1d_cache_size", "l2_cache_size")
"""Bytes of caches: oneDNN and MKL cut their loops to them, and so choose the order of sums."""
SWITCH = re.compile(
    r"(?:ATEN|CUBLAS|CUBLASLT|CUDNN|DNNL|GOMP|GOTO|KMP|MKL|MKLDNN|NPY|OMP|ONEDNN|OPENBLAS|OPENCV|PYTORCH|TORCH|XNNPACK)_\w+"
    r"|GLIBC_TUNABLES|NVIDIA_TF32_OVERRIDE|CUDA_(?:FORCE|DISABLE)_\w*JIT|NCCL_(?:ALGO|PROTO|NTHREADS|M(?:AX|IN)_\w+)"
)
"""Variables by which libraries choose kernels, or how they divide their work."""
IRRELEVANT_SWITCH = re.compile(r"(?:OMP|MKL)_NUM_THREADS|\w+(?:_HOME|_DIR|_PATH|_FILE|_VERBOSE|_LOGS|_ALLOC_CONF)")
"""Those among them that say where something lies or what is told; the number of threads is recorded for itself."""
SAFE_VALUE = re.compile(r"[\w.,:;=+ -]{0,200}")
"""Values without a path, which may be written down as they are: a run's folder may be given away."""
SCALARS = ("device", "precision", "threads", "processes", "python", "system")
TABLES = ("versions", "libraries", "flags", "cpu")
PARTS = (*SCALARS, *TABLES, "switches")
"""Parts of an environment.json on which the last bits of a run depend."""
UNSET = "unset"
"""Value of a switch that is not in the environment."""


def conditions() -> dict[str, Any]:
    """Return what an environment.json says of processor, libraries and switches; no paths."""
    return {"cpu": cpu(), "libraries": libraries(), "flags": flags(), "switches": switches()}


def cpu() -> dict[str, Any]:
    """Return which kernels PyTorch dispatches to, the instructions that libraries choose theirs by, and the caches."""
    capabilities = torch.cpu.get_capabilities()
    table: dict[str, Any] = {"kernels": torch.backends.cpu.get_cpu_capability()}
    table |= {name: capabilities[name] for name in CACHES if name in capabilities}
    table["features"] = sorted(name for name, value in capabilities.items() if value is True)
    return table


def libraries() -> dict[str, str]:
    """Return the versions of what is built into the packages, or comes with the system."""
    versions = {
        "torch build": f"{torch.__version__} {torch.version.git_version}",
        "libc": " ".join(platform.libc_ver()),
    }
    description = torch.__config__.show()
    for name, pattern in BUILT_IN_LIBRARIES.items():
        version = re.search(pattern, description)
        if version is not None:
            versions[name] = version[1]
    if torch.version.cuda is not None:
        versions |= {"CUDA": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version())}
    for name in DECODERS:
        versions[name] = str(features.version(name))
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


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
    names = [name for name in os.environ if SWITCH.fullmatch(name)]
    relevant = sorted(name for name in names if not IRRELEVANT_SWITCH.fullmatch(name))
    return {name: _without_path(os.environ[name]) for name in relevant}


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return what differs between two environments, by name, with both values; what one of them leaves out is unknown.

    Args:
        before: content of an environment.json, of any version and whatever became of it.
        now: the same of today.
    """
    pairs = {name: (before.get(name), now.get(name)) for name in SCALARS}
    for table in TABLES:
        pairs |= _table_pairs(_table(before, table), _table(now, table))
    pairs = {name: pair for name, pair in pairs.items() if None not in pair}
    pairs |= _switch_pairs(before, now)
    pairs |= _feature_pairs(before, now)
    return {name: (str(earlier), str(value)) for name, (earlier, value) in pairs.items() if earlier != value}


def _table_pairs(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the values of one table, earlier and now; features are compared as sets."""
    return {name: (before[name], now.get(name)) for name in before if name != "features"}


def _switch_pairs(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the switches of both; one that is in neither table is known to be unset, where there are tables."""
    if "switches" not in before or "switches" not in now:
        return {}
    earlier, today = _table(before, "switches"), _table(now, "switches")
    return {name: (earlier.get(name, UNSET), today.get(name, UNSET)) for name in earlier | today}


def _feature_pairs(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the processor's features that only one of them has: all of them would fill the screen."""
    earlier, today = _features(before), _features(now)
    if not earlier or not today:
        return {}
    return {"CPU features beside those in common": (_joined(earlier - today), _joined(today - earlier))}


def _table(environment: dict[str, Any], name: str) -> dict[str, Any]:
    table = environment.get(name)
    return table if isinstance(table, dict) else {}


def _features(environment: dict[str, Any]) -> set[str]:
    names = _table(environment, "cpu").get("features")
    return {str(name) for name in names} if isinstance(names, list) else set()


def _joined(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _without_path(value: str) -> str:
    """Return a value, or a digest of it if it may hold a path: two of them can still be compared."""
    if SAFE_VALUE.fullmatch(value):
        return value
    return f"sha256 {hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()[:16]}"
