"""Steps of a longer command, each with outcome and time: a live line on a terminal, plain lines elsewhere, or JSON at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness import phrases, terminal
from harness.errors import HarnessError

_SIGNS = {"done": "√", "warning": "‼", "failed": "×", "skipped": "-"}
_COLOURS = {"done": "32", "warning": "33", "failed": "31", "skipped": "90"}


@dataclass(slots=True)
class Step:
    """`message` may be set while it runs."""

    name: str
    result: str = "done"
    seconds: float = 0.0
    message: str = ""


class Steps:
    def __init__(self, output: str) -> None:
        self.done: list[Step] = []
        self._json = output == "json"
        self._live = not self._json and terminal.escapes()
        self._began = time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """An error of ours is the step's outcome, and goes on its way."""
        step = Step(name)
        began = time.monotonic()
        self.live(name)
        try:
            yield step
        except HarnessError as error:
            step.result = "failed"
            step.message = error.message
            raise
        except KeyboardInterrupt:
            step.result = "failed"
            step.message = "interrupted"
            raise
        finally:
            step.seconds = time.monotonic() - began
            self.add(step)

    def live(self, text: str) -> None:
        """What is going on, where somebody watches."""
        if self._live:
            first, _, _ = text.partition("\n")
            print(f"\r\x1b[K{terminal.cut(f'… {first}', terminal.columns())}", end="", flush=True)

    def add(self, step: Step) -> None:
        self.done.append(step)
        if self._json:
            return
        sign = _SIGNS[step.result]
        if self._live:
            print("\r\x1b[K", end="")
            sign = f"\x1b[{_COLOURS[step.result]};1m{sign}\x1b[0m"
        # The further lines of a failure are printed with the command's own error, on standard error.
        message = step.message.partition("\n")[0] if step.result == "failed" else step.message
        told = terminal.harmless(f"{step.name} ({step.seconds:.2f} s)" + (f": {message}" if message else ""))
        terminal.say(f"{sign} {told}")

    def finish(self, error: HarnessError | None = None, **facts: Any) -> None:
        """`facts` are for programs; people have read the steps."""
        seconds = time.monotonic() - self._began
        if not self._json:
            if error is None:
                print(f"{phrases.counted(len(self.done), 'step')} in {seconds:.1f} s")
            return
        data: dict[str, Any] = {**facts, "seconds": round(seconds, 3)}
        data["steps"] = [
            {"name": s.name, "result": s.result, "seconds": round(s.seconds, 3), "message": s.message} for s in self.done
        ]
        if error is not None:
            data["error"] = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        terminal.say_json(data)
