"""The problems that only `meshexp check` looks for; the daemon's own are in problems.py, and both are in one registry."""

from __future__ import annotations

from harness import phrases
from harness.problems import REGISTRY as REGISTRY
from harness.problems import Problem as Problem
from harness.problems import Severity, Where, register
from harness.trust_problems import TRUST_ROOTS

_ASK_THE_CLUSTER = (
    "`cat /etc/resolv.conf` shows who is asked: have the cluster's DNS asked for the cluster domain, or"
    " give addresses in controller.address, proxy.destination_address and proxy.policy_address"
)
CONFIG_INVALID = register(
    "config-invalid",
    Where.MACHINE,
    "the configuration is wrong",
    "`meshexp config check{instance}` names every fault with its place; correct the file, then `systemctl reload {unit}`",
)
NOT_CONFIGURED = register(
    "not-configured",
    Where.MACHINE,
    "meshexp-harness runs, and waits for a configuration that it can use",
    "`meshexp join{instance} INVITATION` configures this machine; after a change by hand: `systemctl reload {unit}`",
)
SECRETS_EXPOSED = register(
    "secrets-exposed",
    Where.MACHINE,
    "a secret of this machine can be read by others than root",
    "`chown root:` and `chmod 600` the files that the message names (`ls -l {config} {state}` shows them);"
    " if others use this machine, ask for a new invitation or CA too",
)
PRIVILEGES_MISSING = register(
    "privileges-missing",
    Where.MACHINE,
    "root or a capability is missing",
    "run it as root; a container needs --cap-add=NET_ADMIN, and must keep SETUID, SETGID, SETPCAP and KILL; `id"
    " -u` prints 0 for root, `grep Cap /proc/self/status` the capabilities",
)
USER_MISSING = register(
    "user-missing",
    Where.MACHINE,
    "a system user that the harness needs is not there",
    "the package makes them: `systemd-sysusers` does so again; or set the key that the message names to a"
    " user that `getent passwd` shows",
)
KERNEL_UNSUITABLE = register(
    "kernel-unsuitable",
    Where.MACHINE,
    "this kernel cannot do what the harness needs",
    "`modprobe -a nf_tables nft_redir nf_nat` loads the modules; a kernel without them cannot be used",
)
ROUTE_MISSING = register(
    "route-missing",
    Where.MACHINE,
    "a route to a network of the cluster is not there",
    "`meshexp status` says why the daemon does not set it; `systemctl restart meshexp-harness` sets all of them again",
)
PATH_MTU = register(
    "path-mtu",
    Where.EITHER,
    "large packets to the cluster are lost on the way",
    "`ip link` shows the MTU of each interface: lower it on the one that the message names, or let ICMP through on the way",
    Severity.WARNING,
)
DNS_UNRESOLVED = register(
    "dns-unresolved",
    Where.EITHER,
    "a name of the control plane does not resolve",
    _ASK_THE_CLUSTER,
)
DNS_NO_SRV = register(
    "dns-no-srv",
    Where.EITHER,
    "a name of the control plane resolves, but has no SRV record",
    "forward the whole cluster domain to the cluster's DNS, SRV too (`cat /etc/resolv.conf` shows who is"
    " asked now); without it the proxy does not balance its control plane",
    Severity.WARNING,
)
DNS_SILENT = register(
    "dns-silent",
    Where.EITHER,
    "a name server of this machine does not answer",
    "take the server that the message names out of /etc/resolv.conf, or make it reachable: `ip route` shows the ways from here",
)
DESTINATION_UNREACHABLE = register(
    "destination-unreachable",
    Where.EITHER,
    "Linkerd's destination service does not answer",
    "does linkerd-destination run? `kubectl -n linkerd get pods -o wide`; the way to the pod network: `ip"
    " route`, and firewalls between",
    cases={phrases.UNRESOLVED: _ASK_THE_CLUSTER},
)
DESTINATION_UNTRUSTED = register(
    "destination-untrusted",
    Where.EITHER,
    "what answers at the destination service's address is not Linkerd's destination service",
    "proxy.destination_address and the trust anchors (`meshexp config show{instance}`) must be this"
    " cluster's, and nothing between may end the TLS",
)
POLICY_UNREACHABLE = register(
    "policy-unreachable",
    Where.EITHER,
    "Linkerd's policy service does not answer",
    "does linkerd-destination, which holds policy, run? `kubectl -n linkerd get pods -o wide`; the way to"
    " the pod network: `ip route`, and firewalls between",
    cases={phrases.UNRESOLVED: _ASK_THE_CLUSTER},
)
POLICY_UNTRUSTED = register(
    "policy-untrusted",
    Where.EITHER,
    "what answers at the policy service's address is not Linkerd's policy service",
    "proxy.policy_address and the trust anchors (`meshexp config show{instance}`) must be this cluster's,"
    " and nothing between may end the TLS",
)
FIREWALL_DROPS = register(
    "firewall-drops",
    Where.MACHINE,
    "a firewall of this machine drops what peers send to the proxy",
    "let TCP 4143 in from the mesh's networks: `firewall-cmd --add-port=4143/tcp`, `ufw allow 4143/tcp`, or"
    " a rule before the one that the message names",
)
INBOUND_UNREACHED = register(
    "inbound-unreached",
    Where.EITHER,
    "the controller cannot connect to this machine as its peers do",
    "let TCP {port} in from the cluster's nodes and pods, in the cloud's security group or network ACL of this machine, in every"
    " firewall between, and here: `meshexp check` names a rule of this machine's own as firewall-drops",
    cases={
        phrases.REFUSED: "`ss -ltn` must show port {port}: the proxy listens there. If it does, something between refuses: a"
        " firewall that rejects, or another machine with this address",
        phrases.NO_PROXY_TLS: "`meshexp check --proxy` says whether the proxy has a certificate; something between may end or"
        " change the TLS (a load balancer, an inspecting firewall), or another program has port {port}: `ss -ltnp`",
        phrases.ANSWERS_AS: "another machine, or a load balancer or NAT before it, has the registered address: `ip address` shows"
        " this machine's own",
        phrases.EARLY: "`timedatectl` shows this machine's clock, which must not be ahead of the controller's; `meshexp check`"
        " looks at the certificate",
        phrases.EXPIRED: "`meshexp check` looks at the certificate, which is not renewed; `timedatectl` shows this"
        " machine's clock, which may be behind the controller's",
    },
)
FIREWALL_MIXED = register(
    "firewall-mixed",
    Where.MACHINE,
    "rules of legacy iptables and of nftables are both in use on this machine",
    "move to one of them: `update-alternatives --config iptables` chooses, then empty the other",
    Severity.WARNING,
)
PORT_PUBLISHED = register(
    "port-published",
    Where.MACHINE,
    "a container publishes a port of the group, so that its traffic does not pass the proxy",
    "`docker ps` shows the ports; run the container with the host's network, or let it publish the port on 127.0.0.1 only",
    Severity.WARNING,
)
OTHER_MESH = register(
    "other-mesh",
    Where.MACHINE,
    "another mesh's rules or programs are on this machine",
    "remove what the message names with that mesh's own uninstaller; `systemctl reboot` removes rules that are left",
)
ANCHORS_UNUSABLE = register(
    "anchors-unusable",
    Where.MACHINE,
    "the trust anchors cannot be used",
    f"copy Linkerd's trust anchors to {{anchors}}: the ca-bundle.crt of {TRUST_ROOTS}",
    cases={
        phrases.EARLY: "`timedatectl` shows this machine's clock, which is behind; `openssl x509 -noout -dates -in {anchors}`"
        " shows from when on the first of them is valid",
        phrases.EXPIRED: f"`timedatectl` shows this machine's clock; if it is right, copy the present anchors to {{anchors}}: the"
        f" ca-bundle.crt of {TRUST_ROOTS}",
    },
)
ANCHORS_EXPIRING = register(
    "anchors-expiring",
    Where.CLUSTER,
    "less than 60 days of the trust anchor's life are left",
    f"rotate Linkerd's trust anchor (its own guide says how), and copy the new ca-bundle.crt to {{anchors}}, of {TRUST_ROOTS}",
    Severity.WARNING,
)
SPIRE_MISSING = register(
    "spire-missing",
    Where.MACHINE,
    "a SPIRE program that this machine needs is not installed",
    "`meshexp join INVITATION --spire FILE` installs them out of SPIRE's release archive; or install them"
    " in /opt/spire/bin or on PATH, or set identity.spire.server_path and agent_path",
)
PROXY_CERTIFICATE_EXPIRING = register(
    "proxy-certificate-expiring",
    Where.EITHER,
    "the proxy's certificate is not being renewed",
    "`meshexp status{instance}` shows whether the identity is renewed; if it is, `meshexp proxy restart{instance}`",
)
DAEMON_STOPPED = register(
    "daemon-stopped",
    Where.MACHINE,
    "meshexp-harness does not run",
    "`systemctl enable --now {unit}` starts it, without systemd `meshexp run{instance}`; `meshexp logs{instance}` says why it"
    " ended",
)
DAEMON_HANGS = register(
    "daemon-hangs",
    Where.MACHINE,
    "meshexp-harness runs, but it has not written its status in time: it hangs or is stopped",
    "`systemctl restart {unit}` starts another, and traffic goes on meanwhile; `meshexp logs{instance}` shows what it did last",
    cases=dict.fromkeys(
        phrases.NO_ROOM,
        "`df -h {run}` shows the disk: make room there, and the daemon writes again by itself; it needs no restart, and could not"
        " start without room",
    ),
)
NOT_REGISTERED = register(
    "not-registered",
    Where.EITHER,
    "this machine is not registered with the controller",
    "`meshexp status{instance}` says what the registration waits for",
)
API_UNREACHABLE = register(
    "api-unreachable",
    Where.CLUSTER,
    "the Kubernetes API server does not answer, or does not let us look",
    "`kubectl get nodes`, with the same kubeconfig and context, must answer",
)
CRD_MISSING = register(
    "crd-missing",
    Where.CLUSTER,
    "a resource definition is not in the cluster",
    "`kubectl get crd externalgroups.workload.meshexp.io externalworkloads.workload.linkerd.io` shows which"
    " is there: the first comes with the chart of the controller, the second with Linkerd's CRDs",
)
CONTROLLER_NOT_READY = register(
    "controller-not-ready",
    Where.CLUSTER,
    "the autoregistration controller is not there, or not all of it is ready",
    "`kubectl -n meshexp describe deployments -l app.kubernetes.io/part-of=meshexp` says why, and `kubectl"
    " -n meshexp logs -l app.kubernetes.io/part-of=meshexp`",
)
LEASE_STALE = register(
    "lease-stale",
    Where.CLUSTER,
    "a replica of the controller has not renewed its lease",
    "another replica takes over its machines; `kubectl -n meshexp get leases,pods` shows whether it comes back",
    Severity.WARNING,
)
MACHINE_NOT_HEARD = register(
    "machine-not-heard",
    Where.CLUSTER,
    "no replica of the controller hears a machine: its ExternalWorkload stays as it is, also when the machine is gone",
    "`kubectl -n meshexp get pods,leases` shows which replicas there are; when none is to come back, the"
    " documentation on uninstalling says what to delete",
)
GROUP_INVALID = register(
    "group-invalid",
    Where.CLUSTER,
    "an ExternalGroup is not accepted",
    "`kubectl describe externalgroups.workload.meshexp.io --all-namespaces` has the reason"
    " (externalgroups.workload.buoyant.io for that kind); correct the manifest, and apply it again",
)
GROUP_NOT_READY = register(
    "group-not-ready",
    Where.EITHER,
    "machines of an ExternalGroup are not ready",
    "`kubectl meshexp get` names them with the reason; on the machine `meshexp check` says what to do",
    Severity.WARNING,
)
