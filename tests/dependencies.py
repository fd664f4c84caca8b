"""What the machine's side and the controller need at run time, with all that these need, as it is installed here.

`python3 -m tests.dependencies`: what the index knows against each. Exit status 1 for a known fault, 77 where nobody could say.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator

from tests.mesh import ROOT

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SHIPPED = ("systemd", "iptables", "controller")
_WORDS = re.compile(r"\(.*?\)|,? version (?=\d)")


def installed() -> dict[str, importlib.metadata.Distribution]:
    """By name; what is asked for by a marker or an extra that does not apply here is not among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [*project["dependencies"], *(one for name in _SHIPPED for one in project["optional-dependencies"][name])]
    found: dict[str, importlib.metadata.Distribution] = {}
    while todo:
        name = _name(todo.pop())
        try:
            one = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found[name] = one
            todo += [text for text in one.requires or () if "extra ==" not in text]
    return found


def _name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return (match[0] if match else requirement).lower().replace("_", "-")


def licences(one: importlib.metadata.Distribution) -> tuple[str, ...]:
    """As its metadata has them: each alternative of an expression by itself."""
    metadata = one.metadata
    expression = metadata["License-Expression"] or ""
    if expression:
        return tuple(re.split(r" (?:OR|AND) ", expression))
    classified = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or () if text.startswith("License ::")]
    first = (metadata["License"] or "").strip().splitlines()[:1]
    return tuple(_WORDS.sub("", text).strip() for text in (*classified, *first) if text != "OSI Approved")


def known_faults(name: str, version: str) -> Iterator[str]:
    """From the index's JSON. Raises OSError and ValueError where it does not tell."""
    with urllib.request.urlopen(f"https://pypi.org/pypi/{name}/{version}/json", timeout=20) as answer:
        for fault in json.load(answer)["vulnerabilities"]:
            yield f"{name} {version}: {fault['id']}: {fault.get('summary') or fault.get('details', '')[:80]}"


def main() -> int:
    faults: list[str] = []
    untried: list[str] = []
    for name, one in sorted(installed().items()):
        try:
            faults += known_faults(name, one.version)
        except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
            untried.append(f"{name} {one.version}: not known: {error}")
    print("\n".join((*faults, *untried)) or "nothing is known against any of them")
    return 1 if faults else 77 if untried else 0


if __name__ == "__main__":
    sys.exit(main())
