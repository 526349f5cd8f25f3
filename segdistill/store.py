"""A run's folder: one way to write a file, one lock, one manifest, one way to replace a run by another.

Its files are `OWN_FILES` and what terms have `PREPARED`; baseline/ and seed-N/ in it are folders of the same kind.

A run that replaces another (`--overwrite`) is written to .next/ in that one's folder, so that the other stays as it is
until the new one has something to lose: its own first checkpoint, behind all checks. Then the new run is promoted, in
three steps between which a kill may come:

    .next/        -> .next-ready/    from here on the old run is given up: its files are deleted
    .next-ready/  -> .next-moving/   from here on none of its files is left: those of the new run are moved up
    .next-moving/ -> gone            the folder is an ordinary run's

Each arrow is one rename or the last deletion, and what comes between can be done again. `recover` finishes a promotion
that was cut short, and deletes a .next/ that came to nothing; `--resume` promotes one that has a checkpoint, be it of
what is trained before the student. The folder's lock is held throughout; .next/.lock says by whom, as the old run's own
.lock is not touched before its end. Whatever else lies in the folder stays where it is.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from segdistill.errors import BusyError, CheckError, ModelError, ResourceError, UsageError
from segdistill.reading import check_utf8, open_file, read_file

OWN_FILES = (
    *(
        "config.toml",
        "environment.json",
        "data.json",
        "teacher.json",
        "train.log",
        "metrics.jsonl",
        "manifest.json",
        "README.md",
    ),
    *(
        "model.safetensors",
        "model.onnx",
        "scores.json",
        "gain.json",
        "curves.png",
        "picture.png",
    ),
    *("checkpoints/last", "checkpoints/last.prev", "checkpoints/best"),
)
"""What a run writes, and so all that `--overwrite` may delete."""
PREPARED = re.compile(r"autoencoder(-of-map-\d+)?(-\d+)?\.safetensors")
"""So does it, for terms that have something trained beforehand and name it."""
MARK = b"segdistill "
"""What the lock of a run's folder begins with, before the process's number: other programs have a .lock too."""
NAME = 60
"""Letters of a file's name in that of the temporary file that is written first."""
STALE = 10.0
"""Seconds after which a temporary file is nobody's any more: it takes a moment to write one."""
LEASE = ".lock.held"
"""Who holds a folder where the file system has no locks: a file that one process alone can create."""
HEARTBEAT, EXPIRED = 10.0, 180.0
"""Seconds between two signs of life of who holds one, and without any after which it is nobody's: more than clocks of
machines that share a file system differ."""
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems answer that have no locks (Lustre, NFS without a lock daemon) or cannot sync a folder."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # it is looked at, nothing is written
"""Where Linux keeps what processes share. Docker gives a container 64 MB of it."""
SEED = re.compile(r"seed-(0|[1-9]\d*)")
"""Names of the folders of further seeds."""
NEXT, READY, MOVING = ".next", ".next-ready", ".next-moving"
"""Folders in a run's folder for the run that replaces it: see above."""
FIRST_TO_GO = ("manifest.json", "model.safetensors")
"""What an old run loses first, so that what is left of it is never taken for a finished run."""
BEFORE_IT_BEGINS = ("data.json", "environment.json", "config.toml")
"""What a run writes first, in this order: without the last one there is nothing to continue and nothing to lose."""


Content = bytes | str | Callable[[BinaryIO], object]
"""Of a file: as it is, or what writes it."""


def write_atomic(path: Path, content: Content, before: Callable[[], object] = lambda: None) -> None:
    """Write a file so that a reader sees the old one or the new one whole, whatever happens in between.

    Args:
        path: where.
        content: what, or a function that writes it, piece by piece, into the file that it is given.
        before: called when the new file is on the disk and has not its name yet.

    Raises:
        ResourceError: if it does not fit on the disk; the old file is untouched.
    """
    if isinstance(content, str):
        content = content.encode()
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:NAME]}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            with suppress(PermissionError):  # of file systems without permissions
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            _fsync(file.fileno())
        before()
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True) if temporary else None
        if isinstance(error, OSError):
            raise _explain(error, path) from error
        raise


def sweep(targets: Iterable[Path]) -> None:
    """Delete what was left where a process was killed while it wrote one of these files."""
    folders: dict[Path, set[str]] = {}
    for target in targets:
        folders.setdefault(target.parent, set()).add(target.name[:NAME])
    for folder, names in folders.items():
        for stray in folder.glob(".*.tmp"):
            if (
                _owner(stray) in names and time.time() - stray.lstat().st_mtime > STALE
            ):  # another process may be writing just now
                stray.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync(path: Path) -> bool:
    """Make durable what was written to a file, or renamed in a folder; return whether the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> bool:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_held: set[int] = set()
"""Descriptors that hold a lock. Forked loader workers let go of theirs: a run that is killed is free at once."""


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """An open run: its folder, held by a lock until the process ends."""

    def __init__(self, home: Path, *locks: "_Lock") -> None:
        self.home = home
        """Folder that the run is named by."""
        self.replaces = False
        """Whether the run before is still in that folder, and this one is written to .next/ in it."""
        self.warnings: tuple[str, ...] = ()
        """Sentences on what the file system lacks."""
        self._locks = locks
        _held.update(lock.descriptor for lock in locks)

    @property
    def path(self) -> Path:
        """Folder that the files are in now."""
        return self.home / NEXT if self.replaces else self.home

    @property
    def can_go_on(self) -> bool:
        """Whether `--resume` would find this run: it is in its place already, or has a checkpoint."""
        return not self.replaces or _has_checkpoint(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def promote(self) -> None:
        """Let the run take the place of the one before, where there still is one."""
        if self.replaces:
            _promote(self.home)
            _sign(self.home, self._locks[0].descriptor)
            self.replaces = False
            self.keep_only_own_lock()

    def keep_only_own_lock(self) -> None:
        """Release the locks of the old run's seeds: the new ones have their own."""
        self._release(self._locks[1:])
        self._locks = self._locks[:1]

    def append(self, name: str, line: str) -> None:
        """Append a line to a log; what is no text in it, such as some names of files, is written as escapes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(self / name, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _explain(error, self / name) from error

    def sync(self, name: str) -> None:
        """Make a log durable, where there is one."""
        if (self / name).exists():
            sync(self / name)

    def lines(self, name: str) -> list[bytes]:
        """Return the lines of a log with their ends; none where there is none."""
        path = self / name
        if not path.exists():
            return []
        with open_file(path) as file:
            return file.read().splitlines(keepends=True)

    def truncate_lines(self, name: str, keep: int, sha256: str | None) -> None:
        """Cut a log back to its first `keep` lines: what a resumed run has not done yet.

        Raises:
            ModelError: if it has fewer, or others than this digest says, where there is one.
        """
        path, lines = self / name, self.lines(name)
        kept = b"".join(lines[:keep])
        if len(lines) < keep or sha256 not in (None, hashlib.sha256(kept).hexdigest()):
            raise ModelError(
                f"{path} is damaged: its first {keep} lines are not those that the run wrote.",
                "Restore it, or start a new run.",
            )
        if lines:
            write_atomic(path, kept)

    def close(self) -> None:
        """Release the locks."""
        self._release(self._locks)

    def _release(self, locks: Iterable["_Lock"]) -> None:
        for lock in locks:
            lock.release()


class _Lease:
    """A lock where the file system has none: a file that one process alone can create, and shows to be alive.

    It is taken over from a process of this machine that is dead, and from any other that has shown no sign of life for
    `EXPIRED` seconds. One that was frozen so long and wakes up finds itself replaced, and ends at once.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEASE
        self._own = f"{os.getpid()} {_machine()} {os.urandom(8).hex()}"
        self._over = threading.Event()
        try:
            self._create(self.path)
        except FileExistsError:
            self._take_over(folder)
        threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def check(cls, folder: Path) -> None:
        """Look whether a folder is free; nothing is written.

        Raises:
            BusyError: if it is not.
        """
        try:
            age, holder = time.time() - (folder / LEASE).stat().st_mtime, _text(folder / LEASE)
        except FileNotFoundError:
            return
        if abs(age) < EXPIRED and not _is_dead(holder):
            number, _, rest = holder.partition(" ")
            where = "" if rest.startswith(_machine()) else " of another machine"
            raise _busy(folder, f"{number or 'unknown'}{where}")

    def release(self) -> None:
        """Give the folder back."""
        self._over.set()
        with suppress(OSError):
            if _text(self.path) == self._own:
                self.path.unlink()

    def _create(self, path: Path) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w") as file:
            file.write(self._own)

    def _take_over(self, folder: Path) -> None:
        """Replace a lease that is nobody's: of several processes that try, one alone creates the claim to it."""
        self.check(folder)
        try:
            left = _text(self.path)
        except FileNotFoundError:  # it was given back just now
            return self._create(self.path)
        claim = folder / f"{LEASE}.{hashlib.sha256(left.encode()).hexdigest()[:16]}"
        try:
            self._create(claim)
        except FileExistsError:
            raise BusyError(f"Another process is taking over {folder}.", f"If none is, delete {claim}.") from None
        try:
            if _text(self.path) != left:  # somebody has done so before
                raise _busy(folder, "unknown")
            write_atomic(self.path, self._own)
        finally:
            claim.unlink()
        return None

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with suppress(OSError):  # a server that is away for a moment
                if _text(self.path) == self._own:
                    os.utime(self.path)
                elif not self._over.is_set():
                    os.write(2, f"\nAnother process has taken over {self.path.parent}: this one ends.\n".encode())
                    os._exit(1)


def _text(path: Path) -> str:
    return read_file(path).decode(errors="replace")


def _machine() -> str:
    """Return what tells this machine's process numbers from another's, and says nothing else about it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_dead(holder: str) -> bool:
    """Whether the holder of a lease was a process of this machine that is no more."""
    number, _, rest = holder.partition(" ")
    if not number.isdecimal() or not rest.startswith(_machine()):
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


class _Lock(NamedTuple):
    """What keeps other runs out of a folder."""

    descriptor: int
    """Open file with the lock of the file system; held until it is closed."""
    lease: _Lease | None
    """What does where the file system has no locks."""

    def release(self) -> None:
        """Let others in."""
        _held.discard(self.descriptor)
        os.close(self.descriptor)
        if self.lease is not None:
            self.lease.release()


def seal(folder: Path) -> None:
    """Write the manifest: size and sha256 of each file the run wrote. A folder with a manifest is finished."""
    names = [name for name in _own_files(folder) if name != "manifest.json" and (folder / name).is_file()]
    files = {name: _entry(folder / name) for name in names}
    write_json(folder / "manifest.json", {"schema": 1, "files": files})


def seal_one(folder: Path, name: str) -> None:
    """Write a file that was added to a finished run into its manifest; the others stay as they were sealed."""
    manifest = json.loads(read_file(folder / "manifest.json"))
    write_json(folder / "manifest.json", manifest | {"files": manifest["files"] | {name: _entry(folder / name)}})


def _entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


@contextmanager
def open_run(
    path: Path, *, resume: bool, overwrite: bool, check: Callable[[], object] = lambda: None
) -> Iterator[RunFolder]:
    """Create or reopen a run's folder and hold its lock.

    Args:
        path: the folder.
        resume: go on in it.
        overwrite: let the new run replace what a run has left in it, at `RunFolder.promote`; one that ends before is
            forgotten, unless it has a checkpoint to go on from.
        check: called with the lock held, before anything else is written; raises if the folder is not to be used.

    Raises:
        UsageError: as `check_folder`.
    """
    check_folder(path, resume=resume, overwrite=overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
        locks = [_lock(path)]
    except OSError as error:
        raise _explain(error, path) from error
    try:
        if overwrite:  # who is at work in a seed's folder of the old run would lose its files
            for inner in _inner(path):
                if not inner.is_symlink() and _is_run(inner):
                    locks.append(_lock(inner))  # noqa: PERF401  # if the next is refused, this one is released below
    except BaseException:
        for lock in locks:
            lock.release()
        raise
    folder = RunFolder(path, *locks)
    try:
        check()
        if not _is_run(path):  # so that a temporary file that a kill leaves from here on is known to be a run's
            _sign(path, locks[0].descriptor)
        _check_replacing(path)
        folder.warnings = _lacking(path, locks=locks[0].lease is None)
        if overwrite:
            _recover(path, resume=False)
        if overwrite and _has_run(path):
            _begin_next(path)
            folder.replaces = True
        else:
            _sign(path, locks[0].descriptor)
            folder.keep_only_own_lock()
        if overwrite and not folder.replaces:
            _clear(path)
        (folder / "checkpoints").mkdir(exist_ok=True)
        _sweep(folder.path)
        yield folder
    except CheckError:
        _forget(folder, even_with_checkpoint=True)
        raise
    except BaseException:
        _forget(folder, even_with_checkpoint=False)
        raise
    else:
        _forget(folder, even_with_checkpoint=False)
    finally:
        folder.close()


def _forget(folder: RunFolder, *, even_with_checkpoint: bool) -> None:
    """Delete a run that ends before it has replaced the one before; one that was refused could not go on anyway."""
    if folder.replaces and (even_with_checkpoint or not folder.can_go_on):
        _remove(folder.path)


def _begin_next(path: Path) -> None:
    """Make the folder of a run that is to replace another."""
    for name in (NEXT, READY, MOVING):
        if os.path.lexists(path / name):
            raise UsageError(f"{path / name} is in the way of the new run.", "Rename it, or choose another --out.")
    try:
        (path / NEXT).mkdir()
        write_atomic(path / NEXT / ".lock", MARK + b"%d" % os.getpid())
    except BaseException as error:
        _remove(path / NEXT)
        raise _explain(error, path / NEXT) if isinstance(error, OSError) else error from None


def recover(path: Path) -> bool:
    """Bring a folder in order in which a run was killed that was to replace another, so that it goes on.

    Returns:
        Whether the new run was deleted instead, as it had no checkpoint to go on from; the one before is untouched.

    Raises:
        UsageError: if a process is at work there.
    """
    if not any(_is_next(path / name) for name in (NEXT, READY, MOVING)):
        return False
    try:
        lock = _lock(path)
    except OSError as error:
        raise _explain(error, path) from error
    try:
        return _recover(path, resume=True)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        lock.release()


def _recover(path: Path, *, resume: bool) -> bool:
    """Do as `recover` says, with the lock held; without `resume`, a new run is deleted unless the old one is given up.

    That is left to the moment when another run begins: a command that is refused before deletes nothing.
    """
    decided = _is_next(path / READY) or _is_next(path / MOVING)
    if decided or (resume and _is_next(path / NEXT) and _has_checkpoint(path / NEXT)):
        _promote(path)
        return False
    if not _is_next(path / NEXT):
        return False
    _remove(path / NEXT)
    return True


def _is_next(folder: Path) -> bool:
    """Whether a folder is one that this module made for a run that replaces another."""
    return _is_run(folder) or (not folder.is_symlink() and folder.is_dir() and not any(folder.iterdir()))


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints" / name).exists() for name in ("last", "last.prev"))


def _promote(path: Path) -> None:
    """Replace a run by the one that is in .next/ in its folder, or go on with that where it was cut short."""
    if _is_next(path / NEXT):
        _check_room(path)
        _rename(path / NEXT, path / READY)
    if _is_next(path / READY):
        _clear(path)
        _rename(path / READY, path / MOVING)
    for folder, _, names in os.walk(path / MOVING):
        target = path / Path(folder).relative_to(path / MOVING)
        target.mkdir(exist_ok=True)
        for name in names:
            if Path(folder, name) != path / MOVING / ".lock":  # the folder's own is held
                os.replace(Path(folder, name), target / name)
        sync(target)
    _remove(path / MOVING)
    sync(path)


def _check_room(path: Path) -> None:
    """Refuse to give up a run for one whose files would find something else at their places."""
    for folder, folders, names in os.walk(path / NEXT):
        home = path / Path(folder).relative_to(path / NEXT)
        blocked = [name for name in names if (home / name).is_dir() and not (home / name).is_symlink()]
        blocked += [name for name in folders if (home / name).exists() and not (home / name).is_dir()]
        if blocked:
            raise UsageError(f"{home / blocked[0]} is in the way of the new run.", "Rename it, then add --resume.")


def _rename(old: Path, new: Path) -> None:
    os.rename(old, new)
    sync(old.parent)


def _remove(folder: Path) -> None:
    """Delete a folder of this module's own; its lock goes last, by which it is known."""
    for entry in list(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()
    (folder / ".lock").unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


def check_folder(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Look whether a run can have a folder; nothing is written.

    Raises:
        UsageError: it is not empty and neither `resume` nor `overwrite` was asked for, or what is in it is no run's;
            there is nothing to resume; another process is at work in it; its name is not UTF-8.
    """
    check_utf8(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a folder.", "Choose another --out.")
    ours = _is_run(path)
    inner = [folder for folder in _inner(path) if overwrite and ours and _is_run(folder)]
    for folder in (path, *inner):
        check_free(folder)
    if (path / "checkpoints").is_symlink() and not overwrite:
        raise UsageError(f"{path / 'checkpoints'} is a link: what is written there would lie outside.", "Remove it.")
    if resume and not (path / "config.toml").exists():
        raise UsageError(f"There is no run to resume in {path}.", "Leave out --resume to start one.")
    if not resume and _holds_files(path, besides_a_start=ours):
        if not overwrite:
            raise UsageError(
                f"{path} is not empty.",
                "Add --resume to continue that run, --overwrite to replace it, or choose another --out.",
            )
        if not ours:
            copied = " Of a run that was copied without its .lock file, --resume makes one again."
            more = copied if (path / "config.toml").exists() else ""
            raise UsageError(
                f"{path} holds files, but no run that --overwrite could replace.", f"Choose another --out.{more}"
            )


def _holds_files(path: Path, *, besides_a_start: bool) -> bool:
    """Whether there are files in a folder or below, other than its lock and what a run that never began has left."""
    started: set[Path] = set()
    if besides_a_start and not (path / "config.toml").exists():
        started = {*(path / name for name in BEFORE_IT_BEGINS), *_half_written(path)}
    foreign = not besides_a_start and (path / ".lock").is_file() and (path / ".lock").stat().st_size > 0
    return foreign or any(  # the first is enough; what cannot be read is passed over: the folder may be / itself
        name not in (".lock", LEASE) and Path(folder, name) not in started
        for folder, folders, names in os.walk(path)
        for name in (*names, *(inner for inner in folders if os.path.islink(os.path.join(folder, inner))))
    )


def _is_run(path: Path) -> bool:
    """Whether a run has written in a folder, so that what is called like its files is its own."""
    try:
        with open(os.open(path / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as lock:
            return lock.read(len(MARK)) == MARK
    except OSError:
        return False


def _half_written(path: Path) -> list[Path]:
    """Return the temporary files that are left where a process was killed while it wrote one of a run's."""
    own = {path / name for name in OWN_FILES}
    strays = [*path.glob(".*.tmp"), *(path / "checkpoints").glob(".*.tmp")]
    return [one for one in strays if one.parent / _owner(one) in own or PREPARED.fullmatch(_owner(one))]


def _owner(stray: Path) -> str:
    """Return the name of the file that a temporary one was to become."""
    return stray.name[1:].rpartition(".")[0].rpartition(".")[0]


def _lock(path: Path) -> _Lock:
    """Take a folder's lock, held until the process's end at the latest.

    Raises:
        BusyError: if another process has it.
    """
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        if _flock(descriptor, fcntl.LOCK_EX, path):
            return _Lock(descriptor, None)
        return _Lock(descriptor, _Lease(path))
    except BaseException:
        os.close(descriptor)
        raise


def check_free(path: Path) -> None:
    """Look whether no run is at work in a folder, as far as one may read it; nothing is written.

    Raises:
        BusyError: if another process is at work there.
    """
    try:
        descriptor = os.open(path / ".lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        _flock(descriptor, fcntl.LOCK_SH, path)  # some file systems lock for one alone only what can be written
    finally:
        os.close(descriptor)
    _Lease.check(path)


def _flock(descriptor: int, kind: int, path: Path) -> bool:
    """Lock an open file; return whether the file system can.

    Raises:
        BusyError: if another process has locked it.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise _busy(path, _holder(path, descriptor) or "unknown") from None
    return True


def _busy(path: Path, holder: str) -> BusyError:
    return BusyError(f"Another run is at work in {path} (process {holder}).", "Wait for it, or choose another --out.")


def _lacking(path: Path, *, locks: bool) -> tuple[str, ...]:
    """Say what the file system of a folder lacks, and what follows."""
    found = []
    if not locks:
        found.append(
            f"The file system of {path} has no locks (flock). A file that is touched every {HEARTBEAT:g} s keeps other "
            f"runs out; where this run is killed, another machine can go on with it {EXPIRED:g} s later."
        )
    if not sync(path):
        found.append(
            f"The file system of {path} cannot sync a folder: the power going off may cost what was saved last."
        )
    return tuple(found)


def _check_replacing(path: Path) -> None:
    """Try whether a file can be replaced by renaming another, upon which every promise about kills rests.

    Raises:
        UsageError: if not.
    """
    descriptor, old = tempfile.mkstemp(prefix=".config.toml.", suffix=".tmp", dir=path)  # a name that is swept
    os.close(descriptor)
    descriptor, new = tempfile.mkstemp(prefix=".config.toml.", suffix=".tmp", dir=path)
    os.close(descriptor)
    try:
        os.replace(new, old)
    except OSError as error:
        raise UsageError(
            f"The file system of {path} cannot replace a file by renaming another ({error.strerror}): who is killed "
            "while saving would lose both.",
            "Choose --out on another file system.",
        ) from error
    finally:
        Path(old).unlink(missing_ok=True)
        Path(new).unlink(missing_ok=True)


def _holder(path: Path, descriptor: int) -> str:
    """Return the number of the process that holds a folder's lock, as it has written it down."""
    try:
        content = read_file(path / NEXT / ".lock") if _is_run(path / NEXT) else os.pread(descriptor, 64, 0)
    except OSError:  # it has just been promoted
        content = os.pread(descriptor, 64, 0)
    return content.removeprefix(MARK).decode(errors="replace").strip()


def _sign(path: Path, descriptor: int) -> None:
    """Write into a lock that it is a run's, and which process holds it."""
    mark = MARK + b"%d" % os.getpid()
    try:
        os.pwrite(descriptor, mark, 0)
        os.ftruncate(descriptor, len(mark))
    except OSError as error:
        raise _explain(error, path / ".lock") from error


def verify_file(folder: Path, name: str) -> None:
    """Compare a file of a finished run with its manifest.

    Raises:
        ModelError: if they differ, naming both hashes.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return
    try:
        files = json.loads(read_file(manifest))["files"]
        expected = files.get(name, {}).get("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"{manifest} is damaged.", "Delete it to use the run without that check.") from None
    if expected is None and (folder / name).exists():
        raise ModelError(f"{folder / name} is not the run's: {manifest} does not name it.", "Train again.")
    if expected is not None and not (folder / name).is_file():
        raise ModelError(f"{folder / name} is gone, and the manifest names it.", "Restore the file, or train again.")
    if expected is not None and (found := sha256_of(folder / name)) != expected:
        raise ModelError(
            f"{folder / name} is damaged: its sha256 is {found}, the manifest says {expected}.",
            "Restore the file, or train again.",
        )


def next_folder(parent: Path, stem: str) -> Path:
    """Return `parent/stem-NNN` with the first number not taken."""
    numbers = (path.name[len(stem) + 1 :] for path in parent.glob(f"{stem}-*"))
    taken = [int(number) for number in numbers if re.fullmatch("[0-9]{1,9}", number)]
    return parent / f"{stem}-{max(taken, default=0) + 1:03d}"


def _clear(path: Path) -> None:
    """Delete what an earlier run wrote, and only that. Links in the folder are removed, not followed."""
    for inner in (path / "checkpoints", *_inner(path)):
        if inner.is_symlink():
            inner.unlink()
        elif _is_run(inner):
            _clear(inner)
    _sweep(path)
    for name in (*FIRST_TO_GO, *_own_files(path)):
        if os.path.lexists(path / name) and not (path / name).is_dir():
            (path / name).unlink()


def _inner(path: Path) -> list[Path]:
    """Return where a run has runs of its own."""
    return [path / "baseline", *(entry for entry in path.glob("seed-*") if SEED.fullmatch(entry.name))]


def belongs_to_run(path: Path, folder: Path) -> bool:
    """Whether a path is a run's folder, one of its own files, or a folder of either; both paths are resolved."""
    if not path.is_relative_to(folder):
        return False
    parts = list(path.relative_to(folder).parts)
    while parts and (parts[0] in ("baseline", NEXT, READY, MOVING) or SEED.fullmatch(parts[0])):
        parts.pop(0)
    name = "/".join(parts)
    return name in ("", ".lock", "checkpoints", *OWN_FILES) or PREPARED.fullmatch(name) is not None


def _has_run(path: Path) -> bool:
    """Whether there is something of a run in a folder or its seeds' that began."""
    if not _is_run(path):
        return False
    names = {name for name in _own_files(path) if os.path.lexists(path / name) and not (path / name).is_dir()}
    if "config.toml" not in names:
        names -= {*BEFORE_IT_BEGINS}
    return bool(names) or any(map(_has_run, _inner(path)))


def _sweep(path: Path) -> None:
    for stray in _half_written(path):
        stray.unlink()


def prepared_in(folder: Path) -> list[Path]:
    """Return the files of what terms had trained beforehand."""
    return sorted(path for path in folder.glob("*.safetensors") if PREPARED.fullmatch(path.name))


def _own_files(folder: Path) -> list[str]:
    return [*OWN_FILES, *(path.name for path in prepared_in(folder))]


def disk_full(error: OSError, path: Path | None = None) -> ResourceError | None:
    """Return what to tell of an error if it says that there is no space."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    where = f" while writing {path}" if path else ""
    return ResourceError(
        f"The disk is full (or a quota or size limit is reached){where}: {error.strerror}.",
        "What was there before is untouched. Free some space, then give the command again; a training takes --resume.",
    )


def check_writable(folder: Path) -> None:
    """Try whether a file can be written in a folder.

    Raises:
        UsageError: if not.
        ResourceError: if there is no space.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _explain(error, folder) from error


def free_shared_memory() -> int | None:
    """Return the bytes of shared memory that are free; None where the system does not tell."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _explain(error: OSError, path: Path) -> Exception:
    if full := disk_full(error, path):
        return full
    kinds = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, kinds) or error.errno in (errno.EROFS, errno.ELOOP):
        return UsageError(f"{path} cannot be written: {error.strerror}.", "Choose another folder.")
    return error
