"""The manifest lists every file of a finished run, and finds what has changed."""

import json
from pathlib import Path

import pytest

from helpers.run_folders import run_in
from segdistill.errors import ModelError
from segdistill.storage.files import sha256_of
from segdistill.storage.manifest import add_to_manifest, verify_file, write_manifest
from segdistill.storage.run_files import RUN_FILES


@pytest.mark.promise("C3")
def test_manifest_lists_every_file_and_finds_a_flipped_bit(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    write_manifest(run)
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["files"]) == set(RUN_FILES) - {"manifest.json", "local.json"}
    assert manifest["files"]["config.toml"] == {"bytes": 14, "sha256": sha256_of(run / "config.toml")}
    verify_file(run, "config.toml")
    before = sha256_of(run / "config.toml")
    (run / "config.toml").write_text("of config.tomm")
    with pytest.raises(ModelError) as caught:
        verify_file(run, "config.toml")
    for part in (str(run / "config.toml"), before, sha256_of(run / "config.toml")):
        assert part in caught.value.what
    assert caught.value.exit_code == 5


@pytest.mark.promise("C3")
def test_file_outside_the_manifest_is_refused(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    write_manifest(run)
    verify_file(run, "model.safetensors")
    (run / "model.safetensors").write_text("from elsewhere")
    with pytest.raises(ModelError, match=r"model\.safetensors is not listed in .*manifest\.json"):
        verify_file(run, "model.safetensors")


@pytest.mark.promise("C3")
def test_adding_to_a_finished_run_keeps_other_digests(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml", "metrics.jsonl")
    write_manifest(run)
    (run / "config.toml").write_text("damaged")
    (run / "model.onnx").write_text("new")
    add_to_manifest(run, "model.onnx")
    verify_file(run, "model.onnx")
    verify_file(run, "metrics.jsonl")
    with pytest.raises(ModelError, match=r"config\.toml is damaged"):
        verify_file(run, "config.toml")


def test_without_a_manifest_there_is_nothing_to_compare(tmp_path: Path) -> None:
    verify_file(run_in(tmp_path / "run", "config.toml"), "config.toml")


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"config.toml": 3}}', "{}"])
def test_a_damaged_manifest_is_told(content: str, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "config.toml")
    (run / "manifest.json").write_text(content)
    with pytest.raises(ModelError, match=r"manifest\.json is damaged"):
        verify_file(run, "config.toml")
