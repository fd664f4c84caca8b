"""`python3 -m demo.faces face|smiley|color|gui [--port 8000]`. Exits 64 for a bad setting, 69 when the port is taken."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping

from demo.faces import gui, workloads
from demo.faces.provider import Provider
from demo.faces.server import Server

_PROGRAMS: Mapping[str, Callable[[Mapping[str, str]], Provider | gui.Gui]] = {
    "face": workloads.face,
    "smiley": workloads.smiley,
    "color": workloads.color,
    "gui": gui.Gui,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo.faces", description="the Faces demo workload")
    parser.add_argument("program", choices=_PROGRAMS)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    try:
        program = _PROGRAMS[arguments.program](os.environ)
    except ValueError as error:
        print(f"{arguments.program}: bad setting in the environment: {error}", file=sys.stderr)
        return 64
    try:
        server = Server(arguments.port, program.handle)
    except OSError as error:
        print(f"{arguments.program}: port {arguments.port}: {error.strerror}", file=sys.stderr)
        return 69
    print(f"{arguments.program} listens on port {server.server_port}", flush=True)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
