"""The problems that only `meshexp check` looks for; the daemon's own are in problems.py, and both are in one registry."""

from __future__ import annotations

from harness.problems import REGISTRY as REGISTRY
from harness.problems import Problem as Problem
from harness.problems import Severity, Where, register

CONFIG_INVALID = register(
    "config-invalid",
    Where.MACHINE,
    "the configuration is wrong",
    "`meshexp config check` names every fault with its place; correct the file",
)
NOT_CONFIGURED = register(
    "not-configured",
    Where.MACHINE,
    "meshexp-harness runs, and waits for a configuration that it can use",
    "`meshexp join INVITATION` configures this machine; after a change by hand: `systemctl reload meshexp-harness`",
)
SECRETS_EXPOSED = register(
    "secrets-exposed",
    Where.MACHINE,
    "a secret of this machine can be read by others than root",
    "`chown root:` and `chmod 600` the files that the message names; if others use this machine, ask for a new invitation or CA"
    " too",
)
PRIVILEGES_MISSING = register(
    "privileges-missing",
    Where.MACHINE,
    "root or a capability is missing",
    "run it as root; in a container with --cap-add=NET_ADMIN, keeping SETUID, SETGID, SETPCAP and KILL",
)
USER_MISSING = register(
    "user-missing",
    Where.MACHINE,
    "a system user that the harness needs is not there",
    "install the package, which creates them (`systemd-sysusers`), or set the key that the message names to a user that exists",
)
KERNEL_UNSUITABLE = register(
    "kernel-unsuitable",
    Where.MACHINE,
    "this kernel cannot do what the harness needs",
    "load the modules that the message names (nf_tables, nft_redir, nf_nat), or use a kernel that has them",
)
CLOCK_SKEW = register(
    "clock-skew",
    Where.EITHER,
    "this machine's clock and the controller's differ",
    "set the clock (`timedatectl set-ntp true`, or start chronyd); certificates count in seconds",
)
ROUTE_MISSING = register(
    "route-missing",
    Where.MACHINE,
    "a route to a network of the cluster is not there",
    "`meshexp status` says why the daemon does not set it; `systemctl restart meshexp-harness` sets all of them anew",
)
PATH_MTU = register(
    "path-mtu",
    Where.EITHER,
    "large packets to the cluster are lost on the way",
    "lower the MTU of the interface that the message names (`ip link set dev … mtu …`), or let ICMP through on the way",
    Severity.WARNING,
)
DNS_UNRESOLVED = register(
    "dns-unresolved",
    Where.EITHER,
    "a name of the control plane does not resolve",
    "let this machine's resolver ask the cluster's DNS for the cluster domain, or give addresses in controller.address,"
    " proxy.destination_address and proxy.policy_address",
)
DNS_NO_SRV = register(
    "dns-no-srv",
    Where.EITHER,
    "a name of the control plane resolves, but has no SRV record",
    "forward the whole cluster domain to the cluster's DNS, SRV too; without it the proxy does not balance its control plane",
    Severity.WARNING,
)
DNS_SILENT = register(
    "dns-silent",
    Where.EITHER,
    "a name server of this machine does not answer",
    "take the server that the message names out of /etc/resolv.conf, or make it reachable",
)
DESTINATION_UNREACHABLE = register(
    "destination-unreachable",
    Where.EITHER,
    "Linkerd's destination service does not answer",
    "check the route to the pod network and firewalls on the way; is linkerd-destination running in the cluster?",
)
DESTINATION_UNTRUSTED = register(
    "destination-untrusted",
    Where.EITHER,
    "what answers at the destination service's address is not Linkerd's destination service",
    "check proxy.destination_address, the trust anchors, and that nothing between ends the TLS",
)
POLICY_UNREACHABLE = register(
    "policy-unreachable",
    Where.EITHER,
    "Linkerd's policy service does not answer",
    "check the route to the pod network and firewalls on the way; is linkerd-destination (which holds policy) running?",
)
POLICY_UNTRUSTED = register(
    "policy-untrusted",
    Where.EITHER,
    "what answers at the policy service's address is not Linkerd's policy service",
    "check proxy.policy_address, the trust anchors, and that nothing between ends the TLS",
)
FIREWALL_DROPS = register(
    "firewall-drops",
    Where.MACHINE,
    "a firewall of this machine drops what peers send to the proxy",
    "let TCP 4143 in from the mesh's networks: `firewall-cmd --add-port=4143/tcp`, `ufw allow 4143/tcp`, or a rule before"
    " the one that the message names",
)
FIREWALL_MIXED = register(
    "firewall-mixed",
    Where.MACHINE,
    "rules of legacy iptables and of nftables are both in use on this machine",
    "move to one of them (`update-alternatives --set iptables /usr/sbin/iptables-nft`, then empty the other)",
    Severity.WARNING,
)
PORT_PUBLISHED = register(
    "port-published",
    Where.MACHINE,
    "a container publishes a port of the group, so that its traffic does not pass the proxy",
    "run the container with the host's network, or let it publish the port on 127.0.0.1 only",
    Severity.WARNING,
)
OTHER_MESH = register(
    "other-mesh",
    Where.MACHINE,
    "another mesh's rules or programs are on this machine",
    "remove what the message names with that mesh's own uninstaller (a reboot removes its rules), then check again",
)
ANCHORS_UNUSABLE = register(
    "anchors-unusable",
    Where.MACHINE,
    "the trust anchors cannot be used",
    "copy the ca-bundle.crt of Linkerd's ConfigMap linkerd-identity-trust-roots to controller.trust_anchors",
)
ANCHORS_EXPIRING = register(
    "anchors-expiring",
    Where.CLUSTER,
    "less than 60 days of the trust anchor's life are left",
    "rotate Linkerd's trust anchor (its own guide says how), and copy the new bundle to controller.trust_anchors",
    Severity.WARNING,
)
SPIRE_MISSING = register(
    "spire-missing",
    Where.MACHINE,
    "a SPIRE program that this machine needs is not installed",
    "install spire-server and spire-agent in /opt/spire/bin or on PATH, or set identity.spire.server_path and agent_path",
)
PROXY_CERTIFICATE_EXPIRING = register(
    "proxy-certificate-expiring",
    Where.EITHER,
    "the proxy's certificate is not being renewed",
    "`meshexp status` shows whether the identity is renewed; if it is, `meshexp proxy restart`",
)
DAEMON_STOPPED = register(
    "daemon-stopped",
    Where.MACHINE,
    "meshexp-harness does not run",
    "`systemctl enable --now meshexp-harness`; `meshexp logs` says why it ended",
)
DAEMON_HANGS = register(
    "daemon-hangs",
    Where.MACHINE,
    "meshexp-harness runs, but it has not written its status in time: it hangs or is stopped",
    "see the message; `systemctl restart meshexp-harness` starts another, and traffic goes on meanwhile",
)
NOT_REGISTERED = register(
    "not-registered",
    Where.EITHER,
    "this machine is not registered with the controller",
    "`meshexp status` says what the registration waits for",
)
API_UNREACHABLE = register(
    "api-unreachable",
    Where.CLUSTER,
    "the Kubernetes API server does not answer, or does not let us look",
    "see that `kubectl get nodes` works with the same kubeconfig",
)
CRD_MISSING = register(
    "crd-missing",
    Where.CLUSTER,
    "a resource definition is not in the cluster",
    "`kubectl apply --server-side -f deploy/crds` (ExternalGroup), and Linkerd's CRDs with external workloads (ExternalWorkload)",
)
CONTROLLER_NOT_READY = register(
    "controller-not-ready",
    Where.CLUSTER,
    "the autoregistration controller is not there, or not all of it is ready",
    "`kubectl -n meshexp describe deployment meshexp-controller`, and the log of its pods, say why",
)
LEASE_STALE = register(
    "lease-stale",
    Where.CLUSTER,
    "a replica of the controller has not renewed its lease",
    "another replica takes over its machines; if it does not come back, see its pod's log",
    Severity.WARNING,
)
MACHINE_NOT_HEARD = register(
    "machine-not-heard",
    Where.CLUSTER,
    "no replica of the controller hears a machine: its ExternalWorkload stays as it is, also when the machine is gone",
    "`kubectl -n meshexp get pods,leases` shows which replicas there are; when none is to come back,"
    " docs/uninstall.md says what to delete",
)
GROUP_INVALID = register(
    "group-invalid",
    Where.CLUSTER,
    "an ExternalGroup is not accepted",
    "`kubectl describe externalgroups.workload.meshexp.io` has the reason (externalgroups.workload.buoyant.io for that kind);"
    " correct the manifest and apply it again",
)
GROUP_NOT_READY = register(
    "group-not-ready",
    Where.EITHER,
    "machines of an ExternalGroup are not ready",
    "`kubectl meshexp get` names them with the reason; on the machine `meshexp check` says what mends it",
    Severity.WARNING,
)
