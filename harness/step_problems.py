"""The problems that any step of the daemon may meet, and which of them an error is; problems.py passes them on."""

from __future__ import annotations

from harness.errors import HarnessError, InternalError, UnreadableError, UnwritableError
from harness.problem_registry import Found, Problem, Severity, Where, register

INTERNAL_ERROR = register(
    "internal-error",
    Where.EITHER,  # a restart need not help, and takes a member out of the mesh
    "the program met an error that no code expects, which is a bug; the rest goes on, and what failed is tried again",
    "report it with the whole error: `meshexp logs{instance} --lines 1000`",
)
STEP_FAILED = register(
    "step-failed",
    Where.MACHINE,
    "a step that the daemon repeats, such as writing its status, fails; the machine stays a member meanwhile",
    "is a disk full? `df -h {run} {state}`; `meshexp logs{instance}` shows what went before",
    Severity.WARNING,
)
DISK_FULL = register(
    "disk-full",
    Where.MACHINE,
    "a file that the harness needs cannot be written, because its disk is full; what is in place stays",
    "free some space there: `df -h {folder}` shows how full the disk is, and `df -i {folder}` its inodes",
    Severity.WARNING,
)
STATE_UNWRITABLE = register(
    "state-unwritable",
    Where.MACHINE,
    "a file that the harness needs cannot be written; what is in place stays",
    "`ls -ld {file}` shows what is there, `findmnt -T {folder}` whether its file system is read-only",
    Severity.WARNING,
)
STATE_UNREADABLE = register(
    "state-unreadable",
    Where.MACHINE,
    "a file that the harness needs cannot be read: what is in it is not known, and is not taken for nothing",
    "`ls -ld {folder} {file}` shows whose it is; the harness runs as root without the right to read what belongs to others;"
    " `findmnt -T {folder}` shows its file system",
    Severity.WARNING,
)


def of_failure(tried: str, error: HarnessError, other: Problem = STEP_FAILED, **values: object) -> Found:
    """Of a step of the daemon. `other`, with `values`: of all that is neither a bug nor a file that cannot be written or read."""
    tried = error.tried or tried
    if isinstance(error, InternalError):
        return INTERNAL_ERROR.found(tried, error.came)
    if isinstance(error, UnwritableError):
        problem = DISK_FULL if error.full else STATE_UNWRITABLE
        return problem.found(tried, error.came, file=error.path, folder=error.path.parent)
    if isinstance(error, UnreadableError):
        return STATE_UNREADABLE.found(tried, error.came, file=error.path, folder=error.path.parent)
    return other.found(tried, error.came, **values)
