"""A configuration of Buoyant's linkerd-proxy-harness becomes ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness import cli
from harness.config import imported, load
from harness.paths import Paths

THEIRS = {
    "WorkloadGroupName": "face",
    "WorkloadGroupNamespace": "faces",
    "Control": {
        "Address": "linkerd-autoregistration.linkerd.svc.cluster.local.:8081",
        "ServerId": "linkerd-autoregistration.linkerd.serviceaccount.identity.linkerd.cluster.local",
    },
    "ProxyUserID": 998,
    "PortsToRedirect": [8000, 9000],
    "SubnetsToIgnore": ["192.168.0.0/16"],
    "InboundPortsToIgnore": ["4567", "4568"],
    "OutboundPortsToIgnore": "4567,4568",
    "IPv6": True,
    "IPTablesMode": "nft",
    "OutboundListenAddresses": ["127.0.0.1:4140"],
    "inbound_listen_address": "0.0.0.0:4143",
    "SpireSocket": "unix:///tmp/spire-agent/public/api.sock",
    "DNS": {"MinTTL": "10s"},
}


def test_what_has_a_counterpart_is_taken_and_what_has_none_is_named() -> None:
    found = imported.read(THEIRS)
    assert found.values == {
        "workload": {"group": "face", "namespace": "faces"},
        "proxy": {"user": "998", "outbound_port": 4140, "inbound_port": 4143},
        "redirect": {
            "ports": [8000, 9000],
            "ignore_subnets": ["192.168.0.0/16"],
            "ignore_inbound_ports": ["4567", "4568"],
            "ignore_outbound_ports": ["4567", "4568"],
            "ipv6": True,
            "backend": "nftables",
        },
        "identity": {"socket": "/tmp/spire-agent/public/api.sock"},
    }
    assert any("DNS.MinTTL has no counterpart" in note for note in found.notes)
    assert any("speaks another language" in note for note in found.notes), "their controller is not ours"


@pytest.mark.parametrize(("key", "value"), [("IPTablesMode", "ebpf"), ("OutboundListenAddress", "nowhere")])
def test_what_is_not_understood_is_named(key: str, value: str) -> None:
    found = imported.read({key: value})
    assert found.values == {} and "not understood" in found.notes[0]


def test_the_result_is_a_configuration_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "linkerd-proxy-harness.cfg"
    file.write_text(json.dumps(THEIRS))
    assert cli.main(["config", "import", str(file)]) == 0
    text = capsys.readouterr().out
    (tmp_path / "harness.yaml").write_text(text)
    config = load.load(Paths(config=tmp_path), {})
    assert config.workload.group == "face" and config.redirect.backend.value == "nftables"
    assert yaml.safe_load(text)["redirect"]["ports"] == [8000, 9000]


def test_a_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x"
    file.write_text("[]")
    assert cli.main(["config", "import", str(file)]) == 64
    assert cli.main(["config", "import", "/nonexistent"]) == 69
    assert "Traceback" not in capsys.readouterr().err
