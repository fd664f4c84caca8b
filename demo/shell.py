"""A person's way into a machine: one command to paste into another terminal, and `meshexp` there by its name."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL = """#!/bin/sh
# A shell in this machine, or the command that is given.
cd /
export PATH={bin}:{path}
export PS1='{name}# '
[ $# = 0 ] || exec "$@"
exec bash --noprofile --norc
"""
_MESHEXP = """#!/bin/sh
exec env {environment} {python} -s -m harness "$@"
"""


def install(folder: Path, inside: str, name: str, python: str, environment: Mapping[str, str]) -> None:
    """The scripts `shell` and `bin/meshexp` in `folder`, which is `inside` in the machine."""
    words = " ".join(shlex.quote(f"{key}={value}") for key, value in environment.items())
    _write(folder / "bin" / "meshexp", _MESHEXP.format(environment=words, python=shlex.quote(python)))
    _write(folder / "shell", _SHELL.format(bin=f"{inside}/bin", path=PATH, name=name))


def command(host_pid: int, inside: str) -> str:
    """What a person types; sudo where this was started by it, since only root may enter namespaces."""
    sudo = "sudo " if "SUDO_USER" in os.environ else ""
    return f"{sudo}nsenter -at {host_pid} {inside}/shell"


def host_pid(proc: int, pid: int) -> int:
    """The pid on the host of a machine's first process. `proc`: a descriptor of the host's /proc. `pid`: in this PID namespace.

    It is found by its own PID namespace, in which it has the pid 1.
    """
    wanted = Path(f"/proc/{pid}/ns/pid").readlink()
    for entry in filter(str.isdigit, os.listdir(proc)):
        try:
            if Path(os.readlink(f"{entry}/ns/pid", dir_fd=proc)) == wanted and _numbers(proc, entry)[-1] == "1":
                return int(entry)
        except OSError:
            continue  # it has ended
    raise ProcessLookupError(f"the host has no process {pid} of ours")


def _numbers(proc: int, entry: str) -> Sequence[str]:
    """A process's pid in each PID namespace, the outermost first (proc(5))."""
    with os.fdopen(os.open(f"{entry}/status", os.O_RDONLY, dir_fd=proc)) as status:
        return next(line.split()[1:] for line in status if line.startswith("NSpid:"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
