"""Every known problem, once. `status`, `check`, logs and docs print from this table; nothing else invents problem texts."""

from __future__ import annotations

from harness.errors import HarnessError, InternalError, UnwritableError
from harness.problem_registry import REGISTRY as REGISTRY
from harness.problem_registry import Problem as Problem
from harness.problem_registry import Severity as Severity
from harness.problem_registry import Where as Where
from harness.problem_registry import register as register

CONFIG_RELOAD_FAILED = register(
    "config-reload-failed",
    Where.MACHINE,
    "the new configuration is wrong; the old one stays in force",
    "run `meshexp config check`, mend the file, then reload again",
    Severity.WARNING,
)
INTERNAL_ERROR = register(
    "internal-error",
    Where.EITHER,  # a restart need not help, and takes a member out of the mesh
    "the program met an error that no code expects, which is a bug; the rest goes on, and what failed is tried again",
    "look at `meshexp logs` for the whole error, and report it",
)
STEP_FAILED = register(
    "step-failed",
    Where.MACHINE,
    "a step that the daemon repeats, such as writing its status, fails; the machine stays a member meanwhile",
    "see the message; `meshexp logs` has more",
    Severity.WARNING,
)
DISK_FULL = register(
    "disk-full",
    Where.MACHINE,
    "a file that the harness needs cannot be written, because its disk is full; what is in place stays",
    "free some space there: `df -h /var/lib/meshexp /run/meshexp` shows how full the disks are, and `df -i` their inodes",
    Severity.WARNING,
)
STATE_UNWRITABLE = register(
    "state-unwritable",
    Where.MACHINE,
    "a file that the harness needs cannot be written; what is in place stays",
    "see the message for the file: `ls -ld FILE` shows what is there, `findmnt -T FILE` whether its file system is read-only",
    Severity.WARNING,
)
ROUTE_CONFLICT = register(
    "route-conflict",
    Where.MACHINE,
    "a route that is not ours already leads to a cluster network, or to a part of one, or stands in our routing table",
    "remove that route, or take the network out of network.pod_cidrs or network.service_cidrs; it was left alone",
    Severity.WARNING,
)
ROUTE_REFUSED = register(
    "route-refused",
    Where.EITHER,
    "the route to a cluster network would hide this machine's own subnet, its gateway, a node or the controller; it is not set",
    "give the cluster networks that do not overlap this machine's, or mend network.pod_cidrs and network.service_cidrs",
)
ROUTE_NODE_SILENT = register(
    "route-node-silent",
    Where.CLUSTER,
    "a node that service networks are reached through does not answer on its link",
    "look at that node and its link; traffic goes through another node as long as one answers",
    Severity.WARNING,
    standing=True,
)
FIRST_WORKLOAD_STOPPED = register(
    "first-workload-stopped",
    Where.MACHINE,
    "routes and DNS are set by the machine's first workload, which does not run",
    "start it: `systemctl start meshexp-harness`; a machine with several workloads has one without a name",
)
ROUTE_GATEWAY_UNREACHABLE = register(
    "route-gateway-unreachable",
    Where.EITHER,
    "the node's address is not on any directly connected network",
    "set network.node (NODE_IP) to an address of the node that this machine reaches without a router",
)
ROUTE_FAILED = register(
    "route-failed", Where.MACHINE, "the kernel refused a route", "see the message; `ip route` shows what is there"
)
DNS_FAILED = register(
    "dns-failed",
    Where.MACHINE,
    "the cluster's names are not asked of the cluster's DNS servers; all other names are asked as before",
    "install dnsmasq-base (EL: dnsmasq); the package makes its user meshexp-dns; a container can be started with --dns=ADDRESS of"
    " the cluster's DNS Service; or set dns.mode: off",
    Severity.WARNING,
)
ANCHORS_BEHIND = register(
    "anchors-behind",
    Where.MACHINE,
    "the file controller.trust_anchors is not what the controller tells; a machine that leaves and joins has only the file",
    "copy Linkerd's present trust anchors there: the ca-bundle.crt of its ConfigMap linkerd-identity-trust-roots",
    Severity.WARNING,
    standing=True,
)
IDENTITY_SOCKET_MISSING = register(
    "identity-socket-missing",
    Where.IDENTITY,
    "the SPIFFE Workload API socket is not there",
    "start the SPIRE agent, or set identity.socket to its socket",
)
IDENTITY_NOT_ISSUED = register(
    "identity-not-issued",
    Where.IDENTITY,
    "the Workload API issues no SVID with the configured SPIFFE ID to the proxy's user",
    "create the SPIRE entry for identity.spiffe_id with the selector unix:uid of the proxy's user",
)
IDENTITY_EXPIRING = register(
    "identity-expiring",
    Where.IDENTITY,
    "the SVID is not being renewed",
    "look at the SPIRE agent's log and its server's reachability",
)
IDENTITY_CA_UNUSABLE = register(
    "identity-ca-unusable",
    Where.MACHINE,
    "SPIRE cannot sign under the configured certificate",
    "make one with `meshexp ca issue` on the admin's machine, and set identity.local.ca_cert and ca_key to it",
)
IDENTITY_CA_EXPIRING = register(
    "identity-ca-expiring",
    Where.EITHER,
    "less than a third of the life of this machine's signing certificate is left",
    "run `meshexp ca renew` on the admin's machine and copy the certificate over the old one; it is taken up by itself",
    Severity.WARNING,
    standing=True,
)
IDENTITY_ROOT_KEY = register(
    "identity-root-key",
    Where.MACHINE,
    "this machine holds the key of a trust anchor: whoever takes it over can be anybody in the mesh",
    "make an intermediate with `meshexp ca issue`, put it in the root's place, and take the root key off this machine",
    Severity.WARNING,
    standing=True,
)
SPIRE_FAILING = register(
    "spire-failing",
    Where.IDENTITY,
    "a SPIRE program cannot be started or keeps exiting",
    "the message has its last error; the log has its lines. what spire/ in the state directory holds comes back when removed",
)
SPIRE_NOT_ATTESTED = register(
    "spire-not-attested",
    Where.IDENTITY,
    "the SPIRE server does not accept this machine's agent",
    "check identity.agent.server_address and the trust anchors; a join token works once, so write a new one to its file",
)
CONTROLLER_UNREACHABLE = register(
    "controller-unreachable",
    Where.EITHER,
    "the controller does not answer",
    "check controller.address, routes and firewalls; traffic of a proxy that already runs goes on",
    Severity.WARNING,
)
LEASE_LAPSED = register(
    "lease-lapsed",
    Where.EITHER,
    "the controller has not answered for longer than the lease: where it runs, it has taken this machine out of the endpoints",
    "`meshexp check` says how far the way to the controller is open, `kubectl -n meshexp get pods` whether it runs;"
    " the proxy goes on, and the machine is back with the next answer",
)
CONTROLLER_UNTRUSTED = register(
    "controller-untrusted",
    Where.EITHER,
    "the controller's certificate is not the expected one",
    "check controller.identity and the trust anchors; something else may be answering at controller.address",
)
REGISTRATION_REFUSED = register(
    "registration-refused",
    Where.EITHER,
    "the controller refused the registration",
    "the message carries the controller's reason; `kubectl describe externalgroup` shows the same",
)
PROXY_MISSING = register(
    "proxy-missing",
    Where.MACHINE,
    "there is no linkerd2-proxy on this machine",
    "run `meshexp proxy install --from …`, or set proxy.path",
)
PROXY_NOT_CERTIFIED = register(
    "proxy-not-certified",
    Where.IDENTITY,
    "the proxy runs but has no certificate",
    "see the proxy's log lines; its identity must match identity.spiffe_id",
)
PROXY_ENV_OVERRIDDEN = register(
    "proxy-env-overridden",
    Where.MACHINE,
    "variables of the proxy are set by hand",
    "the harness vouches for nothing that proxy.env changes; leave it empty unless you need it",
    Severity.WARNING,
    standing=True,
)
PROXY_REPLACED = register(
    "proxy-replaced",
    Where.MACHINE,
    "the proxy runs from another binary than the one that its next start takes",
    "run `meshexp proxy restart`: its peers are told first; until then the old one goes on",
    Severity.WARNING,
    standing=True,
)
PROXY_CRASH_LOOP = register(
    "proxy-crash-loop",
    Where.MACHINE,
    "the proxy keeps exiting",
    "see its last log lines in the journal of meshexp-harness",
)
PROXY_PORT_TAKEN = register(
    "proxy-port-taken",
    Where.MACHINE,
    "another process listens on a port that the proxy needs",
    "find it with `ss -ltnp`; 4140, 4143 and 4191 belong to the proxy",
)
PROXY_BAD_RELEASE = register(
    "proxy-bad-release",
    Where.MACHINE,
    "this linkerd2-proxy release cannot work with SPIRE",
    "use 2.331.0 or newer, or one before 2.329.0",
)
REDIRECT_FAILED = register(
    "redirect-failed", Where.MACHINE, "the redirect rules could not be applied", "the message carries the kernel's reason"
)
REDIRECT_REVERTED = register(
    "redirect-reverted",
    Where.MACHINE,
    "the self-test through the new redirect rules failed; the rules before them are back",
    "the message names the test that failed",
)
REDIRECT_BACKEND_UNAVAILABLE = register(
    "redirect-backend-unavailable",
    Where.MACHINE,
    "the chosen firewall backend does not work on this machine",
    "set redirect.backend to auto, or install what the message names",
)
INBOUND_UNVERIFIED = register(
    "inbound-unverified",
    Where.EITHER,
    "the inbound redirect could not be tested from outside",
    "harmless if peers reach this machine; see the page",
    Severity.WARNING,
    standing=True,
)
PROBE_FAILED = register(
    "probe-failed",
    Where.MACHINE,
    "the application's readiness probe fails",
    "the machine gets no traffic until it passes; see the message",
)
METRICS_NOT_EXPORTED = register(
    "metrics-not-exported",
    Where.MACHINE,
    "the metrics cannot be had where the configuration says",
    "another program may hold the port of metrics.listen; under systemd the directory of metrics.textfile must be in the unit's"
    " ReadWritePaths=",
    Severity.WARNING,
    standing=True,
)
CORDONED = register(
    "cordoned", Where.MACHINE, "an operator has cordoned this machine", "run `meshexp uncordon`", Severity.WARNING
)


def of_failure(error: HarnessError, other: Problem = STEP_FAILED) -> Problem:
    """Of a step of the daemon. `other`: of all that is neither a bug nor a file that cannot be written."""
    if isinstance(error, InternalError):
        return INTERNAL_ERROR
    if isinstance(error, UnwritableError):
        return DISK_FULL if error.full else STATE_UNWRITABLE
    return other
