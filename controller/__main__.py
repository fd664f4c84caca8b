"""`python3 -m controller` and the commands `meshexp-controller`, `kubectl-meshexp` and `linkerd-meshexp`."""

from __future__ import annotations

import importlib
import sys

from harness import ending, lean_imports, missing


def main() -> None:
    _run("controller.cli")


def kubectl() -> None:
    _run("controller.admin")


def linkerd() -> None:
    _run("controller.extension")


def _run(module: str) -> None:
    lean_imports.apply()
    with ending.orderly(), missing.told("controller"):
        program = importlib.import_module(module)
        lean_imports.done()
        sys.exit(program.main())


if __name__ == "__main__":
    main()
