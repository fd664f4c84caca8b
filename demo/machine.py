"""A network namespace as a VM: own network, mounts, processes and host name; gone without a trace when its first process ends.

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

# Everything that the harness writes on a machine is under /run here. bash reaps whatever its descendants leave behind.
_INIT = """
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/vm/etc /run/vm/state /run/vm/src /run/vm/certs
mount --bind "$2" /run/vm/src
cp "$3"/ca.crt "$3"/ca.key /run/vm/certs/ && chmod 600 /run/vm/certs/ca.key
printf 'search faces.svc.cluster.local svc.cluster.local\\nnameserver %s\\noptions ndots:2\\n' "$4" >/run/vm/resolv.conf
mount --bind /run/vm/resolv.conf /etc/resolv.conf
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
APP_UID, PROXY_UID = 2105, 2102  # as in Linkerd's chart; any uid that nothing else has would do


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

    async def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], uid: int | None = None
    ) -> asyncio.subprocess.Process:
        """A long-lived process inside; its output is the caller's to read."""
        drop = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--") if uid is not None else ()
        process = await asyncio.create_subprocess_exec(
            *self.enter,
            *drop,
            *argv,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": SOURCE, **env},
            stdin=subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
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
        inner = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(inner[0]) if inner else pid

    def signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(self.pid_of(name), number)

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


async def boot(name: str, address: str, source: Path, certs: Path, dns: str) -> Machine:
    """A machine with a link to the bridge of this namespace, `address` on it, and nothing else."""
    process = await asyncio.create_subprocess_exec(
        *NAMESPACES,
        *("bash", "-ec", _INIT, "init", name, str(source), str(certs), dns),
        stdout=asyncio.subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    if process.stdout is None or (await process.stdout.readline()).strip() != b"up":
        raise RuntimeError(f"the namespaces of {name} could not be made; are you root?")
    pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    link = f"v-{name}"[:15]
    await command("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    await command("ip", "link", "set", link, "master", "br0", "up")
    machine = Machine(name, address, pid, process)
    # No link-local address: it would come some time later, and dumps must compare.
    for words in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "addrgenmode", "none", "up")):
        await command("nsenter", "-t", str(pid), "--net", "--", "ip", *words)
    return machine


async def command(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {output.decode(errors='replace').strip()}")
