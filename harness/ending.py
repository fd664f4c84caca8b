"""How a command ends whose output nobody takes, or that is interrupted: in a sentence, never with a traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator

from harness import terminal
from harness.errors import UnavailableError

READER_GONE, INTERRUPTED = 128 + signal.SIGPIPE, 128 + signal.SIGINT
"""As of a program that such a signal ends: neither is a success, since not all was looked at or told."""

_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""Without a file's name: all else that this project writes is told as UnwritableError."""


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Around a whole command."""
    if sys.stdout is None:  # it was closed by who started this
        sys.stdout = io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_WRONLY), "w"), encoding="utf-8")
    terminal.set_up()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _give_up_output()
        sys.exit(READER_GONE)
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_OUTPUT:
            raise
        _give_up_output()
        print(f"the output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(UnavailableError.exit_code)


def _give_up_output() -> None:
    """Python writes at its end what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
