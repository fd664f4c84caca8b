"""The places for values in a hint: `{port}` becomes the port that was tried. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.config import schema
    from harness.paths import Paths

GENERAL = {
    "unit": "meshexp-harness",
    "instance": "",
    "config": "/etc/meshexp",
    "state": "/var/lib/meshexp",
    "run": "/run/meshexp",
    "anchors": "/etc/meshexp/trust-anchors.pem",
    "namespace": "NAMESPACE",
    "group": "GROUP",
}
"""Values that every workload has: those of a machine's first workload, for a page. A machine puts in its own (`general`)."""
SPECIFIC = {
    "address": "ADDRESS:PORT",
    "command": "COMMAND",
    "file": "FILE",
    "fingerprints": "FINGERPRINT",
    "folder": "FOLDER",
    "host": "HOST",
    "identity": "SPIFFE-ID",
    "key": "KEY",
    "name": "NAME",
    "network": "NETWORK",
    "port": "PORT",
    "socket": "SOCKET",
    "uid": "UID",
}
"""Values that are known only where the problem is met, each with the word that a page has in its place."""
_PLACE = re.compile(r"\{([a-z]+)\}")


def places(template: str) -> frozenset[str]:
    """The names of the values that it needs beyond the general ones."""
    return frozenset(_PLACE.findall(template)) - GENERAL.keys()


def general(paths: Paths, config: schema.Config | None = None) -> dict[str, str]:
    """The values of one workload of this machine, as a shell wants them. `config`: None where there is none that can be used."""
    at = f"@{paths.instance}" if paths.instance else ""
    told = {
        "unit": f"meshexp-harness{at}",
        "instance": f" --instance {paths.instance}" if paths.instance else "",
        "config": shlex.quote(str(paths.config)),
        "state": shlex.quote(str(paths.state)),
        "run": shlex.quote(str(paths.run)),
    }
    if config is None:
        return told
    return told | {
        "anchors": shlex.quote(config.controller.trust_anchors),
        "namespace": config.workload.namespace,
        "group": config.workload.group,
    }


def put(template: str, values: Mapping[str, str]) -> str:
    """Other places stay as they are."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)
