"""The problems with this machine's identity, and with the SPIRE that it comes from; problems.py passes them on."""

from __future__ import annotations

from harness import phrases
from harness.problem_registry import Severity, Where, register

IDENTITY_SOCKET_MISSING = register(
    "identity-socket-missing",
    Where.IDENTITY,
    "the SPIFFE Workload API socket is not there",
    "does a SPIRE agent listen there? `ss -xlp src {socket}`; start it, or set identity.socket to its socket",
)
IDENTITY_NOT_ISSUED = register(
    "identity-not-issued",
    Where.IDENTITY,
    "the Workload API issues no SVID with the configured SPIFFE ID to the proxy's user",
    "at the SPIRE server `spire-server entry show -spiffeID {identity}` shows the entry; it must have the"
    " selector unix:uid:{uid}",
)
IDENTITY_EXPIRING = register(
    "identity-expiring",
    Where.IDENTITY,
    "the SVID is not being renewed",
    "does the SPIRE agent run? `ss -xlp src {socket}`; its log says whether it reaches its server, and is"
    " in `meshexp logs{instance}` where the harness runs it",
)
IDENTITY_CA_UNUSABLE = register(
    "identity-ca-unusable",
    Where.MACHINE,
    "SPIRE cannot sign under the configured certificate",
    "`openssl x509 -noout -subject -issuer -dates -in {file}` shows what is there; on the admin's machine"
    " `meshexp ca issue` makes another, for identity.local.ca_cert and ca_key",
    cases={
        phrases.IS_ROOT: "on the admin's machine `meshexp ca issue` makes an intermediate; copy it to"
        " {file}, and its key to identity.local.ca_key; or set"
        " identity.local.allow_root_key: true",
        phrases.EARLY: "`timedatectl` shows this machine's clock, which is behind, unless the certificate is of the future:"
        " `openssl x509 -noout -dates -in {file}`",
        phrases.EXPIRED: "`timedatectl` shows this machine's clock; if it is right, `meshexp ca renew` on the admin's machine"
        " makes the next certificate for {file}",
    },
)
IDENTITY_CA_EXPIRING = register(
    "identity-ca-expiring",
    Where.EITHER,
    "less than a third of the life of this machine's signing certificate is left",
    "on the admin's machine `meshexp ca renew` makes the next one; copy it to {file}, which is read again"
    " without a restart; `openssl x509 -noout -dates -in {file}` shows its life",
    Severity.WARNING,
    standing=True,
)
IDENTITY_ROOT_KEY = register(
    "identity-root-key",
    Where.MACHINE,
    "this machine holds the key of a trust anchor: an attacker on it can be anybody in the mesh",
    "on the admin's machine `meshexp ca issue` makes an intermediate; copy it to {file}, and take the root key off this machine",
    Severity.WARNING,
    standing=True,
)
SPIRE_FAILING = register(
    "spire-failing",
    Where.IDENTITY,
    "a SPIRE program cannot be started or keeps exiting",
    "`meshexp logs{instance}` has its lines; what {state}/spire holds is made again when it is removed",
    cases={
        phrases.NO_PROGRAM: "`meshexp join INVITATION --spire FILE` installs SPIRE's programs out of its"
        " release archive; or install them, and set {key} to the program's path"
    },
)
SPIRE_NOT_ATTESTED = register(
    "spire-not-attested",
    Where.IDENTITY,
    "the SPIRE server does not accept this machine's agent",
    "`meshexp logs{instance}` has the agent's lines; a join token works once: at the SPIRE server"
    " `spire-server token generate` makes another for its file; identity.agent.server_address and the trust"
    " anchors must be that server's",
)
