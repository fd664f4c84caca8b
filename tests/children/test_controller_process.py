"""The controller as a process of its own: its configuration, its files, its signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from controller.manifest import BUOYANT_GROUP_API
from harness.values import HostPort
from tests.children.controller_site import FACE, REQUEST, path_of, report, secret_of
from tests.controller_support import TRUST_DOMAIN, Authority, Client, group_object
from tests.ports import free_port


def write_groups(folder: pathlib.Path, **spec: Any) -> None:
    (folder / "face.yaml").write_text(
        yaml.safe_dump_all([group_object(api=BUOYANT_GROUP_API, **spec), {"kind": "Service", "apiVersion": "v1"}])
    )


async def started(folder: pathlib.Path, *flags: str) -> tuple[asyncio.subprocess.Process, HostPort]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controller", "run", "--config", str(folder / "controller.yaml"), *flags,
        stderr=asyncio.subprocess.PIPE, cwd=pathlib.Path(__file__).parents[2], env=dict(os.environ),
    )  # fmt: skip
    line = await next_line(process, "controller ready")
    host, _, port = line["address"].rpartition(":")
    return process, HostPort(host, int(port))


async def next_line(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while text := await process.stderr.readline():
            line: dict[str, Any] = json.loads(text)
            if line["event"] == event:
                return line
    raise AssertionError(f"it ended without saying {event!r}")


def write_config(folder: pathlib.Path, **changes: Any) -> Authority:
    authority = Authority(folder)
    certificate, key = authority.issue("server", dns=("controller",))
    (folder / "groups").mkdir()
    write_groups(folder / "groups")
    data = {
        "tls_cert": certificate, "tls_key": key, "trust_anchors": authority.anchors, "trust_domain": TRUST_DOMAIN,
        "groups": str(folder / "groups"), "listen": f"127.0.0.1:{free_port()}",
        "health_listen": f"127.0.0.1:{free_port()}", **changes,
    }  # fmt: skip
    (folder / "controller.yaml").write_text(yaml.safe_dump(data))
    return authority


def test_the_process_follows_its_files_and_stops_on_sigterm(tmp_path: pathlib.Path) -> None:
    authority = write_config(tmp_path, facts=str(tmp_path / "facts.yaml"))
    (tmp_path / "facts.yaml").write_text("service_cidrs: [10.43.0.0/16]\n")
    context = authority.client(authority.issue("face", FACE))

    async def main() -> None:
        process, address = await started(tmp_path)
        try:
            async with await Client.connect(address, context) as client:
                made = (await client.call("POST", "/v1/workloads", REQUEST)).body
                assert made["facts"]["service_cidrs"] == ["10.43.0.0/16"]

                async def change(act: Callable[[], object]) -> tuple[float, dict[str, Any]]:
                    path = f"{path_of(made)}?after={made['version']}"
                    waiting = asyncio.create_task(client.call("GET", path, None, secret_of(made)))
                    await asyncio.sleep(0.1)
                    act()
                    began = time.monotonic()
                    made.update((await waiting).body)
                    return time.monotonic() - began, made

                seconds, told = await change(lambda: write_groups(tmp_path / "groups", drainSeconds=7))
                assert told["drain_seconds"] == "7s"
                print(f"\ngroup edit to machine: {seconds:.2f} s")
                (tmp_path / "facts.yaml").write_text("service_cidrs: [10.44.0.0/16]\n")
                seconds, told = await change(lambda: process.send_signal(signal.SIGHUP))
                assert told["facts"]["service_cidrs"] == ["10.44.0.0/16"]
                await next_line(process, "reloaded")
                (tmp_path / "groups" / "face.yaml").write_text("kind: ExternalGroup\n")
                assert "apiVersion" in (await next_line(process, "groups not read; the old ones stay in force"))["error"]
                assert (await client.call("POST", path_of(made) + "/state", report(1), secret_of(made))).status == 204
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 60) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"lisen": "x"}, 78, "did you mean listen?"),
        ({"lease": "0s"}, 78, "lease must be"),
        ({"tls_cert": "/nonexistent"}, 78, "tls_cert"),
        ({"groups": "/nonexistent"}, 78, "/nonexistent"),
        ({"listen": "192.0.2.1:1"}, 69, "cannot listen on 192.0.2.1:1"),
    ],
)
def test_bad_configuration(tmp_path: pathlib.Path, change: dict[str, str], code: int, text: str) -> None:
    write_config(tmp_path, **change)

    async def main() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "controller", "run", "--config", str(tmp_path / "controller.yaml"),
            stderr=asyncio.subprocess.PIPE, cwd=pathlib.Path(__file__).parents[2],
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, errors.decode()

    status, errors = asyncio.run(main())
    assert status == code and text in errors and "Traceback" not in errors
