"""What a container makes of its variables and its mounted folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import container
from harness.config import load
from harness.config.schema import Config, IdentityMode, LogLevel
from harness.decode import encode
from harness.errors import HarnessError
from harness.invitation import AgentIdentity, Invitation, LocalIdentity
from harness.messages import PodRoute
from harness.paths import Paths
from harness.values import parse_address, parse_host_port, parse_label, parse_network, parse_spiffe_id
from tests.container.playground import root_folder
from tests.linkerd_lab_pki import for_machine
from tests.mesh import certificates

GIVEN = {"WORKLOAD_NAME": "face", "WORKLOAD_NAMESPACE": "faces"}


@pytest.fixture(scope="module")
def anchor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt and ca.key, without the suffix."""
    folder = tmp_path_factory.mktemp("anchor")
    certificates(folder)
    return folder / "ca"


def configured(certs: Path, folder: Path, environ: dict[str, str], own: Path | None = None) -> tuple[Config, container.Setup]:
    where = Paths(config=folder / "config", state=folder / "state", run=folder / "run")
    setup = container.set_up(environ, certs, where.config)
    container.write(setup, where, own or folder / "none")
    return load.load(where, environ), setup


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("WORKLOAD_NAME", "WORKLOAD_NAME must be set"),
        ("WORKLOAD_NAMESPACE", "WORKLOAD_NAMESPACE must be set"),
        ("ca.crt", "ca.crt is missing"),
        ("ca.key", "ca.key is missing"),
    ],
)
def test_what_is_missing_is_one_line(anchor: Path, tmp_path: Path, missing: str, line: str) -> None:
    certs = root_folder(tmp_path / "certs", anchor)
    (certs / missing).unlink(missing_ok=True)
    with pytest.raises(HarnessError) as caught:
        container.set_up({name: value for name, value in GIVEN.items() if name != missing}, certs, tmp_path)
    assert caught.value.message.endswith(line) and "\n" not in caught.value.message
    assert caught.value.exit_code == 1


def test_the_root_and_its_key_work_with_a_warning(anchor: Path, tmp_path: Path) -> None:
    certs = root_folder(tmp_path / "certs", anchor)
    config, setup = configured(certs, tmp_path, {**GIVEN, "NODE_IP": "10.0.0.5", "POD_CIDR": "10.42.0.0/24"})
    assert setup.warnings == (container.ROOT_KEY,)
    assert config.identity.mode is IdentityMode.LOCAL and config.identity.local.allow_root_key
    assert config.controller.trust_anchors == f"{certs}/ca.crt"
    assert str(config.network.node) == "10.0.0.5"
    assert str(config.identity.spiffe_id) == "spiffe://root.linkerd.cluster.local/faces/face"
    own, _ = configured(certs, tmp_path, {**GIVEN, "MESHEXP_IDENTITY_SPIFFE_ID": "spiffe://td/face"})
    assert str(own.identity.spiffe_id) == "spiffe://td/face"


def test_an_intermediate_needs_its_root_beside_it_and_no_warning(anchor: Path, tmp_path: Path) -> None:
    certs = for_machine(tmp_path / "certs", anchor, "face-1")
    config, setup = configured(certs, tmp_path, GIVEN)
    assert setup.warnings == () and not config.identity.local.allow_root_key
    assert config.controller.trust_anchors == f"{certs}/trust-anchors.pem"
    (certs / "trust-anchors.pem").unlink()
    with pytest.raises(HarnessError, match="intermediate"):
        container.set_up(GIVEN, certs, tmp_path)


def invitation(local: bool) -> Invitation:
    return Invitation(
        version=1, token="once", expires=1e12, controller_address=parse_host_port("10.0.0.5:8081"),
        controller_identity="controller.mesh", trust_anchors_pem="ANCHORS", group=parse_label("smiley"),
        namespace=parse_label("faces"), spiffe_id=parse_spiffe_id("spiffe://root.linkerd.cluster.local/vm-7"),
        pod_routes=(
            PodRoute(parse_network("10.42.0.0/24"), parse_address("10.0.0.5")),
            PodRoute(parse_network("10.42.1.0/24"), parse_address("10.0.0.6")),
        ),
        service_cidrs=(parse_network("10.43.0.0/16"),),
        local=LocalIdentity("CERTIFICATE", "KEY") if local else None,
        agent=None if local else AgentIdentity(parse_host_port("10.0.0.9:8081"), "token"),
    )  # fmt: skip


@pytest.mark.parametrize("local", [True, False])
def test_an_invitation_is_all_that_is_needed(tmp_path: Path, local: bool) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    (certs / "smiley.invitation").write_text(json.dumps(encode(invitation(local))))
    config, setup = configured(certs, tmp_path, {})
    assert setup.warnings == ()
    assert (config.workload.group, config.workload.namespace) == ("smiley", "faces")
    assert str(config.identity.spiffe_id) == "spiffe://root.linkerd.cluster.local/vm-7"
    assert [str(network) for network in config.network.pod_cidrs] == ["10.42.0.0/24"]
    assert (tmp_path / "config/invitation").read_text() == "once"
    secret = config.identity.local.ca_key if local else config.identity.agent.join_token_file
    assert secret is not None and Path(secret).read_text() == ("KEY" if local else "token")
    assert Path(secret).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 2}'])
def test_what_is_no_invitation_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.invitation").write_text(text)
    with pytest.raises(HarnessError, match="is no invitation") as caught:
        container.set_up({}, tmp_path, tmp_path)
    assert "\n" not in caught.value.message


def test_two_invitations_are_one_too_many(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.invitation").write_text("{}")
    with pytest.raises(HarnessError, match="2 invitations"):
        container.set_up({}, tmp_path, tmp_path)


def test_the_users_own_configuration_stands_over_what_was_mounted(anchor: Path, tmp_path: Path) -> None:
    own = tmp_path / "etc"
    (own / "harness.d").mkdir(parents=True)
    (own / "harness.yaml").write_text("workload: {group: other}\nlog: {level: debug}\n")
    (own / "harness.d/90.yaml").write_text("log: {level: error}\n")
    config, _ = configured(root_folder(tmp_path / "certs", anchor), tmp_path, GIVEN, own)
    assert (config.workload.group, config.log.level) == ("other", LogLevel.ERROR)
    assert config.identity.mode is IdentityMode.LOCAL


def test_another_source_of_identity_needs_no_keys(tmp_path: Path) -> None:
    assert container.set_up({**GIVEN, "MESHEXP_IDENTITY_MODE": "external"}, tmp_path, tmp_path).config == {}
