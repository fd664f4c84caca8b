"""A machine on a real Linkerd: how long it takes to join, beside the plain commands of a guide, and what its life costs callers.

The baseline is what a script for Linkerd's guide does: start SPIRE's server and agent and the proxy, each when the one before
answers, on the caches' short intervals. It registers nothing and probes nothing; a join ends at the ready endpoint.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from bench.record import Record, record
from tests.linkerd_lab import MISSING, WHY, Lab, lab
from tests.linkerd_lab_box import Box
from tests.linkerd_lab_cluster import CLUSTER_NETWORKS, PROXY_UID, SUFFIX, TRUST_DOMAIN
from tests.linkerd_lab_endpoints import Endpoints
from tests.linkerd_lab_package import HOST, packaged
from tests.linkerd_lab_vm import NAMESPACE, Vm
from tests.mesh import ROOT
from tests.package import root
from tests.package.debs import NEWER, NEXT, install, make_newer
from tests.package.machine import UNIT, UPGRADE
from tests.waiting import wait

JOINS, RATE, TTL, ROTATION_SECONDS = 5, 200.0, 60, 600.0
SMILEY = f"smiley.{NAMESPACE}.svc.cluster.local"
POLL = 0.1  # of the baseline, as a script would


def run() -> list[Record]:
    if MISSING:
        print(f"skipped: {WHY}")
        return []
    with lab() as made:
        made.group("smiley")
        made.group("face")
        return [*_joins(made), *_lives(made)]


def _joins(made: Lab) -> list[Record]:
    """Cold, warm and baseline in turn, so that each has the same neighbours."""
    vm, plain = made.vm("smiley-1", "smiley"), Plain(made)
    endpoints = Endpoints(made.cluster)
    cold: list[float] = []
    warm: list[float] = []
    baseline: list[float] = []
    steps: dict[str, list[float]] = {}
    for _ in range(JOINS):
        baseline.append(plain.seconds())
        for kind in (cold, warm):
            if kind is cold:
                shutil.rmtree(vm.folder / "state", ignore_errors=True)
            (vm.folder / "harness.log").unlink(missing_ok=True)
            began = time.time()
            vm.start()
            ready = endpoints.when_ready(vm.address, began)
            kind.append(ready - began)
            prefix = "cold" if kind is cold else "warm"
            for name, seconds in _steps(vm.box.log("harness"), began, ready).items():
                steps.setdefault(f"{prefix}_{name}", []).append(seconds)
            vm.leave()
    plain.end()
    against = "join.plain_commands_seconds"
    base = statistics.median(baseline)
    records = [record(against, base, "s")]
    for name, values in (("cold", cold), ("warm", warm)):
        seconds = statistics.median(values)
        records.append(record(f"join.real_{name}_seconds", seconds, "s", against, seconds / base))
    return records + [record(f"join.real_{name}_seconds", statistics.median(v), "s") for name, v in steps.items()]


# The line of the log that each step of a join begins with; what comes before the first is the interpreter.
_BEGINS = {
    "spire_server": "start spire-server",
    "spire_agent": "start spire-agent",
    "registration": "register ",
    "proxy": "start /",
    "redirect": "# redirect",
    "report": "report ready",
}


def _steps(log: str, began: float, ready: float) -> dict[str, float]:
    times = {"process": began}
    for line in filter(lambda text: text.startswith("{"), log.splitlines()):
        event = json.loads(line)
        for name, start in _BEGINS.items():
            if event.get("part") and event["msg"].startswith(start):
                times.setdefault(name, datetime.fromisoformat(event["ts"]).timestamp())
    return {name: end - start for (name, start), (_, end) in itertools.pairwise([*times.items(), ("", ready)])}


class Plain:
    """The baseline's machine: it trusts the root's own key to SPIRE and signs by a join token, as guides do."""

    def __init__(self, made: Lab) -> None:
        self._vm = made.vm("plain-1", "plain")
        self._folder = self._vm.folder / "plain"
        self._anchor = made.cluster.pki / "ta"
        self._vm.box.do("ip", "route", "add", "default", "via", "10.77.0.1")

    def end(self) -> None:
        self._vm.end()

    def seconds(self) -> float:
        """From the first command to a proxy that says it is ready."""
        box, folder = self._vm.box, self._folder
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("server", "agent", "public"):
            (folder / name).mkdir(parents=True)
        (folder / "server.conf").write_text(_SERVER.format(folder=folder, anchor=self._anchor, domain=TRUST_DOMAIN))
        (folder / "agent.conf").write_text(_AGENT.format(folder=folder, domain=TRUST_DOMAIN))
        began = time.monotonic()
        box.start("server", "spire-server", "run", "-config", f"{folder}/server.conf")
        self._await(box, "spire-server", "healthcheck", "-socketPath", f"{folder}/server.sock")
        agent_id = f"spiffe://{TRUST_DOMAIN}/agent"
        server = ("-socketPath", f"{folder}/server.sock")
        token = json.loads(box.do("spire-server", "token", "generate", *server, "-spiffeID", agent_id, "-output", "json"))[
            "value"
        ]
        entry = ("-parentID", agent_id, "-spiffeID", self._vm.spiffe_id, "-selector", f"unix:uid:{PROXY_UID}")
        box.do("spire-server", "entry", "create", *server, *entry)
        box.start("agent", "spire-agent", "run", "-config", f"{folder}/agent.conf", "-joinToken", token)
        self._await(box, "spire-agent", "healthcheck", "-socketPath", f"{folder}/public/api.sock")
        box.do("iptables-restore", given=_RULES)
        box.start("proxy", "linkerd2-proxy", env=self._environment(), uid=PROXY_UID)
        self._await(box, "curl", "-fsS", "-m1", "http://127.0.0.1:4191/ready")
        seconds = time.monotonic() - began
        for name in ("proxy", "agent", "server"):
            box.stop(name, signal.SIGKILL)
        return seconds

    def _await(self, box: Box, *argv: str) -> None:
        wait(lambda: box.run(*argv)[0] == 0, 40, lambda: " ".join(argv), POLL, share=1.0)

    def _environment(self) -> dict[str, str]:
        workload = json.dumps({"ns": NAMESPACE, "external_workload": "plain"})
        control = "linkerd.svc.cluster.local."
        variables = {
            "IDENTITY_SERVER_ID": self._vm.spiffe_id,
            "IDENTITY_SERVER_NAME": "plain.cluster.local",
            "IDENTITY_TRUST_ANCHORS": Path(f"{self._anchor}.crt").read_text(),
            "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": f"unix:{self._folder}/public/api.sock",
            "POLICY_WORKLOAD": workload,
            "DESTINATION_CONTEXT": workload,
            "DESTINATION_SVC_ADDR": f"linkerd-dst-headless.{control}:8086",
            "POLICY_SVC_ADDR": f"linkerd-policy.{control}:8090",
            "DESTINATION_SVC_NAME": f"linkerd-destination.{SUFFIX}",
            "POLICY_SVC_NAME": f"linkerd-destination.{SUFFIX}",
            "DESTINATION_PROFILE_NETWORKS": CLUSTER_NETWORKS,
            "POLICY_CLUSTER_NETWORKS": CLUSTER_NETWORKS,
            "INBOUND_IPS": self._vm.address,
        }
        return {f"LINKERD2_PROXY_{name}": value for name, value in variables.items()}


_SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "8081"
  socket_path = "{folder}/server.sock"
  trust_domain = "{domain}"
  data_dir = "{folder}/server"
  ca_ttl = "168h"
  default_x509_svid_ttl = "24h"
  experimental {{ cache_reload_interval = "500ms" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{
    database_type = "sqlite3"
    connection_string = "{folder}/server/datastore.sqlite3"
  }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  UpstreamAuthority "disk" {{ plugin_data {{ cert_file_path = "{anchor}.crt", key_file_path = "{anchor}.key" }} }}
}}
"""
_AGENT = """
agent {{
  data_dir = "{folder}/agent"
  socket_path = "{folder}/public/api.sock"
  trust_domain = "{domain}"
  server_address = "localhost"
  server_port = 8081
  insecure_bootstrap = true
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""
_RULES = f"""*nat
-A PREROUTING -p tcp -m multiport ! --dports 4190,4191,4567,4568 -j REDIRECT --to-port 4143
-A OUTPUT -m owner --uid-owner {PROXY_UID} -j RETURN
-A OUTPUT -o lo -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-port 4140
COMMIT
"""


def _lives(made: Lab) -> list[Record]:
    one, other, client = made.vms["smiley-1"], made.vm("smiley-2", "smiley"), made.vm("face-1", "face")
    for vm in (one, other, client):
        vm.configure(local={"svid_ttl": f"{TTL}s"})
        vm.join()
    made.await_endpoints("smiley", {one.address: True, other.address: True})
    records = []
    for name, happens in (
        ("proxy_restart", lambda: _restart(one, other)),
        ("leave", lambda: _leave(made, one)),
        ("rotation", _rotation),
    ):
        records += _under_load(name, client, SMILEY, happens)
    return [*records, *_packaged(made, client)]


def _packaged(made: Lab, client: Vm) -> Iterator[Record]:
    """A harness on a booted Debian is started anew, and upgraded."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder, debian = Path(name), root.debian("bookworm")
        present = ROOT / root.sh(str(ROOT / "packaging/deb/build")).split()[-1]
        make_newer(present, folder)
        install(present, debian, folder)
        with packaged(made, folder / "upper", debian) as vm:
            restart = partial(vm.change_daemon, "systemctl", "restart", UNIT)
            upgrade = partial(vm.change_daemon, *UPGRADE, vm.put(folder / NEXT), version=NEWER)
            yield from _under_load("restart", client, HOST, restart)
            yield from _under_load("upgrade", client, HOST, upgrade)


def _under_load(name: str, client: Vm, host: str, happens: Callable[[], None]) -> list[Record]:
    with client.load(host, RATE) as load:
        time.sleep(2)
        happens()
        time.sleep(2)
    for failure in load.failed[:5]:
        print(f"{name}: {failure}")
    return [
        record(f"{name}.failed_requests", len(load.failed), "requests"),
        record(f"{name}.requests", load.requests, "requests"),
        record(f"{name}.slowest_request_ms", load.slowest * 1000, "ms"),
    ]


def _restart(*vms: Vm) -> None:
    """The proxies of both, one after the other."""
    for vm in vms:
        vm.box.do(*vm.command("proxy", "restart"), env=vm.environment)
        time.sleep(2)


def _leave(made: Lab, vm: Vm) -> None:
    vm.leave()
    vm.join()
    made.await_endpoints("smiley", {v.address: True for v in made.vms.values() if v.group == "smiley"})


def _rotation() -> None:
    time.sleep(ROTATION_SECONDS)
