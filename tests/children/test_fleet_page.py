"""The fleet's page over a real controller with 1,000 machines that joined by its own calls; in headless Chromium, by keys."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller import rendering
from controller.app import Controller
from controller.embedded_store import EmbeddedStore
from controller.fleet_page import MOST_VIEWERS, FleetPage
from controller.model import Key
from controller.owners import VERSIONS
from controller.rendering import Membership
from harness.clock import SystemClock
from harness.values import HostPort, parse_spiffe_id
from tests.browser import CHROMIUM, Page, page
from tests.children.controller_site import FACE, LOOPBACK, REQUEST, Site, config, path_of, report, secret_of, site
from tests.controller_support import Authority, Client, group

MACHINES = 1000
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
SHOWN = "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden)"
FOCUSED = "document.activeElement.cells?.[3].textContent"


async def joined(client: Client, number: int, hostname: str, ready: bool = True) -> dict[str, Any]:
    changes = {"instance_id": f"i{number}", "hostname": hostname, "addresses": [f"10.1.{number // 256}.{number % 256}"]}
    answer = await client.call("POST", "/v1/workloads", {**REQUEST, **changes, "versions": {"harness": "9.8.7"}})
    assert answer.status == 201, answer
    await told(client, answer.body, 1, ready)
    return dict(answer.body)


async def many(made: Site, numbers: range, unready: int) -> None:
    """As the controller writes them, in the store, heard by this replica: their calls are tested elsewhere. Each `unready`th is
    not ready."""
    store, replicas = made.controller.store, made.controller.replicas
    group = await store.buoyant_groups.get(Key("faces", "face"))
    for n in numbers:
        where = ipaddress.ip_address(f"10.1.{n // 256}.{n % 256}")
        member = Membership("faces", "face", f"i{n}", 0, parse_spiffe_id(FACE), (where,), f"host-{n:04}", "0" * 64)
        wanted = rendering.workload(group, member, "cluster.local")
        stored = await store.workloads.create(wanted)
        reason = "Ready" if n % unready else "ProbeFailed"
        seen = rendering.with_readiness(stored, n % unready != 0, reason, "", time.time())
        if seen is not None:
            await store.workloads.patch_status(seen)
        replicas.claim(member.key, {VERSIONS: "harness=9.8.7"})
    await asyncio.sleep(0)


async def told(client: Client, made: dict[str, Any], sequence: int, ready: bool) -> None:
    body = report(sequence, ready) | {"message": "" if ready else HOSTILE}
    assert (await client.call("POST", path_of(made) + "/state", body, secret_of(made))).status == 204


async def hostile(made: Site) -> None:
    """The controller takes no such name from a machine; but whoever may write ExternalWorkloads could put one there."""
    await many(made, range(MACHINES, MACHINES + 1), unready=7)
    store = made.controller.store.workloads
    last = next(one for one in (await store.list()).items if one.metadata.annotations[rendering.INSTANCE] == f"i{MACHINES}")
    annotations = {**last.metadata.annotations, rendering.HOSTNAME: HOSTILE}
    await store.replace(dataclasses.replace(last, metadata=dataclasses.replace(last.metadata, annotations=annotations)))


def address(made: Site) -> HostPort:
    assert made.controller.fleet_address is not None
    return made.controller.fleet_address


def run(folder: Path, body: Callable[[Site, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        settings = {"lease": 600.0, "expiry": 900.0, "fleet_listen": LOOPBACK}
        async with site(folder, **settings) as made, await made.client() as client:
            await body(made, client)

    asyncio.run(main())


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (`./setup neighbours` installs Debian's)")
def test_a_thousand_machines_by_keyboard_and_live(tmp_path: Path) -> None:
    async def body(made: Site, client: Client) -> None:
        machines = [await joined(client, n, f"host-{n:04}") for n in range(1, 10)]
        await many(made, range(10, MACHINES), unready=10)
        await hostile(made)
        async with page(tmp_path / "browser") as seen:
            await rows_are_all_there(seen, f"http://{address(made)}/")
            await hostile_text_is_text(seen)
            await keys_do_all(seen)
            await changes_arrive(seen, client, machines)
            assert seen.faults == []

    run(tmp_path, body)


async def rows_are_all_there(seen: Page, url: str) -> None:
    began = time.monotonic()
    await seen.call("Page.navigate", url=url)
    await seen.until(f"{SHOWN}.length === {MACHINES}", 60)
    await seen.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    print(f"{MACHINES} rows on the page after {time.monotonic() - began:.2f} s")
    ready = MACHINES - (MACHINES - 1) // 10
    assert (
        await seen.evaluate("document.getElementById('count').textContent") == f"{MACHINES} of {MACHINES} machines, {ready} ready"
    )
    row = await seen.evaluate(f"{SHOWN}.map(r => [...r.cells].map(c => c.textContent)).find(r => r[3] === 'host-0007')")
    assert row[0] == "faces" and row[1].startswith("face-") and row[2] == "face"
    assert row[3:9] == ["host-0007", FACE, "10.1.0.7", "9.8.7", "yes", "Ready"]
    assert row[9] == "now"
    assert row[10] in ("59m", "58m", "60m")


async def hostile_text_is_text(seen: Page) -> None:
    texts = await seen.evaluate(f"{SHOWN}.map(r => r.cells[3].textContent)")
    assert HOSTILE in texts
    assert await seen.evaluate("document.querySelectorAll('tbody img, tbody script').length") == 0
    assert await seen.evaluate("document.title") == "Machines in the mesh"
    made = await seen.evaluate("(() => { try { document.body.innerHTML = '<b>'; return 'made' } catch (e) { return e.name } })()")
    assert made == "TypeError", "the policy lets text become markup"
    faults, seen.faults = seen.faults, []
    assert len(faults) == 1 and "TrustedHTML" in faults[0], faults


async def keys_do_all(seen: Page) -> None:
    await seen.press("/")
    await seen.type("host-001 ready:yes")
    await seen.until(f"{SHOWN}.length === 9")
    assert await seen.evaluate("document.getElementById('count').textContent") == f"9 of {MACHINES} machines, 9 ready"
    await seen.press("Escape")
    await seen.until(f"{SHOWN}.length === {MACHINES}")
    while await seen.evaluate("document.activeElement.textContent") != "Host":
        await seen.press("Tab")
    heads = "[...document.querySelectorAll('th')].map(h => h.getAttribute('aria-sort'))"
    await seen.press("Enter")
    await seen.until(f"{heads}[3] === 'ascending' && {SHOWN}[1].cells[3].textContent === 'host-0001'")
    await seen.press("Enter")
    await seen.until(f"{heads}[3] === 'descending' && {SHOWN}[0].cells[3].textContent === 'host-0999'")
    while not await seen.evaluate("document.activeElement.matches('tbody tr')"):
        await seen.press("Tab")
    await seen.press("Home")
    assert await seen.evaluate(FOCUSED) == "host-0999"
    await seen.press("ArrowDown", "ArrowDown", "ArrowUp")
    assert await seen.evaluate(FOCUSED) == "host-0998"
    await seen.press("End")
    assert await seen.evaluate(FOCUSED) == HOSTILE
    await seen.press("Home", "PageDown")
    assert await seen.evaluate(FOCUSED) == "host-0979"
    assert await seen.evaluate("document.querySelectorAll('tbody tr[tabindex=\"0\"]').length") == 1


async def changes_arrive(seen: Page, client: Client, machines: list[dict[str, Any]]) -> None:
    """And leave the keyboard where it is."""
    cell = f"{SHOWN}.find(r => r.cells[3].textContent === 'host-0005')"
    began = time.monotonic()
    await told(client, machines[4], 2, ready=False)
    await seen.until(
        f"{cell}.cells[7].textContent === 'no' && {cell}.cells[8].textContent === 'ProbeFailed: ' + {json.dumps(HOSTILE)}"
    )
    assert await seen.evaluate("document.title") == "Machines in the mesh"
    print(f"a change is on the page after {time.monotonic() - began:.2f} s")
    assert (await client.call("DELETE", path_of(machines[6]), None, secret_of(machines[6]))).status == 204
    await seen.until(f"{SHOWN}.length === {MACHINES - 1} && !{SHOWN}.some(r => r.cells[3].textContent === 'host-0007')")
    await joined(client, MACHINES + 1, "newcomer")
    await seen.until(f"{SHOWN}.some(r => r.cells[3].textContent === 'newcomer')")
    assert await seen.evaluate(FOCUSED) == "host-0979"
    await seen.evaluate("document.querySelectorAll('th button')[7].click()")
    await seen.until(f"{SHOWN}[0].cells[7].textContent === 'no'")
    await seen.evaluate(f"{SHOWN}.find(r => r.cells[3].textContent === 'host-0008').focus()")
    await told(client, machines[7], 2, ready=False)
    await seen.until("document.activeElement.rowIndex < 120")
    assert await seen.evaluate(FOCUSED) == "host-0008", "the row has moved, and the focus with it"


def test_what_it_costs(tmp_path: Path) -> None:
    async def body(made: Site, client: Client) -> None:
        machines = [await joined(client, n, f"host-{n:04}") for n in range(1, 10)]
        await many(made, range(10, MACHINES + 1), unready=10)
        await asyncio.sleep(1)
        shown = FleetPage(made.controller.fleet, made.controller.replicas)
        began = time.process_time()
        rows = shown.rows()
        spent = time.process_time() - began
        assert shown.rows() is rows, "made once for all who look at the same time"
        session = aiohttp.ClientSession(read_bufsize=1 << 20)
        async with session, session.get(f"http://{address(made)}/events") as stream:
            first = await stream.content.readuntil(b"\n\n")
            await told(client, machines[0], 2, ready=False)
            second = await stream.content.readuntil(b"\n\n")
        assert len(json.loads(first[6:])["rows"]) == MACHINES == len(rows)
        news = json.loads(second[6:])
        assert [row["hostname"] for row in news["rows"]] == ["host-0001"] and not news["all"] and not news["gone"]
        print(
            f"{MACHINES} rows in {spent * 1e3:.1f} ms of processor time; {len(first)} bytes at first, {len(second)} for a change"
        )
        assert len(first) < 1_000_000 and len(second) < 1000

    run(tmp_path, body)


def test_it_is_only_read_by_who_came_on_purpose(tmp_path: Path) -> None:
    async def body(made: Site, client: Client) -> None:
        url = f"http://{address(made)}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/") as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "://" not in (await answer.text()).replace("http://www.w3.org", ""), "nothing from elsewhere"
            for host, status in (("evil.example", 421), ("evil.example:9996", 421), ("localhost:9996", 200), ("[::1]:1", 200)):
                async with session.get(f"{url}/", headers={"Host": host}) as answer:
                    assert answer.status == status, host
            async with session.post(f"{url}/") as answer:
                assert answer.status == 405
            for path in ("/..%2fconfig.py", "/page/fleet.html", "/metrics", "/v1/workloads"):
                async with session.get(url + path) as answer:
                    assert answer.status == 404, path
            streams = [await session.get(f"{url}/events") for _ in range(MOST_VIEWERS)]
            async with session.get(f"{url}/events") as answer:
                assert answer.status == 503
            for stream in streams:
                stream.close()

    run(tmp_path, body)


def test_nowhere_unless_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as made:
            assert made.controller.fleet_address is None
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{made.controller.health_address}/events") as answer,
            ):
                assert answer.status == 404

    asyncio.run(main())


def test_each_replica_shows_all_and_who_is_silent(tmp_path: Path) -> None:
    """What a machine's certificate is, only the replica knows that hears it."""

    async def main() -> None:
        authority, clock = Authority(tmp_path), SystemClock()
        store = EmbeddedStore(clock)
        await store.buoyant_groups.create(group("face"))
        settings = [config(authority, replica=name, lease=1.0, expiry=600.0) for name in ("a", "b")]
        async with Controller(settings[0], store, clock) as a, Controller(settings[1], store, clock) as b, asyncio.timeout(60):
            pages = [FleetPage(one.fleet, one.replicas) for one in (a, b)]
            context = authority.client(authority.issue("face", FACE))
            async with await Client.connect(a.address, context) as client:
                await joined(client, 1, "host-0001")
                at_a, at_b = [await row(shown, lambda r: r["ready"] and r["heard_by"] == "a") for shown in pages]
            assert at_a["certificate_until"] and not at_b["certificate_until"]
            assert {**at_a, "certificate_until": ""} == at_b and at_b["last_seen"] == ""
            at_a, at_b = [await row(shown, lambda r: r["reason"] == "Unreachable") for shown in pages]
            assert at_a["ready"] is at_b["ready"] is False and at_a["heard_by"] == at_b["heard_by"] == ""
            assert at_a["last_seen"] == at_b["last_seen"] != ""

    asyncio.run(main())


def test_a_machine_whose_replica_is_gone_is_neither_ready_nor_not(tmp_path: Path) -> None:
    async def main() -> None:
        authority, clock = Authority(tmp_path), SystemClock()
        store = EmbeddedStore(clock)
        await store.buoyant_groups.create(group("face"))
        settings = [config(authority, replica=name, lease=600.0, expiry=900.0) for name in ("a", "b")]
        async with Controller(settings[1], store, clock) as b, asyncio.timeout(60):
            page = FleetPage(b.fleet, b.replicas)
            async with Controller(settings[0], store, clock) as a:
                context = authority.client(authority.issue("face", FACE))
                async with await Client.connect(a.address, context) as client:
                    await joined(client, 1, "host-0001")
                    await row(page, lambda r: r["ready"] is True and r["heard_by"] == "a")
            found = await row(page, lambda r: r["ready"] is None)
            assert found["reason"] == "NotHeard" and found["message"].endswith("still says Ready") and found["heard_by"] == ""

    asyncio.run(main())


async def row(shown: FleetPage, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Of the only machine, once it is as `wanted`."""
    while True:
        for text in shown.rows().values():
            if wanted(found := json.loads(text)):
                return dict(found)
        await asyncio.sleep(0.05)
