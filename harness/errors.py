"""Every error that this project raises on purpose.

HarnessError                 a message, a hint, an exit code
├── UsageError          64   the command line is wrong
├── UnavailableError    69   something that is needed is not there, and waiting does not bring it
│   ├── UnwritableError      a file cannot be written, such as on a full disk
│   └── UnreadableError      a file cannot be read, such as another user's
├── InternalError       70   a bug: an error that no code expected (EX_SOFTWARE)
├── TemporaryError      75   may go well on the next try
├── PermissionError_    77   not root, a capability is missing, or the peer refused our identity
└── ConfigError         78   the configuration is wrong; carries every fault, not the first

Adapters in `system/` translate a library's errors into these; nothing above them sees a library's error.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from harness import phrases
from harness.reading import ABSENT


class HarnessError(Exception):
    """Base of all errors; `hint` says what the reader can do about it.

    `tried`: what was done, where `came`, what came back, does not say it; the message has both.
    """

    exit_code = 1

    def __init__(self, came: str, hint: str = "", *, tried: str = "") -> None:
        message = f"{tried}: {came}" if tried else came
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.tried = tried
        self.came = came


class UsageError(HarnessError):
    exit_code = 64


class UnavailableError(HarnessError):
    exit_code = 69


class UnwritableError(UnavailableError):
    """`full`: because the disk is, or what one user may have of it; `read_only`: because its file system is. `what` could not be
    done: written, removed."""

    def __init__(self, path: Path, error: OSError, what: str = "written") -> None:
        self.path = path
        self.full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self.read_only = error.errno == errno.EROFS
        hint = f"`df -h {path.parent}` and `df -i {path.parent}` show how full its disk is" if self.full else ""
        super().__init__(f"{path} cannot be {what}: {error.strerror}", hint)


class UnreadableError(UnavailableError):
    """A file or a folder may be there, and cannot be read. That says nothing about what is in it."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.errno = error.errno
        self.absent = isinstance(error, ABSENT)
        self.foreign = error.errno in (errno.EINVAL, errno.EFBIG, errno.EISDIR)  # a pipe, a folder: nothing that we have written
        hint = f"`ls -ld {path.parent} {path}` shows whose it is"
        if isinstance(error, PermissionError):
            self.exit_code = PermissionError_.exit_code
            hint = f"run it with sudo; {hint}"
        super().__init__(f"{path} cannot be read: {error.strerror}", hint)


class InternalError(HarnessError):
    exit_code = 70


class TemporaryError(HarnessError):
    exit_code = 75


class PermissionError_(HarnessError):
    exit_code = 77


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in some input. `path` is dotted, such as `redirect.ports[2]`."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(HarnessError):
    exit_code = 78

    def __init__(self, faults: tuple[Fault, ...], source: str = "configuration") -> None:
        lines = "\n".join(f"  {fault}" for fault in faults)
        super().__init__(f"{phrases.counted(len(faults), 'fault')}\n{lines}", tried=source)
        self.faults = faults
        self.source = source
