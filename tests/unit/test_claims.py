"""What several workloads of one machine have for themselves: who is read, and what two must not both want."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import load, neighbours
from harness.errors import ConfigError, UsageError
from harness.paths import Paths, configured
from harness.rules import Inbound, RedirectSpec, rules_for
from harness.system import iptables_text, nftables_text
from harness.system.redirect_table import Marks, marks_in, marks_of_table
from tests.redirect_support import networks, ports

FIRST = "workload: {group: face, namespace: faces}\n"
API = """
workload: {group: api, namespace: faces, users: ["2301"]}
proxy: {user: "2202", inbound_port: 4243, outbound_port: 4240, admin_port: 4291}
metrics: {listen: "127.0.0.1:4292"}
"""


def machine(folder: Path, **texts: str) -> Paths:
    """The first workload's paths; each text is an instance's harness.yaml, that of `first` the first's."""
    where = Paths(folder / "etc", folder / "state", folder / "run")
    for name, text in texts.items():
        file = where.of("" if name == "first" else name).harness_yaml
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return where


def faults(paths: Paths) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load.load(paths, {})
    assert caught.value.exit_code == 78
    return {fault.path: f"{fault.message} ({fault.hint})" for fault in caught.value.faults}


def test_two_that_share_nothing(tmp_path: Path) -> None:
    where = machine(tmp_path, first=FIRST, api=API)
    assert load.load(where, {}).workload.users == ()
    assert load.load(where.of("api"), {}).workload.group == "api"
    (seen,) = load.others(where)
    assert (seen.proxy_user, dict(seen.users), dict(seen.ports)["proxy.inbound_port"]) == (
        "2202",
        {"workload.users[0]": "2301"},
        4243,
    )
    assert [claim.group for claim in load.others(where.of("api"))] == ["faces/face"]


def test_every_collision_at_once_with_a_way_out(tmp_path: Path) -> None:
    where = machine(tmp_path, first=FIRST, api=FIRST)
    found = faults(where.of("api"))
    assert found.keys() == {
        "workload.group", "workload.users", "proxy.user",
        "proxy.inbound_port", "proxy.outbound_port", "proxy.admin_port", "metrics.listen",
    }  # fmt: skip
    assert (
        "4143 is proxy.inbound_port of the machine's first workload too (take a free one, such as 4243)"
        in (found["proxy.inbound_port"])
    )
    assert "only the first workload takes the connections of everybody else" in found["workload.users"]
    theirs = faults(where)
    assert "4191 is proxy.admin_port of the workload 'api' too" in theirs["proxy.admin_port"]
    assert "workload.users" not in theirs, "the first may have everybody else"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (API.replace('["2301"]', '["root"]'), "workload.users[0]"),
        (API.replace('["2301"]', '["2202"]'), "workload.users[0]"),
        (API.replace('["2301"]', '["2301", "2102"]'), "workload.users[1]"),
        (API.replace("4291", "8081"), "proxy.admin_port"),
        (API + "redirect: {inbound: all}\n", "redirect.inbound"),
        (API + "redirect: {ports: [9000]}\n", "redirect.ports[0]"),
        (API + "identity: {mode: local, local: {port: 8081}}\n", "identity.local.port"),
        (API.replace('4292"}', '4292", textfile: /x/m.prom}'), "metrics.textfile"),
        (API, ""),
    ],
)
def test_each_of_the_others_is_a_fault_too(tmp_path: Path, text: str, path: str) -> None:
    first = (
        FIRST + 'proxy: {user: "2102"}\nidentity: {mode: local}\nredirect: {ports: [8999-9001]}\nmetrics: {textfile: /x/m.prom}\n'
    )
    where = machine(tmp_path, first=first, api=text)
    if not path:
        load.load(where.of("api"), {})
    else:
        assert set(faults(where.of("api"))) == {path}


def test_a_user_is_the_same_by_name_and_by_number(tmp_path: Path) -> None:
    where = machine(tmp_path, first=FIRST + "proxy: {user: daemon}\n", api=API.replace('"2202"', '"1"'))
    assert "'1' is proxy.user of the machine's first workload too" in faults(where.of("api"))["proxy.user"]


def test_a_neighbour_with_a_fault_still_has_what_it_has(tmp_path: Path) -> None:
    where = machine(tmp_path, first=FIRST, api=API + "redirect: {outbound: everything}\nnonsense: 1\n")
    assert load.load(where, {})
    (seen,) = load.others(where)
    assert (seen.proxy_user, [name for _, name in seen.users]) == ("2202", ["2301"])


def test_who_there_is(tmp_path: Path) -> None:
    where = machine(tmp_path, first=FIRST, zz=API, api=API)
    (where.config / "instances" / "Not_a_name" / "harness.d").mkdir(parents=True)
    (where.config / "instances" / "empty").mkdir()
    assert [one.instance for one in configured(where.of("api"))] == ["", "api", "zz"]
    assert where.of("api").run == tmp_path / "run-api", "systemd removes the first's when that stops"
    assert where.of("api").of("zz") == where.of("zz")
    assert where.of("api").proxy_versions == where.proxy_versions
    assert len(neighbours.stamp(where)) == 2
    for name in ("", "x" * 12, "-a", "A", "a/b", "..", "a_b"):
        if name:
            with pytest.raises(UsageError):
                where.of(name)


def test_its_rules_are_ahead_and_for_its_users_alone() -> None:
    wanted = RedirectSpec(
        proxy_uid=2202, inbound_port=4243, outbound_port=4240, outbound_networks=networks("10.42.0.0/16"),
        inbound_ports=ports("8001"), ipv6=False, users=(2302, 2301), ignore_users=(2102,), neighbours=(2102,),
    )  # fmt: skip
    text = nftables_text.replace_text(rules_for(wanted), Marks("api"))
    assert text.startswith("table inet meshexp-api\ndelete table inet meshexp-api\ntable inet meshexp-api {\n")
    assert "type nat hook output priority -111; policy accept;" in text
    assert [line.strip() for line in text.partition("chain guard")[0].splitlines() if "meta skuid" in line] == [
        'meta nfproto ipv4 meta skuid 2102 oifname "lo" tcp dport 8001 tcp flags & (fin|syn|rst|ack) == syn redirect to :4243'
        ' comment "neighbour-2102"',
        'meta skuid 2202 return comment "proxy-user"',
        'meta skuid 2102 return comment "user-2102"',
        "meta skuid 2301 ip daddr 10.42.0.0/16 tcp flags & (fin|syn|rst|ack) == syn redirect to :4240"
        ' comment "redirect-ipv4-user-2301"',
        "meta skuid 2302 ip daddr 10.42.0.0/16 tcp flags & (fin|syn|rst|ack) == syn redirect to :4240"
        ' comment "redirect-ipv4-user-2302"',
    ]
    chains = iptables_text.restore_text(rules_for(wanted), (), (), Marks("api"))
    assert "-4 -N MESHEXP-api_OUTBOUND" in chains
    assert len("MESHEXP-" + "x" * 11 + "_OUTBOUND") == 28, "as long as the kernel takes a chain's name"


def test_the_first_in_mode_all_takes_a_neighbours_proxy_at_its_own_ports_only() -> None:
    wanted = RedirectSpec(proxy_uid=1, inbound=Inbound.ALL, inbound_ports=ports("8000"), neighbours=(2,), ipv6=False)
    near = next(rule for rule in rules_for(wanted) if rule.name == "neighbour-2")
    assert near.ports == ports("8000"), "on lo that proxy also reaches its own application"


def test_marks() -> None:
    assert [marks_of_table(name) for name in ("meshexp", "meshexp-a-1", "meshexpress", "filter")] == [
        Marks(), Marks("a-1"), None, None,
    ]  # fmt: skip
    assert marks_in(b"..MESHEXP_INBOUND\0\0MESHEXP-api_OUTBOUND\0..DOCKER") == {Marks(), Marks("api")}
