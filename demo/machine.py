"""A network namespace as a VM or a pod: own network, mounts, processes and host name; gone when its first process ends.

Namespaces are anonymous and die with the demo, also when that is killed: `unshare --kill-child` under a parent-death signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

# Everything that the harness writes on a machine is under /run here. bash reaps whatever its descendants leave behind.
_INIT = """
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/vm/etc /run/vm/state /run/vm/src /run/vm/certs
mount --bind "$2" /run/vm/src
if [ -n "$3" ]; then cp "$3"/ca.crt "$3"/ca.key /run/vm/certs/; chmod 600 /run/vm/certs/ca.key; fi
printf 'nameserver %s\\n' "$4" >/run/vm/resolv.conf
# Where the file is a link to one below /run, as with systemd-resolved, that one is hidden by the tmpfs.
resolv_conf=$(readlink -m /etc/resolv.conf)
case $resolv_conf in /run/*) mkdir -p "${resolv_conf%/*}"; touch "$resolv_conf";; esac
mount --bind /run/vm/resolv.conf "$resolv_conf"
ip link set lo up
echo up
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""

SOURCE = "/run/vm/src"
# In namespaces of its own; whatever happens to the one who starts it, they end with it.
NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"),
)
# By itself a bridge has the lowest hardware address of its ports: a new port may change it, and who knew the old one is cut off.
BRIDGE = ("link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge")
PYTHON = "/usr/bin/python3"
PROXY_UID, APP_UID, DNS_UID = 2102, 2105, 2108  # the first as in Linkerd's chart; any uid that nothing else has would do


@dataclass(slots=True)
class Machine:
    name: str
    address: str
    pid: int
    process: asyncio.subprocess.Process
    children: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def enter(self) -> tuple[str, ...]:
        """The argv prefix that runs a command inside."""
        return ("nsenter", "-t", str(self.pid), "--net", "--mount", "--pid", "--uts", "--")

    def path(self, inside: str) -> Path:
        """A file as it is inside, seen from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        uid: int | None = None,
        output: IO[bytes] | int = subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """A long-lived process inside, with what it says in `output`."""
        drop = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--") if uid is not None else ()
        process = await asyncio.create_subprocess_exec(
            *self.enter,
            *drop,
            *argv,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": SOURCE, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
        self.children[name] = process
        return process

    async def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None, uid: int | None = None) -> tuple[int, str]:
        """Exit code and output of a short command inside."""
        process = await self.start(f"run {argv[-1]}", argv, env or {}, uid)
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode(errors="replace")

    def pid_of(self, name: str) -> int:
        """The process itself: nsenter forks once to enter the PID namespace."""
        pid = self.children[name].pid
        inner = children_of(pid)
        return inner[0] if inner else pid

    def signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(self.pid_of(name), number)

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@dataclass(frozen=True, slots=True)
class Link:
    """To a bridge of this namespace. `gateway`: of the default route; none without one."""

    address: str
    bridge: str = "br0"
    gateway: str = ""


async def boot(name: str, link: Link, source: Path, certs: Path | None, dns: str) -> Machine:
    """A machine with a link, `address` on it, and nothing else. Without `certs` it has no key of the trust anchor."""
    process = await asyncio.create_subprocess_exec(
        *NAMESPACES,
        *("bash", "-ec", _INIT, "init", name, str(source), str(certs or ""), dns),
        stdout=asyncio.subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    if process.stdout is None or (await process.stdout.readline()).strip() != b"up":
        raise RuntimeError(f"the namespaces of {name} could not be made; are you root?")
    pid = children_of(process.pid)[0]
    end = f"v-{name}"[:15]
    await command("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    await command("ip", "link", "set", end, "master", link.bridge, "up")
    # No link-local address: it would come some time later, and dumps must compare.
    words = [("addr", "add", f"{link.address}/24", "dev", "eth0"), ("link", "set", "eth0", "addrgenmode", "none", "up")]
    if link.gateway:
        words.append(("route", "add", "default", "via", link.gateway))
    for each in words:
        await command("nsenter", "-t", str(pid), "--net", "--", "ip", *each)
    return Machine(name, link.address, pid, process)


def children_of(pid: int) -> list[int]:
    """What the main thread of the process has started. Raises OSError when the process has ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def command(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {output.decode(errors='replace').strip()}")
