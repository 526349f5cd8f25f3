"""The progress of a training on a real pseudo-terminal, as its reader sees it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

PROGRAM = """
import sys
import time
from segdistill.cli.console import Terminal

title, total, losses = sys.argv[1:]
with Terminal().progress(title, int(total), 2) as advance:
    for step in range(3, 18):
        if step % 10 == 0:
            advance(0, losses)
        advance(1, "")
        time.sleep(0.02)
    time.sleep(0.3)
"""
TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")
LOSSES = "loss 12.345 (cross_entropy 1.234  aux 0.567  pixel 2.345  pairwise 0.012  [holistic] 0.123  critic -10.987)"


def screens(output: str) -> list[list[str]]:
    """Return what stood on the screen each time before a line was erased: a terminal as far as rich makes use of it."""
    lines, row, found = [""], 0, []
    for token in TOKEN.finditer(output):
        count, command = token[1], token[2]
        if command == "K":
            found.append([*lines])
            lines[row] = ""
        elif command == "A":
            row = max(0, row - int(count or 1))
        elif token[0] == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token[0] != "\r" and not token[0].startswith("\x1b"):
            lines[row] += token[0]
    return found


def shown_on_terminal(columns: int, *words: str) -> list[str]:
    """Return the program's last whole frame on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-c", PROGRAM, *words]
    content = b""
    env["TERM"] = "xterm-256color"
    with subprocess.Popen(command, env=env, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        try:
            while chunk := os.read(leader, 65536):
                content += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        assert process.wait(timeout=60) == 0, content.decode()
    os.close(leader)
    frames = [[line for line in screen if line.strip()] for screen in screens(content.decode())]
    return max(reversed(frames), key=len)  # those that come after it are erased line by line


@pytest.mark.parametrize(
    ("title", "total"), [("student pspnet-resnet18-half", 1150), ("student deeplabv3plus-resnet18-half", 40000)]
)
def test_progress_shows_losses_uncut_at_80_columns(title: str, total: int) -> None:
    screen = shown_on_terminal(80, title, str(total), LOSSES)
    first, *below = screen
    assert first.startswith(title)
    assert f"17/{total} " in first
    assert re.search(r"\d:\d\d:\d\d left (\d|-):(\d\d|--):(\d\d|--)", first)
    assert "…" not in "".join(screen)
    assert max(map(len, screen)) <= 80
    assert " ".join(" ".join(below).split()) == " ".join(LOSSES.split())
