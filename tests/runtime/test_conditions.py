"""What may change the last bits of a run is recorded, compared, and told with both values."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import segdistill as package
from segdistill.runtime.conditions import PARTS, conditions, differences

HERE = conditions()


def elsewhere(table: str, **values: Any) -> dict[str, Any]:
    """Return the conditions of here with other values in a table."""
    return HERE | {table: HERE[table] | values}


def in_a_process(**environment: str) -> dict[str, Any]:
    """Return the conditions of a process with these variables."""
    program = "import json; from segdistill.runtime.conditions import conditions; print(json.dumps(conditions()))"
    own = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])} | environment
    done = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.promise("C4")
def test_other_cpu_kernels_are_reported_by_a_real_process() -> None:
    told = differences(HERE, in_a_process(ATEN_CPU_CAPABILITY="default", MKL_CBWR="COMPATIBLE"))
    assert told["MKL_CBWR"] == ("unset", "COMPATIBLE")
    assert told["ATEN_CPU_CAPABILITY"] == ("unset", "default")
    if (kernels := HERE["cpu"]["kernels"]) not in ("DEFAULT", "NO AVX"):
        assert told["kernels"][0] == kernels != told["kernels"][1]


@pytest.mark.promise("C4")
def test_each_difference_is_reported_with_both_values() -> None:
    for before, name, values in (
        (elsewhere("libraries", pillow="1.0"), "pillow", ("1.0", HERE["libraries"]["pillow"])),
        (elsewhere("libraries", libjpeg_turbo="2.0"), "libjpeg_turbo", ("2.0", HERE["libraries"]["libjpeg_turbo"])),
        (elsewhere("libraries", oneDNN="1.0"), "oneDNN", ("1.0", HERE["libraries"]["oneDNN"])),
        (elsewhere("flags", **{"cuDNN benchmark": True}), "cuDNN benchmark", ("True", "False")),
        (elsewhere("cpu", l2_cache_size=1), "l2_cache_size", ("1", str(HERE["cpu"]["l2_cache_size"]))),
        (elsewhere("switches", DNNL_MAX_CPU_ISA="SSE41"), "DNNL_MAX_CPU_ISA", ("SSE41", "unset")),
    ):
        assert differences(before, HERE) == {name: values}
        assert differences(HERE, before) == {name: values[::-1]}
    features = [name for name in HERE["cpu"]["features"] if name != "sse2"]
    told = differences(elsewhere("cpu", features=[*features, "one_of_tomorrow"]), HERE)
    assert told == {"CPU features beside those in common": ("one_of_tomorrow", "sse2")}


def test_missing_environment_fields_count_as_no_difference() -> None:
    now = HERE | {"threads": 2, "device": "a CPU", "versions": {"torch": "2.0", "albumentations": "2.0.8"}}
    old = {"threads": 2, "versions": {"torch": "2.0"}}
    assert differences(old, now) == {}
    assert differences({}, now) == differences(now, now) == {}
    assert differences(old | {"threads": 3}, now) == {"threads": ("3", "2")}
    for part in PARTS:
        forged: Any
        for forged in (None, [], 5, "text", {"features": 5}, {"features": [[1]], "torch": {}}):
            differences({part: forged}, now)


@pytest.mark.promise("S10")
def test_paths_in_environment_switches_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "TORCH_HOME", "ONEDNN_VERBOSE", "HOMEMADE", "MY_MKL_CBWR", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "1")
        assert name not in conditions()["switches"]
    for name in ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "NCCL_ALGO", "CUDA_FORCE_PTX_JIT"):
        monkeypatch.setenv(name, "1")
        assert conditions()["switches"][name] == "1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2")
    assert conditions()["switches"]["GLIBC_TUNABLES"] == "glibc.cpu.hwcaps=-AVX2"
    told = set()
    for path in ("/home/somebody/a", "/home/somebody/b", os.fsdecode(b"/\xff")):
        monkeypatch.setenv("OPENCV_X", path)
        told.add(conditions()["switches"]["OPENCV_X"])
    assert len(told) == 3
    assert all(value.startswith("sha256 ") for value in told)
