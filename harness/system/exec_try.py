"""Whether the kernel runs a program for a user: it begins the program and does not let it go on.

A traced process stops right after a successful execve(2), before its first instruction. So the kernel itself gives every reason
to refuse: a missing interpreter, a program for another processor, a mount without exec.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import signal
from collections.abc import Mapping

# linux/ptrace.h, linux/prctl.h
_TRACE_ME, _TRACE_KILL = 0, 8
_SET_PDEATHSIG, _SET_NO_NEW_PRIVS = 1, 38
_NOT_TRIED = 255  # no errno is that high


def refusal(argv: tuple[str, ...], env: Mapping[str, str], user: pwd.struct_passwd, *, read: bool) -> int | None:
    """The kernel's errno; 0 when it runs the program; None when it could not be tried: no right to trace, or to change the user.

    `read`: the user must also be able to read the file, as a script's interpreter does.
    """
    libc = ctypes.CDLL(None)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(_begin(libc, argv, env, user, read))
        finally:  # whatever happens, the child never goes on as its parent
            os._exit(_NOT_TRIED)
    _, status = os.waitpid(pid, 0)
    if os.WIFSTOPPED(status):
        libc.ptrace(_TRACE_KILL, pid, 0, 0)  # kill(2) would need CAP_KILL, since it is another user's
        os.waitpid(pid, 0)
        return 0
    code = os.waitstatus_to_exitcode(status)
    return code if 0 < code < _NOT_TRIED else None


def _begin(libc: ctypes.CDLL, argv: tuple[str, ...], env: Mapping[str, str], user: pwd.struct_passwd, read: bool) -> int:
    """In the child. Returns only when the program does not run."""
    try:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        # A tracer that dies would let the program go on.
        libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.ptrace(_TRACE_ME, 0, 0, 0) != 0:
            return _NOT_TRIED
    except OSError:
        return _NOT_TRIED
    if read and not os.access(argv[0], os.R_OK):
        return errno.EACCES
    try:
        os.execve(argv[0], argv, env)  # noqa: S606 — it is stopped before it does anything
    except OSError as error:
        return error.errno or _NOT_TRIED
