"""Network namespaces for tests: anonymous, of this test alone, gone with its first process."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Namespace:
    pid: int

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--net", "--"]

    def run(self, *argv: str, check: bool = True, env: dict[str, str] | None = None) -> str:
        result = subprocess.run([*self.enter, *argv], capture_output=True, text=True, check=False, env=env)
        if check and result.returncode:
            raise AssertionError(f"{' '.join(argv)}: exit {result.returncode}: {result.stderr}{result.stdout}")
        return result.stdout

    def start(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.enter, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    # It ends with this process. Ten minutes would be too few on a busy machine.
    holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
    own = Path("/proc/self/ns/net").readlink()
    try:
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == own or not _is(holder.pid, "sleep"):
            time.sleep(0.002)
        found = Namespace(holder.pid)
        found.run("ip", "link", "set", "lo", "up")
        yield found
    finally:
        holder.kill()
        holder.wait()


def _is(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == name


def connect(one: Namespace, other: Namespace, addresses: Sequence[tuple[str, str]], name: str = "eth0") -> None:
    """A link between two namespaces with an address pair for each family: (address/length of one, of the other)."""
    one.run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", str(other.pid))
    for first, second in addresses:
        for side, address in ((one, first), (other, second)):
            side.run("ip", "address", "add", address, "dev", name, *(("nodad",) if ":" in address else ()))
    for side in (one, other):
        # No link-local address: it would come some time later, and dumps must compare.
        side.run("ip", "link", "set", name, "addrgenmode", "none", "up")
    for side in (one, other):
        # The kernel notices the other end some time later too, and until then says `linkdown` of the routes.
        while "linkdown" in side.run("ip", "route"):
            time.sleep(0.005)
