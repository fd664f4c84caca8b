from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from harness.config import environment, load, schema
from harness.daemon import needs
from harness.errors import ConfigError
from harness.paths import Paths

MINIMAL = "workload: {group: face, namespace: faces}\n"


def read(tmp_path: Path, text: str = MINIMAL, environ: dict[str, str] | None = None, **drop_ins: str) -> schema.Config:
    (tmp_path / "harness.yaml").write_text(text)
    (tmp_path / "harness.d").mkdir(exist_ok=True)
    for name, content in drop_ins.items():
        (tmp_path / "harness.d" / f"{name}.yaml").write_text(content)
    return load.load(Paths(config=tmp_path), environ or {})


def faults(tmp_path: Path, text: str = MINIMAL, environ: dict[str, str] | None = None, **drop_ins: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text, environ, **drop_ins)
    assert raised.value.exit_code == 78
    return {fault.path: f"{fault.message} ({fault.hint})" for fault in raised.value.faults}


def test_two_lines_are_enough(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert config.workload.group == "face"
    assert config.redirect.on_proxy_loss is schema.OnProxyLoss.CLOSED


def test_later_layers_stand_over_earlier_ones(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        MINIMAL + "proxy: {log: debug, admin_port: 5191}\n",
        {
            "MESHEXP_PROXY_LOG": "warn",
            "MESHEXP_REDIRECT_IGNORE_SUBNETS": "10.1.0.0/16, 10.2.0.0/16",
            "MESHEXP_REDIRECT_IPV6": "false",
        },
        a="proxy: {log: trace}\n",
        b="drain: {deadline: 5s}\n",
    )
    assert (config.proxy.log, config.proxy.admin_port, config.drain.deadline) == ("warn", 5191, 5.0)
    assert config.redirect.ignore_subnets == tuple(map(ipaddress.ip_network, ("10.1.0.0/16", "10.2.0.0/16")))
    assert config.redirect.ipv6 is False


def test_every_fault_of_every_source_at_once(tmp_path: Path) -> None:
    text = "workload: {group: Face!}\nproxi: {}\nproxy: {admin_port: 0}\n"
    found = faults(tmp_path, text, {"MESHEXP_PROXY_LOGG": "x"}, a="redirect: {outbound: mash}\n", b="[1, 2]\n")
    assert set(found) == {
        "workload.group", "workload.namespace", "proxi", "proxy.admin_port", "MESHEXP_PROXY_LOGG", "redirect.outbound",
        str(tmp_path / "harness.d" / "b.yaml"),
    }  # fmt: skip
    assert "did you mean proxy?" in found["proxi"]
    assert "did you mean MESHEXP_PROXY_LOG?" in found["MESHEXP_PROXY_LOGG"]
    assert "did you mean mesh?" in found["redirect.outbound"]
    assert "a.yaml" in found["redirect.outbound"], "a fault says which file it stands in"


def test_a_faulty_key_hides_no_fault_of_another(tmp_path: Path) -> None:
    """Neither one that several keys have together, nor one of what is needed of the machine."""
    text = MINIMAL + "identity: {mode: locl}\nproxy: {inbound_port: 4140}\ncontroller: {trust_anchors: /no/such/file}\n"
    assert set(faults(tmp_path, text)) == {"identity.mode", "proxy"}
    with pytest.raises(ConfigError) as raised:
        needs.configuration(Paths(config=tmp_path), {}, new=True)
    assert {"identity.mode", "proxy", "controller.trust_anchors"} <= {fault.path for fault in raised.value.faults}


def test_what_follows_from_a_fault_is_none(tmp_path: Path) -> None:
    """The default in the place of a key that is wrong."""
    (tmp_path / "harness.yaml").write_text(MINIMAL + "controller: {trust_anchors: [x]}\nproxy: {user: {}}\n")
    with pytest.raises(ConfigError) as raised:
        needs.configuration(Paths(config=tmp_path), {}, new=True)
    assert [fault.path for fault in raised.value.faults] == ["controller.trust_anchors", "proxy.user"]


@pytest.mark.parametrize("path", ["redirect.outbound", "redirect.inbound", "dns.mode"])
def test_yaml_reads_off_as_false_and_it_is_off_all_the_same(tmp_path: Path, path: str) -> None:
    section, key = path.split(".")
    config = read(tmp_path, MINIMAL + f"{section}: {{{key}: off}}\n")
    assert getattr(getattr(config, section), key).value == "off"
    assert "True is not one of" in faults(tmp_path, MINIMAL + f"{section}: {{{key}: on}}\n")[path]


def test_the_playgrounds_container_interface(tmp_path: Path) -> None:
    environ = {
        "WORKLOAD_NAME": "face", "WORKLOAD_NAMESPACE": "faces", "NODE_NAME": "$(hostname)", "NODE_IP": "172.18.0.2",
        "POD_CIDR": "10.42.0.0/24", "SVC_CIDR": "10.43.0.0/16",
    }  # fmt: skip
    config = load.load(Paths(config=tmp_path), environ)
    assert config.workload.hostname not in (None, "$(hostname)"), "exactly this literal is expanded"
    assert config.network.node == ipaddress.ip_address("172.18.0.2")
    assert config.network.pod_cidrs == (ipaddress.ip_network("10.42.0.0/24"),)
    assert config.controller.trust_anchors == "/opt/spire/certs/ca.crt"
    assert load.load(Paths(config=tmp_path), {**environ, "NODE_NAME": "$(id)"}).workload.hostname == "$(id)"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("network: {pod_cidrs: [10.42.0.0/16], service_cidrs: [10.42.128.0/17]}", "network.service_cidrs[0]"),
        ("network: {pod_cidrs: [10.42.0.1/16]}", "network.pod_cidrs[0]"),
        ("network: {node: 10.42.0.1, pod_cidrs: [10.42.0.0/16]}", "network.pod_cidrs[0]"),
        ("network: {pod_cidrs: [0.0.0.0/0]}", "network.pod_cidrs[0]"),
        ("network: {spare_nodes: [10.43.0.1], service_cidrs: [10.43.0.0/16]}", "network.service_cidrs[0]"),
        ("network: {route_metric: -1}", "network"),
        ("network: {route_table: 255}", "network"),
        ("network: {node: node-1}", "network.node"),
        ("proxy: {user: root}", "proxy.user"),
        ("proxy: {outbound_port: 4143}", "proxy"),
        ("proxy: {path: linkerd2-proxy}", "proxy.path"),
        ("workload: {group: a, namespace: b, addresses: [10.0.0.1, 10.0.0.2]}", "workload.addresses"),
        ("identity: {spiffe_id: face}", "identity.spiffe_id"),
        ("redirect: {ignore_interfaces: ['eth0; drop']}", "redirect.ignore_interfaces[0]"),
    ],
)
def test_values_that_cannot_be_right(tmp_path: Path, text: str, path: str) -> None:
    base = "" if text.startswith("workload") else MINIMAL
    assert path in faults(tmp_path, base + text + "\n")


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    found = faults(tmp_path, MINIMAL + "proxy: {log: a}\nproxy: {log: b}\n")
    assert "is there twice in line 3" in next(iter(found.values()))


def test_a_file_that_is_no_yaml_names_the_line(tmp_path: Path) -> None:
    assert "line 3" in next(iter(faults(tmp_path, "workload: {}\nproxy: [\n").values()))


def test_every_key_has_its_sentence_and_its_variable() -> None:
    keys = list(environment.leaves())
    assert len(keys) > 35
    names = [environment.variable(path) for path, _, _ in keys]
    assert len(set(names)) == len(names)
    assert all(item.metadata["doc"].endswith(".") for _, _, item in keys)
