"""Every problem that the daemon meets, once. `status`, `check`, logs, `explain` and docs print from this table.

A hint has a command that shows more, with places for values (hints.py): it works on this machine, or is for who administers the
cluster (`kubectl`) or SPIRE (`spire-server`).
"""

from __future__ import annotations

from harness import phrases
from harness.copy_problems import MACHINE_COPIED as MACHINE_COPIED
from harness.copy_problems import MACHINE_IS_COPY as MACHINE_IS_COPY
from harness.identity_problems import IDENTITY_CA_EXPIRING as IDENTITY_CA_EXPIRING
from harness.identity_problems import IDENTITY_CA_UNUSABLE as IDENTITY_CA_UNUSABLE
from harness.identity_problems import IDENTITY_EXPIRING as IDENTITY_EXPIRING
from harness.identity_problems import IDENTITY_NOT_ISSUED as IDENTITY_NOT_ISSUED
from harness.identity_problems import IDENTITY_ROOT_KEY as IDENTITY_ROOT_KEY
from harness.identity_problems import IDENTITY_SOCKET_MISSING as IDENTITY_SOCKET_MISSING
from harness.identity_problems import SPIRE_FAILING as SPIRE_FAILING
from harness.identity_problems import SPIRE_NOT_ATTESTED as SPIRE_NOT_ATTESTED
from harness.network_problems import DNS_FAILED as DNS_FAILED
from harness.network_problems import DNS_UNANSWERED as DNS_UNANSWERED
from harness.network_problems import FIRST_WORKLOAD_STOPPED as FIRST_WORKLOAD_STOPPED
from harness.network_problems import GROUP_PORT_EXCLUDED as GROUP_PORT_EXCLUDED
from harness.network_problems import ROUTE_CONFLICT as ROUTE_CONFLICT
from harness.network_problems import ROUTE_ELSEWHERE as ROUTE_ELSEWHERE
from harness.network_problems import ROUTE_FAILED as ROUTE_FAILED
from harness.network_problems import ROUTE_GATEWAY_UNREACHABLE as ROUTE_GATEWAY_UNREACHABLE
from harness.network_problems import ROUTE_NODE_SILENT as ROUTE_NODE_SILENT
from harness.network_problems import ROUTE_REFUSED as ROUTE_REFUSED
from harness.network_problems import TOLD_REFUSED as TOLD_REFUSED
from harness.problem_registry import REGISTRY as REGISTRY
from harness.problem_registry import Found as Found
from harness.problem_registry import Problem as Problem
from harness.problem_registry import Severity as Severity
from harness.problem_registry import Where as Where
from harness.problem_registry import register as register
from harness.proxy_problems import PROXY_BAD_RELEASE as PROXY_BAD_RELEASE
from harness.proxy_problems import PROXY_CRASH_LOOP as PROXY_CRASH_LOOP
from harness.proxy_problems import PROXY_ENV_OVERRIDDEN as PROXY_ENV_OVERRIDDEN
from harness.proxy_problems import PROXY_MISSING as PROXY_MISSING
from harness.proxy_problems import PROXY_NOT_CERTIFIED as PROXY_NOT_CERTIFIED
from harness.proxy_problems import PROXY_PORT_TAKEN as PROXY_PORT_TAKEN
from harness.proxy_problems import PROXY_REPLACED as PROXY_REPLACED
from harness.step_problems import DISK_FULL as DISK_FULL
from harness.step_problems import INTERNAL_ERROR as INTERNAL_ERROR
from harness.step_problems import STATE_UNREADABLE as STATE_UNREADABLE
from harness.step_problems import STATE_UNWRITABLE as STATE_UNWRITABLE
from harness.step_problems import STEP_FAILED as STEP_FAILED
from harness.step_problems import of_failure as of_failure
from harness.trust_problems import ANCHORS_BEHIND as ANCHORS_BEHIND
from harness.trust_problems import ANCHORS_PINNED as ANCHORS_PINNED
from harness.trust_problems import ANCHORS_UNPROVEN as ANCHORS_UNPROVEN
from harness.trust_problems import CERTIFICATE_EXPIRED as CERTIFICATE_EXPIRED
from harness.trust_problems import CLOCK_SKEW as CLOCK_SKEW
from harness.trust_problems import CONTROLLER_MISNAMED as CONTROLLER_MISNAMED
from harness.trust_problems import CONTROLLER_UNTRUSTED as CONTROLLER_UNTRUSTED
from harness.trust_problems import IDENTITY_REFUSED as IDENTITY_REFUSED

_SPEAKS_TLS = "does it speak TLS? then the probe's scheme must be HTTPS; `ss -ltnp 'sport = :{port}'` names the process"

CONFIG_RELOAD_FAILED = register(
    "config-reload-failed",
    Where.MACHINE,
    "the new configuration is wrong; the old one stays in force",
    "correct what the message names; `meshexp config check{instance}` looks again, then `systemctl reload {unit}`",
    Severity.WARNING,
)
CONTROLLER_UNREACHABLE = register(
    "controller-unreachable",
    Where.EITHER,
    "the controller does not answer, or not in a way that is understood",
    "`meshexp check{instance}` says how far the way to {address} is open; traffic of a proxy that already runs goes on",
    Severity.WARNING,
    cases={
        phrases.REFUSED: "nothing listens at {address}: `kubectl -n meshexp get pods,services` says whether"
        " the controller runs, and at which port; controller.address must be that; traffic"
        " of a proxy that already runs goes on",
        phrases.NO_CONNECTION: "packets to {address} are lost on the way: `ip route get {host}` shows the"
        " way, `meshexp check{instance}` how far it is open; traffic of a proxy that"
        " already runs goes on",
        phrases.UNRESOLVED: "does this machine know the name? `getent hosts {host}`; or set"
        " controller.address to an address; traffic of a proxy that already runs goes"
        " on",
        phrases.NOT_UNDERSTOOD: "what was told before stays in force. If the message names a probe, correct it in the group:"
        " `kubectl -n {namespace} edit externalgroups.workload.meshexp.io {group}`; else compare the versions: `meshexp version`"
        " here, and `kubectl -n meshexp get deployments -o wide`",
    },
)
LEASE_LAPSED = register(
    "lease-lapsed",
    Where.EITHER,
    "the controller has not answered for longer than the lease: where it runs, it has taken this machine out of the endpoints",
    "`meshexp check{instance}` says how far the way to {address} is open, `kubectl -n meshexp get pods`"
    " whether the controller runs; the proxy goes on, and the machine is back with the next answer",
)
REGISTRATION_REFUSED = register(
    "registration-refused",
    Where.EITHER,
    "the controller refused the registration",
    "`kubectl -n {namespace} describe externalgroups.workload.meshexp.io {group}` shows what the group accepts,"
    " `meshexp config show{instance}` what this machine asks for",
    cases={
        phrases.NO_GROUP: "`kubectl -n {namespace} get externalgroups.workload.meshexp.io` lists the groups that are there;"
        " create {group}, or correct workload.group and workload.namespace here, then `systemctl reload {unit}`",
    },
)
REDIRECT_FAILED = register(
    "redirect-failed",
    Where.MACHINE,
    "the redirect rules could not be applied",
    "`meshexp diff{instance}` shows the rules that are missing, `meshexp check{instance}` what this kernel and the firewall lack",
)
REDIRECT_REVERTED = register(
    "redirect-reverted",
    Where.MACHINE,
    "the self-test through the new redirect rules failed; the rules before them are back",
    "`meshexp check{instance}` names the firewall rule that is in the way, `meshexp redirect"
    " test{instance}` tests those in force",
)
REDIRECT_BACKEND_UNAVAILABLE = register(
    "redirect-backend-unavailable",
    Where.MACHINE,
    "the chosen firewall backend does not work on this machine",
    "`meshexp check{instance}` says what is missing; install that, or set redirect.backend: auto",
)
INBOUND_UNVERIFIED = register(
    "inbound-unverified",
    Where.EITHER,
    "the inbound redirect could not be tested from outside",
    "harmless if peers reach this machine, which a call from a pod shows; `meshexp redirect test{instance}`"
    " tries it again, and says what it lacks",
    Severity.WARNING,
    standing=True,
)
NO_ADDRESS = register(
    "no-address",
    Where.MACHINE,
    "this machine has no address by which it reaches the cluster",
    "`ip -brief address` lists the addresses, and `ip route` the routes; it goes on by itself as soon as there is one",
)
APPLICATION_ELSEWHERE = register(
    "application-elsewhere",
    Where.MACHINE,
    "the application listens where peers do not reach it, such as on loopback only; peers send nothing here",
    "have it listen on this machine's address or on all; `ss -ltnp 'sport = :{port}'` shows where it listens. One that must stay"
    " on loopback needs a program in front of it that listens on this machine's address, such as systemd-socket-proxyd",
)
PORT_TAKEN_FOR_SSH = register(
    "port-taken-for-ssh",
    Where.MACHINE,
    "a port is left out of the redirect because it may be SSH's",
    "`ss -ltnp 'sport = :{port}'` names the program. If it is not SSH's: let systemd start it, or the SSH daemon, as a"
    " unit of its own, or under a user other than root",
    Severity.WARNING,
    standing=True,
)
SSH_UNREAD = register(
    "ssh-configuration-unread",
    Where.MACHINE,
    "a file of SSH's configuration cannot be read: a port that only this file names is not left out of the redirect",
    "`ls -ld {file}` shows whose it is; `chown root {file}` lets the harness read it. Until then see that `meshexp"
    " plan{instance}` leaves out each of SSH's ports",
    Severity.WARNING,
    standing=True,
)
PROBE_FAILED = register(
    "probe-failed",
    Where.MACHINE,
    "the application's readiness probe fails; peers send nothing here until it passes",
    "the application's own log says why; `ss -ltnp 'sport = :{port}'` names the process that listens",
    cases={
        phrases.REFUSED: "is it listening? `ss -ltnp 'sport = :{port}'`; if it listens on another port or"
        " address, correct the group's probe: `kubectl -n {namespace} edit"
        " externalgroups.workload.meshexp.io {group}`",
        phrases.NO_ANSWER: "it does not answer in time: `ss -ltnp 'sport = :{port}'` shows in Recv-Q how"
        " many connections wait for it; or the probe's timeoutSeconds is too short",
        phrases.NOT_HTTP: _SPEAKS_TLS,
        phrases.DISCONNECTED: _SPEAKS_TLS,
        phrases.RESET: _SPEAKS_TLS,
        phrases.NO_TLS: "does it speak plain HTTP? then the probe's scheme must be HTTP; `ss -ltnp 'sport ="
        " :{port}'` names the process",
        phrases.NO_COMMAND: "the group asks for a command that only this machine can allow: set {key} in"
        " {config}/harness.yaml, then `systemctl reload {unit}`",
        phrases.ENDED: "run it by hand as its user: `setpriv --reuid={uid} --clear-groups -- {command}`",
        phrases.NOT_STARTED: "is it there, and executable? `ls -l {command}`",
    },
)
METRICS_NOT_EXPORTED = register(
    "metrics-not-exported",
    Where.MACHINE,
    "Prometheus cannot get the metrics where the configuration says",
    "the port of metrics.listen: `ss -ltnp 'sport = :{port}'` names who has it; metrics.textfile: under"
    " systemd its directory must be in the unit's ReadWritePaths=, `systemctl edit {unit}`",
    Severity.WARNING,
    standing=True,
)
CORDONED = register(
    "cordoned",
    Where.MACHINE,
    "an operator has cordoned this machine",
    "`meshexp uncordon{instance}` lets traffic in again",
    Severity.WARNING,
)
