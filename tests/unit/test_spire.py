"""SPIRE's configuration and certificates, and the order in which its programs come and go; of them only `validate` runs."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from harness import problems, spire
from harness.errors import UnavailableError
from harness.reconcilers import spire as children
from harness.specs import IdentitySpec, SpireAgent, SpireServer, User
from harness.supervisor import ChildState, State
from harness.system import process, spire_certificate, spire_log
from harness.system.spire import AGENT, SERVER, Prepared
from harness.values import HostPort, parse_spiffe_id
from tests.mesh import on_path, openssl
from tests.workload_api_support import make_ca, write_pem

ID = parse_spiffe_id("spiffe://root.linkerd.cluster.local/face")
SPEC = IdentitySpec(
    ID,
    "/run/api.sock",
    User(2102, 2102),
    server=SpireServer(None, User(2106, 2106), "ca.crt", "ca.key", False, 86400.0),
    agent=SpireAgent(None, User(2107, 2107), HostPort("127.0.0.1", 8081)),
)
SERVER_CONFIG = spire.Server(
    "root.linkerd.cluster.local",
    8081,
    Path("/r/admin/api.sock"),
    Path("/s/server"),
    Path("/r/node.crt"),
    Path("/r/upstream.crt"),
    Path("/r/upstream.key"),
    Path("/r/bundle.pem"),
    spire.lifetimes(86400.0, 1e9),
)
AGENT_CONFIG = spire.Agent(
    "root.linkerd.cluster.local",
    HostPort("127.0.0.1", 8081),
    Path("/r/api/api.sock"),
    Path("/s/agent"),
    Path("/r/anchors.pem"),
    Path("/r/node.crt"),
    Path("/r/node.key"),
)


@given(st.floats(1.0, 60 * 86400.0), st.floats(1.0, 10 * 365 * 86400.0))
def test_lifetimes_keep_spires_rule_and_the_signing_certificates_end(wanted: float, left: float) -> None:
    found = spire.lifetimes(wanted, left)
    assert found.svid <= wanted
    assert found.svid <= min(found.ca / 6, 7 * 86400.0)
    assert found.ca <= left * (1 + 1e-9)


def test_the_entry_is_never_for_root() -> None:
    with pytest.raises(ValueError, match="every root process"):
        spire.Entry(ID, 0)


def test_the_configuration_says_what_it_must() -> None:
    server = json.loads(spire.server_config(SERVER_CONFIG))
    section, plugins = server["server"], server["plugins"]
    assert (section["ca_ttl"], section["default_x509_svid_ttl"]) == ("604800s", "86400s")
    assert section["bind_address"] == "127.0.0.1"
    assert section["disable_jwt_svids"] is True
    assert "experimental" not in section, "SPIRE would warn of it at each start"
    assert plugins["NodeAttestor"]["x509pop"]["plugin_data"]["agent_path_template"] == spire.NODE_PATH
    assert str(spire.Entry(ID, 2102).parent).endswith(f"/spire/agent{spire.NODE_PATH}")
    assert "bundle_file_path" in plugins["UpstreamAuthority"]["disk"]["plugin_data"]
    root = json.loads(spire.server_config(replace(SERVER_CONFIG, bundle=None)))
    assert "bundle_file_path" not in root["plugins"]["UpstreamAuthority"]["disk"]["plugin_data"]
    agent = json.loads(spire.agent_config(AGENT_CONFIG))
    assert not {"insecure_bootstrap", "experimental"} & agent["agent"].keys()
    assert agent["agent"]["trust_bundle_path"] == "/r/anchors.pem"
    token = json.loads(spire.agent_config(replace(AGENT_CONFIG, token=Path("/r/token"))))
    assert token["agent"]["join_token_file"] == "/r/token"
    assert list(token["plugins"]["NodeAttestor"]) == ["join_token"]


@pytest.mark.skipif(on_path("spire-server") is None, reason="spire-server and spire-agent are in no registry, and not on PATH")
def test_spires_own_validate_takes_every_form(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    root = write_pem(tmp_path / "root.crt", make_ca("root", key))
    private = write_pem(tmp_path / "root.key", key)
    token = tmp_path / "token"
    token.write_text("b6d5c8a0-0000-4000-8000-000000000000")
    server = replace(SERVER_CONFIG, node_certificate=root, bundle=root, data=tmp_path, certificate=root, key=private)
    servers = (server, replace(server, bundle=None))
    agent = replace(AGENT_CONFIG, anchors=root, data=tmp_path, certificate=root, key=private)
    agents = (agent, replace(agent, token=token))
    texts = [(SERVER, spire.server_config(one)) for one in servers] + [(AGENT, spire.agent_config(one)) for one in agents]
    path = tmp_path / "config.json"
    for program, text in texts:
        path.write_text(text)
        code, said = _validate(program, path)
        assert code == 0, said
        path.write_text(text.replace('"trust_domain"', '"trust_domian"'))
        assert _validate(program, path)[0] != 0, "it would notice"


def _validate(program: str, path: Path) -> tuple[int, str]:
    result = subprocess.run([program, "validate", "-config", str(path)], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def certificate(path_length: int | None = None, *, ca: bool = True, root: bool = False) -> spire_certificate.Certificate:
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made = make_ca("one", key, None if root else (make_ca("root", root_key), root_key), ca=ca)
    found = spire_certificate.parse(made.public_bytes(serialization.Encoding.DER))
    assert found.not_after == made.not_valid_after_utc.timestamp() if hasattr(made, "not_valid_after_utc") else True
    assert (found.may_sign, found.root, found.path_length) == (ca, root, None)
    return replace(found, path_length=path_length)


def refusal(chain: tuple[spire_certificate.Certificate, ...], *anchors: spire_certificate.Certificate, at: float = 0.0) -> str:
    with pytest.raises(UnavailableError) as caught:
        spire_certificate.check_signing(chain, anchors, at or chain[0].not_before + 1)
    return caught.value.message


def test_there_must_be_room_below_the_signing_certificate_for_spires_own() -> None:
    good = certificate(1)
    anchor = certificate(root=True)
    spire_certificate.check_signing((good,), (anchor,), good.not_before + 1)
    spire_certificate.check_signing((certificate(1, root=True),), (), good.not_before + 1)
    assert "path length 0, but 1 CA must fit" in refusal((certificate(0),))
    assert "certificate 2 of the chain has path length 1, but 2 CAs" in refusal((good, certificate(1)))
    step = replace(anchor, subject=good.issuer, path_length=1)
    assert "the trust anchor above the signing certificate has path length 1, but 2 CAs" in refusal((good,), step)
    assert "is no CA certificate" in refusal((certificate(ca=False),))
    assert "has expired" in refusal((good,), at=good.not_after)
    assert "is not valid yet" in refusal((good,), at=good.not_before - 1)


@pytest.mark.parametrize(
    ("extensions", "may_sign", "path_length"),
    [
        ((), False, None),
        (("basicConstraints=critical,CA:TRUE,pathlen:3",), True, 3),
        (("basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"), True, 0),
        (("basicConstraints=critical,CA:FALSE", "keyUsage=critical,keyCertSign"), False, None),
        (("basicConstraints=critical,CA:TRUE", "keyUsage=critical,digitalSignature"), False, None),
    ],
)
def test_what_openssl_made_is_read_right(
    tmp_path: Path, extensions: tuple[str, ...], may_sign: bool, path_length: int | None
) -> None:
    (tmp_path / "config").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
    words = [word for extension in extensions for word in ("-addext", extension)]
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x", "-config", f"{tmp_path}/config")
    openssl("req", "-x509", *curve, *words, "-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/crt")
    (found,) = spire_certificate.read_pem((tmp_path / "crt").read_bytes())
    assert (found.may_sign, found.path_length) == (may_sign, path_length)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"])
def test_a_damaged_file_is_an_error_not_a_crash(text: bytes) -> None:
    with pytest.raises(ValueError):
        spire_certificate.read_pem(text)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError):
        spire_certificate.parse(b"\x30" + data)


def test_log_lines_keep_level_and_error() -> None:
    line = spire_log.parse(b'{"level":"fatal","msg":"Server crashed","error":"no space","time":"x"}')
    assert line == spire_log.Line("error", "Server crashed (error: no space)", failure=True)
    assert spire_log.parse(b"panic: oh").failure
    assert spire_log.parse(b'{"level":"warning","msg":"Failed","error":"refused"}').failure
    assert not spire_log.parse(b'{"level":"warning","msg":"Current umask"}').failure
    token = spire_log.parse(b'{"level":"info","msg":"SVID","spiffe_id":"spiffe://td/spire/agent/join_token/0a76-cfc4"}')
    assert token.text == "SVID (spiffe_id: spiffe://td/spire/agent/join_token/…)"
    assert spire_log.parse(b'{"level":"info","msg":"Starting"}') == spire_log.Line("info", "Starting")


PREPARED = Prepared(process.Command("x", ("x",)), (), begins=0.0, ends=1000.0)


def part(state: State, since: float = 0.0, **changes: object) -> children.Part:
    base = children.Part(ChildState(state, since), 1, PREPARED, (), socket=state is State.RUNNING)
    return replace(base, **changes)  # type: ignore[arg-type]


RUNNING, STOPPED = part(State.RUNNING), children.Part()
UP = children.Observed(RUNNING, RUNNING, entry_made=True)


def steps(observed: children.Observed, now: float = 5.0, *, overdue: bool = False, spec: IdentitySpec | None = SPEC) -> list[str]:
    return [str(step) for step in children.diff(spec, observed, now, overdue)]


ENTRY = f"entry: {ID} for uid 2102"


def test_the_entry_comes_between_server_and_agent() -> None:
    assert steps(children.Observed()) == ["start spire-server"]
    assert steps(children.Observed(part(State.STARTING), STOPPED)) == []
    assert steps(children.Observed(RUNNING, STOPPED)) == [ENTRY, "start spire-agent"]
    assert steps(children.Observed(RUNNING, STOPPED, entry_made=True)) == ["start spire-agent"]
    assert steps(children.Observed(RUNNING, RUNNING, entry_made=False)) == [ENTRY], "a new server may have a new database"
    assert steps(children.Observed(RUNNING, STOPPED, entry_retry_at=6.0)) == []
    assert steps(UP) == []


def test_on_the_way_down_the_agent_goes_first() -> None:
    assert steps(UP, spec=None) == ["stop spire-agent", "stop spire-server"]
    assert steps(UP, spec=replace(SPEC, server=None)) == ["stop spire-server"]
    assert steps(children.Observed(), spec=None) == []


def test_mode_agent_has_no_server_and_no_entry() -> None:
    assert steps(children.Observed(), spec=replace(SPEC, server=None)) == ["start spire-agent"]


def test_what_makes_a_running_part_start_again() -> None:
    gone, stamp = part(State.RUNNING, socket=False), (("ca.crt", 2, 3),)
    assert steps(replace(UP, agent=gone)) == ["start spire-agent again: its socket is gone"]
    assert steps(replace(UP, server=part(State.RUNNING, stamp=stamp))) == ["start spire-server again: its files have changed"]
    assert steps(replace(UP, agent=part(State.STARTING)), 91.0) == ["start spire-agent again: its socket does not come"]
    assert steps(UP, 16.0, overdue=True) == ["start spire-server again: the SVID has run out"]
    assert steps(UP, 14.0, overdue=True) == [], "a fresh one gets its time"
    assert steps(children.Observed(part(State.BACKOFF), STOPPED)) == ["start spire-server"]
    waiting = children.Part(ChildState(State.BACKOFF, retry_at=9.0))
    assert steps(children.Observed(waiting, STOPPED)) == []


def test_new_anchors_reach_the_server_first_and_the_agent_with_it() -> None:
    spec = replace(SPEC, anchors_pem="new")
    asked = replace(PREPARED, anchors="new", origin="new")
    assert steps(UP, spec=spec) == ["start spire-server again: the trust anchors have changed"]
    served = replace(UP, server=part(State.RUNNING, prepared=asked))
    assert steps(served, spec=spec) == ["start spire-agent again: its server has been started again"]
    refused = replace(UP, server=part(State.RUNNING, prepared=replace(PREPARED, anchors="new")))
    assert steps(refused, spec=spec) == [], "what does not lead to the server is nothing for its agent"
    remote = replace(spec, server=None)
    assert steps(children.Observed(agent=RUNNING), spec=remote) == ["start spire-agent again: the trust anchors have changed"]


def test_a_server_with_a_new_entry_is_started_again_before_there_is_an_agent() -> None:
    """An agent would ask it in the moment in which it is away, and log errors on a healthy machine."""
    cold = part(State.RUNNING, prepared=replace(PREPARED, cold=True))
    again = "start spire-server again: it begins with the new entry"
    assert steps(children.Observed(cold, STOPPED)) == [ENTRY, again]
    assert steps(children.Observed(cold, STOPPED, entry_retry_at=6.0)) == []
    assert steps(children.Observed(cold, STOPPED, entry_made=True)) == [again], "the first try may have failed"
    assert steps(UP, 3600.0) == [], "and never later"


def problem(observed: children.Observed, now: float = 1.0, wall: float = 0.0) -> problems.Problem | None:
    fault = children.condition(observed, now, wall)
    return fault.problem if fault else None


def test_what_is_wrong_has_a_name() -> None:
    assert problem(UP) is None
    assert problem(UP, wall=666.0) is None
    assert problem(UP, wall=667.0) is problems.IDENTITY_CA_EXPIRING
    root = part(State.RUNNING, prepared=replace(PREPARED, root=True))
    assert problem(replace(UP, server=root)) is problems.IDENTITY_ROOT_KEY
    failed = part(State.BACKOFF, child=ChildState(State.BACKOFF, exits=3), error="no space left")
    assert problem(replace(UP, server=failed)) is problems.SPIRE_FAILING
    assert problem(replace(UP, agent=replace(failed, error="Failed to attest"))) is problems.SPIRE_NOT_ATTESTED
    late = part(State.STARTING, error="attestation failed")
    assert problem(replace(UP, agent=late), now=1.0) is None
    assert problem(replace(UP, agent=late), now=6.0) is problems.SPIRE_NOT_ATTESTED
