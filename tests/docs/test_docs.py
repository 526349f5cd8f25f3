"""The pages of docs/ are true: commands and keys exist, blocks of code run, links lead somewhere, figures are measured.

SEGDISTILL_TEST_ONNXRUNTIME names a folder with include/ and lib/ of onnxruntime, for the snippet in C++.
"""

import json
import os
import re
import shlex
import shutil
import statistics
import sys
import tomllib
from collections.abc import Iterator
from doctest import DocTestParser
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from _reference import pages
from _reference.keys import attribute_docstrings
from _reference.markdown import slug
from PIL import Image
from reference import stale

from helpers.commands import process, segdistill, write_camvid, write_pairs
from helpers.documents import (
    GENERATED,
    GUIDES,
    HOW_TO,
    PAGES,
    README,
    ROOT,
    SMALLER,
    blocks,
    headings,
    inline_code,
    links,
    prose,
    shown,
    snippet,
)
from helpers.layers import LAYERS
from helpers.tiny import CLASSES, model_info, tiny
from segdistill import cli
from segdistill.config.presets import load_preset, preset_folder, read_class_map
from segdistill.config.schema import NetworkConfig
from segdistill.data import load_data
from segdistill.deployment.onnx import export_onnx
from segdistill.networks import build_network
from segdistill.teachers.external import load_external, parse_external
from segdistill.terms import check_terms
from segdistill.types import IGNORE

DOCS = ROOT / "docs"
WRITTEN = [README, *PAGES]
VOID = 2
"""The last output of the tiny network, which here is no class."""
FOREIGN_FLAGS = {"--signal", "--nproc-per-node"}
"""Flags of other programs that the pages name."""
TRAINS = ("train-teacher", "distill")


# Commands


@cache
def commands() -> dict[str, Any]:
    """Return every command by the words that call it."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]  # it is a group
        inner = getattr(command, "commands", None) or {}
        found |= {f"{name} {word}": leaf for word, leaf in inner.items()} or {name: command}
    return found


def called(words: list[str]) -> tuple[str, list[str]]:
    """Return the command that the words behind `segdistill` call, and what is given to it."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in commands():
            return name, words[length:]
    raise AssertionError(f"segdistill {' '.join(words)}: there is no such command")


def flags(name: str) -> set[str]:
    """Return the options of a command."""
    return {flag for one in commands()[name].params for flag in (*one.opts, *one.secondary_opts)} | {"--help"}


def of_ours(page: Path) -> Iterator[list[str]]:
    """Yield what stands behind `segdistill` in the commands of a page; a shell's variables have a number."""
    for line in shown(page):
        words = shlex.split(re.sub(r"\$\w+", "0.01", line), comments=True)
        if "segdistill" in words:
            yield words[words.index("segdistill") + 1 :]


@pytest.mark.parametrize("page", [*WRITTEN, *HOW_TO, *GUIDES, *GENERATED], ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for words in of_ours(page):
        name, given = called(words)
        assert commands()[name].make_context(name, given).params is not None


@pytest.mark.parametrize("page", [*WRITTEN, *HOW_TO, *GUIDES], ids=lambda page: page.name)
def test_flags_that_the_text_names_exist(page: Path) -> None:
    known = {flag for name in commands() for flag in flags(name)} | FOREIGN_FLAGS | {"--version", "--debug"}
    for code in inline_code(page):
        named = {word.partition("=")[0] for word in code.split() if re.match(r"--?[a-z]", word)}
        if code.startswith("segdistill ") and not code.split()[1].startswith("-"):
            name, given = called(code.split()[1:])
            assert {word.partition("=")[0] for word in given if word.startswith("--")} <= flags(name), code
        elif code.split()[0] in commands():
            assert named <= flags(code.split()[0]), code
        elif code.startswith("--"):
            assert named <= known, code


def test_trainings_that_are_shown_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (words for page in WRITTEN for words in of_ours(page)):
        if words[:2] == ["presets", "copy"]:
            segdistill("", *words, "--overwrite")
        elif words[0] in TRAINS:
            result = segdistill("", *words, "--print-config")
            assert result.code == 0, f"{words}\n{result.err}"


@pytest.mark.slow
def test_commands_run_as_they_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_camvid(tmp_path / "PATH/TO/CamVid")
    write_pairs(tmp_path / "PATH/TO/photos")
    write_yard(tmp_path)
    torch.manual_seed(0)
    espnet = build_network(NetworkConfig(network="espnet"), 12)  # as its authors' checkpoint is made
    torch.save(espnet.state_dict(), "espnet_p_2_q_8_camvid.pth")
    done = list[list[str]]()
    for page in WRITTEN:
        for words in of_ours(page):
            if words not in done:
                result = segdistill("", *smaller(words))
                assert result.code == 0, f"{page.name}: {shlex.join(words)}\n{result.err}"
                done.append(words)
    watched = run_snippet("runs.md", "watch.py", "runs/camvid-student")
    assert re.fullmatch(r"student step 2: mIoU \d+\.\d\d %\n", watched)
    compared = run_snippet("comparing.md", "compare.py", "runs/camvid-student", "runs/camvid-three-seeds")
    assert compared.count("distilled") == 1 + 3


def run_snippet(page: str, name: str, *arguments: str) -> str:
    """Write a page's program into the working folder and run it; return what it prints."""
    Path(name).write_text(snippet(DOCS / page, name), encoding="utf-8")
    ran = process(sys.executable, name, *arguments)
    assert ran.code == 0, ran.err
    return ran.out


def smaller(words: list[str]) -> list[str]:
    """Return a command that does the same in seconds, and without the network."""
    words = [word for word in words if word != "--pretrained"]
    if words[0] in TRAINS:
        words += shlex.split(SMALLER)
    if "photos.toml" in words and words[0] in TRAINS:
        words.append("--accept-teacher")  # of two steps, on noise
    if "--max-ms" in words:
        words += ["--max-ms", "1000000"]
    if "--min-fps" in words:
        words += ["--min-fps", "0.001"]
    return [words[0], "espnet-c-q3", *words[1:]] if words[0] == "networks" and "--max-ms" in words else words


# Blocks of code


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_python_compiles_and_toml_parses(page: Path) -> None:
    for block in blocks(page, "python"):
        examples = DocTestParser().get_examples(block)
        compile("".join(example.source for example in examples) if examples else block, page.name, "exec")
    for block in blocks(page, "toml"):
        tomllib.loads(block)


def test_preset_example_is_a_valid_preset(tmp_path: Path) -> None:
    (mix,) = blocks(DOCS / "presets.md", "toml")
    preset = (preset_folder() / "canonical.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(
        re.sub(r"^\[terms\..*?(?=^\[(?!terms)|\Z)", mix + "\n", preset, flags=re.M | re.S)
    )
    config = load_preset(tmp_path / "mine.toml")
    check_terms(config.terms)
    assert list(config.terms) == ["pixel", "pairwise", "channel-features"]


def test_class_map_example_is_valid(tmp_path: Path) -> None:
    (classes,) = blocks(DOCS / "teachers.md", "toml")
    (tmp_path / "map.toml").write_text(classes)
    expected = {"car": "vehicle", "truck": "vehicle", "12": "road", "sea": "ignore"}
    assert read_class_map(tmp_path / "map.toml") == expected


def test_data_file_example_is_valid(tmp_path: Path) -> None:
    write_yard(tmp_path)
    label = load_data(str(tmp_path / "data.toml")).split("val").read(0).label
    assert label[:, :4].tolist() == [[0, 1, 1, 2], [IGNORE, 0, 0, 0]] * 16


def write_yard(folder: Path) -> None:
    """Write the data file of docs/data.md, and images with each of its ids."""
    ids = np.tile(np.array([[10, 20, 21, 30], [255, 10, 10, 10]], np.uint8), (16, 12))
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(4):
            noise = np.random.default_rng([index, split == "val"]).integers(0, 256, (*ids.shape, 3), np.uint8)
            Image.fromarray(noise).save(folder / split / "images" / f"{index}.png")
            Image.fromarray(ids).save(folder / split / "labels" / f"{index}.png")
    (folder / "data.toml").write_text(snippet(DOCS / "data.md", "data.toml"), encoding="utf-8")


def test_python_teacher_example_is_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_teacher.py").write_text(snippet(DOCS / "teachers.md", "my_teacher.py"))
    spec = parse_external("py:my_teacher:build")
    assert spec is not None
    teacher, _ = load_external(spec, None, torch.device("cpu"))
    assert teacher.info.classes == ("ground", "wall", "plant")


# The exported file


@pytest.fixture(scope="module", params=[None, (40, 56)], ids=["any size", "one size"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a network with a void output; return the folder of model.onnx and two images, in PNG and in PPM."""
    folder = tmp_path_factory.mktemp("target")
    network, info = tiny(0), model_info("any", CLASSES[:VOID], size=request.param, void_output=VOID)
    network.void_output = VOID
    export_onnx(network.eval(), info, folder / "model.onnx")
    for index, (height, width) in enumerate(((48, 64), request.param or (33, 50))):
        noise = np.random.default_rng(index).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        for suffix in ("png", "ppm"):
            image.save(folder / f"{index}.{suffix}")
    return folder


def test_python_example_gives_the_label_maps_of_infer(graph: Path) -> None:
    (graph / "label.py").write_text(snippet(DOCS / "deployment.md", "label.py"), encoding="utf-8")
    ran = process(sys.executable, "label.py", "0.png", "1.png", cwd=graph, ORT_DISABLE_TELEMETRY="1")
    assert ran.code == 0, ran.err
    inferred = segdistill("infer", graph / "model.onnx", graph, "--out", graph / "labels")
    assert inferred.code == 0, inferred.err
    for name in ("0.png", "1.png"):
        ours, theirs = (np.array(Image.open(path)) for path in (graph / f"{name}.labels.png", graph / "labels" / name))
        assert ours.shape == theirs.shape
        assert np.unique(ours).size > 1
        assert (ours == theirs).mean() > 0.999  # OpenCV and PyTorch round otherwise where they enlarge logits


def test_python_example_measures_the_target_latency(graph: Path) -> None:
    (graph / "measure.py").write_text(snippet(DOCS / "deployment.md", "measure.py"), encoding="utf-8")
    ran = process(sys.executable, "measure.py", "48x64", cwd=graph, ORT_DISABLE_TELEMETRY="1")
    assert ran.code == 0, ran.err
    number = r"(\d+\.\d+)"
    found = re.fullmatch(
        rf"CPUExecutionProvider at 48x64: first {number} ms, p50 {number}, p90 {number}, p99 {number}\n", ran.out
    )
    assert found
    assert 0 < float(found[2]) <= float(found[3]) <= float(found[4])


def test_cpp_example_gives_the_label_maps_of_python(graph: Path) -> None:
    runtime = os.environ.get("SEGDISTILL_TEST_ONNXRUNTIME")
    compiler = shutil.which("g++")
    if not runtime or not compiler:
        pytest.skip("needs g++ and onnxruntime's headers and library in SEGDISTILL_TEST_ONNXRUNTIME")
    (graph / "label.cpp").write_text(snippet(DOCS / "deployment.md", "label.cpp"), encoding="utf-8")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    include, library = f"-I{runtime}/include", f"-L{runtime}/lib"
    compiled = process(
        *(compiler, "-std=c++17", *warnings, "label.cpp", "-o", "label", include, library, "-lonnxruntime"), cwd=graph
    )
    assert compiled.code == 0, compiled.err
    ran = process("./label", "1.ppm", "1.pgm", cwd=graph, LD_LIBRARY_PATH=f"{runtime}/lib", ORT_DISABLE_TELEMETRY="1")
    assert ran.code == 0, ran.err
    (graph / "label.py").write_text(snippet(DOCS / "deployment.md", "label.py"), encoding="utf-8")
    process(sys.executable, "label.py", "1.png", cwd=graph, ORT_DISABLE_TELEMETRY="1")
    ours, theirs = (np.array(Image.open(graph / name)) for name in ("1.pgm", "1.png.labels.png"))
    assert (np.where(ours == VOID, IGNORE, ours) == theirs).all()


# Links, the reference, the site


@pytest.mark.parametrize("page", [*WRITTEN, *HOW_TO, *GUIDES, *GENERATED], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in map(slug, headings(target)), link


def test_reference_pages_are_up_to_date() -> None:
    assert stale(pages()) == [], "run: python docs/reference.py"


def test_every_key_has_a_description() -> None:
    of_keys = [DOCS / f"reference/{name}.md" for name in ("configuration", "terms", "data-file")]
    rows = [line for page in of_keys for line in prose(page).splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []


def test_key_descriptions_are_attribute_docstrings() -> None:
    said = attribute_docstrings(NetworkConfig)
    assert said["dropout"] == "Probability of dropout before the classifier."


@pytest.mark.skipif(find_spec("material") is None, reason="needs mkdocs-material, the extra segdistill[docs]")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "\nstrict: true\n" in configuration
    built = process(
        *(sys.executable, "-m", "mkdocs", "build", "-f", ROOT / "mkdocs.yml", "-d", tmp_path / "site"),
        NO_MKDOCS_2_WARNING="1",
    )
    assert built.code == 0, built.err
    assert (tmp_path / "site/reference/configuration.html").is_file()
    assert not list((tmp_path / "site").rglob("*reference*.py*"))
    assert not (tmp_path / "site/_reference").exists()
    listed = re.findall(r"[\w/-]+\.md", configuration)
    assert [
        str(page) for page in (*PAGES, *HOW_TO, *GUIDES, *GENERATED) if str(page.relative_to(DOCS)) not in listed
    ] == []


# What is said of the code and of measurements


def test_architecture_page_names_every_layer_and_existing_files() -> None:
    page = DOCS / "architecture.md"
    parts = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", prose(page), flags=re.MULTILINE)
    assert tuple(parts) == LAYERS
    files = {code for code in inline_code(page) if re.fullmatch(r"[\w/]+/[\w/]*\.py", code)}
    assert len(files) > 10
    assert [file for file in files if not any((ROOT / up / file).is_file() for up in ("", "segdistill"))] == []


def test_preset_tables_match_the_measured_results() -> None:
    measured = json.loads((ROOT / "benchmarks/results/camvid-cpu.json").read_text(encoding="utf-8"))["rows"]
    for page in (README, DOCS / "results.md"):
        rows = {
            cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
            for line in page.read_text(encoding="utf-8").splitlines()
            if len(cells := line.strip("|").split("|")) in (6, 7) and line.startswith("| `")
        }
        assert rows.keys() == {row["preset"] for row in measured}
        for row in measured:
            gain = row["gain"]
            expected = [
                percent(row["plain"]),
                percent(row["distilled"]),
                f"{100 * gain['gain']:+.2f}",
                f"{100 * gain['low']:+.2f} to {100 * gain['high']:+.2f}",
            ]
            assert rows[row["preset"]][1:5] == expected, (page.name, row["preset"])


def percent(values: list[float]) -> str:
    """Return a figure, with how far several seeds lie apart."""
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"
