"""The configuration that a daemon has in force, kept for the one after it: a member goes on with it while the files are wrong.

It is there as long as the machine is to be a member: an operator's stop removes it, and so does `meshexp cleanup`; a crash, a
restart and a boot do not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import decode
from harness.config import schema
from harness.errors import ConfigError, HarnessError, UnavailableError, UnreadableError
from harness.paths import Paths
from harness.system import files, units


@dataclass(frozen=True, slots=True)
class InForce:
    """`values`: of all files and variables, merged, as they were written. `anchors_pem`: the trust anchors, used when their file
    cannot be used any more.

    `fault`: why the files are not used, when this is the configuration of a daemon before this one; empty otherwise.
    """

    config: schema.Config
    values: dict[str, Any] = field(default_factory=dict, repr=False)
    anchors_pem: str = field(default="", repr=False)
    fault: str = ""


async def keep(paths: Paths, now: InForce | None, anchors_pem: str, log: Any) -> None:
    """Where nothing can be kept the daemon goes on, and logs why."""
    if now is None:
        return
    data = {"values": now.values, "anchors_pem": anchors_pem}
    try:
        if files.read_json(paths.in_force) != data:
            await asyncio.to_thread(_write, paths.in_force, data)
    except UnavailableError as error:
        log.warning("the configuration in force cannot be kept for a restart", reason=error.message)


def _write(path: Path, data: dict[str, Any]) -> None:
    """Raises UnwritableError, and UnreadableError while nobody can say what is there."""
    try:
        files.load_json(path)
    except ValueError as error:
        files.set_aside(path, f"it is no JSON: {error}")
    except OSError as error:
        fault = UnreadableError(path, error)
        if not fault.absent and not fault.foreign:
            raise fault from None
    files.write_json(path, data, mode=0o600, durable=True)


def kept(paths: Paths, fault: str) -> InForce | None:
    """The configuration that the daemon before this one had; None where it left none that can be used."""
    left = files.read_json(paths.in_force)
    values, anchors = left.get("values"), left.get("anchors_pem")
    if not isinstance(values, dict) or not isinstance(anchors, str):
        return None
    try:
        return InForce(decode.decode(schema.Config, values, source="configuration", lenient=True), values, anchors, fault)
    except ConfigError:
        return None


async def forget(paths: Paths) -> None:
    """When an operator ends the membership; it stays when the whole machine shuts down, or boots again."""
    try:
        shutting_down = await units.going_down()
    except HarnessError:
        return  # systemd does not say; `meshexp cleanup` asks again
    if not shutting_down:
        files.remove(paths.in_force)
