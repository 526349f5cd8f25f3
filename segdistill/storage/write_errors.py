"""Errors of the system while a file is written, as errors that say what to do."""

import errno
import tempfile
from pathlib import Path

from segdistill.errors import ResourceError, UsageError

NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Answers of a disk, a quota and a limit of file sizes (ulimit -f)."""
READ_ONLY_ERRNOS = (errno.EROFS, errno.ELOOP)
"""Answers of a read-only file system, and to a path whose links name each other or may not be followed."""
UNSUPPORTED_ERRNOS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Answers of file systems that have no locks (Lustre, NFS without a lock daemon) or cannot sync a folder."""
WRONG_PATH_ERRORS = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""Errors that another path would not have."""


def disk_full(error: OSError, path: Path | None = None) -> ResourceError | None:
    """Return an error that says that there is no space, if that is what the system's error says."""
    if error.errno not in NO_SPACE_ERRNOS:
        return None
    where = f" while writing {path}" if path else ""
    return ResourceError(
        f"The disk is full (or a quota or size limit is reached){where}: {error.strerror}.",
        "What was there before is untouched. Free some space, then give the command again; a training goes on with "
        "`segdistill resume RUN`.",
    )


def explain_write_error(error: OSError, path: Path) -> Exception:
    """Return the error to raise where a path cannot be written; the system's own where we have no advice."""
    no_space = disk_full(error, path)
    if no_space is not None:
        return no_space
    if isinstance(error, WRONG_PATH_ERRORS) or error.errno in READ_ONLY_ERRNOS:
        return UsageError(f"{path} cannot be written: {error.strerror}.", "Choose another folder.")
    return error


def check_writable(folder: Path) -> None:
    """Create and drop a file in a folder, so that a long command does not fail at its end.

    Raises:
        UsageError: if no file can be created.
        ResourceError: if there is no space.
    """
    try:
        # Trying is the only sure test: permission bits do not tell of read-only file systems, quotas and ACLs.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise explain_write_error(error, folder) from error
