"""Durable files: atomic replacement, directory fsync, the writer's lock."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Final

from livephase.errors import StorageError
from livephase.files import replace

if TYPE_CHECKING:
    from pathlib import Path

_FULL: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FULL_WINDOWS: Final = {39, 112}  # ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL
_OS_CODE: Final = re.compile(r"os_error_code='(\d+)'")


def storage_error(error: Exception, path: Path, doing: str) -> StorageError:
    """Turn an error of the operating system, or tensorstore's text of one, into a StorageError that says what to do.

    Parameters
    ----------
    error : Exception
        An OSError, or the ValueError that tensorstore raises.
    path : Path
        The store, named in the message.
    doing : str
        What failed, as in "raw frame 3 could not be written".
    """
    if isinstance(error, StorageError):
        return error
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (found := _OS_CODE.search(str(error))):
        code = int(found.group(1))
    if code in _FULL or (sys.platform == "win32" and code in _FULL_WINDOWS):
        return StorageError(f"{path}: {doing}: the disk is full (or a quota or file size limit is reached); free space")
    if code in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StorageError(f"{path}: {doing}: no permission to write there; choose another data folder or grant it")
    return StorageError(f"{path}: {doing}: {error}")


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable. Windows has no such call; NTFS journals its names."""
    if sys.platform == "win32":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(target: Path, content: bytes, scratch: Path) -> None:
    """Replace a file such that every reader, also after a power cut, sees the old or the new content.

    Parameters
    ----------
    target : Path
        The file; need not exist.
    content : bytes
        Its new content.
    scratch : Path
        Folder on the same file system for the temporary file. Not the target's own: Zarr readers that list a group
        would meet the temporary file and warn.
    """
    temporary = scratch / f"{target.parent.name}.{target.name}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


class WriterLock:
    """Says that a process writes a store; the operating system drops it when the process ends, however it ends.

    Parameters
    ----------
    path : Path
        The lock file; created when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False when another process, or another writer of this one, has it."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}:
                return False
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
