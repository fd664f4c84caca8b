"""The redirect: what a change costs beside the tools that others use, what a connection pays, and that kills do no harm.

linkerd2-proxy-init takes part when it is on PATH; else its commands do, one process each, as its source has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.record import Record, record
from harness.reconcilers.redirect import Redirect
from harness.rules import Family, RedirectSpec, Rules, rules_for
from harness.system.nftables import Nftables
from harness.system.redirect_backend import Choice, detect
from harness.system.redirect_selftest import Report, self_test
from tests import redirect_support as support
from tests.netns import test_redirect_kill as kills
from tests.redirect_support import networks, ports, sh, spec

REPEATS, SLOW_REPEATS, CONNECTIONS, KILLS = 200, 20, 10_000, 200

TEN = spec(ignore_outbound_ports=ports("4567-4568"), ignore_subnets=networks("10.42.3.0/24"))
THOUSAND = spec(ignore_interfaces=tuple(f"veth{number}" for number in range(497)))
"""497 interfaces in each direction beside the default rules: the kernel holds a thousand rules, none folded into a set."""

# What linkerd2-proxy-init runs for redirect-all with its chart's exclusions (pkg/iptables/iptables.go), for each family.
PROXY_INIT = """
-N PROXY_INIT_REDIRECT
-A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 22,4190,4191,4567,4568 -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143
-A PREROUTING -j PROXY_INIT_REDIRECT
-N PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN
-A PROXY_INIT_OUTPUT -o lo -j RETURN
-A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 4567,4568 -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140
-A OUTPUT -j PROXY_INIT_OUTPUT
"""


def run() -> list[Record]:
    with support.machine(), tempfile.TemporaryDirectory() as folder:
        records = [*_changes(TEN, "", REPEATS), *_changes(THOUSAND, "_1000", SLOW_REPEATS), *_connections()]
        records += asyncio.run(_whole_change(Path(folder)))
    return [*records, *_kills()]


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _changes(wanted: RedirectSpec, suffix: str, repeats: int) -> list[Record]:
    """Side by side: each round takes every way once. The daemon's ways are timed inside its event loop, thread hops included."""
    rules, backend = rules_for(wanted), Nftables()
    with asyncio.Runner() as loop, tempfile.NamedTemporaryFile("w") as file:
        file.write(backend.render_text(rules))
        file.flush()
        redirect = Redirect(detect(Choice.NFTABLES), self_test=lambda rules: Report(()))

        async def reapply() -> float:
            started = time.perf_counter()
            if redirect.diff(wanted, await redirect.observe()):
                raise RuntimeError("the rules are not those that were applied")
            return (time.perf_counter() - started) * 1000

        async def replace(new: Rules) -> float:
            started = time.perf_counter()
            await backend.replace(new)
            return (time.perf_counter() - started) * 1000

        rounds = []
        for _ in range(repeats):
            apply, again, remove = loop.run(replace(rules)), loop.run(reapply()), loop.run(replace(()))
            process = _timed(lambda: subprocess.run(["nft", "-f", file.name], check=True))
            rounds.append((apply, again, remove, process))
        loop.run(replace(()))
    apply, again, remove, process = (statistics.median(column) for column in zip(*rounds, strict=True))
    records = [
        record(f"redirect.apply{suffix}_ms", apply, "ms", "nft -f", apply / process),
        record(f"redirect.reapply{suffix}_ms", again, "ms", "nft -f", again / process),
        record(f"redirect.remove{suffix}_ms", remove, "ms", "nft -f", remove / process),
        record(f"redirect.nft_process{suffix}_ms", process, "ms"),
    ]
    return records if suffix else [*records, _proxy_init(apply)]


def _proxy_init(apply: float) -> Record:
    """Both families, in nft mode, on empty tables each time."""
    tool = shutil.which("linkerd2-proxy-init")
    commands = [
        [program, "-t", "nat", *line.split()]
        for program in ("iptables-nft", "ip6tables-nft")
        for line in PROXY_INIT.strip().splitlines()
    ]
    if tool:
        arguments = "--incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 --iptables-mode nft"
        skipped = "--inbound-ports-to-ignore 22,4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568"
        commands = [[tool, *arguments.split(), *skipped.split()]]
    times = []
    for _ in range(SLOW_REPEATS):
        times.append(_timed(lambda: [subprocess.run(command, check=True, capture_output=True) for command in commands]))
        sh("nft delete table ip nat; nft delete table ip6 nat")
    name = "linkerd2-proxy-init" if tool else "its commands"
    value = statistics.median(times)
    return record("redirect.proxy_init_nft_ms", value, f"ms ({name})", "redirect.apply_ms", value / apply)


def _connections() -> list[Record]:
    """A connection that is redirected to a listener here, beside one that goes to the same listener with no rules at all."""
    backend, rules = Nftables(), rules_for(spec())
    with socket.create_server(("", 4140), backlog=64) as server:
        server.settimeout(5)
        plain, redirected, plain_cpu, redirected_cpu = [], [], [], []
        for _ in range(5):
            asyncio.run(backend.replace(()))
            latency, cpu = _connect(("127.0.0.1", 4140), server)
            plain.append(latency)
            plain_cpu.append(cpu)
            asyncio.run(backend.replace(rules))
            latency, cpu = _connect((support.MESH[Family.IPV4], 80), server)
            redirected.append(latency)
            redirected_cpu.append(cpu)
        asyncio.run(backend.replace(()))
    slow, fast = statistics.median(redirected), statistics.median(plain)
    cost, free = statistics.median(redirected_cpu), statistics.median(plain_cpu)
    return [
        record("redirect.connect_us", slow, "us", "no redirect", slow / fast),
        record("redirect.connect_plain_us", fast, "us"),
        record("redirect.cpu_per_10000_ms", cost, "ms", "no redirect", cost / free),
        record("redirect.cpu_per_10000_plain_ms", free, "ms"),
    ]


def _connect(address: tuple[str, int], server: socket.socket) -> tuple[float, float]:
    """Median microseconds of connect(), and milliseconds of processor time for 10,000 connections, both ends."""
    times = []
    cpu = time.process_time()
    for _ in range(CONNECTIONS // 5):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            started = time.perf_counter()
            client.connect(address)
            times.append(time.perf_counter() - started)
            server.accept()[0].close()
    return statistics.median(times) * 1e6, (time.process_time() - cpu) * 1e3 * 5


async def _whole_change(folder: Path) -> list[Record]:
    """Observe, compare, trial, self-test in both directions and families, confirm."""
    changes = []
    for number in range(SLOW_REPEATS):
        redirect = Redirect(await asyncio.to_thread(detect, Choice.NFTABLES), folder / "lock", self_test)
        started = time.perf_counter()
        for action in redirect.diff(spec(proxy_uid=7 + number % 2), await redirect.observe()):
            await redirect.apply(action)
        changes.append((time.perf_counter() - started) * 1000)
    await Nftables().replace(())
    return [record("redirect.change_with_self_test_ms", statistics.median(changes), "ms")]


def _kills() -> list[Record]:
    """A new process for each: what was killed is a whole change, and the session's port is in no configuration."""
    with support.machine() as peer, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(support.listening(4140, 4143, uid=support.PROXY_UID))
        session = kills.Session(peer)
        stack.callback(session.close)
        outcomes = kills.kill_runs("nftables", session, Path(folder) / "lock", KILLS)
    return [
        record("redirect.kills", outcomes["killed"], f"of {KILLS} changes"),
        record("redirect.lockouts", outcomes["lockouts"], "times"),
        record("redirect.leftovers", outcomes["leftovers"], "lines"),
    ]
