"""The controller's configuration: what it refuses before it listens anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from controller import cli, config
from harness.errors import ConfigError


def faults(folder: Path, **keys: object) -> list[str]:
    path = folder / "controller.yaml"
    path.write_text(yaml.safe_dump({"kubernetes": True, **keys}))
    try:
        config.load(str(path), {})
    except ConfigError as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"listen": "[::]:9995"}, "listen and health_listen"),  # by default that is on loopback, which [::] takes too
        ({"listen": "[::]:8081", "health_listen": "[::]:8081"}, "listen and health_listen"),
        ({"fleet_listen": "127.0.0.1:8081"}, "listen and fleet_listen"),
        ({"fleet_listen": "127.0.0.1:9995"}, "health_listen and fleet_listen"),
        ({"listen": "10.0.0.1:9995", "health_listen": "127.0.0.1:9995"}, None),
        ({"listen": "[::]:8081", "health_listen": "[::]:9995", "fleet_listen": "127.0.0.1:9996"}, None),
    ],
)
def test_two_listeners_need_two_ports(tmp_path: Path, keys: dict[str, object], named: str | None) -> None:
    found = faults(tmp_path, **keys)
    assert found == ([] if named is None else [f"{named} must have ports of their own"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("trust_domain", "Example.org"), ("trust_domain", ""), ("service_account", "a.b"), ("linkerd_namespace", "-")],
)
def test_names_that_linkerd_would_not_know_are_refused(tmp_path: Path, key: str, value: str) -> None:
    (found,) = faults(tmp_path, **{key: value})
    assert found.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("address", "keys", "named"),
    [
        ("nowhere", {"kubernetes": True}, "'nowhere' is not host:port"),
        ("127.0.0.1:8081", {"tls_cert": "a", "tls_key": "b", "trust_anchors": "c"}, "kubernetes: must be true"),
        ("127.0.0.1:8081", {"kubernetes": True, "lease": "1h"}, "lease must be at least 1s and at most expiry"),
    ],
)
def test_reach_says_what_is_wrong_before_it_tries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, keys: dict[str, object], named: str
) -> None:
    path = tmp_path / "controller.yaml"
    path.write_text(yaml.safe_dump(keys))
    assert cli.main(["reach", address, f"--config={path}"]) == 78
    said = capsys.readouterr()
    assert named in said.err and said.out == ""
