"""Files are read as files, whatever lies in their place."""

import os
from pathlib import Path

import pytest

from segdistill.storage.files import open_file, read_file


def test_file_and_link_to_a_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "file") == read_file(tmp_path / "link", max_bytes=3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_file(tmp_path / "file", max_bytes=2)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "gone")


@pytest.mark.promise("S5")
def test_endless_special_files_are_refused_and_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    before = len(os.listdir("/dev/fd"))
    for name, said in (("pipe", "no regular file"), ("zeros", "no regular file"), (".", "Is a directory")):
        with pytest.raises(OSError, match=said) as caught:
            open_file(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert len(os.listdir("/dev/fd")) == before
