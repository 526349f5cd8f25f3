"""Memory: what it takes is bounded, what has too little of it says so, and a run goes on with less to the same bits."""

import errno
import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from gain_interval import scores_of
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from helpers.commands import DISTILL, assert_same_run, process, refused, segdistill, succeeds, write_camvid
from helpers.memory import MB, less_memory, status
from helpers.simulated_scores import simulated
from helpers.tiny import CLASSES, CPU, Scenes, TinyNetwork, model_info, source, tiny
from helpers.trainings import a_job, configuration
from segdistill.checkpoints.model_file import save_model
from segdistill.checkpoints.tensors import write_safetensors
from segdistill.checkpoints.training_state import load_state, save_state
from segdistill.data import evaluation_batches
from segdistill.errors import ResourceError, out_of_memory
from segdistill.evaluation import evaluate as evaluating
from segdistill.evaluation import significance
from segdistill.evaluation.evaluate import evaluate, predict_labels
from segdistill.evaluation.significance import compare
from segdistill.runtime.reporter import NullReporter
from segdistill.storage.atomic import write_atomic
from segdistill.storage.run_folder import open_run
from segdistill.training import scoring
from segdistill.training.jobs import Runtime
from segdistill.training.scoring import score
from segdistill.training.trainer import train

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux enforces RLIMIT_AS and tells how much memory a process has had"
)


def growth(action: Callable[[], object]) -> int:
    """Return how many bytes more than before this process has at the most during an action."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = status("VmRSS")
    action()
    return status("VmHWM") - before


# What says that memory ran out


def caught(action: Callable[[], object], room: int) -> Exception:
    """Return the error that an action ends in when it has so many bytes."""
    with less_memory(room):
        try:
            action()
        except Exception as error:
            return error.with_traceback(None)
    raise AssertionError("there was enough")


class Large(Dataset[Any]):
    """A sample that a loader process has no memory for, of NumPy's or of PyTorch's."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return np.ones(64 * MB) if self.kind == "numpy" else torch.ones(64 * MB)


def loader(kind: str) -> Callable[[], object]:
    return lambda: list(DataLoader(Large(kind), batch_size=None, num_workers=1, multiprocessing_context="fork"))


def convolution() -> onnx.ModelProto:
    """Return a graph of one convolution with 64 channels."""
    weight = numpy_helper.from_array(np.zeros((64, 3, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, "h", "w"])
        for name, count in (("x", 3), ("y", 64))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.promise("R4")
@LINUX
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda: np.ones(64 * MB), "Unable to allocate 512. MiB for an array with shape"),
        (lambda: torch.ones(64 * MB), "DefaultCPUAllocator: can't allocate memory"),
        (lambda: cv2.resize(np.zeros((9, 9, 3), np.uint8), (9999, 9999)), "(-4:Insufficient memory)"),
        (lambda: Image.new("RGB", (9999, 9999)), "MemoryError"),
        (loader("numpy"), "Unable to allocate"),
        (loader("torch"), "DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_messages_of_libraries_are_recognized(action: Callable[[], object], expected: str) -> None:
    error = caught(action, 100 * MB)
    assert expected in (out_of_memory(error) or "") or "MemoryError in DataLoader worker" in (
        out_of_memory(error) or ""
    )


@pytest.mark.promise("R4")
@LINUX
def test_out_of_memory_of_protobuf_and_onnxruntime_is_recognized() -> None:
    large = numpy_helper.from_array(np.zeros(128 * MB, np.uint8), "large")
    written = large.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        convolution().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = np.zeros((1, 3, 1024, 1024), np.float32)
    for action, expected in (
        (large.SerializeToString, "EncodeError: Failed to serialize proto"),
        (lambda: TensorProto().ParseFromString(written), "Arena alloc failed"),
        (lambda: session.run(None, {"x": image}), "Failed to allocate memory for requested buffer of size"),
    ):
        assert expected in (out_of_memory(caught(action, 40 * MB)) or "")


ONEDNN = """
import torch
from helpers.memory import MB, less_memory
from segdistill.errors import out_of_memory
for extra in range(256):  # kernels of another shape each time: those that were made once are kept
    first = torch.nn.Conv2d(16 + extra, 64, 3, padding=1).to(memory_format=torch.channels_last)
    image = torch.ones(1, 16 + extra, 24, 24).contiguous(memory_format=torch.channels_last)
    with less_memory(extra * MB // 64):
        try:
            first(image).sum().backward()
        except Exception as error:
            failed = error
        else:
            continue
    print(out_of_memory(failed), str(failed), sep=" | ")
"""


@pytest.mark.promise("R4")
@LINUX
@pytest.mark.slow  # in a process of its own: what oneDNN could not make once, it does not make later either
def test_out_of_memory_of_onednn_is_recognized() -> None:
    own = os.pathsep.join(path for path in sys.path if path)  # pytest's own, beside this process's
    done = process(sys.executable, "-c", ONEDNN, cwd=Path(__file__).parent, OMP_NUM_THREADS="1", PYTHONPATH=own)
    said = done.out.splitlines()
    assert "RuntimeError: could not create a primitive | could not create a primitive" in said, done.err
    assert not [line for line in said if line.startswith("None")]


@pytest.mark.promise("R4")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),  # fork, mmap
        RuntimeError("could not create a primitive"),
        RuntimeError("could not execute a primitive"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate "
            "8 bytes."
        ),
        RuntimeError(
            "unable to mmap 209715200 bytes from file </torch_26112_3582484345_0>: Cannot allocate memory (12)"
        ),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Exception during loading: std::bad_alloc"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Status Message: bad allocation"),
        RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            "RuntimeError: unable to mmap 9 bytes from file </torch_1_2_0>: Cannot allocate memory (12)"
        ),
        OSError("Caught OSError in DataLoader worker process 0.\nOSError: [Errno 12] Cannot allocate memory: 'a.png'"),
    ],
)
def test_other_out_of_memory_messages_are_recognized(error: Exception) -> None:
    assert out_of_memory(error) is not None


@pytest.mark.promise("R4")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "could not create a primitive descriptor for the convolution forward propagation primitive. Run workload "
            "with environment variable ONEDNN_VERBOSE=all to get additional diagnostic information."
        ),
        RuntimeError("could not create a primitive type"),
        RuntimeError("the class 'out of memory' is not known"),
        RuntimeError("MemoryError is no layer"),
        RuntimeError("Caught KeyError in DataLoader worker process 0.\nKeyError: 'MemoryError'"),
        RuntimeError("std::bad_alloc_hook is not registered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("Unable to allocate 3 classes to 2 colors"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.png"),
        OSError(errno.ENOSPC, "No space left on device"),
        ResourceError("Out of memory.", "It has its advice."),
    ],
)
def test_similar_messages_are_not_out_of_memory(error: Exception) -> None:
    assert out_of_memory(error) is None


@pytest.mark.promise("R4")
@LINUX
def test_model_that_does_not_fit_in_memory_is_not_damaged(tmp_path: Path) -> None:
    large = TinyNetwork(1000)
    state = tmp_path / "last"
    save_state(state, {"weights": large.state_dict()})
    # less than its one tensor of 70 MB, which the allocator takes from the system whatever it has kept
    assert out_of_memory(caught(lambda: load_state(state), 40 * MB)) is not None
    assert load_state(state)["weights"].keys() == large.state_dict().keys()


# What takes little


@pytest.mark.promise("R4")
@LINUX
def test_saving_takes_little_extra_memory(tmp_path: Path) -> None:
    network = TinyNetwork(1000).to(memory_format=torch.channels_last)  # 72 MB, 70 of them one tensor
    state = {"training": {name: [tensor.clone() for _ in range(2)] for name, tensor in network.state_dict().items()}}
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    assert growth(lambda: save_state(tmp_path / "last", state)) < size / 3
    assert growth(lambda: save_model(tmp_path / "model", network, model_info("any"))) < size / 3


def test_a_state_is_written_as_earlier_versions_wrote_it(tmp_path: Path) -> None:
    state = {"training": {"step": 3, "weights": tiny(0).state_dict()}, "lines": 4, "seconds": 0.5}
    save_state(tmp_path / "last", state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    assert (tmp_path / "last").read_bytes() == b"segdistill state 1 " + digest + b"\n" + buffer.getvalue()


def test_tensors_are_written_in_the_bytes_of_the_library() -> None:
    torch.manual_seed(0)
    types = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8]
    tensors = {f"{dtype} {i}": (9 * torch.rand(2, 3, 4, 5)).to(dtype) for dtype in types for i in range(2)}
    tensors |= {'a "name"\n': torch.ones(1, 1), "flags": torch.tensor([True, False, True])}
    tensors |= {"one": torch.tensor(7.0), "none": torch.zeros(0, 3), "späße": torch.ones(3)}
    metadata = {"segdistill": '{"a": "ü\\n"}'}
    for some in (tensors, {}, {"one": torch.tensor(7.0)}):
        expected = safetensors.torch.save(some, metadata)
        other = {name: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for name, t in some.items()}
        buffer = io.BytesIO()
        write_safetensors(buffer, other, metadata)
        assert buffer.getvalue() == expected


def test_failed_atomic_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "old")

    def fail(file: Any) -> None:
        file.write(b"new")
        raise MemoryError

    with pytest.raises(MemoryError):
        write_atomic(tmp_path / "file", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("seeds", [1, 3])
def test_gain_estimate_is_the_same_for_any_chunk_size(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, distilled = simulated(np.random.default_rng(5), gain=0.1, seeds=seeds, images=50, std=0.1)
    one, other = ([scores_of(matrices) for matrices in some] for some in (plain, distilled))
    whole = compare(one, other, "", resamples=200)
    for draws, images in ((1, 7), (3 * 8 * 50, 50), (10 * 8 * 50 + 1, 1)):
        monkeypatch.setattr(significance, "MAX_RESAMPLES_BYTES", draws)
        monkeypatch.setattr(significance, "MAX_IMAGES_AT_ONCE", images)
        assert compare(one, other, "", resamples=200) == whole


@LINUX
def test_gain_estimate_over_many_images_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, distilled = simulated(np.random.default_rng(5), gain=0.1, seeds=1, images=10_000)
    one, other = ([scores_of(matrices) for matrices in some] for some in (plain, distilled))
    assert growth(lambda: compare(one, other, "", resamples=1000)) < 110 * MB  # all draws at once are 160


# Validation


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_prediction_is_the_same_for_any_chunk_size(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(3, 19, 20, 31, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with equals
    logits[1, 5, 4:8], logits[1, 9, 6:9] = float("nan"), float("nan")
    logits = logits.contiguous(memory_format=layout)
    for size, at_once in (((203, 150), 203 * 150), ((50, 62), 50 * 62), ((203, 150), 4000), ((20, 31), 9)):
        whole = predict_labels(lambda image: image, logits, size, at_once)
        for classes in (1, 2, 3, 4, 7, 18):
            with monkeypatch.context() as patch:
                patch.setattr(evaluating, "MAX_LOGITS_BYTES", classes * 4 * min(at_once, size[0] * size[1]))
                parts = [predict_labels(lambda image: image, one[None], size, at_once) for one in logits]
            assert torch.equal(torch.cat(parts), whole)


@LINUX
def test_predicting_many_classes_takes_the_memory_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, size = torch.randn(2, 150, 32, 32), (1024, 1024)  # 600 MB for each of the two
    monkeypatch.setattr(evaluating, "MAX_LOGITS_BYTES", 64 * MB)
    assert growth(lambda: predict_labels(lambda image: image, logits, size)) < 150 * MB


@pytest.mark.parametrize("size", [None, (24, 32)])
def test_evaluation_batches_respect_the_pixel_limit(size: tuple[int, int] | None) -> None:
    split = Scenes(7, 24, 32)
    for most, expected in ((None, [4, 3]), (10**9, [4, 3]), (2 * 24 * 32, [2, 2, 2, 1]), (1, [1] * 7)):
        batches = list(evaluation_batches(split, size, batch_size=4, max_pixels=most))
        assert [len(batch.names) for batch in batches] in (expected, [2, 2, 2, 1])
        assert max(len(batch.names) for batch in batches) == max(expected)
        assert [name for batch in batches for name in batch.names] == list(split.names)


def test_validation_batch_size_does_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    job = a_job(configuration(terms={}))
    counts: list[int] = []
    job.network.register_forward_hook(lambda _, inputs, output: counts.append(len(inputs[0])))

    def scored(batch: int) -> Any:
        counts.clear()
        place = Runtime(torch.device("cpu"), CPU, 0, NullReporter(), batch)
        return score(job.network, job.info, source(6, 7), runtime=place, precision=CPU)

    whole = scored(7)
    assert counts == [7]
    monkeypatch.setattr(evaluating, "MAX_LOGITS_BYTES", 2 * 48 * 64 * len(CLASSES) * 4)
    for batch, expected in ((4, [2, 2, 2, 1]), (1, [1] * 7)):
        found = scored(batch)
        assert torch.equal(found.pixels, whole.pixels)
        assert all(map(torch.equal, found.per_image, whole.per_image))
        assert counts == expected
    assert (found.miou, found.pixel_accuracy) == (whole.miou, whole.pixel_accuracy)


SIZE = (512, 1024)
MANY = 8


def large(eval_batch: int, path: Path) -> None:
    """Train, and validate on many large images."""
    config = configuration(**{"terms": {}, "checkpoint.every": 4, "validate.every": 6})
    job = a_job(config, data=source(6, MANY))
    job = replace(job, info=job.info.model_copy(update={"size": SIZE}))
    resume = path.exists()
    if resume:
        (path / "config.toml").touch()
    place = Runtime(torch.device("cpu"), CPU, 0, NullReporter(), eval_batch)
    with open_run(path, resume=resume, overwrite=False) as folder:
        train(job, folder, place, resume=resume, command="segdistill again")


@pytest.mark.promise("R4", "C4")
@LINUX
def test_validation_out_of_memory_resumes_with_fewer_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large(MANY, tmp_path / "whole")

    def scarce(*words: Any, **options: Any) -> Any:
        with less_memory(40 * MB):  # their pixels alone, in float32, are 50
            return evaluate(*words, **options)

    monkeypatch.setattr(scoring, "evaluate", scarce)
    for _ in range(2):  # trying the same again ends alike
        with pytest.raises(ResourceError, match="Out of memory in the validation of pspnet-resnet18-half") as error:
            large(MANY, tmp_path / "cut")
        assert "segdistill resume RUN --set validate.batch_size=1" in error.value.fix
        state = load_state(tmp_path / "cut/checkpoints/last")
        assert (state["training"]["step"], state["unvalidated"]) == (6, True)
    large(1, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.promise("R4")
@LINUX
@pytest.mark.parametrize(  # the banner's validation has too little, or that of a step
    "before", [pytest.param(0, marks=pytest.mark.slow), 1]
)
def test_suggested_resume_command_works(before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_teacher = "train-teacher --preset skd --teacher pspnet18-half --data streets --set data.size=[32,48] "
    train_teacher += "--set data.crop=[32,48] --set data.batch_size=2 --set validate.every=2 --steps 3 --out run"
    calls: list[int] = []

    def scarce(*words: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) <= before:
            return evaluate(*words, **options)
        raise RuntimeError("could not create a primitive")

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", scarce)
        said = segdistill(f"{train_teacher} --workers 0")
    assert said.code == 1
    assert "Out of memory in the validation of pspnet-resnet18-half. RuntimeError: could not create" in said.err
    assert "Traceback" not in said.err
    advice = "--set validate.batch_size=1 --workers 0"
    assert f"`segdistill resume RUN {advice}` goes on" in " ".join(said.err.split())
    refused(f"{train_teacher} --resume --set data.batch_size=4", "these settings differ", "data.batch_size: 2 -> 4")
    succeeds(f"resume run {advice}")
    assert "batch_size = 1" not in Path("run/config.toml").read_text()
    succeeds(f"{train_teacher} --resume")  # which is finished, whatever was said of its validation


@pytest.mark.promise("R4")
@LINUX
@pytest.mark.slow  # a whole run in a process of its own, whose memory is counted
def test_the_estimate_is_what_a_run_takes_with_its_validation(tmp_path: Path) -> None:
    write_camvid(tmp_path / "camvid", val=4)
    words = "train-teacher --preset skd --teacher pspnet18-half --data camvid:camvid --steps 2 --workers 0 --out run"
    settings = "--set data.size=[768,768] --set data.crop=[32,48] --set data.batch_size=2 --precision fp32 --device cpu"
    log = tmp_path / "said"
    with log.open("w") as file:
        run = subprocess.Popen(
            [sys.executable, "-m", "segdistill", *words.split(), *settings.split()],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        )
        _, code, usage = os.wait4(run.pid, 0)
        run.returncode = code  # it was waited for
    assert code == 0, log.read_text()
    estimate = re.search(r"; ([\d.]+) GiB of memory", log.read_text())
    assert estimate is not None, log.read_text()
    taken = usage.ru_maxrss / 2**20  # kB
    assert 0.85 * taken - 0.05 < float(estimate[1]) < 1.1 * taken + 0.05


def test_a_dry_run_tries_the_validation_of_teacher_and_student(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def watched(predict: Any, batches: Any, *words: Any, **options: Any) -> Any:
        taken = list(batches)
        shapes.extend(tuple(batch.image.shape) for batch in taken)
        return evaluate(predict, taken, *words, **options)

    monkeypatch.setattr(scoring, "evaluate", watched)
    succeeds(f"{DISTILL} --dry-run")
    assert shapes == [(4, 3, 32, 48)] * 2
    shapes.clear()
    succeeds(f"{DISTILL} --dry-run --set validate.batch_size=3")
    assert shapes == [(3, 3, 32, 48)] * 2
