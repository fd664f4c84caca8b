"""`python3 -m controller` and the `meshexp-controller` command."""

from __future__ import annotations

import sys


def main() -> None:
    from harness import lean_imports

    lean_imports.apply()

    from controller import cli

    lean_imports.done()
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
