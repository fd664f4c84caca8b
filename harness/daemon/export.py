"""The snapshot as metrics, to Prometheus and to node_exporter; what hinders it is told, and holds nothing else up."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from harness import freshness, metrics_text, problems
from harness.clock import Clock
from harness.config import schema
from harness.errors import UnavailableError, UnwritableError
from harness.problems import Found
from harness.system import files
from harness.system.metrics_server import MetricsServer


class Exporter:
    """`fault`: why Prometheus cannot get the metrics where the configuration says; None when it can."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._data: dict[str, Any] = {}
        self._server = MetricsServer(self._render)
        self._file: Path | None = None
        self.fault: Found | None = None

    async def export(self, config: schema.Metrics, data: dict[str, Any]) -> None:
        """Rendered when somebody asks; into the file at each call, so that its age shows whether the daemon lives."""
        self._data = data
        file = Path(config.textfile) if config.textfile else None
        faults = []
        if self._file not in (None, file):
            self._unlink()
        try:
            await self._server.listen(config.listen)
        except UnavailableError as error:
            faults.append(error.message)
        try:
            if file is not None:
                self._file = file
                files.write(file, metrics_text.render(data), mode=0o644)
        except UnwritableError as error:
            if error.full and not faults:
                self.fault = problems.of_failure("exporting the metrics", error)
                return
            faults.append(f"metrics.textfile: {error.message}")
        port = config.listen.port if config.listen is not None else ""
        said = problems.METRICS_NOT_EXPORTED.found("exporting the metrics", "; ".join(faults), port=port)
        self.fault = said if faults else None

    def show(self, data: dict[str, Any]) -> None:
        """What the server answers from now on."""
        self._data = data

    def _render(self) -> str:
        """Judged as `meshexp status` judges it: when the cycle does not go on, what it said last counts only for a while."""
        if not self._data:
            return ""
        own = freshness.Process("R", self._data["pid_started"])
        return metrics_text.render(freshness.judged(self._data, own, self._clock.boot(), freshness.Ways(str, str)))

    def close(self) -> None:
        """The file stays: another daemon goes on with it."""
        self._server.close()

    def withdraw(self) -> None:
        """A machine that has left has no metrics."""
        self.close()
        self._unlink()

    def _unlink(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()
        self._file = None
