"""Files that somebody damaged or made to do harm: every reader refuses them at once, in little memory."""

import io
import pickle
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.forked import ROUNDS
from helpers.fuzz import (
    INFO,
    NETWORK,
    OWN_DATA,
    READERS,
    append_digest,
    endless_graph,
    forged_graph,
    forged_model,
    forged_weights,
    starved,
)
from helpers.png_files import png
from segdistill.commands.export import teacher_to_measure
from segdistill.config.presets import preset_folder
from segdistill.config.schema import NetworkConfig
from segdistill.config.toml import MAX_PRESET_BYTES
from segdistill.data.datasets._matlab import read_matrix
from segdistill.runtime.reporter import NullReporter

NUMBERS = st.sampled_from([0, 1, 2, 8, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1])


class Spoken(NullReporter):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def as_bytes(number: int) -> bytes:
    return number.to_bytes(8, "little")


def as_digits(number: int) -> bytes:
    return str(number).encode()


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Return a good file with a few of its bytes changed, taken out, put in, or cut off."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        # what says how a file is to be read is at its beginning, in archives and PyTorch's files at the end
        start = draw(st.integers(0, min(len(content), 400)) | st.integers(-200, -1) | st.integers(0, len(content)))
        start %= len(content) + 1
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 4, 8, 40])))
        other = draw(st.sampled_from(seeds))
        pieces = st.binary(max_size=9) | NUMBERS.map(as_bytes) | NUMBERS.map(as_digits)
        content[start:end] = draw(pieces | st.just(other[end : end + 40]))
        if draw(st.integers(0, 9)) == 0:
            del content[start:]
    return bytes(content)


def search(kind: str, examples: int, folder: Path, *, derandomize: bool) -> None:
    """Damage good files of a kind, and try its reader."""
    reader = READERS[kind]
    seeds = reader.seeds()
    assert [reader.try_(seed, folder) for seed in seeds if kind != "data"] == [""] * len(seeds) * (kind != "data")

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=damaged(seeds), forged=st.booleans())
    def try_(content: bytes, forged: bool) -> None:
        reader.try_(append_digest(content) if kind == "graph" and forged else content, folder)

    try_()


@pytest.mark.promise("S3", "S4", "S9", "D9")
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_refused_quickly_in_little_memory(kind: str, tmp_path: Path) -> None:
    search(kind, 40, tmp_path, derandomize=True)


@pytest.mark.reliability
@pytest.mark.promise("S3", "S4", "S9", "D9")
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_refused_over_many_examples(kind: str, tmp_path: Path) -> None:
    search(kind, 20 * ROUNDS, tmp_path, derandomize=False)


# TOML: what is said in it is read as names and numbers, whatever it says


KEYS = st.sampled_from(
    [
        *("preset", "seed", "teacher", "student", "network", "data", "name", "crop", "optim", "lr", "steps", "terms"),
        *("pixel", "weight", "term", "on", "streets", "checkpoint", "every", "classes", "train", "images", "labels"),
        *(
            "ids",
            "colors",
            "palette",
            "ignore",
            "0",
            "128,64,128",
            "class_map",
            "recipes",
            "input",
            "mean",
            "",
            "a.b",
            "__class__",
        ),
    ]
)
VALUES = st.recursive(
    st.sampled_from(
        [
            *(
                0,
                -1,
                1,
                2**62,
                1e308,
                float("inf"),
                float("nan"),
                True,
                "",
                "ignore",
                "pspnet18",
                "streets",
                "camvid:.",
            ),
            *("../../x", "a\nb", "{image.__class__}", "x" * 300, "py:os:system", "128,64,128", "\x1b[2J", "é"),
        ]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.promise("S4")
@pytest.mark.parametrize("kind", ["preset", "data", "classes"])
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn=st.dictionaries(KEYS, VALUES, max_size=6), known=st.booleans())
def test_nonsense_tables_are_refused_with_a_message(
    kind: str, drawn: dict[str, Any], known: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = {"preset": (preset_folder() / "skd.toml").read_bytes(), "data": OWN_DATA, "classes": b"[classes]\n"}[kind]
    table = tomli_w.dumps(drawn).encode()
    content = b"\n".join([good, table] if known else [table])
    READERS[kind].try_(content, tmp_path_factory.mktemp("toml", numbered=True))


DEEP = {
    "a key of many parts": b"a." * 30_000 + b"a = 1\n",
    "a table of many parts": b"[" + b"a." * 30_000 + b"a]\n",
    "many parts in quotes": b'"\\"".' * 20_000 + b"a = 1\n",
    "parts and blanks": b"a . " * 30_000 + b"a = 1\n",
    "brackets": b"a = " + b"[" * 50_000 + b"]" * 50_000,
    "tables in a line": b"a = " + b"{a = " * 20_000 + b"1" + b"}" * 20_000,
    "digits": b"seed = " + b"1" * 5000 + b"\n",
    "hexadecimal digits": b"seed = 0x" + b"f" * 5000 + b"\n[data]\nname = 0x" + b"f" * 5000,
    "mistakes": b"".join(b"k%d = 1\n" % i for i in range(20_000)),
    "a long value": b"preset = '" + b"x" * 200_000 + b"'\n",
    "no text": b"\xff\xfe\x00",
    "zeros": bytes(1000),
}


@pytest.mark.promise("S5")
@pytest.mark.parametrize("kind", ["preset", "data", "classes"])
@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP.keys())
def test_expensive_toml_file_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    assert READERS[kind].try_(content, tmp_path)


@pytest.mark.promise("S5")
def test_a_toml_file_of_any_size_is_refused_without_being_read(tmp_path: Path) -> None:
    for kind in ("preset", "data", "classes"):
        path = tmp_path / f"{kind}.toml"
        path.touch()
        with path.open("r+b") as file:
            file.truncate(1 << 40)
        with pytest.raises(Exception, match="is larger than") as caught:
            READERS[kind].read(path)
        assert getattr(caught.value, "exit_code", 0) == 2
    assert 20 * max(path.stat().st_size for path in preset_folder().glob("*.toml")) <= MAX_PRESET_BYTES


# Model files, checkpoints, graphs: nothing in them is believed before it is looked at


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def many_tensors() -> bytes:
    entries = (f'"t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(100_000))
    return header("{" + ",".join(entries) + "}")


@pytest.mark.promise("S3")
@pytest.mark.parametrize(
    "content",
    [
        many_tensors(),
        struct.pack("<Q", 90_000_000) + b"{}",
        safetensors.torch.save({"a": torch.zeros(3).to(torch.float8_e4m3fn)}),
        safetensors.torch.save({"a": torch.zeros(3, dtype=torch.complex64)}),
    ],
    ids=["many tensors", "a long header", "numbers of 8 bits", "complex numbers"],
)
def test_file_of_unknown_tensors_is_refused(content: bytes, tmp_path: Path) -> None:
    for kind in ("model", "weights"):
        assert READERS[kind].try_(content, tmp_path)


@pytest.mark.promise("S3")
@pytest.mark.parametrize(
    "fields",
    [
        {"classes": [str(i) for i in range(200_000)]},
        {"network": {"network": "pspnet-resnet18", "head_width": 65536}},
        {"network": {"network": "pspnet-resnet101"}},
        {"void_output": 10**12},
        {"size": [10**9, 10**9]},
        {"size": [65536, 65536]},
        {"format": 10**30},
        {"classes": {"a": 1}},
    ],
    ids=["classes", "channels", "weights", "outputs", "pixels", "fewer pixels", "a later format", "a table"],
)
def test_header_asking_for_more_than_its_file_holds_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    assert READERS["model"].try_(forged_model(), tmp_path) == ""
    assert len(READERS["model"].try_(forged_model(**fields), tmp_path)) > 0


@pytest.mark.promise("S3")
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_model_that_is_not_finite_is_refused(number: float, tmp_path: Path) -> None:
    weights = safetensors.torch.load(forged_model())
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = number
    assert "1 tensor that is not finite, " + name in READERS["model"].try_(forged_weights(weights), tmp_path)
    graph = forged_graph(number)
    assert "NaN or infinity" in READERS["graph"].try_(graph, tmp_path)


@pytest.mark.promise("S9")
def test_endless_graph_is_refused_without_running(tmp_path: Path) -> None:
    model = endless_graph()
    assert "control flow (Loop)" in READERS["graph"].try_(append_digest(model.SerializeToString()), tmp_path)
    del model.metadata_props[:]
    assert "the operator Loop is not allowed, as it may never end" in READERS["teacher"].try_(
        model.SerializeToString(), tmp_path
    )


ENDLESS = """
import signal, sys
from pathlib import Path
import numpy as np, torch
from segdistill.deployment.session import open_session
from segdistill.runtime.signals import exit_on_signal, in_thread
path = Path(sys.argv[1])
with exit_on_signal():
    session = open_session(path.read_bytes(), path, torch.device("cpu"))
    print("begun", flush=True)
    in_thread(lambda: session.run(None, {"image": np.zeros((1, 3, 8, 8), np.float32)}))
"""


@pytest.mark.slow  # a process of its own, which imports everything
@pytest.mark.promise("S9")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_endless_graph_is_ended_by_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "endless.onnx"
    path.write_bytes(endless_graph().SerializeToString())
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    finally:
        process.kill()
        process.communicate()


@pytest.mark.promise("S3")
def test_oversized_teacher_is_not_built_for_measuring(tmp_path: Path) -> None:
    spoken = Spoken()
    teacher = NetworkConfig(network="pspnet-resnet101", head_width=65536)
    with starved(500):
        assert teacher_to_measure(tmp_path, INFO.model_copy(update={"teacher": teacher}), spoken) is None
    assert "it is not measured" in spoken.warnings[0]
    assert teacher_to_measure(tmp_path, INFO.model_copy(update={"teacher": NETWORK}), spoken) is not None


def packed(size: int) -> bytes:
    """Return a checkpoint that somebody packed: zeros, a thousandth of their size."""
    content, bomb = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(4)}, content)
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in whole.infolist():
            archive.writestr(entry.filename, bytes(size) if entry.filename.endswith("data/0") else whole.read(entry))
    return bomb.getvalue()


def pickled(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


DOUBLED = b"\x80\2)q\0" + b"h\0h\0\x86q\0" * 40 + b"}h\0Ns."
"""A table whose key takes 2^40 steps to hash."""


def instead(content: bytes, steps: bytes) -> bytes:
    """Return a checkpoint with another pickle."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(changed, "w") as archive:
        for entry in whole.infolist():
            archive.writestr(entry.filename, steps if entry.filename.endswith(".pkl") else whole.read(entry))
    return changed.getvalue()


@pytest.mark.promise("S1", "S3")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed(300_000_000), "packed records"),
        (pickled({"a": torch.zeros(1).expand(1 << 40)}), "more numbers in tensors"),
        (pickled({"a": torch.eye(3).to_sparse()}), "no plain numbers"),
        (pickled({"a": torch.zeros(3, device="meta")}), "no plain numbers"),
        (pickled({"a": [1] * 10}), "no state dict|not a state dict"),
        (pickle.dumps({"a": 1}), "cannot be read as tensors|not a state dict"),
        (instead(pickled({}), DOUBLED), "neither a name nor a number"),
        (b"\x80\x02" + b"(" * 100_000, "cannot be read as tensors"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60), "cannot be read as tensors"),
    ],
    ids=[
        "packed",
        "repeated",
        "sparse",
        "without numbers",
        "lists",
        "no tensors",
        "a key of ages",
        "nesting",
        "a length",
    ],
)
def test_a_checkpoint_of_anything_but_numbers_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    said = READERS["checkpoint"].try_(content, tmp_path)
    assert any(word in said for word in words.split("|")), said


# Images and label maps


def text_bomb() -> bytes:
    return png(2, 2, *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))] * 3)


def lying_chunk() -> bytes:
    return png(2, 2).replace(b"\0\0\0\0IEND", b"\x7f\xff\xff\xffIDAT")


@pytest.mark.promise("D8")
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("image", lambda: png(14_000, 14_000)),
        ("image", lambda: png(2**31 - 1, 2**31 - 1)),
        ("label", lambda: png(30_000, 30_000)),
        ("image", text_bomb),
        ("image", lying_chunk),
    ],
    ids=["196 megapixels", "exapixels", "a label map", "texts", "a chunk's length"],
)
def test_image_files_that_would_fill_memory_are_refused(
    kind: str, content: Callable[[], bytes], tmp_path: Path
) -> None:
    assert READERS[kind].try_(content(), tmp_path)


@pytest.mark.promise("D8")
def test_matlab_file_is_unpacked_up_to_its_limit_only() -> None:
    data = zlib.compress(struct.pack("<II", 14, 0) + bytes(1_000_000))
    content = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data
    with pytest.raises(ValueError, match="more than 100000 bytes come out of it"):
        read_matrix(content, "S", 100_000)


@pytest.mark.promise("D9")
def test_only_the_parsers_of_five_formats_see_a_file(tmp_path: Path) -> None:
    calls = set()

    def note(frame: Any, event: str, argument: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("PIL.") and name.endswith("ImagePlugin"):
            calls.add(name)

    Image.init()
    for start in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1",
        b"SIMPLE  =",
        b"%PDF-1.4",
        b"GIF89a",
        b"\0\0\0\x0cjP  \r\n",
    ):
        sys.setprofile(note)
        try:
            said = READERS["image"].try_(start + bytes(200), tmp_path)
        finally:
            sys.setprofile(None)
        assert "is no image" in said
    known = {f"PIL.{name}ImagePlugin" for name in ("Jpeg", "Png", "Bmp", "Tiff", "WebP")}
    assert calls <= known
