"""The device and the number format that networks compute in."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch

from segdistill.errors import UsageError
from segdistill.runtime.convolutions import CheckedConvolutions
from segdistill.wording import counted

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of numbers by what `--precision` calls them."""


class Precision(NamedTuple):
    """The number format of forward passes; weights, losses and optimizer stay float32."""

    name: str
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Give the context in which networks are trained: a CPU's convolutions in bf16 are checked."""
        checked = CheckedConvolutions() if self.device.type == "cpu" else nullcontext()
        with self.autocast(), checked:
            yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Have a GPU compute convolutions of float32 in float32 inside, and leave PyTorch's switch as it was.

    Float32 means float32, in scores and in the critic; TF32, the default, keeps 10 bits of the mantissa.
    """
    switches = torch.backends.cudnn
    before = switches.allow_tf32
    switches.allow_tf32 = False
    try:
        yield
    finally:
        switches.allow_tf32 = before


def resolve_device(name: str) -> torch.device:
    """Return the device that `--device` names.

    Raises:
        UsageError: if it is unknown or missing here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name.partition(":")[0] == "mps":
        raise UsageError(
            f"--device {name}: Apple's GPUs are not supported, training on macOS is on the CPU.", "Use --device cpu."
        )
    match = re.fullmatch(r"cuda(:(?P<index>[0-9]{1,4}))?", name)
    if match is None:
        raise UsageError(f"Unknown device {name!r}.", "Use auto, cpu, cuda or cuda:N.")
    if not torch.cuda.is_available():
        raise UsageError("--device cuda: this PyTorch sees no CUDA GPU.", "`segdistill doctor` says what it sees.")
    count = torch.cuda.device_count()
    if int(match["index"] or 0) >= count:
        raise UsageError(f"--device {name}: this machine has {counted(count, 'CUDA GPU')}, counted from 0.")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast on a device: recent GPUs, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of a training: auto is bf16 where the hardware has it, else fp32.

    Raises:
        UsageError: if the device has no such numbers.
    """
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs a GPU.", "Use auto, bf16 or fp32 on a CPU.")
    # A CPU without them computes in bf16 too, slowly, so there it may be asked for.
    if name == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise UsageError("--precision bf16: this GPU does not support it.", "Use fp16 or fp32.")
    return Precision(name, device, DTYPES[name])
