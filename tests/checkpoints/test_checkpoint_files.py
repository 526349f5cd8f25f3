"""What is saved comes back exactly, and a damaged, foreign or hostile file is refused before it does harm."""

import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from helpers.commands import equal
from helpers.golden import fill
from helpers.model_files import INFO
from helpers.tiny import CLASSES, CPU, copied, differing, distillation, optim, pspnet, tiny
from segdistill.checkpoints.model_file import load_model, model_path, read_info, save_model
from segdistill.checkpoints.tensors import weights_digest
from segdistill.checkpoints.training_state import STATE_MAGIC, load_state, save_state
from segdistill.config.schema import InputConfig
from segdistill.errors import CheckError, ModelError, ResourceError, UsageError
from segdistill.networks import SegNetwork
from segdistill.storage.manifest import write_manifest
from segdistill.training.state import Training
from segdistill.types import Stage


@pytest.fixture(scope="module")
def network() -> SegNetwork:
    return pspnet(0).eval()


@pytest.fixture(scope="module")
def content(network: SegNetwork, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a model file."""
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(file, network, INFO)
    return file.read_bytes()


def written(folder: Path, content: bytes) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(content)
    return file


def refused(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(file)
    assert caught.value.exit_code == 5
    assert str(file) in caught.value.what
    return caught.value.what


# Model files


def test_model_round_trips_with_weights_and_header(network: SegNetwork, content: bytes, tmp_path: Path) -> None:
    file = written(tmp_path, content)
    again, info = load_model(file)
    assert info == read_info(file) == INFO.model_copy(update=info.model_dump(include={"sha256", "header_sha256"}))
    assert not again.training
    assert again.mean.flatten().tolist() == [1.5, 2.5, 3.5]
    assert again.std.flatten().tolist() == [50, 60, 70]
    before, after = network.state_dict(), again.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert info.sha256 == weights_digest(after)


@pytest.mark.promise("D12")
def test_model_round_trips_with_its_preprocessing(network: SegNetwork, tmp_path: Path) -> None:
    images = InputConfig(mean=(1, 2, 3), std=(4, 5, 6), divide=255, order="bgr")
    own = INFO.network.model_copy(update={"input": images, "align_corners": True})
    save_model(tmp_path / "model.safetensors", network, INFO.model_copy(update={"network": own}))
    again, info = load_model(tmp_path / "model.safetensors")
    assert info.network == own
    assert (again.images, again.align_corners) == (images, True)
    assert again.std.flatten().tolist() == [4 * 255, 5 * 255, 6 * 255]


@pytest.mark.promise("C8")
def test_header_with_top_level_mean_and_std_is_read(tmp_path: Path) -> None:
    header = json.loads(INFO.model_dump_json())
    images = header["network"].pop("input")
    header |= {"mean": images["mean"], "std": images["std"]}
    for new in ("stem", "dilation", "head_width", "aspp", "align_corners"):
        del header["network"][new]
    header["network"]["output_stride"] = 8
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, {"segdistill": json.dumps(header)})
    own = INFO.network.model_copy(update={"output_stride": 8})
    assert read_info(file) == INFO.model_copy(update={"network": own})


def unpacked(name: str, folder: Path) -> Path:
    """Return a file that an earlier version wrote; they stay as they are for good."""
    file = folder / name
    file.write_bytes(gzip.decompress((Path(__file__).parent / "formats" / f"{name}.gz").read_bytes()))
    return file


@pytest.mark.promise("C8")
def test_a_model_of_format_1_is_read(tmp_path: Path) -> None:
    network, info = load_model(unpacked("model-1.safetensors", tmp_path))
    weights = copied(network)
    fill(weights)
    assert not differing(weights, copied(network))
    assert info.network.network == "espnet-c"
    assert (info.classes, info.size, info.metrics) == (CLASSES, (48, 64), {"miou": 1 / 3})


@pytest.mark.promise("C8")
def test_state_of_format_1_is_read_and_resumed(tmp_path: Path) -> None:
    state = load_state(unpacked("state-1", tmp_path))
    student, teacher = tiny(5, dropout=0.2), tiny(1, width=10)
    objective = distillation(student, teacher, {"pixel": 10.0, "pairwise": 10.0})
    training = Training(Stage("student", student, objective, optim(11)), CPU)
    training.load(state["training"])
    assert training.step == 4
    assert equal(training.state(), state["training"] | {"skipped": 0})
    assert (state["lines"], state["best_step"]) == (1, 3)


@pytest.mark.promise("C8")
def test_files_of_a_later_format_are_refused_as_such(content: bytes, tmp_path: Path) -> None:
    later = raw_header(content).replace('"format":1,', '"format":2,"new":"unknown",')
    with pytest.raises(ModelError, match="is of format 2; this version of segdistill reads format 1") as caught:
        load_model(written(tmp_path, with_header(later)))
    assert caught.value.exit_code == 5
    save_state(tmp_path / "last", STATE)
    (tmp_path / "last").write_bytes((tmp_path / "last").read_bytes().replace(b"state 1 ", b"state 12 ", 1))
    with pytest.raises(ModelError, match="is of format 12; this version"):
        load_state(tmp_path / "last")


@pytest.mark.promise("C10")
def test_reader_during_replacement_sees_an_old_or_new_model(network: SegNetwork, tmp_path: Path) -> None:
    file, done, steps = tmp_path / "best", threading.Event(), set[int]()
    other = pspnet(1).eval()
    save_model(file, network, INFO.model_copy(update={"steps": 0}))

    def read() -> None:
        while not done.is_set():
            steps.add(load_model(file)[1].steps)

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        for step in range(1, 13):
            save_model(file, (network, other)[step % 2], INFO.model_copy(update={"steps": step}))
        done.set()
        reading.result()
    assert len(steps) > 1
    assert steps <= set(range(13))


def test_weights_digest_covers_values_shapes_and_names() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others: list[dict[str, Tensor]] = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3).double(), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": -torch.ones(1)},
    ]
    digests = {weights_digest(weights) for weights in (base, *others)}
    assert len(digests) == 5
    assert weights_digest({"b": base["b"], "a": base["a"].T.contiguous().T}) == weights_digest(base)


@pytest.mark.promise("C9")
def test_files_have_the_mode_that_the_umask_leaves(network: SegNetwork, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_model(tmp_path / "a", network, INFO)
        save_state(tmp_path / "b", {"step": 1})
        os.umask(0o077)
        save_state(tmp_path / "c", {"step": 1})
    finally:
        os.umask(before)
    modes = [f"{(tmp_path / name).stat().st_mode & 0o777:o}" for name in ("a", "b", "c")]
    assert modes == ["644", "644", "600"]


@pytest.mark.promise("C3")
def test_flipped_byte_anywhere_in_a_model_is_detected(content: bytes, tmp_path: Path) -> None:
    (header,) = struct.unpack("<Q", content[:8])
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, 8 + header, 60), *rng.integers(8 + header, len(content), 6), len(content) - 1]
    places.append(content.index(b"wall"))  # inside a class's name: the file would still be well-formed
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        refused(written(tmp_path, bytes(damaged)))


@pytest.mark.promise("C3")
def test_a_truncated_or_empty_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        assert "not a readable safetensors file" in refused(written(tmp_path, content[:length]))


def test_weights_without_a_segdistill_header_are_refused(network: SegNetwork, tmp_path: Path) -> None:
    foreign = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    assert "not the header that segdistill writes" in refused(written(tmp_path, foreign))


def test_a_folder_is_not_a_model_file(tmp_path: Path) -> None:
    refused(tmp_path)


def raw(header: dict[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def raw_header(content: bytes) -> str:
    """Return the text of our own header in a model file."""
    (length,) = struct.unpack("<Q", content[:8])
    header: str = json.loads(content[8 : 8 + length])["__metadata__"]["segdistill"]
    return header


def with_header(text: str) -> bytes:
    return safetensors.torch.save({"a": torch.zeros(1)}, {"segdistill": text})


def with_fields(**fields: object) -> bytes:
    """Return a file with other fields in its header and the right digest of it, as a forger's would have."""
    text = json.dumps(INFO.model_dump(mode="json") | fields | {"header_sha256": ""})
    digest = hashlib.sha256(text.encode()).hexdigest()
    return with_header(text.replace('"header_sha256": ""', f'"header_sha256": "{digest}"'))


HOSTILE: dict[str, bytes] = {
    "a pickle": pickle.dumps({"a": 1}),
    "a header of no JSON": struct.pack("<Q", 4) + b"????",
    "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "tensors that overlap": raw({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)),
    "a tensor beyond the end": raw({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, bytes(8)),
    "no table": with_header("[]"),
    "no JSON inside": with_header("{"),
    "deep nesting": with_header("[" * 100_000),
    "a number of a million digits": with_header('{"format": ' + "1" * 1_000_000 + "}"),
    "an unknown key": with_fields(run="os.system"),
    "a later format": with_fields(format=2),
    "an unknown network": with_fields(network={"network": "../../x"}),
    "a number that is none": with_fields(mean=[float("nan"), 0, 0], std=[1, 1, 1]),
    "a deviation of nothing": with_fields(mean=[0, 0, 0], std=[1, 0, 1]),
    "another network's weights": with_fields(),
    "more classes than numbers": with_fields(classes=[str(i) for i in range(300)], palette=[[0, 0, 0]] * 300),
    "no color for a class": with_fields(palette=[[0, 0, 0]]),
    "a color that is none": with_fields(palette=[[999, 0, 0]] * len(INFO.classes)),
}


@pytest.mark.promise("S3")
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(hostile: bytes, tmp_path: Path) -> None:
    refused(written(tmp_path, hostile))


def test_model_path_finds_only_the_model_listed_in_the_manifest(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no"):
        model_path(tmp_path / "absent")
    with pytest.raises(UsageError, match="not finished"):
        model_path(tmp_path)
    file = written(tmp_path, content)
    write_manifest(tmp_path)
    assert model_path(tmp_path) == model_path(file) == file
    file.write_bytes(content[:-1] + b"!")
    with pytest.raises(ModelError, match=r"damaged.*manifest"):
        model_path(tmp_path)


# The state of a training


STATE: dict[str, Any] = {
    "training": {"step": 3, "weights": {"a": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(4)}},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2), "step": None}}, "param_groups": [{"lr": 0.1}]},
    "best": 0.25,
    "lines": 12,
}


def forged(payload: bytes) -> bytes:
    """Return a payload behind our own magic and the right digest."""
    return STATE_MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.promise("S2")
def test_training_state_round_trips_with_its_memory_layout(tmp_path: Path) -> None:
    save_state(tmp_path / "last", STATE)
    state = load_state(tmp_path / "last")
    weight = state["training"]["weights"].pop("a")
    assert torch.equal(weight, STATE["training"]["weights"]["a"])
    assert weight.stride() == (1, 3)
    assert state["training"] == {"step": 3, "weights": {"n": torch.tensor(4)}}
    assert state["optimizer"]["state"][0]["momentum_buffer"].tolist() == [1, 1]
    assert state["optimizer"]["param_groups"] == [{"lr": 0.1}]
    assert (state["best"], state["lines"]) == (0.25, 12)


def test_save_state_keeps_only_the_previous_state(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path / "last", {"step": step}, keep_previous=True)
    assert load_state(tmp_path / "last") == {"step": 3}
    assert load_state(tmp_path / "last.prev") == {"step": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "last.prev"]


@pytest.mark.promise("C2")
def test_full_disk_leaves_both_saved_states_unchanged(tmp_path: Path) -> None:
    for step in (1, 2):
        save_state(tmp_path / "last", {"step": step}, keep_previous=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ResourceError, match=r"disk is full.*last"):
            save_state(tmp_path / "last", {"step": torch.zeros(10_000)}, keep_previous=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [load_state(tmp_path / name) for name in ("last", "last.prev")] == [{"step": 2}, {"step": 1}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "last.prev"]


@pytest.mark.promise("C3")
def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "last", STATE)
    content = (tmp_path / "last").read_bytes()
    rng = np.random.default_rng(0)
    flipped = [content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :] for i in rng.integers(0, len(content), 40)]
    end = content.rindex(b"PK\6\7") + 4  # where an archive says on which of several disks it ends
    elsewhere = [content[:end] + disk + content[end + 1 :] for disk in (b"\1", b"\xff")]
    for damaged in (*flipped, *elsewhere, content[:-1], content + b"0", content[:10], b""):
        (tmp_path / "last").write_bytes(damaged)
        with pytest.raises(ModelError, match="is damaged"):
            load_state(tmp_path / "last")
    with pytest.raises(ModelError, match="cannot be read"):
        load_state(tmp_path)


@pytest.mark.promise("S1")
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker, archive = tmp_path / "marker", io.BytesIO()
    torch.save({"training": Evil(marker)}, archive)
    plain = pickle.dumps(Evil(marker))
    for content in (plain, archive.getvalue(), forged(plain), forged(archive.getvalue()), forged(b"nothing")):
        (tmp_path / "last").write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_state(tmp_path / "last")
        assert caught.value.exit_code == 5
    assert not marker.exists()
    pickle.loads(plain)  # the same pickle does what it is accused of
    assert marker.exists()


# What is not finite


@pytest.mark.promise("R5")
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_tensor_is_never_written(number: float, tmp_path: Path) -> None:
    network = pspnet(0)
    network.get_buffer("backbone.bn1.running_var")[3] = number
    with pytest.raises(CheckError, match=r"not written.*backbone\.bn1\.running_var"):
        save_model(tmp_path / "model.safetensors", network, INFO)
    broken = {"training": {"optimizer": {"state": {0: {"momentum_buffer": torch.tensor([1, number])}}}}}
    with pytest.raises(CheckError, match=r"not written.*training\.optimizer\.state\.0\.momentum_buffer") as caught:
        save_state(tmp_path / "last", broken)
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())
