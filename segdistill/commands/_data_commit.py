"""The git commit of a data set's folder: who keeps labels under version control finds the ones that a run has read.

Git itself is not called: what a repository's own configuration names would run as a program.
"""

import re
from pathlib import Path

from segdistill.commands._context import RunContext
from segdistill.data.source_files import files_of

MAX_BYTES = 1 << 24
"""Bytes of a file of git's that is read: an index has some hundred for each file that it names."""
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A commit's digest, SHA-1 or SHA-256."""


def data_commit(context: RunContext) -> str | None:
    """Return the commit that is checked out where the data lies; None where no repository has a file of that folder."""
    folder = _folder(context)
    if folder is None:
        return None
    for parent in (folder, *folder.parents):
        git = _git_folder(parent / ".git")
        if git is not None:
            return _commit(git) if _tracks(git, folder.relative_to(parent)) else None
    return None


def _tracks(git: Path, folder: Path) -> bool:
    """Whether a repository's index names a file of a folder, a path relative to what is checked out."""
    index = git / "index"
    try:
        content = index.read_bytes() if index.stat().st_size <= MAX_BYTES else b""
    except OSError:
        return False
    # Paths stand in it as they are; one that ends like the folder's could be taken for it.
    return folder == Path() or f"{folder.as_posix()}/".encode() in content


def _git_folder(path: Path) -> Path | None:
    """Return the folder that a .git is, or names: of a worktree or a submodule it is a file."""
    if path.is_dir():
        return path
    named = re.fullmatch(r"gitdir: (.+)", _text(path))
    return None if named is None else path.parent / named[1]


def _commit(git: Path) -> str | None:
    """Return the commit of a repository's HEAD; None of one without commits."""
    head = _text(git / "HEAD")
    if COMMIT.fullmatch(head):
        return head
    reference = re.fullmatch(r"ref: (refs/[^\0]+)", head)
    if reference is None or ".." in Path(reference[1]).parts:
        return None
    common = git / (_text(git / "commondir") or ".")  # a worktree shares the references of its repository
    for folder in (git, common):
        loose = _text(folder / reference[1])
        if COMMIT.fullmatch(loose):
            return loose
    packed = re.search(rf"^([0-9a-f]+) {re.escape(reference[1])}$", _text(common / "packed-refs"), flags=re.MULTILINE)
    return packed[1] if packed and COMMIT.fullmatch(packed[1]) else None


def _text(path: Path) -> str:
    """Return a file's text without blanks around it; an empty one where it cannot be read, or is larger than git's."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _folder(context: RunContext) -> Path | None:
    """Return the folder of a data set; None of one that is rendered."""
    spec = context.config.data.name
    if spec.endswith(".toml"):
        return Path(spec).resolve().parent
    root = next((root for root, _ in files_of(context.data)), None)
    return None if root is None else root.resolve()
