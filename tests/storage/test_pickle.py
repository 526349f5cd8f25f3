"""Our reader of PyTorch's files, compared with PyTorch's own."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill.storage.pickle_reader import DTYPES
from segdistill.storage.pickles import read_pickle


def trained() -> dict[str, Any]:
    """Return what a training saves."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    return {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}


def values() -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {str(dtype): torch.arange(6).to(dtype) for dtype in DTYPES.values()}
    layouts = {
        "base": base,
        "view": base.t()[1:3],
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3),
    }
    plain = {"text": "é\U0001f600", "none": None, "numbers": [-5, 0, 255, 300, 70_000, 2**70, -(2**70), 1.5, True]}
    lists = {"lists": [1, (2,), (2, 3), (1, 2, 3), (1, 2, 3, 4), {7: "seven"}, [], ()]}
    return tensors | layouts | plain | lists


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert getattr(found, "_metadata", None) == getattr(expected, "_metadata", None)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.promise("S2")
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
@pytest.mark.parametrize("draw", [trained, values])
def test_files_are_read_as_torch_reads_them(draw: Any, archive: bool) -> None:
    content = io.BytesIO()
    torch.save(draw(), content, _use_new_zipfile_serialization=archive)
    found = read_pickle(content, Path("file.pth"))
    content.seek(0)
    assert_same(found, torch.load(content, weights_only=True))
    if "view" in found:
        found["base"][1, 1] = 100
        assert found["view"][0, 1] == 100  # they share memory, as before


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "stream"])
def test_values_beside_the_tensors_are_passed_over(archive: bool) -> None:
    weight = torch.nn.Parameter(torch.rand(2, 3))
    beside = {"size": weight.shape, "type": torch.float16, "device": weight.device, "set": {1}, "bytes": b"abc"}
    content = io.BytesIO()
    torch.save({"weight": weight} | beside, content, _use_new_zipfile_serialization=archive)
    found = read_pickle(content, Path("file.pth"))
    assert list(found) == ["weight", *beside]
    assert torch.equal(found["weight"], weight)
