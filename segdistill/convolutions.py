"""Convolutions whose bf16 kernels a CPU gets wrong: found before they train anything, and run in float32.

The fault that this is for, as of torch 2.15 with oneDNN 3.13.3 on CPUs with AVX512-BF16: in channels_last memory, the
bf16 kernel for the weight gradient of a dilated convolution that is depthwise, or whose channels are no multiple of
16, returns noise (relative error above 1) or NaN, or writes outside its memory, which ends the process. So such a
convolution is never tried in bf16. Every other kind is compared with float32 once per process, when a training first
meets it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

TOLERANCE = 0.03
"""Largest relative error (Euclidean norms) in bf16 that is taken for rounding: right kernels are at 0.003."""
BLOCK = 16
"""Float32 numbers in a register of AVX-512; kernels treat the channels that are left over by themselves."""
FIRST = ("input", "weight", "bias", "stride", "padding")
ARGUMENTS = {
    torch.conv2d: (*FIRST, "dilation", "groups"),
    torch.conv_transpose2d: (*FIRST, "output_padding", "groups", "dilation"),
}
"""The operations that are watched, and the order of their arguments in PyTorch's documentation."""


class Kind(NamedTuple):
    """What decides which kernel a convolution gets."""

    operation: str
    input: tuple[int, ...]
    """(B, D, H, W)."""
    weight: tuple[int, ...]
    channels_last: tuple[bool, bool]
    """Of input and weight."""
    bias: bool
    options: tuple[tuple[str, Any], ...]
    """The other arguments, those that were given."""

    def __str__(self) -> str:
        """Describe it without its size: "3x3 convolution of 192 groups, 192 to 192 channels, dilation 2"."""
        transposed = self.operation == "conv_transpose2d"
        height, width = self.weight[2:]
        name = f"{height}x{width} {'transposed ' if transposed else ''}convolution"
        groups = f" of {self.groups} groups" if self.groups > 1 else ""
        outputs = self.weight[1] * self.groups if transposed else self.weight[0]
        dilation = f", dilation {self.dilation}" if self.dilation > 1 else ""
        return f"{name}{groups}, {self.input[1]} to {outputs} channels{dilation}"

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return int(dict(self.options).get("groups", 1))

    @property
    def dilation(self) -> int:
        """The larger of its two dilations."""
        dilation = dict(self.options).get("dilation", 1)
        return int(max(dilation) if isinstance(dilation, tuple) else dilation)

    @property
    def is_unsafe(self) -> bool:
        """Whether a bf16 kernel may write outside its memory, so that it must not even be tried."""
        has_rest = any(channels % BLOCK for channels in self.weight[:2])
        return self.dilation > 1 and (self.groups > 1 or has_rest)


class CheckedConvolutions(TorchFunctionMode):
    """Runs convolutions in float32, under CPU autocast to bf16, whose bf16 kernels are unsafe or were found wrong.

    Only those through which a gradient will flow: what bf16 kernels return in a forward pass alone is right.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, or its float32 version."""
        kwargs = kwargs or {}
        if func in ARGUMENTS:
            given = dict(zip(ARGUMENTS[func], args, strict=False)) | kwargs
            if _has_bf16_gradient(given) and not is_right(kind := kind_of(func, given)):
                for kinds in _listeners:
                    kinds.add(kind)
                return _in_float32(func, given)
        return func(*args, **kwargs)


_listeners: list[set[Kind]] = []


@contextmanager
def replaced() -> Iterator[set[Kind]]:
    """Give the set of kinds that run in float32 inside this context; it fills as they are met."""
    kinds: set[Kind] = set()
    _listeners.append(kinds)
    try:
        yield kinds
    finally:
        _listeners.pop()


def kind_of(func: Any, given: dict[str, Any]) -> Kind:
    """Return the kind of a call of one of `ARGUMENTS`, given its arguments by name."""
    tensors = given["input"], given["weight"]
    options = {name: value for name, value in given.items() if name not in ("input", "weight", "bias")}
    return Kind(
        operation=func.__name__,
        input=tuple(tensors[0].shape),
        weight=tuple(tensors[1].shape),
        channels_last=tuple(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors),
        bias=given.get("bias") is not None,
        options=tuple((name, tuple(x) if isinstance(x, list) else x) for name, x in sorted(options.items())),
    )


@cache
def is_right(kind: Kind) -> bool:
    """Whether this machine's bf16 kernels compute that kind as float32 does; unsafe ones are not tried."""
    return not kind.is_unsafe and bf16_error(kind) <= TOLERANCE  # NaN is not


def untrusted() -> str:
    """Say for which convolutions a training in bf16 uses float32 on this machine, after a look at common ones."""
    common: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "3x3": ((64, 64, 3, 3), {}),
        "1x1": ((128, 64, 1, 1), {}),
        "strided": ((64, 64, 3, 3), {"stride": (2, 2)}),
        "depthwise": ((64, 1, 3, 3), {"groups": 64}),
        "odd channels": ((19, 64, 3, 3), {}),
        "dilated": ((64, 64, 3, 3), {"dilation": (2, 2)}),
    }
    wrong = [
        name
        for name, (weight, options) in common.items()
        if not is_right(Kind("conv2d", (2, 64, 60, 80), weight, (True, True), False, tuple(options.items())))
    ]
    unsafe = f"dilated ones that are depthwise or whose channels are no multiple of {BLOCK}"
    return "; ".join(["convolutions: " + unsafe, *(f"{name}: bf16 is wrong here" for name in wrong)])


def bf16_error(kind: Kind) -> float:
    """Return the largest relative error in bf16 of output, input gradient and weight gradient; NaN where one is.

    All are of the same noise, with those in float32 as the reference. An unsafe kind may crash the process.
    """
    draw = torch.Generator().manual_seed(0)
    memory = [torch.channels_last if last else torch.contiguous_format for last in kind.channels_last]
    image = torch.randn(kind.input, generator=draw).to(memory_format=memory[0])
    weight = torch.randn(kind.weight, generator=draw).to(memory_format=memory[1])

    def computed(dtype: torch.dtype) -> list[Tensor]:
        own = image.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        given = {"input": own[0], "weight": own[1]} | dict(kind.options)
        output = getattr(torch, kind.operation)(**given)
        gradient = torch.randn(output.shape, generator=draw.manual_seed(1)).to(output)
        return [output, *torch.autograd.grad(output, own, gradient)]

    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        exact, found = computed(torch.float32), computed(torch.bfloat16)
    errors = [(one.float() - other).norm() / other.norm() for one, other in zip(found, exact, strict=True)]
    return float(torch.stack(errors).max().detach())  # NaN where one of them is


def _has_bf16_gradient(given: dict[str, Any]) -> bool:
    """Whether a call runs under CPU autocast to bf16 and a gradient will be asked of it."""
    image, weight = given["input"], given["weight"]
    return (
        torch.is_grad_enabled()
        and (weight.requires_grad or image.requires_grad)
        and image.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _in_float32(func: Any, given: dict[str, Any]) -> Tensor:
    """Call a convolution in float32; the output is bf16, as its neighbors' are."""
    exact = {name: value.float() if isinstance(value, Tensor) else value for name, value in given.items()}
    with torch.autocast("cpu", enabled=False):
        output: Tensor = func(**exact)
    return output.bfloat16()
