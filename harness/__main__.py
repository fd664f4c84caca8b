"""`python3 -m harness` and the `meshexp` command."""

from __future__ import annotations

import sys

from harness import ending, missing


def main() -> None:
    with ending.orderly():
        from harness import cli, lean_imports

        lean_imports.apply()
        with missing.told():
            sys.exit(cli.main())


if __name__ == "__main__":
    main()
