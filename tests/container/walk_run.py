"""The walk-through's scripts in a Site: run, and what they print of a step that holds or fails."""

from __future__ import annotations

from tests.container.walk_site import Site
from tests.linkerd_lab_cluster import DNS

MACHINES = ("face-1", "smiley-1", "face-2", "color-1", "smiley2-1")


def walk(site: Site, *words: str, by: str = "") -> tuple[int, str]:
    options = ("--no-images", "--faces-chart", str(site.root / "faces-chart"))
    done = site.run("walk", *options, *words, by=by, PLAYGROUND_DNS=DNS)
    print(done.stdout)
    if done.returncode != 0:
        print(*(site.engine.run("logs", "--tail=30", name)[1] for name in machines(site)), sep="\n---\n")
    return done.returncode, done.stdout


def story(said: str) -> dict[str, str]:
    """The parts of a failure by their names, and its heading."""
    lines = said.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("× "))
    parts = {"what": lines[start][2:]}
    name = ""
    for line in lines[start + 1 :]:
        key, colon, text = line.partition(":")
        if colon and key.strip() in ("expected", "came back", "for", "see") and line.startswith("  ") and line[2] != " ":
            name = key.strip()
            parts[name] = text.strip()
        elif line.startswith("    ") and name:
            parts[name] += "\n" + line.strip()
        else:
            break
    assert parts.keys() == {"what", "expected", "came back", "for", "see"}, said
    return parts


def fails(site: Site, *words: str, seconds: int = 3) -> dict[str, str]:
    code, said = site.verify(*words, seconds=seconds)
    assert code == 1, said
    return story(said)


def holds(site: Site, *words: str, seconds: int = 60) -> str:
    code, said = site.verify(*words, seconds=seconds)
    assert code == 0 and "×" not in said, said
    return said


def machines(site: Site) -> list[str]:
    found = site.engine.do("ps", "--all", "--format", "{{.Names}}").split()
    return [name for name in found if name in MACHINES]
