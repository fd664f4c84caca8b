"""The problems with names and ways that depend on what else is on this machine."""

from __future__ import annotations

from harness import phrases
from harness.problem_registry import Severity, Where, register

ROUTE_CONFLICT = register(
    "route-conflict",
    Where.MACHINE,
    "a route that is not ours already leads to a cluster network, or to a part of one, or is in our routing table",
    "`ip route show table all` shows it; remove it, or take the network out of network.pod_cidrs or network.service_cidrs",
    Severity.WARNING,
)
ROUTE_REFUSED = register(
    "route-refused",
    Where.EITHER,
    "the route to a cluster network would hide this machine's own subnet, its gateway, a node or the controller; it is not set",
    "`ip route` shows this machine's own networks; give the cluster others, or correct network.pod_cidrs"
    " and network.service_cidrs",
)
ROUTE_NODE_SILENT = register(
    "route-node-silent",
    Where.CLUSTER,
    "a node that service networks are reached through does not answer on its link",
    "`ip neigh` shows who answers here, `kubectl get nodes -o wide` how the cluster sees its nodes; traffic"
    " goes through another node as long as one answers",
    Severity.WARNING,
    standing=True,
)
GROUP_PORT_EXCLUDED = register(
    "group-port-excluded",
    Where.EITHER,
    "a port of the group is left out of the redirect, because SSH comes by it: peers that call it do not reach the proxy",
    "`ss -ltnp 'sport = :{port}'` names the program; give SSH or the group another port",
    Severity.WARNING,
    standing=True,
)
FIRST_WORKLOAD_STOPPED = register(
    "first-workload-stopped",
    Where.MACHINE,
    "routes and DNS are set by the machine's first workload, which does not run",
    "`meshexp status` says why, `systemctl start meshexp-harness` starts it; a machine with several"
    " workloads has one without a name",
)
ROUTE_GATEWAY_UNREACHABLE = register(
    "route-gateway-unreachable",
    Where.EITHER,
    "the node's address is not on any directly connected network",
    "`ip route get {host}` shows the way that there is; set network.node (NODE_IP) to an address of the"
    " node that this machine reaches without a router",
)
ROUTE_FAILED = register(
    "route-failed",
    Where.MACHINE,
    "the kernel refused a route",
    "`ip route show proto 77` shows what is set, `meshexp diff` what is missing, `meshexp logs` the kernel's reason",
)
ROUTE_ELSEWHERE = register(
    "route-elsewhere",
    Where.MACHINE,
    "the routes to the cluster are set, and the kernel takes another way: a rule or a table of another program comes first",
    "`ip route get {host}` shows the way, `ip rule` whose table is asked first. Have that program"
    " leave the network alone, or put a rule before its: `ip rule add to {network} lookup {name} priority 100`",
)
TOLD_REFUSED = register(
    "told-refused",
    Where.EITHER,
    "the controller tells what this machine's own configuration does not allow; it is not taken, and what was in force stays",
    "`meshexp config show{instance}` shows the limits; if the value is right, allow it with {key} in {config}/harness.yaml, then"
    " `systemctl reload {unit}`; if it is not, correct it in the cluster: `kubectl -n meshexp get deployments,configmaps`",
)
DNS_FAILED = register(
    "dns-failed",
    Where.MACHINE,
    "the cluster's names are not asked of the cluster's DNS servers; all other names are asked as before",
    "`meshexp logs` has the lines of dnsmasq; to do without it, a container can be started with --dns=ADDRESS of"
    " the cluster's DNS Service, or set dns.mode: off",
    Severity.WARNING,
    cases={
        phrases.NOT_INSTALLED: "`apt-get install dnsmasq-base` (EL: `dnf install dnsmasq`); a container can"
        " be started with --dns=ADDRESS of the cluster's DNS Service; or set"
        " dns.mode: off",
        phrases.NOT_PERMITTED: "is the file immutable (i)? `lsattr {file}`; `chattr -i {file}` lets it be written;"
        " or set dns.mode: off",
        phrases.DANGLING: "`ls -l {file}` shows where the link leads: start what makes that file, or `rm {file}` and"
        " make a file there that names a server",
        phrases.NOT_THERE: "`ls -l {file}` shows that it is not there; make it, so that it names a server, or set dns.mode: off",
        phrases.PORT_TAKEN: "`ss -lntup 'sport = :53'` names it. Have it listen on its own address only, not on all (unbound:"
        " interface:, named: listen-on, dnsmasq: bind-interfaces), or let it ask the cluster, and set dns.mode: off",
        phrases.NO_USER: "`systemd-sysusers` makes the package's user meshexp-dns; or set dns.user to one that exists",
    },
)
DNS_UNANSWERED = register(
    "dns-unanswered",
    Where.EITHER,
    "the cluster's names are asked of the cluster's DNS servers, and applications get no answer",
    "`meshexp logs` has the lines of dnsmasq, `resolvectl query {name}` says what systemd-resolved lacks, and `ip route get"
    " {host}` the way to the cluster's server: TCP and UDP port 53 must be open",
    Severity.WARNING,
    cases={
        phrases.NO_ADDRESS: "do dns.servers and dns.domain, or the controller's facts where these are unset, name this cluster's?"
        " `kubectl -n kube-system get service -l k8s-app=kube-dns` shows the server, and `kubectl -n kube-system get"
        " configmap coredns -o yaml` the domain",
    },
)
