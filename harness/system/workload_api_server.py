"""Identity mode `embedded`: a small SPIFFE Workload API server, the stand-in for SPIRE where there is none.

`python3 -m harness.system.workload_api_server --socket PATH --ca-cert FILE --ca-key FILE --entry uid:N=ID [--drop-uid M]`
gives FetchX509SVID, and nothing else of the API, to the uids of its entries, and pushes a new SVID at half of the old one's
life. As the CA's key is in this process, the certificates are worth no more than this machine: for demos. Exits 64 (usage),
75 (the socket belongs to a live server), 78 (CA, socket or entries unusable, or the CA has run out), 0 on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import pwd
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import values
from harness.clock import Clock, SystemClock
from harness.errors import ConfigError, Fault, HarnessError, TemporaryError
from harness.system import workload_api_authority as authority
from harness.system import workload_api_connection as connection
from harness.system import workload_api_issuer as issuer

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2  # linux/prctl.h
_ENTRY = re.compile(r"uid:(\d+)=(.+)")


def parse_entries(texts: Sequence[str]) -> tuple[issuer.Entry, ...]:
    """Entries from texts such as `uid:2102=spiffe://root.linkerd.cluster.local/face`; ConfigError names every bad one."""
    entries, faults = [], []
    for text in texts:
        match = _ENTRY.fullmatch(text)
        try:
            if match is None:
                raise ValueError(f"{text!r} is not an entry such as uid:2102=spiffe://root.linkerd.cluster.local/face")
            if int(match[1]) == 0:
                raise ValueError("an entry for uid 0 would give every root process this identity")
            entries.append(issuer.Entry(int(match[1]), values.parse_spiffe_id(match[2])))
        except ValueError as error:
            faults.append(Fault("--entry", str(error)))
    if not texts:
        faults.append(Fault("--entry", "at least one is needed"))
    if faults:
        raise ConfigError(tuple(faults), "embedded Workload API")
    return tuple(entries)


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, with SPIRE's modes (directory 0755, socket 0777); a dead server's socket file is replaced.

    TemporaryError when a live server has it, ConfigError when it cannot be made.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(ConnectionRefusedError):
                probe.connect(str(path))
                raise TemporaryError(f"{path}: another server listens there")
            path.unlink()
        server.bind(str(path))
        path.chmod(0o777)
        server.listen(64)
    except OSError as error:
        server.close()
        raise ConfigError((Fault("--socket", f"{path}: {error.strerror or error}"),), "embedded Workload API") from None
    except TemporaryError:
        server.close()
        raise
    return server


def drop_privileges(uid: int) -> None:
    """Becomes the user `uid`. A death signal is set again: with the change of user the kernel forgets it (prctl(2)), and a
    daemon killed with -9 would leave this process behind."""
    prctl, parent, signum = ctypes.CDLL(None).prctl, os.getppid(), ctypes.c_int()
    prctl(_PR_GET_PDEATHSIG, ctypes.byref(signum), 0, 0, 0)
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if signum.value and os.getppid() != parent:
        sys.exit(0)


async def serve(listener: socket.socket, identities: issuer.Issuer, clock: Clock) -> None:
    """Serves until SIGTERM or SIGINT; ConfigError when the CA has run out."""
    loop = asyncio.get_running_loop()
    connections: set[connection.Connection] = set()
    server = await loop.create_unix_server(lambda: connection.Connection(identities, connections), sock=listener)

    def push(uids: frozenset[int]) -> None:
        for one in connections:
            if one.uid in uids:
                one.push()

    rotation = asyncio.create_task(identities.rotate(clock, push))
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, rotation.cancel)
    try:
        await rotation
    except asyncio.CancelledError:
        pass
    finally:
        server.close()
        for one in tuple(connections):
            one.close()


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workload_api_server", description="SPIFFE Workload API for demos")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--ca-cert", type=Path, required=True, help="PEM: the signing CA, then its issuers up to the root")
    parser.add_argument("--ca-key", type=Path, required=True, help="PEM: the signing CA's EC or RSA key")
    parser.add_argument("--entry", action="append", default=[], metavar="uid:N=ID", help="who gets which SPIFFE ID")
    parser.add_argument("--spiffe-id", metavar="ID", help="with --uid: one more entry")
    parser.add_argument("--uid", metavar="N")
    parser.add_argument("--svid-ttl", type=values.parse_duration, default=3600.0, help="such as 1h, which is the default")
    parser.add_argument("--drop-uid", type=int, metavar="M", help="the user to become once key and socket are open")
    options = parser.parse_args(argv)
    if (options.spiffe_id is None) != (options.uid is None):
        parser.error("--spiffe-id and --uid belong together")
    if options.spiffe_id is not None:
        options.entry.append(f"uid:{options.uid}={options.spiffe_id}")
    return options


def run(argv: Sequence[str]) -> None:
    options = _arguments(argv)
    clock = SystemClock()
    os.umask(0o022)
    ca = authority.load(options.ca_cert, options.ca_key, clock.wall())
    identities = issuer.Issuer(ca, parse_entries(options.entry), options.svid_ttl, clock.wall())
    listener = listen(options.socket)
    if options.drop_uid is not None:
        drop_privileges(options.drop_uid)
    print(f"embedded Workload API at {options.socket}: {', '.join(options.entry)}", file=sys.stderr, flush=True)
    try:
        asyncio.run(serve(listener, identities, clock))
    finally:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            options.socket.unlink()


def main(argv: Sequence[str]) -> int:
    try:
        run(argv)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except SystemExit as error:  # argparse's own code for a wrong command line is 2
        return 64 if error.code else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
