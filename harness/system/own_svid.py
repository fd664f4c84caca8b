"""The SVIDs that the proxy's user gets from the Workload API, asked for once by a child under that user."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from harness.errors import HarnessError
from harness.specs import User
from harness.system import process, workload_api
from harness.system.workload_api_client import FailureKind

STOP_SECONDS = 1.0


async def fetch(socket: str, user: User, seconds: float) -> workload_api.Frame:
    """Never raises: what goes wrong is a Failed."""
    with tempfile.TemporaryDirectory(prefix="meshexp-check-") as records:
        processes = process.Processes(Path(records), lambda name, line: None)
        command = process.python_module("identity", "harness.system.workload_api_child", socket, user=user, piped=True)
        try:
            child = await processes.spawn(command)
        except HarnessError as error:
            return workload_api.Failed(FailureKind.TEMPORARY, error.message)
        try:
            async with asyncio.timeout(seconds):
                async for frame in workload_api.read_frames(child.stdout):
                    return frame
        except TimeoutError:
            return workload_api.Failed(FailureKind.TEMPORARY, f"the Workload API gives no answer within {seconds:g} s")
        except HarnessError as error:
            return workload_api.Failed(FailureKind.TEMPORARY, error.message)
        finally:
            await child.stop(STOP_SECONDS)
    return workload_api.Failed(FailureKind.TEMPORARY, "the Workload API was not asked: the child has ended")
