"""Files are the old or the new ones and never half of one."""

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from helpers.commands import process
from segdistill.errors import UsageError
from segdistill.storage.atomic import write_atomic, write_json


@pytest.mark.promise("C1")
def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomic(file, "old")
    write_atomic(file, b"\x00new")
    assert file.read_bytes() == b"\x00new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.promise("C1")
def test_file_is_synced_before_its_rename_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def renamed(old: str, new: Path) -> None:
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomic(tmp_path / "a", "x")
    assert calls == ["fsync file", "rename", "fsync folder"]


@pytest.mark.promise("C1")
def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    file, done = tmp_path / "a.bin", threading.Event()
    versions = [bytes([index]) * 200_000 for index in range(20)]
    write_atomic(file, versions[0])
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        write_atomic(file, version)
    done.set()
    reader.join()
    assert seen <= set(versions)


@pytest.mark.promise("C9")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_readable_by_whom_the_umask_says(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "a", "x")
        assert os.umask(mask) == mask, "the mask is as it was"
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@pytest.mark.promise("C2")
def test_file_beyond_its_quota_keeps_the_old_one_with_an_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("old")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from segdistill.errors import ResourceError\n"
        "from segdistill.storage.atomic import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_atomic(Path(sys.argv[1]), bytes(200_000))\n"
        "except ResourceError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    done = process(sys.executable, "-c", program, file)
    assert done.code == 1, done.err
    assert f"while writing {file}" in done.out
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == [file.name]


def test_unwritable_path_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / "a", tmp_path / "folder", tmp_path / "file" / "a"):
        with pytest.raises(UsageError, match="cannot be written"):
            write_atomic(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.promise("S7")
def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    write_atomic(link, "new")
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("x" * 255), "x")


def test_json_is_written_as_people_read_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Straße", "none": None})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "Straße",\n  "none": null\n}\n'
