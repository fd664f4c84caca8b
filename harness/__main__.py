"""`python3 -m harness` and the `meshexp` command."""

from __future__ import annotations

import sys


def main() -> None:
    from harness import cli

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
