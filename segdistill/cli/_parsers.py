"""How the texts of options and arguments are read: paths, sizes, numbers per channel."""

import os
from pathlib import Path
from typing import Literal

from segdistill.errors import UsageError
from segdistill.storage.files import check_utf8

Size = tuple[int, int]
Triple = tuple[float, float, float]


def with_home(text: str) -> str:
    """Return a text with the home folder for a ~ at its beginning: in --out=~/run no shell puts it there."""
    return os.path.expanduser(text)


def typed_path(text: str | Path) -> Path:
    """Return a path as it was typed. Every option and argument that is one is read by this or the next function."""
    return Path(with_home(str(text)))


def named_path(text: str | Path) -> Path:
    """Return a path whose name is handed to safetensors, or written into a file.

    Raises:
        UsageError: if it is not UTF-8.
    """
    path = typed_path(text)
    check_utf8(path)
    return path


def typed_teacher(text: str) -> str:
    """Return a teacher as it was typed: a network, a path, or SCHEME:WHERE, where WHERE may have a path after a colon.

    Raises:
        UsageError: if it is not UTF-8.
    """
    # A file may have a colon in its name.
    teacher = text if Path(text).exists() else ":".join(with_home(part) for part in text.split(":"))
    check_utf8(Path(teacher))
    return teacher


def parse_size(text: str) -> Size:
    """Return (height, width) from "HxW".

    Raises:
        UsageError: if it is anything else.
    """
    height, _, width = text.lower().partition("x")
    # isdecimal() refuses signs and fractions, and an empty part.
    if not (height.isdecimal() and width.isdecimal()) or 0 in (int(height), int(width)):
        raise UsageError(f"{text!r} is not a size.", "Write height x width, for example 512x1024.")
    return int(height), int(width)


def parse_batch_size(text: str | int) -> int | Literal["auto"]:
    """Return a number of images, or "auto".

    Raises:
        UsageError: if it is anything else.
    """
    word = str(text).strip().lower()
    if word == "auto":
        return "auto"
    if not word.isdecimal() or int(word) == 0:
        raise UsageError(
            f"--batch-size {text}: expected a whole number of at least 1, or auto.", "For example --batch-size 8"
        )
    return int(word)


def parse_optional_size(text: str | None) -> Size | None:
    """Return (height, width) from "HxW"; None for None."""
    return None if text is None else parse_size(text)


def parse_factors(text: str | None, flag: str) -> tuple[float, ...]:
    """Return the numbers of "A,B"; (1.0,) for None.

    Raises:
        UsageError: if it is anything else, naming the flag.
    """
    if text is None:
        return (1.0,)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {text}: expected numbers with commas between them.", f"For example {flag} 1,1.5"
        ) from None


def parse_channels(text: str | None, flag: str) -> Triple | None:
    """Return the three numbers of "A,B,C"; None for None.

    Raises:
        UsageError: if it is anything else, naming the flag.
    """
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text}: expected three numbers.", f"For example {flag} 72.39,82.91,73.16") from None
    return first, second, third
