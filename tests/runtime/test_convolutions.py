"""No layer is trained on a gradient that its bf16 kernel gets wrong, and no layer's memory format changes its numbers.

On a CPU without AVX512-BF16 the fault that these guard against does not show: there they pass without the guard, too.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import BF16, CPU
from segdistill.config.schema import NetworkConfig
from segdistill.networks import meta_network, network_names, resolve
from segdistill.runtime import convolutions
from segdistill.runtime.convolutions import (
    TOLERANCE,
    CheckedConvolutions,
    ConvolutionKind,
    bf16_error,
    is_right,
    kind_of,
    replaced_kinds,
)
from segdistill.runtime.precision import Precision, has_bf16

UNSAFE = {
    "depthwise": {"in_channels": 32, "out_channels": 32, "groups": 32, "dilation": 2},
    "25 channels": {"in_channels": 25, "out_channels": 25, "dilation": 4},
    "16 to 24 channels": {"in_channels": 16, "out_channels": 24, "dilation": 2},
    "two groups": {"in_channels": 32, "out_channels": 32, "groups": 2, "dilation": 2},
}
SAFE = {
    "not dilated": {"in_channels": 25, "out_channels": 25},
    "depthwise": {"in_channels": 32, "out_channels": 32, "groups": 32},
    "whole blocks": {"in_channels": 16, "out_channels": 32, "dilation": 2},
}


def conv(options: dict[str, int]) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(kernel_size=3, padding=options.get("dilation", 1), bias=False, **options)  # type: ignore[arg-type]
    return layer.to(memory_format=torch.channels_last)


def noise(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return draw.to(memory_format=torch.channels_last) if draw.dim() == 4 else draw


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact.float()).norm() / exact.float().norm().clamp(min=1e-30))


def gradients(layer: nn.Module, inputs: tuple[Tensor, ...], precision: Precision) -> list[Tensor]:
    """Return output and gradients of a layer for noise as its output's gradient."""
    own = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    with precision.training():
        output = layer(*own)
    gradient = noise(*output.shape, seed=1).to(output.dtype)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, [*own, *parameters], gradient)]


@pytest.mark.parametrize("options", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_convolutions_are_computed_in_float32(options: dict[str, int]) -> None:
    layer, image = conv(options), noise(2, options["in_channels"], 30, 40)
    with replaced_kinds() as kinds:
        found = gradients(layer, (image,), BF16)
    assert found[0].dtype == torch.bfloat16
    assert [kind.is_unsafe for kind in kinds] == [True]
    gradient = noise(*found[0].shape, seed=1).bfloat16().float()  # what a bf16 output's gradient is rounded to
    exact = torch.autograd.grad(layer(image), layer.weight, gradient)[0]
    torch.testing.assert_close(found[2], exact)


@pytest.mark.parametrize("options", SAFE.values(), ids=SAFE)
def test_safe_convolutions_stay_in_bf16(options: dict[str, int]) -> None:
    layer, image = conv(options), noise(2, options["in_channels"], 30, 40)
    kind = kind_of(torch.conv2d, {"input": image, "weight": layer.weight, "dilation": layer.dilation})
    assert not kind.is_unsafe
    with replaced_kinds() as kinds:
        found, exact = (gradients(layer, (image,), precision) for precision in (BF16, CPU))
    assert not any(is_right(kind) for kind in kinds)
    assert max(relative(one, other) for one, other in zip(found, exact, strict=True)) < TOLERANCE


def test_wrong_bf16_kernel_is_replaced_by_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, image = conv(SAFE["not dilated"]), noise(2, 25, 12, 16)
    right, exact = gradients(layer, (image,), BF16), gradients(layer, (image,), CPU)
    monkeypatch.setattr(convolutions, "is_right", lambda kind: False)
    with replaced_kinds() as kinds:
        found = gradients(layer, (image,), BF16)
    assert [str(kind) for kind in kinds] == ["3x3 convolution, 25 to 25 channels"]
    assert relative(found[0], exact[0]) < relative(right[0], exact[0]) < 0.01


@pytest.mark.parametrize("error", [math.nan, math.inf, 0.031])
def test_large_bf16_error_marks_a_kernel_as_wrong(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "bf16_error", lambda kind: error)
    assert not is_right.__wrapped__(ConvolutionKind("conv2d", (1, 16, 8, 8), (16, 16, 3, 3), (True, True), False, ()))


def test_bf16_error_of_a_right_kernel_is_rounding_alone() -> None:
    kind = ConvolutionKind("conv2d", (2, 16, 12, 16), (32, 16, 3, 3), (True, True), False, (("padding", (1, 1)),))
    assert 0.001 < bf16_error(kind) < 0.006  # bf16 has 8 bits: 2 ** -9 at most for each factor


def test_convolution_kind_has_a_readable_name() -> None:
    up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=3)
    kind = kind_of(torch.conv_transpose2d, {"input": noise(1, 12, 4, 4), "weight": up.weight, "groups": up.groups})
    assert str(kind) == "2x2 transposed convolution of 3 groups, 12 to 6 channels"
    deep = kind_of(
        torch.conv2d, {"input": noise(1, 8, 4, 4), "weight": noise(8, 1, 3, 3), "groups": 8, "dilation": [2, 3]}
    )
    assert str(deep) == "3x3 convolution of 8 groups, 8 to 8 channels, dilation 3"


def test_kernels_are_checked_for_bf16_gradients_only() -> None:
    layer, image = conv(UNSAFE["depthwise"]), noise(2, 32, 12, 16)
    with replaced_kinds() as kinds:
        with torch.no_grad(), BF16.training():
            layer(image)
        with CPU.training():
            layer(image).sum().backward()
        with CheckedConvolutions(), torch.autocast("cpu", torch.float16):
            assert layer(image).dtype == torch.float16
    assert not kinds


class Layer(NamedTuple):
    network: str
    name: str
    module: nn.Module
    inputs: tuple[tuple[int, ...], ...]


def layers(network: str, size: tuple[int, int]) -> Iterator[Layer]:
    """Yield the layers with parameters of a network, with the shapes of what they are given; nothing is computed."""
    config = resolve(NetworkConfig(network=network))
    blank = meta_network(config, 19).train()
    found: list[Layer] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.append(Layer(network, name, module, tuple(tuple(tensor.shape) for tensor in inputs)))

        return hook

    for name, module in blank.named_modules():
        if not list(module.children()) and list(module.parameters()):
            module.register_forward_pre_hook(note(name))
    blank(torch.zeros(2, 3, *size, device="meta"))
    yield from found


def described(layer: Layer) -> tuple[object, ...]:
    return (repr(layer.module), layer.inputs)


def different_layers(size: tuple[int, int]) -> list[Layer]:
    """Return the layers of all networks, each kind once."""
    kinds = {described(layer): layer for network in network_names() for layer in layers(network, size)}
    return list(kinds.values())


def real(layer: Layer) -> nn.Module:
    torch.manual_seed(0)
    module = layer.module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(max(parameter[0].numel(), 1)))
        for buffer in module.buffers():
            buffer.fill_(1)
    return module.to(memory_format=torch.channels_last).train()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(240, 320), (512, 512)], ids=["240x320", "512x512"])
def test_layer_gradients_match_float32_in_every_network(size: tuple[int, int]) -> None:
    precisions = [BF16] if has_bf16(torch.device("cpu")) else []
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        print("This CPU has no AVX512-BF16: the fault of its kernels cannot show here.")
    wrong = []
    for layer in different_layers(size):
        module, inputs = real(layer), tuple(noise(*shape) for shape in layer.inputs)
        exact = gradients(module, inputs, CPU)
        contiguous = tuple(x.contiguous() for x in inputs)
        plain = gradients(module.to(memory_format=torch.contiguous_format), contiguous, CPU)
        errors = {"float32, contiguous": worst(plain, exact, 1e-3)}
        module.to(memory_format=torch.channels_last)
        for precision in precisions:
            errors[precision.name] = worst(gradients(module, inputs, precision), exact, TOLERANCE)
        wrong += [f"{layer.network} {layer.name} {how}: {error}" for how, error in errors.items() if error]
    assert not wrong


def worst(found: list[Tensor], exact: list[Tensor], limit: float) -> float | None:
    """Return the largest relative error if it is not below the limit; NaN is not."""
    errors = [relative(one, other) for one, other in zip(found, exact, strict=True)]
    bad = [error for error in errors if not error < limit]
    return bad[0] if bad else None
