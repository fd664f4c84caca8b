"""`python3 -m harness.system.workload_api_child SOCKET`: hands the X.509-SVIDs of its own uid to the daemon over a pipe.

The Workload API identifies a caller by its process, and the entry selects the proxy's uid, so the daemon, which is root,
cannot ask for itself. Writes frames to standard output, each a big-endian length (4 bytes, of the payload), a kind (1 byte)
and the payload: `S` an X509SVIDResponse as it came, `E` JSON {"kind", "message"} for a call that ended. Calls again for
ever; exits 0 when standard output closes or on SIGTERM. Its imports are few because a process of its own is dear.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys

from harness.backoff import Backoff
from harness.system import workload_api_client as client

FRAME_HEADER = struct.Struct(">Ic")
RESPONSE = b"S"
FAILURE = b"E"
_STDOUT = 1
_BACKOFF = Backoff(first=0.1, most=1.0, spread=0.2)  # as linkerd2-proxy's own client


def run(path: str) -> None:
    failures = 0
    while True:
        try:
            for response in client.responses(path, _wait):
                _send(RESPONSE, response)
                failures = 0
        except client.CallError as error:
            import json  # here, because a child that succeeds does without its 0.4 MiB

            _send(FAILURE, json.dumps({"kind": error.kind.value, "message": error.message}).encode())
        failures += 1
        _wait(None, _BACKOFF.pause(failures, os.urandom(1)[0] / 255))


def _wait(descriptor: int | None, seconds: float | None = None) -> None:
    """Until `descriptor` is readable or `seconds` are over; leaves the process when nobody reads our output any more."""
    poll = select.poll()
    poll.register(_STDOUT, 0)
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    ready = poll.poll(None if seconds is None else seconds * 1000)
    if any(number == _STDOUT for number, _ in ready):
        sys.exit(0)


def _send(kind: bytes, payload: bytes) -> None:
    data = memoryview(FRAME_HEADER.pack(len(payload), kind) + payload)
    try:
        while data:
            data = data[os.write(_STDOUT, data) :]
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(64)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    run(sys.argv[1])
