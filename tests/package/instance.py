"""Another workload of a machine, set up as docs/several-workloads.md says."""

from __future__ import annotations

import json

import yaml

from tests.package.machine import Machine

API, API_PROXY, API_USER = "meshexp-harness@api.service", "meshexp-proxy@api.service", "meshexp-proxy-api"


def add_api(vm: Machine) -> None:
    """A group of its own, and a configuration beside the first's. The unit is enabled, and the workload ready."""
    group = yaml.safe_load((vm.mesh.folder / "groups/face.yaml").read_text())
    group["metadata"]["name"], group["spec"]["template"]["ports"][0]["port"] = "api", 8001
    (vm.mesh.folder / "groups/api.yaml").write_text(yaml.safe_dump(group))
    first = yaml.safe_load(vm.file("/etc/meshexp/harness.yaml").read_text())
    own = {
        "workload": {"group": "api", "namespace": "faces", "users": ["games"]},
        "proxy": {**first["proxy"], "user": API_USER, "inbound_port": 4243, "outbound_port": 4240, "admin_port": 4291},
        "metrics": {"listen": "127.0.0.1:4292"},
    }
    vm.run("useradd", "--system", "--no-create-home", API_USER)
    folder = vm.file("/etc/meshexp/instances/api")
    folder.mkdir(parents=True)
    (folder / "harness.yaml").write_text(yaml.safe_dump({**first, **own}))
    vm.run("systemctl", "enable", "--now", API)
    vm.wait(lambda: api_phase(vm) == "Ready")


def api_phase(vm: Machine) -> str:
    try:
        return str(json.loads(vm.file("/run/meshexp-api/status.json").read_text())["phase"])
    except (OSError, ValueError):
        return ""
