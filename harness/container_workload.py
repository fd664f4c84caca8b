"""A container's workload before anything is started: whether it can run as its own user, else one line on what to do.

The kernel decides whether it runs; what is in the file shows why not.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from harness.system import exec_try

START = "/workload/start"
NONE = f"There is no workload in this image: put one at {START}, in an image of your own on top of it."
HEAD_BYTES = 512
PROXY_USER = "meshexp-proxy"
"""The default of `proxy.user`, which the image keeps."""
_ELF, _SCRIPT, _BYTE_ORDER_MARK = b"\x7fELF", b"#!", b"\xef\xbb\xbf"
# e_machine of elf.h
_PROCESSORS = {3: "i386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def fault(command: tuple[str, ...], environ: Mapping[str, str], user: str) -> str | None:
    """What keeps `user` from running the command, in one line; None when nothing does."""
    if user == PROXY_USER:
        return f"the workload cannot run as {user!r}: what the proxy's user sends goes past the mesh, in plaintext"
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return f"there is no user {user!r} in this image: WORKLOAD_USER must be a name of /etc/passwd"
    search = environ.get("PATH", os.defpath)
    program = command[0] if "/" in command[0] else shutil.which(command[0], path=search)
    if program is None:
        return f"{command[0]} is in none of the folders of PATH ({search})"
    path = Path(program)
    try:
        found = path.stat()
    except OSError as error:
        return _not_there(path, error)
    if stat.S_ISDIR(found.st_mode):
        return f"{path} is a directory: it must be the program (Docker makes a directory for a mount whose source is missing)"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a regular file: it must be the program"
    if found.st_size == 0:
        return f"{path} is empty: it must be a program, or a script with a #! line"
    head = _head(path)
    script = head.startswith(_SCRIPT)
    refused = exec_try.refusal((program, *command[1:]), environ, entry, read=script)
    if script and (reason := _script_fault(path, head, search)):
        return reason
    return _reason(path, found, head, refused, user) if refused else None


def _not_there(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return f"{path} is a symbolic link to {path.readlink()}, which is not in this image"
    if isinstance(error, FileNotFoundError):
        return NONE if str(path) == START else f"{path} is not in this image"
    return f"{path} cannot be looked at: {error.strerror}"


def _head(path: Path) -> bytes:
    """Empty where it cannot be read: without CAP_DAC_OVERRIDE root is bound by the file's mode like any other user."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _script_fault(path: Path, head: bytes, search: str) -> str | None:
    """What the kernel does not see: a carriage return that the interpreter gets, and a program that env(1) does not find."""
    line = head.partition(b"\n")[0]
    if line.endswith(b"\r"):
        return f"the lines of {path} end in CR LF, as on Windows: convert it, with dos2unix or `sed -i 's/\\r$//'`"
    words = line.removeprefix(_SCRIPT).decode(errors="replace").split()
    if not words:
        return f"the #! line of {path} names no interpreter: it must be like #!/bin/sh"
    if not os.access(words[0], os.X_OK):
        return (
            f"the interpreter of {path}, {words[0]}, is not in this image, or not executable: install it, or change the #! line"
        )
    if Path(words[0]).name == "env":
        program = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), None)
        if program is not None and shutil.which(program, path=search) is None:
            return f"the interpreter of {path}, {program}, is not in this image: install it, or change the #! line"
    return None


def _reason(path: Path, found: os.stat_result, head: bytes, refused: int, user: str) -> str:
    """Of a regular file with content, which the kernel does not run."""
    if refused == errno.EACCES:
        mode = f"its mode is {stat.S_IMODE(found.st_mode):04o}, its owner uid {found.st_uid}"
        return f"the user {user!r} may not execute {path} ({mode}): chmod 755 it; its mount must not be noexec"
    if refused == errno.ENOENT and head.startswith(_ELF):
        return f"the dynamic loader of {path} is not in this image: link it statically, or build it on Debian"
    if refused == errno.ENOEXEC:
        return _unknown_format(path, head)
    return f"{path} cannot be executed: {os.strerror(refused)}"


def _unknown_format(path: Path, head: bytes) -> str:
    if head.startswith(_ELF) and len(head) >= 20:
        number = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
        processor = _PROCESSORS.get(number, f"machine {number}")
        return f"{path} is a program for {processor}, and this machine is {os.uname().machine}: build it for that"
    if head.startswith(_BYTE_ORDER_MARK + _SCRIPT):
        return f"{path} begins with a byte order mark, which hides its #! line: save it without one"
    return f"{path} is neither a program nor a script: a script's first line must be like #!/bin/sh"
