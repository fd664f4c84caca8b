"""No check passes on what was not looked at; and how skipped checks are shown and counted."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from controller import checks
from controller.model import Lease, Metadata
from harness import check_problems as problems
from harness import decode, trust_problems
from harness.check import control_plane, firewall, machine, membership, network, proxy, reach, report, run
from harness.check.context import Context
from harness.check.report import Judge, Outcome, Result, Untried
from harness.check.run import CATEGORIES, Category
from harness.config import schema
from harness.errors import HarnessError, UnavailableError
from harness.messages import ErrorBody, Registration
from harness.paths import Paths
from harness.specs import ROUTE_PROTOCOL, Route
from harness.system.control_plane import RefusedError
from harness.system.tls_look import Seen, look
from harness.system.workload_api import Delivered
from harness.values import HostPort
from tests import builders
from tests.builders import registration

WHY = "a reason of this test"


def context(tmp_path: Path, running: bool = False, registered: bool = False, mode: str = "local") -> Context:
    """No anchors. `running`: a daemon says that it is Ready, and nothing else."""
    values = {"workload": {"group": "face", "namespace": "faces"}, "identity": {"mode": mode}}
    config = decode.decode(schema.Config, values, source="configuration")
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    status: dict[str, Any] = {"phase": "Stopped"}
    if running:
        status = {"phase": "Ready", "pid": 1, "workload": {"name": "face-1"}, "conditions": [], "reported": None}
    known: Registration | None = registration() if registered else None
    return Context(config, paths, status, known, "", pre=not running, wall=1.0, frame=Untried(WHY))


def outcomes(results: tuple[Result, ...]) -> dict[str, Outcome]:
    return {result.description: result.outcome for result in results}


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("registered", [False, True])
def test_nobody_has_looked(category: Category[Any], running: bool, registered: bool, tmp_path: Path) -> None:
    for mode in ("local", "external"):
        found = tuple(category.judge(context(tmp_path, running, registered, mode), category.facts()))
        assert Outcome.PASSED not in outcomes(found).values(), found
        assert all(result.reason for result in found)


def untried_facts(facts: type[Any]) -> Any:
    """Each fact for which the type has a place for it could not be looked at."""
    names = [field.name for field in dataclasses.fields(facts) if "Untried" in str(field.type) or field.type == "Text"]
    return facts(**{name: Untried(WHY) for name in names if "tuple[tuple" not in str(facts.__annotations__[name])})


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
@pytest.mark.parametrize("running", [False, True])
def test_nothing_could_be_looked_at(category: Category[Any], running: bool, tmp_path: Path) -> None:
    found = tuple(category.judge(context(tmp_path, running, registered=True), untried_facts(category.facts)))
    assert Outcome.PASSED not in outcomes(found).values(), found


@pytest.mark.parametrize("error", [UnavailableError(WHY), PermissionError(13, WHY)], ids=["ours", "the system's"])
@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_a_look_that_fails(category: Category[Any], error: HarnessError | OSError, tmp_path: Path) -> None:
    async def fails(_: Context) -> Any:
        raise error

    broken = dataclasses.replace(category, gather=fails)
    (only,) = asyncio.run(broken.look(context(tmp_path)))
    assert only.outcome is Outcome.SKIPPED and WHY in only.reason


def test_nobody_joins_without_the_controller_and_a_member_goes_on(tmp_path: Path) -> None:
    """But routes to a controller inside the cluster's networks come with the joining."""
    silent = Seen(HostPort("192.0.2.1", 8081), "controller", refused="Connection refused")

    def unreached(behind: bool, running: bool) -> Outcome:
        found = control_plane.judge(context(tmp_path, running), control_plane.Facts(silent, behind=behind))
        return next(r.outcome for r in found if r.problem is not None and r.problem.code == "controller-unreachable")

    assert unreached(behind=False, running=False) is Outcome.FAILED
    assert unreached(behind=True, running=False) is Outcome.WARNING
    assert unreached(behind=False, running=True) is Outcome.WARNING


@pytest.mark.parametrize(("network", "behind"), [("192.0.2.0/24", True), ("198.51.100.0/24", False)])
def test_a_controller_behind_routes_that_are_not_set_yet(network: str, behind: bool, tmp_path: Path) -> None:
    values = {
        "workload": {"group": "face", "namespace": "faces"},
        "controller": {"address": "192.0.2.1:8081"},
        "network": {"service_cidrs": [network]},
    }
    there = dataclasses.replace(context(tmp_path), config=decode.decode(schema.Config, values, source="configuration"))
    assert asyncio.run(control_plane._behind(there)) is behind


def test_a_refused_connection_is_told_in_the_system_s_words() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and it does not listen
        seen = asyncio.run(look(HostPort("127.0.0.1", bound.getsockname()[1]), "nobody", "", 5, None, None))
    assert seen.refused == "connection refused"


def test_the_cluster_s_side() -> None:
    assert Outcome.PASSED not in outcomes(tuple(checks.judge(checks.Facts(), "meshexp"))).values()
    found = outcomes(tuple(checks.judge(checks.Facts(error=""), "meshexp")))
    assert [text for text, outcome in found.items() if outcome is Outcome.PASSED] == ["can query the Kubernetes API"]
    group = {
        "metadata": {"namespace": "faces", "name": "face"},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
    }
    alive = Lease(Metadata("replica.a", "meshexp"), "a", 1.0, 8.0)
    silent = tuple(checks.judge(checks.Facts(error="", wall=1.0, leases=(alive,), groups=(group,)), "meshexp"))
    assert [r.outcome for r in silent[-2:]] == [Outcome.SKIPPED] * 2 and "faces/face" in silent[-1].reason
    unheard = tuple(checks.judge(checks.Facts(error="", machines=Untried(WHY)), "meshexp"))
    assert [r.reason for r in unheard if r.description == "a replica of the controller hears each machine"] == [WHY]


def test_a_fault_that_was_found_is_said_though_not_all_was_looked_at(tmp_path: Path) -> None:
    chain = {"family": "inet", "table": "fw", "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
    facts = firewall.Facts(nft=[{"chain": chain}], filter=Untried(WHY))
    found = {r.problem.code for r in firewall.judge(context(tmp_path), facts) if r.problem}
    assert found == {"firewall-drops"}
    exposed = machine.Facts(secrets=(("/one", Untried(WHY)), ("/two", "has the mode 0644")))
    (failed,) = [r for r in machine.judge(context(tmp_path), exposed) if r.problem]
    assert failed.problem == problems.SECRETS_EXPOSED and failed.reason == "/two has the mode 0644"


def test_what_the_daemon_has_not_decided_and_what_it_said_before_it_hung(tmp_path: Path) -> None:
    place = context(tmp_path, running=True)
    condition = {"name": "Registration", "status": "Unknown", "message": "waiting for the identity", "problem": None}
    status = place.status | {"conditions": [condition]}
    found = outcomes(tuple(membership.judge(place, membership.Facts(status))))
    assert found["Registration"] is Outcome.SKIPPED
    hung = status | {"phase": "Unknown", "message": "it has not written for 99 s"}
    hangs = tuple(membership.judge(place, membership.Facts(hung)))
    assert [r.outcome for r in hangs] == [Outcome.FAILED] * 2
    assert "99 s" in hangs[0].reason
    full = hung | {"message": "it has not written for 99 s: the disk at /run/meshexp is full; `df -h /run/meshexp` shows it"}
    no_room = tuple(membership.judge(place, membership.Facts(full)))
    assert [r.outcome for r in no_room] == [Outcome.FAILED, Outcome.SKIPPED], "whether the cluster hears it is not known"
    assert no_room[0].problem is not None and "make room there" in no_room[0].problem.advice


def test_a_kernel_that_refuses_and_one_that_may_not_be_asked(tmp_path: Path) -> None:
    refuses = machine.Facts(backend="nftables", backend_error="", kernel="it lacks fib")
    assert outcomes(tuple(machine.judge(context(tmp_path), refuses)))["the kernel takes redirect rules"] is Outcome.FAILED
    script = proxy.Facts(path="/p", there=True, release=Untried("a script"), taken=())
    assert outcomes(tuple(proxy.judge(context(tmp_path), script)))["its release works with SPIRE"] is Outcome.SKIPPED
    assert outcomes(tuple(network.judge(context(tmp_path), network.Facts((), ()))))["the nodes are on links of this machine"] is (
        Outcome.SKIPPED
    )


def test_how_it_is_shown() -> None:
    to = Judge("meshexp-x")
    passed, skipped = to.passed("one"), to.skipped("two", WHY)
    failed = to.failed("three", trust_problems.CLOCK_SKEW)
    text = report.table((passed, skipped), colour=False)
    assert text == f"meshexp-x\n---------\n√ one\n- two\n    skipped: {WHY}\n\nStatus check results are √ (1 skipped)"
    short = report.table((passed, skipped, failed), colour=False, short=True)
    assert "× three" in short and "√ one" not in short and "- two" not in short and "(1 skipped)" in short
    assert report.table((skipped,), colour=False).endswith("Status check results are - (1 skipped)")
    assert report.table((skipped, failed), colour=False).endswith("Status check results are × (1 skipped)")
    assert "\x1b[90m-\x1b[0m two" in report.table((skipped,), colour=True)
    assert report.success((passed, skipped)) and not report.success((skipped, failed))


def test_the_json_of_ours_and_the_one_that_linkerd_reads() -> None:
    to = Judge("meshexp-x")
    results = (to.passed("one"), to.skipped("two", WHY))
    checks_of = [made(results)["categories"][0]["checks"] for made in (report.document, report.linkerd_document)]
    assert checks_of[0][1] == {"description": "two", "result": "skipped", "reason": WHY}
    # Linkerd shows whatever is neither a warning nor an error as √.
    assert {one["result"] for one in checks_of[1]} == {"success"} and len(checks_of[1]) == 1


def test_every_category_of_the_folder_is_in_the_table() -> None:
    folder = Path(run.__file__).parent
    judges = {path.stem for path in folder.glob("*.py") if "\ndef judge(" in path.read_text()}
    assert {category.judge.__module__.rpartition(".")[2] for category in CATEGORIES} == judges


ABSENT = {"FileNotFoundError", "NotADirectoryError", "ProcessLookupError", "NotInKernelError", "ConfigError", "ValueError"}
"""What says that something is not there; each other error says that it could not be looked at."""


@pytest.mark.parametrize("path", sorted(Path(run.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_no_error_is_swallowed(path: Path) -> None:
    """A handler that catches more than an absence tells what it has caught."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            used = {name.id for part in node.body for name in ast.walk(part) if isinstance(name, ast.Name)}
            assert caught <= ABSENT or node.name in used, f"{path.name}:{node.lineno} swallows {', '.join(caught - ABSENT)}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "contextlib.suppress":
            assert {ast.unparse(argument) for argument in node.args} <= ABSENT, f"{path.name}:{node.lineno}"


def test_routes_are_told_also_when_the_kernel_does_not_say_which_way_it_takes(tmp_path: Path) -> None:
    there = (Route(ip_network("10.42.0.0/16"), ip_address("192.0.2.1"), protocol=ROUTE_PROTOCOL),)
    found = outcomes(tuple(network.judge(context(tmp_path), network.Facts(there, there, ways=Untried(WHY)))))
    assert found["no route of others leads to the cluster's networks"] is Outcome.PASSED
    assert found["the kernel takes the routes to the cluster"] is Outcome.SKIPPED


def test_a_secret_that_cannot_be_read_is_not_shown_as_none(tmp_path: Path) -> None:
    svid = builders.svid()
    member = context(tmp_path, running=True, registered=True)
    member.status["conditions"] = [{"name": "Proxy", "status": "True"}]
    config = dataclasses.replace(member.config, identity=dataclasses.replace(member.config.identity, spiffe_id=svid.spiffe_id))
    member = dataclasses.replace(member, config=config, frame=Delivered((svid,)))
    member.paths.registration.mkdir(parents=True)
    told = asyncio.run(reach.gather(member)).told
    assert isinstance(told, Untried) and f"{member.paths.registration} cannot be read" in told.why


def test_a_test_that_the_controller_refuses_is_no_missing_one() -> None:
    too_soon = RefusedError(ErrorBody("too-soon", "it was tried a moment ago"))
    assert reach._refused(too_soon).why == "the controller refused the test: it was tried a moment ago [too-soon]"
    assert "older than this program" in reach._refused(RefusedError(ErrorBody("unknown-call", "no such call"))).why
