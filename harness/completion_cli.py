"""`meshexp completion`: what makes a shell complete our verbs, options and names at TAB."""

from __future__ import annotations

import argparse
from typing import Any

from harness.completion_shells import SHELLS

_EPILOG = (
    "The packages install it for all three shells. Elsewhere run one of these, and start a new shell. bash:"
    " `meshexp completion bash >>~/.bashrc`; zsh: `meshexp completion zsh >FOLDER/_meshexp`, where FOLDER is in $fpath; fish:"
    " `meshexp completion fish >~/.config/fish/completions/meshexp.fish`"
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "completion",
        help="print the script by which a shell completes this command",
        description="Prints the script by which a shell completes verbs, options, instances, versions and codes.",
        epilog=_EPILOG,
    )
    verb.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return verb


def run(options: argparse.Namespace) -> int:
    from harness import cli, completion, completion_shells

    print(completion_shells.script(options.shell, completion.nodes(cli.parser())), end="")
    return 0
