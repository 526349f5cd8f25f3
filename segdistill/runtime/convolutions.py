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
FIRST_ARGUMENTS = ("input", "weight", "bias", "stride", "padding")
ARGUMENTS = {
    torch.conv2d: (*FIRST_ARGUMENTS, "dilation", "groups"),
    torch.conv_transpose2d: (*FIRST_ARGUMENTS, "output_padding", "groups", "dilation"),
}
"""Operations that are watched, and the order of their arguments in PyTorch's documentation."""
COMMON_WEIGHTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((64, 64, 3, 3), {}),
    "1x1": ((128, 64, 1, 1), {}),
    "strided": ((64, 64, 3, 3), {"stride": (2, 2)}),
    "depthwise": ((64, 1, 3, 3), {"groups": 64}),
    "odd channels": ((19, 64, 3, 3), {}),
    "dilated": ((64, 64, 3, 3), {"dilation": (2, 2)}),
}
"""Shapes of weights and options of convolutions that most networks have."""
COMMON_INPUT = (2, 64, 60, 80)
"""Shape of the images that these are tried on, (B, D, H, W)."""


class ConvolutionKind(NamedTuple):
    """All that decides which kernel a convolution gets."""

    operation: str
    input: tuple[int, ...]
    """(B, D, H, W)."""
    weight: tuple[int, ...]
    channels_last: tuple[bool, bool]
    """Whether input and weight have that memory format."""
    bias: bool
    options: tuple[tuple[str, Any], ...]
    """Other arguments, those that were given."""

    def __str__(self) -> str:
        """Describe it without its size: "3x3 convolution of 192 groups, 192 to 192 channels, dilation 2"."""
        height, width = self.weight[2:]
        name, outputs = "convolution", self.weight[0]
        if self.operation == "conv_transpose2d":
            # its weights are inputs by outputs of one group
            name, outputs = "transposed convolution", self.weight[1] * self.groups
        if self.groups > 1:
            name += f" of {self.groups} groups"
        text = f"{height}x{width} {name}, {self.input[1]} to {outputs} channels"
        if self.dilation > 1:
            text += f", dilation {self.dilation}"
        return text

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return int(dict(self.options).get("groups", 1))

    @property
    def dilation(self) -> int:
        """The larger of its two dilations."""
        dilation = dict(self.options).get("dilation", 1)
        if isinstance(dilation, tuple):
            dilation = max(dilation)
        return int(dilation)

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
        if func not in ARGUMENTS:
            return func(*args, **kwargs)
        arguments = dict(zip(ARGUMENTS[func], args, strict=False)) | kwargs
        if not _has_bf16_gradient(arguments):
            return func(*args, **kwargs)
        kind = kind_of(func, arguments)
        if is_right(kind):
            return func(*args, **kwargs)
        for kinds in _listeners:
            kinds.add(kind)
        return _in_float32(func, arguments)


_listeners: list[set[ConvolutionKind]] = []
"""Sets of each `replaced_kinds` that is entered."""


@contextmanager
def replaced_kinds() -> Iterator[set[ConvolutionKind]]:
    """Give the set of kinds that run in float32 inside this context; it fills as they are met."""
    kinds: set[ConvolutionKind] = set()
    _listeners.append(kinds)
    try:
        yield kinds
    finally:
        _listeners.pop()


def kind_of(func: Any, arguments: dict[str, Any]) -> ConvolutionKind:
    """Return the kind of a call of one of `ARGUMENTS`, given its arguments by name."""
    image, weight = arguments["input"], arguments["weight"]
    options = {name: value for name, value in arguments.items() if name not in ("input", "weight", "bias")}
    return ConvolutionKind(
        operation=func.__name__,
        input=tuple(image.shape),
        weight=tuple(weight.shape),
        channels_last=(_is_channels_last(image), _is_channels_last(weight)),
        bias=arguments.get("bias") is not None,
        # sorted and without lists, so that equal kinds are one key of the cache below
        options=tuple((name, _without_list(value)) for name, value in sorted(options.items())),
    )


@cache
def is_right(kind: ConvolutionKind) -> bool:
    """Whether this machine's bf16 kernels compute that kind as float32 does; unsafe ones are not tried."""
    return not kind.is_unsafe and bf16_error(kind) <= TOLERANCE  # NaN is not


def describe_untrusted() -> str:
    """Return for which convolutions a training in bf16 uses float32 on this machine, after a look at common ones."""
    sentences = [f"convolutions: dilated ones that are depthwise or whose channels are no multiple of {BLOCK}"]
    for name, (weight, options) in COMMON_WEIGHTS.items():
        kind = ConvolutionKind(
            operation="conv2d",
            input=COMMON_INPUT,
            weight=weight,
            channels_last=(True, True),
            bias=False,
            options=tuple(options.items()),
        )
        if not is_right(kind):
            sentences.append(f"{name}: bf16 is wrong here")
    return "; ".join(sentences)


def bf16_error(kind: ConvolutionKind) -> float:
    """Return the largest relative error in bf16 of output, input gradient and weight gradient; NaN where one is.

    All are of the same noise, with those in float32 as the reference. An unsafe kind may crash the process.
    """
    generator = torch.Generator().manual_seed(0)
    image_format, weight_format = (_memory_format(channels_last) for channels_last in kind.channels_last)
    image = torch.randn(kind.input, generator=generator).to(memory_format=image_format)
    weight = torch.randn(kind.weight, generator=generator).to(memory_format=weight_format)
    # whatever the caller is in: it is asked in the middle of a forward pass
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        exact = _output_and_gradients(kind, image, weight)
        approximate = _output_and_gradients(kind, image.bfloat16(), weight.bfloat16())
    errors = [
        (tensor.float() - reference).norm() / reference.norm()
        for tensor, reference in zip(approximate, exact, strict=True)
    ]
    return float(torch.stack(errors).max().detach())  # NaN where one of them is


def _output_and_gradients(kind: ConvolutionKind, image: Tensor, weight: Tensor) -> list[Tensor]:
    """Return a convolution's output and its gradients for image and weight, under a gradient of noise."""
    image.requires_grad_()
    weight.requires_grad_()
    output = getattr(torch, kind.operation)(input=image, weight=weight, **dict(kind.options))
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return [output, *torch.autograd.grad(output, (image, weight), gradient)]


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _without_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _has_bf16_gradient(arguments: dict[str, Any]) -> bool:
    """Whether a call runs under CPU autocast to bf16 and a gradient will be asked of it."""
    image, weight = arguments["input"], arguments["weight"]
    if not torch.is_grad_enabled() or image.device.type != "cpu":
        return False
    if not weight.requires_grad and not image.requires_grad:
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _in_float32(func: Any, arguments: dict[str, Any]) -> Tensor:
    """Call a convolution in float32; the output is bf16, as its neighbors' are."""
    exact = {name: value.float() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    with torch.autocast("cpu", enabled=False):
        output: Tensor = func(**exact)
    return output.bfloat16()
