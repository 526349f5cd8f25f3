"""Export and inference that are killed, starved, shown what is too large, or cut off from the network."""

import os
import random
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.commands import files, write_camvid
from helpers.forked import ROUNDS, ended, peak, said, start
from helpers.fuzz import append_digest, graph
from helpers.models import model_of
from helpers.png_files import png
from segdistill.deployment.session import OnnxModel
from segdistill.evaluation.latency import Subject, measure, torch_subject

KILLS = max(3, ROUNDS // 5)
CPU = torch.device("cpu")


def kill_again_and_again(line: str, folder: Path, check: Callable[[], None]) -> None:
    """Run a command, then kill it at random moments, looking at what it leaves, then let it come to its end again."""
    started = time.monotonic()
    assert ended(start(line, folder)) == 0, said(folder)
    seconds = time.monotonic() - started
    for _ in range(KILLS):
        process = start(line, folder)
        time.sleep(random.uniform(0, seconds))
        process.kill()
        ended(process)
        check()
    for stray in folder.rglob(".*.tmp"):
        os.utime(stray, (0, 0))  # nobody writes it any more
    assert ended(start(line, folder)) == 0, said(folder)
    check()


@pytest.mark.reliability
@pytest.mark.promise("E6", "S7")
def test_killed_export_leaves_a_whole_file_and_follows_no_link(tmp_path: Path) -> None:
    write_camvid(tmp_path / "camvid")
    folder, victim = tmp_path / "work", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("mine")
    model_of(f"camvid:{tmp_path}/camvid", str(folder / "model.safetensors"))
    for name in ("model.onnx", "model.onnx.unproven"):
        (folder / name).symlink_to(victim)

    def check() -> None:
        assert victim.read_text() == "mine"
        assert OnnxModel(folder / "model.onnx", CPU).info.size == (32, 48)

    kill_again_and_again("export model.safetensors --data camvid:../camvid --workers 0 --overwrite", folder, check)
    assert files(folder) == {"model.safetensors", "model.onnx"}
    assert not (folder / "model.onnx").is_symlink()


@pytest.mark.reliability
@pytest.mark.promise("E9")
def test_killed_inference_leaves_whole_files_and_can_be_repeated(tmp_path: Path) -> None:
    folder, rng = tmp_path / "work", np.random.default_rng(0)
    (folder / "in/sub").mkdir(parents=True)
    for number in range(20):
        place = folder / "in" / ("sub" if number % 2 else "") / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)).save(place)
    model_of("streets", str(folder / "model.safetensors"), None)
    line = "infer model.safetensors in --out out --overlay --overwrite"
    assert ended(start(line.replace("--out out", "--out clean"), folder)) == 0, said(folder)

    def check() -> None:
        for path in (folder / "out").rglob("*.png"):
            clean = folder / "clean" / path.relative_to(folder / "out")
            assert path.read_bytes() == clean.read_bytes()

    kill_again_and_again(line, folder, check)
    assert files(folder / "out") == files(folder / "clean")
    assert len(files(folder / "out")) == 40


def zeros(side: int) -> bytes:
    """Return a PNG of so many black pixels squared, a thousandth of their size."""
    return png(side, side, (b"IDAT", zlib.compress(bytes(side * (3 * side + 1)), 9)))


@pytest.mark.reliability
@pytest.mark.promise("D8")
def test_oversized_images_are_skipped_and_others_are_labeled(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "in").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "in" / f"{number}.png")
    line = f"infer {model_of('streets', str(folder / 'model.safetensors'))} in --overwrite --out out"
    usual = start(line, folder)
    most = peak(usual)
    assert ended(usual) == 0, said(folder)
    (folder / "in/bomb.png").write_bytes(zeros(14_000))
    (folder / "in/lie.png").write_bytes(png(2**31 - 1, 2**31 - 1))
    starved = start(line, folder, {resource.RLIMIT_AS: 2 << 30})
    assert peak(starved) < most + (100 << 20)
    assert ended(starved) == 3, said(folder)
    assert said(folder).count("is too large") == 2
    assert files(folder / "out") == {"0.png", "1.png", "2.png"}


@pytest.mark.reliability
@pytest.mark.promise("D10")
def test_image_of_8192_pixels_a_side_is_labeled_in_3_gigabytes(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    row = np.arange(8192, dtype=np.uint32)
    pattern = (row[:, None] // 8 * 37 + row[None] // 8 * 91) % 251
    image = np.stack([pattern, 255 - pattern, pattern // 2], axis=2).astype(np.uint8)
    Image.fromarray(image).save(folder / "large.png", compress_level=1)
    Image.fromarray(image[:1408, :2944]).save(folder / "part.png", compress_level=1)  # three tiles of a real network
    (folder / "graph.onnx").write_bytes(append_digest(graph(19).SerializeToString()))
    model_of("streets", str(folder / "model.safetensors"), None)
    for line, size in (
        ("infer graph.onnx large.png --out out", (8192, 8192)),
        ("infer model.safetensors part.png --out out", (2944, 1408)),
    ):
        process = start(line, folder)
        assert peak(process) < 3_000_000_000
        assert ended(process) == 0, said(folder)
        assert "labeled tile by tile" in said(folder)
        with Image.open(folder / "out" / f"{line.split()[2]}") as labels:
            assert labels.size == size


@pytest.mark.reliability
@pytest.mark.promise("E7")
def test_two_latency_measurements_agree() -> None:
    if os.getloadavg()[0] > 0.5:
        pytest.skip("this machine is busy with something else")
    network, image = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(20))), torch.zeros(1, 3, 200, 200)
    subject: Subject = torch_subject(network, image)
    first, second = (measure({"network": subject}, threads=1)["network"].p50 for _ in range(2))
    assert abs(first - second) < 0.15 * first
