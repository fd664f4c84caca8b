"""Which real programs took part in a test run: noted as the tests start them, printed by tests/run at its end."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.kubernetes_build import MODULES, kept

FOLDER = "TEST_COMPONENTS_FOLDER"
"""The environment variable that names where each process of the run writes what it has started. MESHEXP_… is configuration."""
IN_NO_REGISTRY = ("linkerd2-proxy", "spire-server", "spire-agent", "linkerd-controller", "linkerd-policy-controller", "linkerd")
BUILT = tuple(MODULES)
INSTALLED = (
    "etcd",
    "docker-registry",
    "nft",
    "iptables-legacy",
    "systemd-nspawn",
    "dockerd",
    "firewalld",
    "ufw",
    "promtool",
    "chromium",
)

_words: set[str] = set()


def watch() -> None:
    """Notes each word of each command that this process starts from now on."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen":
        return
    command = arguments[1]
    words = command if isinstance(command, list | tuple) else (command,)
    for word in words:
        # A word may be a script: its own words count, too.
        _words.update(os.fsdecode(word).split() if isinstance(word, str | bytes | os.PathLike) else ())


def write(folder: Path) -> None:
    (folder / str(os.getpid())).write_text("\n".join(started(_words)))


def started(words: Iterable[str]) -> set[str]:
    """The components that these words of commands start: not a stand-in that has the same name elsewhere."""
    places = {os.path.realpath(place): name for name in (*IN_NO_REGISTRY, *BUILT, *INSTALLED) if (place := find(name))}
    found = (word if "/" in word else shutil.which(word) for word in set(words))
    return {places[real] for place in found if place and (real := os.path.realpath(place)) in places}


def find(name: str) -> str | None:
    on_path = shutil.which(name)
    if on_path is None and name in BUILT and kept(name).exists():
        return str(kept(name))
    return on_path


def table(used: set[str]) -> Iterable[str]:
    """A line for each component: real, not used in this run, or absent."""
    for name in (*IN_NO_REGISTRY, *BUILT, *INSTALLED):
        place = find(name)
        if place is None:
            why = "not on PATH, and in no registry: a stand-in took its place" if name in IN_NO_REGISTRY else "not installed"
            yield f"absent    {name} ({why})"
        elif name in used:
            yield f"real      {name} ({place})"
        else:
            yield f"not used  {name} ({place}: no test of this run started it)"


if __name__ == "__main__":
    for line in table({name for file in Path(sys.argv[1]).iterdir() for name in file.read_text().split()}):
        print(line)
