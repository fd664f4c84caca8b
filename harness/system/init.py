"""What the first process of a container does for all others: starts them, passes signals on, reaps whatever ends.

One thread, no event loop: it waits in sigtimedwait(2), and nothing that runs beside it can keep a zombie from being reaped.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.errors import UnavailableError

STOP = (signal.SIGTERM, signal.SIGINT)
RELOAD = (signal.SIGHUP,)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH)
_TAKEN = (*STOP, *RELOAD, *PASSED_ON, signal.SIGCHLD)
# Nothing of root is left, and nothing can come back.
_BARE = ("--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


@dataclass(frozen=True, slots=True)
class Program:
    """`user` is a name of the system's; None to stay who we are."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    user: str | None = None


def take_signals() -> None:
    """From now on they wait to be asked for; the first process would ignore what it has no handler for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)


def wait(seconds: float) -> int | None:
    """The next signal, or None when none came in time."""
    received = signal.sigtimedwait(_TAKEN, seconds)
    return received.si_signo if received else None


def start(program: Program) -> int:
    """The process id, of a session of its own. UnavailableError when it cannot be started."""
    argv, env = program.argv, dict(program.env)
    if program.user is not None:
        try:
            entry = pwd.getpwnam(program.user)
        except KeyError:
            raise UnavailableError(f"there is no user {program.user!r}") from None
        env |= {"HOME": entry.pw_dir, "USER": program.user}
        argv = ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", *_BARE, "--", *argv)
    try:
        return os.posix_spawnp(argv[0], argv, env, setsid=True, setsigmask=(), setsigdef=_TAKEN)
    except OSError as error:
        raise UnavailableError(f"{argv[0]} cannot be started: {error.strerror}") from None


def ended() -> Iterator[tuple[int, int]]:
    """All that have ended since the last call, orphans too: process id, and exit code as a shell has it."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        yield pid, code if code >= 0 else 128 - code


def send(pid: int, number: int, *, session: bool = False) -> None:
    """To the process, or to all of its session's first group; nothing when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        if session:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
