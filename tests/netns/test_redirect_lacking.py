"""Which backend a machine gets that lacks something: a library, a kernel's module, a file system that can be written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import UnavailableError
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_backend import Choice, Detected, detect
from tests import redirect_support as support
from tests.redirect_support import (
    Peer,
    kind_fixture,  # noqa: F401
    peer_fixture,  # noqa: F401
    sh,
)

pytestmark = support.needs_root


def test_python_iptables_missing_is_no_error_unless_chosen(peer: Peer, tmp_path: Path) -> None:
    """A directory without the library stands for a machine without it."""
    script = "from harness.system.redirect_backend import *; print(detect(Choice(__import__('sys').argv[1])).reason)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    without = ["/usr/bin/python3", "-c", "import sys; sys.modules['iptc'] = None\n" + script]
    sh("iptables-legacy -t nat -A OUTPUT -p tcp --dport 9 -j REDIRECT --to-ports 10")
    chosen = subprocess.run([*without, "auto"], env=environment, capture_output=True, text=True, check=True)
    assert chosen.stdout.startswith("nftables: the legacy nat tables are in use, but python-iptables is not installed")
    refused = subprocess.run([*without, "iptables"], env=environment, capture_output=True, text=True, check=False)
    assert "UnavailableError: python-iptables is not installed" in refused.stderr


def test_without_nf_tables_the_other_backend_is_taken(peer: Peer, tmp_path: Path) -> None:
    detected = detect(Choice.AUTO, nftables=Nftables("libnftables.so.999"))
    assert detected.reason.startswith("iptables (legacy): nftables does not work here (cannot load libnftables.so.999")
    with pytest.raises(UnavailableError, match="libnftables"):
        detect(Choice.NFTABLES, nftables=Nftables("libnftables.so.999"))


def test_a_read_only_root_file_system(kind: str) -> None:
    """Every file system read-only but /proc: rules come and go all the same."""
    script = (
        "import asyncio\nfrom pathlib import Path\n"
        "from harness.reconcilers.redirect import Redirect\nfrom harness.system.redirect_backend import *\n"
        "from tests.redirect_support import spec\n"
        "async def main():\n"
        f"    redirect = Redirect(detect(Choice({kind!r})), Path('/run/meshexp-none/lock'))\n"
        "    for wanted in spec(), None:\n"
        "        for action in redirect.diff(wanted, await redirect.observe()):\n"
        "            await redirect.apply(action)\n"
        "        print([s.present for s in (await redirect.observe()).tables.values()])\n"
        "asyncio.run(main())\n"
    )
    mounts = (
        "mount -o remount,bind,ro /; for m in /run /tmp /dev/shm; do mount -o bind $m $m; mount -o remount,bind,ro $m; done; "
        'exec "$0" "$@"'
    )
    command = ["unshare", "-m", "sh", "-ec", mounts]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*command, "/usr/bin/python3", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.returncode) == ("[True, False]\n[False, False]\n", 0), run.stderr


NO_NETFILTER = """
import ctypes, struct, sys
def refuse(syscall, argument, values, error):
    code = [(0x20, 0, 0, 0), (0x15, 0, 1 + len(values), syscall), (0x20, 0, 0, 16 + 8 * argument)]
    code += [(0x15, len(values) - n, 0, value) for n, value in enumerate(values)]
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | error)]
    raw = b"".join(struct.pack("HBBI", *one) for one in code)
    buffer = ctypes.create_string_buffer(raw)
    program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
"""
MODULES = {
    # socket(AF_NETLINK, …, NETLINK_NETFILTER): EPROTONOSUPPORT
    "nfnetlink": "refuse(41, 2, [12], 93)",
    # getsockopt(…, IPT_SO_GET_INFO and _ENTRIES): ENOPROTOOPT
    "ip_tables": "refuse(55, 2, [64, 65], 92)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers")
@pytest.mark.parametrize(
    ("missing", "choice", "said"),
    [
        ("nfnetlink", "auto", "iptables (legacy): nftables does not work here (this kernel has no netfilter netlink"),
        ("nfnetlink", "nftables", "NotInKernelError: this kernel has no netfilter netlink"),
        ("ip_tables", "auto", "nftables: the legacy nat tables are empty"),
        ("ip_tables", "iptables", "UnavailableError: iptables: "),
    ],
)
def test_a_kernel_without_a_module(peer: Peer, missing: str, choice: str, said: str) -> None:
    """The calls answer as such a kernel's do."""
    script = (
        f"{NO_NETFILTER}\n{MODULES[missing]}\n"
        "from harness.system.redirect_backend import *\n"
        f"print(detect(Choice({choice!r})).reason)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(["/usr/bin/python3", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert said in run.stdout + run.stderr


def test_the_pair_names_each_backend_once() -> None:
    detected = Detected(Nftables(), Iptables(), "")
    assert {detected.backend.kind, detected.other.kind} == set(type(detected.backend.kind))
