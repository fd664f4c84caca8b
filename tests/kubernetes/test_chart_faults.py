"""The chart refuses what the controller refuses, and no more: one table of values, tried against both."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import config
from controller.config import ControllerConfig
from harness.errors import ConfigError
from harness.messages import ClusterFacts
from tests.chart_support import Object, copy, objects, only, template

DURATIONS: tuple[Any, ...] = (
    "0", "0s", "1s", "999ms", "30", "1m30s", " 30s ", "1.5h", "3649d", "3650d", "99999d", "10s30", "-1s", "soon", "",
    "1e3", "1 m", 0, 1, 0.5, 1.5, 30, 899, 901, -1, 315359999, 315360000, 1e300, True, None, [], {},
)  # fmt: skip
NETWORKS = (
    "10.43.0.0/16", "10.43.0.1/16", "10.43.0.0/33", "10.43.0.0/", "10.43.0.0", "10.43.0.0/08", "10.0.0.0/08", "10.43.0/16",
    "0.0.0.0/0", "256.0.0.0/8", "010.0.0.0/8", "10.0.0.0/8/8", "10.128.0.0/9", "10.64.0.0/9", "10.43.0.0/-1",
    "10.43.0.0/x", "::/0", "fd00::/8", "fd00::1/64", "fd00::/129", "fd42:0:0:1::/64", "fd42:0:0:1::/63",
    "1:2:3:4:5:6:7::/112", "1:2:3:4:5:6:7:8::/128", "1::2::3/128", ":::/0", "12345::/16", "g::/16", "::ffff:192.0.2.4/126",
    "::ffff:192.0.2.5/126", "::ffff:192.0.2.256/128", "1:2:3:4:5:6:7:8/128", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7",
    ":1:2:3:4:5:6:7", "::192.0.2.1:1", "", "/", "::", "FD00::/8", "example.org", 10, None, True,
)  # fmt: skip
ADDRESSES = ("10.9.0.1", "fd00::1", "::", "10.9.0", "10.9.0.1/32", "10.9.0.256", "gateway", "", "1::2::3", 1, None)
ENDPOINTS = (
    "10.43.0.10:53", "10:53", "[fd00::a]:53", "dns.example.org:53", "10.43.0.10", "10.43.0.10:0", "10.43.0.10:65535",
    "10.43.0.10:65536", "10.43.0.10:00053", "10.43.0.10:dns", ":53", "a b:53", "[]:53", "fd00::a:53", "[x]:53",
    "[fd00::a]", "[fd00::a]:", "[:::::]:53", "[10.43.0.10]:53", "[fd00::a:53", "a..b:53", "-a:53", "a;b:53", "a.b.:53", "a_b:53",
    f"{'a' * 63}:53", f"{'a' * 64}:53", f"{'.'.join(['a' * 63] * 4)}:53", "a/b:53", "a\nb:53", 53, None,
)  # fmt: skip
DOMAINS = (
    "cluster.local",
    "a",
    "yes",
    "1e3",
    "0x1f",
    "1_000",
    "x" * 63,
    "x" * 64,
    f"{'x.' * 58}",
    f"{'x.' * 58}x",
    "a\nb: c",
    "a b",
    "a..b",
    "-a",
    1,
    True,
    ["cluster.local"],
)
TRUST_DOMAINS = ("root.linkerd.cluster.local", "a_b", "x" * 255, "x" * 256, "Example.org", "a b", "a/b", "", 5, "5", None)
LABELS = ("a", "a-1", "1", "x" * 63, "x" * 64, "A", "a.b", "-a", "a-", "a_b", 7, "7")
NUMBERS: tuple[Any, ...] = (1, 1.5, 200, 1000000, 0, 0.99, -1, "200", "many", None, True, [])
RANGES: tuple[Any, ...] = (4143, "4143-4150", "4143-4143", "4150-4143", "4143-70000", 0, -1, 65536, "x", "1-2-3", True)
PORTS = (1, 8080, 8081, 9995, 9996, 65535, 65536, 0, -1, "x", None)


LISTS: dict[str, list[Any]] = {
    "facts.meshCIDRs": [text for text in NETWORKS if isinstance(text, str)],
    "facts.serviceCIDRs": list(NETWORKS[:8]),
    "facts.podRoutes.podCIDR": list(NETWORKS[:8]),
    "facts.podRoutes.via": [text for text in ADDRESSES if isinstance(text, str)],
    "facts.dnsAddresses": [text for text in ENDPOINTS if isinstance(text, str)],
}
KEYS = {
    "meshCIDRs": "mesh_cidrs", "serviceCIDRs": "service_cidrs", "podCIDR": "pod_routes", "via": "pod_routes",
    "dnsAddresses": "dns_addresses",
}  # fmt: skip


def cases() -> Iterator[Object]:
    yield {}
    yield from ({"times": {"drain": value}} for value in DURATIONS)
    yield from ({"times": {key: value}} for key in ("lease", "expiry") for value in DURATIONS[:6])
    yield from ({"times": {"expiry": value}} for value in (899, 29, "29s", "soon"))
    yield from ({"times": {"lease": lease, "expiry": expiry}} for lease, expiry in (("1h", "60m"), ("1h", "59m59s"), (60, "1m")))
    yield {"facts": {"serviceCIDRs": "10.43.0.0/16"}}
    yield from ({"facts": {"meshCIDRs": [value]}} for value in NETWORKS if not isinstance(value, str))
    yield from ({"facts": {"dnsAddresses": [value]}} for value in ENDPOINTS if not isinstance(value, str))
    yield from ({"facts": {"podRoutes": [{"podCIDR": "10.42.0.0/24", "via": value}]}} for value in (*ADDRESSES[:1], 1))
    yield from ({"facts": {"clusterDomain": value}} for value in DOMAINS)
    yield from ({"trustDomain": value} for value in TRUST_DOMAINS)
    yield from ({"linkerdNamespace": value} for value in LABELS)
    yield from ({"serviceAccount": {"name": value}} for value in LABELS if isinstance(value, str))
    yield from ({"writesPerSecond": value} for value in NUMBERS)
    yield from ({"admitShortIdentities": value} for value in (True, False, "false", 1, None))
    yield from ({"fleetPage": {"enabled": True, "port": value}} for value in PORTS)
    yield from ({"networkPolicy": {"enabled": True, "machinePorts": [value]}} for value in RANGES)


ELSEWHERE: tuple[Object, ...] = (
    {"times": {"leaze": "1s"}},
    {"facts": {"serviceCidrs": []}},
    {"facts": {"podRoutes": [{"podCIDR": "10.42.0.0/24"}]}},
)
"""What only the chart can see: keys that no template looks for."""


@dataclass
class Unchecked:
    """The chart without its checks: what it would give to the controller. `told`: the faults that the controller found."""

    chart: Path
    folder: Path
    told: list[str] = field(default_factory=list)

    def faults(self, values: Object) -> set[str]:
        """The paths of what the controller refuses; none when it takes all."""
        done = template(values, self.chart)
        assert done.returncode == 0, done.stderr
        for name, text in only([one for one in yaml.safe_load_all(done.stdout) if one], "ConfigMap")["data"].items():
            (self.folder / name).write_text(text)
        try:
            read = config.load(str(self.folder / "controller.yaml"), {"facts": str(self.folder / "facts.yaml")})
            config.load_facts(read)
        except ConfigError as error:
            self.told.append(str(error))
            return {fault.path for fault in error.faults}
        return set()


@pytest.fixture
def unchecked(tmp_path: Path) -> Unchecked:
    chart = copy(tmp_path / "chart")
    (chart / "values.schema.json").unlink()
    for path in (chart / "templates").rglob("*"):
        if path.is_file() and path.name not in ("_names.tpl", "configuration.yaml"):
            path.unlink()
    return Unchecked(chart, tmp_path)


def has_null(values: Any) -> bool:
    """helm takes a key away for it: the chart finds it missing, and the controller has its default."""
    return values is None or (isinstance(values, dict) and any(map(has_null, values.values())))


def test_both_take_or_refuse_the_same_values(unchecked: Unchecked) -> None:
    for values in cases():
        done = template(values)
        if has_null(values):
            assert done.returncode and "missing property" in done.stderr, values
            continue
        faults = unchecked.faults(values)
        assert bool(done.returncode) == bool(faults), f"{values}; the controller: {faults or 'takes it'}; helm: {done.stderr}"
    # Both kinds are in the table for each key that the chart's values can change.
    data = only(objects({"fleetPage": {"enabled": True}}), "ConfigMap")["data"]
    written = set(yaml.safe_load(data["controller.yaml"])) - {"kubernetes", "identity_token", "listen", "health_listen", "facts"}
    settable = {*KEYS.values(), "cluster_domain", *written}
    fields = {one.name for cls in (ControllerConfig, ClusterFacts) for one in dataclasses.fields(cls)}
    assert settable <= fields and {"lease", "trust_domain", "fleet_listen", "service_account"} <= settable
    assert {key for key in settable if not re.search(rf"\b{key}\b", "\n".join(unchecked.told))} == set()


@pytest.mark.parametrize("path", LISTS)
def test_both_refuse_the_same_elements_of_a_list(path: str, unchecked: Unchecked) -> None:
    key = path.rpartition(".")[2]
    elements: list[Any] = LISTS[path]
    if "podRoutes" in path:
        elements = [{"podCIDR": "10.42.0.0/24", "via": "10.9.0.1", key: element} for element in elements]
    values = {"facts": {"podRoutes" if "podRoutes" in path else key: elements}}
    refused = {int(number) for fault in unchecked.faults(values) for number in re.findall(rf"^{KEYS[key]}\[(\d+)", fault)}
    assert refused and len(refused) < len(elements)
    told = template(values).stderr
    numbers = re.findall(rf"^  facts\.\w+\[(\d+)\](?:\.{key})?: |'/facts/{key}/(\d+)'", told, re.MULTILINE)
    found = {int(one or other) for one, other in numbers}
    assert {LISTS[path][number] for number in found} == {LISTS[path][number] for number in refused}, told


@pytest.mark.parametrize("values", ELSEWHERE, ids=str)
def test_a_key_that_no_template_looks_for_is_refused(values: Object) -> None:
    done = template(values)
    assert done.returncode and ("additional properties" in done.stderr or "missing property" in done.stderr), done.stderr


def test_all_faults_are_told_at_once_with_their_paths() -> None:
    done = template({
        "image": {"repository": ""}, "times": {"lease": "1h", "expiry": "10m"}, "fleetPage": {"enabled": True, "port": 9995},
        "facts": {"serviceCIDRs": ["10.43.0.0/16", "10.43.0.1/16"], "podRoutes": [{"podCIDR": "x", "via": "y"}]},
        "networkPolicy": {"machineCIDRs": ["10.0.0.0"], "machinePorts": ["9-8", "1-65536", 4143]},
        "commonLabels": {"app.kubernetes.io/name": "x"},
        "podAnnotations": {"linkerd.io/inject": "enabled"}, "service": {"nodePort": 30081, "externalTrafficPolicy": "Local"},
    })  # fmt: skip
    assert "the values have 13 faults" in done.stderr
    told = re.findall(r"^  ([\w.\[\]]+)(?: is not set|:)", done.stderr, re.MULTILINE)
    assert sorted(told) == [
        "commonLabels", "facts.podRoutes[0].podCIDR", "facts.podRoutes[0].via", "facts.serviceCIDRs[1]", "fleetPage.port",
        "image.repository", "networkPolicy.machineCIDRs[0]", "networkPolicy.machinePorts[0]",
        "networkPolicy.machinePorts[1]", "podAnnotations", "service.externalTrafficPolicy",
        "service.nodePort", "times.expiry",
    ]  # fmt: skip


def test_the_schema_tells_all_that_it_sees_at_once_too() -> None:
    done = template({"replicas": 0, "image": {"digest": "sha256:x"}, "times": {"lease": "soon"}, "replicaz": 1})
    for place in ("/replicas", "/image/digest", "/times/lease", "replicaz"):
        assert place in done.stderr
