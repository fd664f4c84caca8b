"""Asks a linkerd2-proxy binary for its version, which it tells only in the first line of its log.

It is run with nothing in its environment, so that it ends at once with "Invalid configuration" (status 64), and as nobody. So
this also shows that the machine can run it, and that users other than root reach it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from harness import problems, proxy_release, reading
from harness.errors import UnavailableError

SECONDS = 10.0  # it takes 10 ms
MAX_OUTPUT_BYTES = 1 << 16
_ENV = {"LINKERD2_PROXY_LOG": "linkerd2_proxy=info", "LINKERD2_PROXY_LOG_FORMAT": "plain"}
# The limits come last: setpriv still has root's capabilities when it starts a program, and would reach into a closed folder.
_NOBODY = ("setpriv", "--pdeathsig=KILL", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
_DROPPED = ("--inh-caps=-all", "--bounding-set=-all", "--")
_LIMITS = ("prlimit", f"--fsize={MAX_OUTPUT_BYTES}", "--cpu=5", "--nofile=64", "--core=0")


def release_of(path: Path) -> proxy_release.Release | None:
    """None if it does not tell one; raises UnavailableError if it cannot be run here at all."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            (*_NOBODY, *_DROPPED, *_LIMITS, path),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **_ENV},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read(MAX_OUTPUT_BYTES).decode(errors="replace")
    if status in (126, 127):
        raise UnavailableError(f"{path} cannot be run here: {text.strip()[-300:]}", _hint(text))
    return proxy_release.from_output(text)


def problem_of(path: Path) -> problems.Found | None:
    """Why this release must not be started, if it is known to be a bad one."""
    try:
        release = asked(path)
    except OSError:
        return None  # starting it says why
    if proxy_release.problem(release) is None:
        return None
    return problems.PROXY_BAD_RELEASE.found(f"asking {path} for its release", f"it is {release}")


def asked(path: Path) -> proxy_release.Release | None:
    """As `release_of`. A script (a wrapper, a stand-in) is not asked, and tells none. Raises OSError when it cannot be read."""
    with reading.opened(path) as file:
        program = file.read(4) == b"\x7fELF"
    return release_of(path) if program else None


def _hint(text: str) -> str:
    if "Permission denied" in text:
        return "the proxy's user must reach it: the folders above must be open to others (o+x), their file system not noexec"
    return "its loader or a library may be missing"


def check_architecture(path: Path) -> None:
    """Raises UnavailableError unless it is this interpreter's own; a script is let through (a stand-in, a wrapper)."""
    with reading.opened(path) as file, reading.opened(Path("/proc/self/exe")) as own:
        head, here = file.read(20), own.read(20)
    # Bytes 4, 5 and 18 of an ELF header: word size, byte order, machine.
    if head[:2] != b"#!" and (head[:6], head[18:20]) != (here[:6], here[18:20]):
        raise UnavailableError(f"{path.name} is no program for this machine's architecture ({os.uname().machine})")
