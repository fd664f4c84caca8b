"""What a container says of a workload that cannot run, before anything is started; and which ones run."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import container_workload
from harness.system import exec_try

pytestmark = pytest.mark.root
USER = "nobody"
SCRIPT = b"#!/bin/sh\nexit 0\n"


@pytest.fixture
def start() -> Iterator[Path]:
    """Where the workload is to be, for every user to reach."""
    with tempfile.TemporaryDirectory(prefix="meshexp-workload-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "start"


def fault(start: Path, user: str = USER) -> str | None:
    return container_workload.fault((str(start),), os.environ, user)


def put(start: Path, content: bytes, mode: int = 0o755) -> Path:
    start.write_bytes(content)
    start.chmod(mode)
    return start


def elf_for(processor: int) -> bytes:
    """This machine's own program, for another processor."""
    program = bytearray(Path("/bin/true").read_bytes())
    program[18:20] = struct.pack("<H", processor)
    return bytes(program)


def without_loader() -> bytes:
    return re.sub(rb"/lib[^\0]*/ld-linux[^\0]*", lambda found: b"/no" + found[0][3:], Path("/bin/true").read_bytes())


@pytest.mark.parametrize(
    ("content", "mode", "line"),
    [
        (SCRIPT, 0o644, "chmod 755"),
        (SCRIPT, 0o700, "chmod 755"),
        (SCRIPT, 0o711, "chmod 755"),  # the kernel would begin it, and the interpreter could not read it
        (b"#!/no/such\n", 0o755, "interpreter of .*, /no/such, is not in this image"),
        (b"#!/etc/passwd\n", 0o755, "interpreter of .*, /etc/passwd, is not in this image, or not executable"),
        (b"#!/usr/bin/env no-such\n", 0o755, "interpreter of .*, no-such, is not in this image"),
        (b"#!/bin/sh\r\nexit 0\r\n", 0o755, "CR LF"),
        (b"#!/usr/bin/env sh\r\nexit 0\r\n", 0o755, "CR LF"),
        (b"#!\n", 0o755, "names no interpreter"),
        (b"", 0o755, "is empty"),
        (b"exit 0\n", 0o755, "neither a program nor a script"),
        (b"\xef\xbb\xbf#!/bin/sh\n", 0o755, "byte order mark"),
        (elf_for(22), 0o755, "program for s390x, and this machine is"),
        (without_loader(), 0o755, "dynamic loader"),
    ],
)
def test_what_cannot_run_is_one_line(start: Path, content: bytes, mode: int, line: str) -> None:
    said = fault(put(start, content, mode))
    assert said is not None and re.search(line, said) and "\n" not in said and str(start) in said


def test_what_is_no_file_is_one_line(start: Path) -> None:
    assert "is not in this image" in str(fault(start))
    start.symlink_to("/no/such")
    assert "is a symbolic link to /no/such" in str(fault(start))
    start.unlink()
    start.mkdir()
    assert "is a directory" in str(fault(start))
    start.rmdir()
    os.mkfifo(start)
    assert "not a regular file" in str(fault(start))


def test_commands_are_found_as_the_workload_finds_them(start: Path) -> None:
    assert container_workload.fault(("sh", "-c", "exit"), os.environ, USER) is None
    assert "none of the folders of PATH (/none)" in str(container_workload.fault(("sh",), {"PATH": "/none"}, USER))
    assert "no user 'nobody-at-all'" in str(fault(put(start, SCRIPT), "nobody-at-all"))


def test_what_can_run_is_not_run(start: Path) -> None:
    """Scripts, programs, and links to them; none gets as far as its first instruction."""
    witness = start.with_name("ran")
    put(start, f"#!/bin/sh\ntouch {witness}\n".encode())
    start.parent.chmod(0o777)
    assert fault(start) is None
    link = start.with_name("link")
    link.symlink_to(start)
    assert fault(link) is None
    link.unlink()
    link.symlink_to("/bin/true")
    assert fault(link) is None
    shutil.copy("/bin/true", link := start.with_name("setuid"))
    link.chmod(0o4755)
    assert fault(link) is None
    assert not witness.exists()


def test_it_is_tried_as_the_user_alone(start: Path) -> None:
    nobody, program = pwd.getpwnam(USER), put(start, SCRIPT, 0o700)
    assert exec_try.refusal((str(program),), {}, nobody, read=False) == 13
    os.chown(program, nobody.pw_uid, nobody.pw_gid)
    assert exec_try.refusal((str(program),), {}, nobody, read=True) == 0


def test_it_does_not_run_as_the_proxys_user(start: Path) -> None:
    """The redirect leaves that user's connections alone."""
    assert "in plaintext" in str(fault(put(start, SCRIPT), user="meshexp-proxy"))
