"""Latency: runs take turns, slow networks stop early, and the gate compares the median."""

from pathlib import Path
from time import sleep

import pytest
from PIL import Image

from helpers.commands import write_camvid
from helpers.onnx_files import latency
from segdistill.data import load_data
from segdistill.deployment.report import speed_gate
from segdistill.deployment.typical_image import typical_image
from segdistill.evaluation.latency import Subject, measure
from segdistill.runtime.reporter import NullReporter


def test_latency_gate_compares_the_median() -> None:
    assert speed_gate(latency(20), min_fps=None, max_ms=None) is None
    for gate, passed in [
        (speed_gate(latency(20), min_fps=50, max_ms=None), True),
        (speed_gate(latency(20), min_fps=50.1, max_ms=None), False),
        (speed_gate(latency(20), min_fps=None, max_ms=20), True),
        (speed_gate(latency(20), min_fps=None, max_ms=19.5), False),
    ]:
        assert gate is not None
        assert gate.passed is passed
    assert gate is not None
    assert gate.limit == "at most 19.5 ms"


@pytest.mark.promise("E7")
@pytest.mark.parametrize(
    ("size", "trained", "measured", "size_from"),
    [
        (None, None, (40, 56), "the most frequent, 2 of 4 validation images"),
        (None, (32, 48), (32, 48), "of the model"),
        ((24, 40), (32, 48), (24, 40), "of --size"),
    ],
)
def test_latency_size_is_typical_of_the_data(
    size: tuple[int, int] | None,
    trained: tuple[int, int] | None,
    measured: tuple[int, int],
    size_from: str,
    tmp_path: Path,
) -> None:
    root = write_camvid(tmp_path / "data", val=4, height=40, width=56)
    for index, (height, width) in ((0, (9, 8)), (2, (64, 80))):
        for folder in ("val", "valannot"):
            with Image.open(root / folder / f"{index}.png") as picture:
                other = picture.resize((width, height), Image.Resampling.NEAREST)
            other.save(root / folder / f"{index}.png")
    val = load_data(f"camvid:{root}").split("val")
    found = typical_image(val, requested_size=size, model_size=trained, workers=0, reporter=NullReporter())
    assert (found.image.shape, found.size_source) == ((1, 3, *measured), size_from)


@pytest.mark.promise("E7")
def test_latency_runs_take_turns_and_count_slow_calls() -> None:
    calls: list[str] = []

    def subject(name: str) -> Subject:
        def run() -> None:
            slow = name not in calls or calls.count(name) % 5 == 0
            calls.append(name)
            sleep(0.02 if slow else 0.001)

        return Subject(run, f"provider of {name}")

    times = measure({"a": subject("a"), "b": subject("b")}, threads=3, max_runs=100)
    assert calls == ["a", "b"] * (len(calls) // 2)
    for name, time in times.items():
        assert time.first >= 20
        assert 1 <= time.p50 < 20 <= time.p90 <= (time.p99 or 0)
        assert (time.n, time.threads, time.provider) == (100, 3, f"provider of {name}")
        assert calls.count(name) >= 111, "the first call, and ten at least to warm up"


@pytest.mark.promise("E7")
def test_latency_of_a_slow_network_stops_early_without_p99() -> None:
    slow, fast = Subject(lambda: sleep(0.02), ""), Subject(lambda: None, "")
    times = measure({"slow": slow, "fast": fast}, threads=1, max_runs=100, max_seconds=0.2)
    assert 5 <= times["slow"].n <= 10
    assert times["slow"].p99 is None
    assert times["fast"].n == 100
    assert times["fast"].p99 is not None
