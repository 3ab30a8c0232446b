"""What the disk and its names refuse, and the table from the system's numbers to it."""

from __future__ import annotations

import errno

from engine.errors.base import Fault
from engine.errors.transfer import TransferError


class StorageError(TransferError):
    """A file could not be made, written, synced or named."""

    code = "io"
    fault = Fault.STORAGE
    advice = "Check the disk and its mount, then ask again; the bytes so far are kept, the failed ones are not."


class NoSpace(StorageError):
    """The file system or quota is full."""

    code = "no_space"
    advice = "Free some space (or raise the quota) and ask again; the bytes so far are kept."


class QuotaReached(NoSpace):
    """The entry's scope may not take as much."""

    code = "quota"
    fault = Fault.HOST
    advice = "Raise the quota of its scope, or remove something of it: then it goes on by itself; its bytes are kept."


class TooManyFiles(StorageError):
    """This process, or the machine, may not open one file more."""

    code = "too_many_files"
    retryable = True
    fault = Fault.HOST
    advice = (
        "Raise the limit of open files (RLIMIT_NOFILE: 'ulimit -n', or LimitNOFILE= of a service), or use fewer"
        " connections; the bytes so far are kept."
    )


class ReadOnly(StorageError):
    """The file system is mounted read-only."""

    code = "read_only"
    advice = "Mount it writable and ask again, or choose another folder under another id."


class NotPermitted(StorageError):
    """The folder or file may not be written by this user."""

    code = "permission"
    advice = "Change the permissions and ask again, or choose another folder under another id."


class InputOutput(StorageError):
    """The device reported an error, or reads and writes came up short."""


class TargetExists(StorageError):
    """The final name is taken by a file that this entry did not make; it was left as it is."""

    code = "target_exists"
    fault = Fault.CALLER
    advice = "Choose another output under another id, or ask to overwrite (plain files and links only)."


class TargetGone(StorageError):
    """The destination folder vanished."""

    code = "target_gone"
    advice = "Create the folder again, or mount its disk, and ask again; or choose another folder under another id."


class TargetInvalid(TargetGone):
    """No file can be at the destination: a name is too long, a folder of it is not one, or links lead in circles."""

    code = "target_invalid"
    fault = Fault.CALLER
    advice = "Choose another destination under another id: shorter names, and above the file nothing but folders."


class PartLost(StorageError):
    """The unfinished file was removed or replaced from outside."""

    code = "part_lost"
    retryable = True
    advice = "The missing bytes are fetched again."


class PartBusy(StorageError):
    """Another engine, with another root, writes the unfinished file; it was left alone."""

    code = "part_busy"
    fault = Fault.CALLER
    retryable = True
    advice = "Let the other engine finish, or choose another destination under another id: one file has one writer."


class NotMounted(StorageError):
    """A file that is to be deleted is on a disk that is not there; it is deleted once that is back."""

    code = "not_mounted"
    advice = (
        "Mount its disk: what is left there is deleted within a minute, or at the next start. "
        "Until then ask for it under another id."
    )


class TooBig(StorageError):
    """The file is larger than the file system, a process limit or the engine's own limit allows."""

    code = "too_big"
    advice = "Choose a file system, process limit (RLIMIT_FSIZE) or 'part_bytes_max' that allows files of this size."


_ERRNO: dict[int, type[StorageError]] = {
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EROFS: ReadOnly,
    errno.EACCES: NotPermitted,
    errno.EPERM: NotPermitted,
    errno.EEXIST: TargetExists,
    errno.ENOENT: TargetGone,
    errno.ENOTDIR: TargetInvalid,
    errno.ELOOP: TargetInvalid,
    errno.ENAMETOOLONG: TargetInvalid,
    errno.EILSEQ: TargetInvalid,
    errno.EMFILE: TooManyFiles,
    errno.ENFILE: TooManyFiles,
    errno.EFBIG: TooBig,
}


def storage_error(error: OSError, what: str) -> StorageError:
    """The typed error for a failed file call; ``what`` names the call and the file, in words."""
    kind = _ERRNO.get(error.errno or 0, InputOutput)
    return kind(f"{what}: {error.strerror or error}")
