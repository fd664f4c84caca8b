"""The SVIDs that the proxy's user gets from the Workload API, asked for once by a child under that user."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from harness.errors import HarnessError, UnavailableError
from harness.specs import User
from harness.system import process, workload_api
from harness.system.workload_api_client import FailureKind

STOP_SECONDS = 1.0


async def fetch(socket: str, user: User, seconds: float) -> workload_api.Frame:
    """What the Workload API does wrong is a Failed. Raises HarnessError when it could not be asked at all."""
    with tempfile.TemporaryDirectory(prefix="meshexp-check-") as records:
        processes = process.Processes(Path(records), lambda name, line: None)
        command = process.python_module("identity", "harness.system.workload_api_child", socket, user=user, piped=True)
        child = await processes.spawn(command)
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
    raise UnavailableError("the Workload API was not asked: the child has ended")
