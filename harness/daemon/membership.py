"""A durable marker with the mesh's networks: this machine is a member, and must not send plaintext to the mesh.

It is written when the redirect is first in force with `on_proxy_loss: closed`. An operator's stop removes it, and so does
`meshexp cleanup`; a crash, a restart and a boot do not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from harness.errors import HarnessError
from harness.paths import Paths
from harness.system import files, units
from harness.values import IPNetwork


def keep(paths: Paths, networks: tuple[IPNetwork, ...]) -> None:
    """Blocking: it is on the disk when this returns. Raises UnwritableError."""
    data = {"networks": [str(network) for network in networks]}
    if files.read_json(paths.member) != data:
        files.write_json(paths.member, data, mode=0o600, durable=True)


def kept(paths: Paths) -> tuple[IPNetwork, ...] | None:
    """None on a machine that is no member. A marker that cannot be used still says that it is one."""
    if not files.identity(paths.member):
        return None
    listed = files.read_json(paths.member).get("networks")
    return tuple(_networks(listed)) if isinstance(listed, list) else ()


def _networks(listed: Iterable[object]) -> Iterable[IPNetwork]:
    for text in listed:
        try:
            yield ipaddress.ip_network(str(text))
        except ValueError:
            continue


async def lasts() -> bool:
    """Whether the membership outlives this stop, because the whole machine goes down. True also when systemd does not say."""
    try:
        return await units.going_down()
    except HarnessError:
        return True


async def forget(paths: Paths) -> None:
    """When an operator ends the membership. Raises UnwritableError."""
    if not await lasts():
        files.remove(paths.member)
