"""`meshexp status`: prints the daemon's snapshot; imports nothing heavy."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from harness import denied, phrases, terminal, times
from harness.paths import Paths, configured
from harness.problem_registry import Severity, Where
from harness.status import Phase, Truth, told
from harness.system import snapshot_reader

POLL_SECONDS, WATCH_SECONDS = 0.1, 0.5


def run(paths: Paths, output: str, wait: float | None, local: bool) -> int:
    """0 when ready, 1 when not or when no daemon runs. `local`: 0 unless something is wrong that this machine can fix."""
    deadline = time.monotonic() + (wait or 0.0)
    while True:
        data = read(paths)
        wrong = wrong_here(data)
        well = not wrong if local else data["phase"] == Phase.READY.text and data["ready"]
        if well or wait is None or time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    for folder in denied.to_this_user((paths.first.config / "instances",)):
        terminal.say(
            f"{folder} cannot be read by this user: it is not known whether there are other workloads", stream=sys.stderr
        )
    if output == "json":
        terminal.say_json(data)
        return 0 if well else 1
    print(text(data, terminal.columns()))
    if local:
        terminal.say(f"× to fix on this machine: {', '.join(wrong)}" if wrong else "√ nothing to fix on this machine")
    return 0 if well else 1


def wrong_here(data: dict[str, Any]) -> tuple[str, ...]:
    """The parts that do not work for a reason that can be fixed on this machine, also without the controller or the network.

    Not those with a warning, which do their work, and not those that wait for another part.
    """
    if data["phase"] in (Phase.STOPPED.text, Phase.UNKNOWN.text):
        return ("the daemon",)
    if data["phase"] == Phase.WAITING.text:
        return ("the configuration",)
    return tuple(condition["name"] for condition in data["conditions"] if _is_wrong_here(condition))


def _is_wrong_here(condition: dict[str, Any]) -> bool:
    if condition["problem"] is None:
        return bool(condition["status"] == Truth.FALSE.value)
    return condition["severity"] == Severity.ERROR.value and condition.get("where") == Where.MACHINE.value


def read(paths: Paths) -> dict[str, Any]:
    """What the daemon says, if that counts (snapshot_reader). Of the machine's first workload, the others' phases too."""
    found = _own(paths)
    others = {} if paths.instance else {where.instance: _own(where) for where in configured(paths)[1:]}
    return found | ({"instances": {name: other["phase"] for name, other in others.items()}} if others else {})


def _own(paths: Paths) -> dict[str, Any]:
    return snapshot_reader.read(paths.status, paths.instance)


def watch(paths: Paths, output: str) -> int:
    """Until Ctrl-C: again at each change, and each second on a terminal, where times run."""
    said: object = None
    while True:
        data = read(paths)
        shown = terminal.json_text(data) if output == "json" else text(data, terminal.columns())
        news = _but_for_beats(data) if output == "json" else shown
        if news != said:
            clear = "\x1b[H\x1b[2J" if output != "json" and terminal.escapes() else ""
            print(f"{clear}{shown}", flush=True)
            said = news
        time.sleep(WATCH_SECONDS)


def _but_for_beats(data: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that a daemon at rest writes again and again."""
    return {name: value for name, value in data.items() if name not in ("written", "looked")}


_SIGNS = {"True": "√", "False": "×", "Unknown": "…"}


_COLUMN = 16
"""The column where the text about a part begins."""


def text(data: dict[str, Any], width: int | None = None) -> str:
    """`width`: of the terminal, if there is one."""
    return "\n".join(terminal.wrap(line, 0 if line.startswith(" ") else _COLUMN, width=width) for line in _lines(data))


def _lines(data: dict[str, Any]) -> list[str]:
    lines = [f"{data['phase']}" + (f" {_since(data['since'])}" if "since" in data else "")]
    if why := _why(data):
        lines[0] += f": {why}"
    if workload := data.get("workload"):
        lines.append(
            f"workload   {workload['namespace']}/{workload['name'] or '(not registered)'}  {', '.join(workload['addresses'])}"
        )
        lines.append(f"identity   {workload['identity'] or '(none yet)'}")
    if instances := data.get("instances"):
        others = ", ".join(f"{name} ({phase})" for name, phase in instances.items())
        lines.append(f"others     {others}; `meshexp status --instance NAME`")
    codes: list[str] = []
    for condition in data.get("conditions", []):
        sign = _sign(condition)
        first, *more = told(condition, time.time()).splitlines() or [""]
        lines.append(f"{sign} {condition['name']:<13} {first}")
        lines += [f"{'':{_COLUMN}}{line}" for line in more]
        if condition["problem"]:
            hint = str(condition["hint"]).splitlines() or [""]
            lines += [f"{'':{_COLUMN}}{line}" for line in (f"{condition['problem']}: {hint[0]}", *hint[1:])]
            codes.append(condition["problem"])
    if codes:
        lines.append(f"{'tells more':<{_COLUMN}}`meshexp explain {' '.join(dict.fromkeys(codes))}`")
    lines += _details(data)
    return terminal.harmless("\n".join(lines)).split("\n")


def _since(when: str) -> str:
    return f"since {times.shown(when)} ({times.span(max(0.0, -left(when)))})"


def _why(data: dict[str, Any]) -> str:
    """For the first line: why no traffic comes, else the worst that is wrong where the phase says that something is."""
    message = str(data.get("message", "")).partition("\n")[0]
    if message:
        return f"cordoned: {message}" if data.get("reason") == "Cordoned" else message
    wrong = [condition for condition in data.get("conditions", []) if condition["problem"]]
    if data["phase"] != Phase.DEGRADED.text or not wrong:
        return ""
    worst = min(wrong, key=lambda condition: condition["severity"] != Severity.ERROR.value)
    return f"{worst['name']}: {worst['message'].partition(chr(10))[0]}"


def _sign(condition: dict[str, Any]) -> str:
    if condition["problem"] and condition["status"] != Truth.FALSE.value:
        return "‼"
    if not condition.get("applies", True):
        return "-"
    return _SIGNS.get(condition["status"], "?")


def _details(data: dict[str, Any]) -> Iterator[str]:
    """Children with their age, certificates with what is left of them, endpoints, counters."""
    for name, child in data.get("children", {}).items():
        if child["state"] != "stopped":
            age = f", for {times.span(-left(child['since']))}" if child.get("since") else ""
            yield f"child {name:<13} {child['state']}{age}" + (f", pid {child['pid']}" if child["pid"] else "")
    ends = [f"{name} {times.span(left(end))}" for name, end in data.get("certificates", {}).items() if end]
    if ends:
        yield f"certificates left    {', '.join(ends)}"
    if endpoints := data.get("endpoints"):
        yield f"endpoints            {', '.join(_endpoint(one) for one in endpoints)}"
    if counters := data.get("counters"):
        cycles = phrases.counted(counters["cycles"], "cycle")
        changes = phrases.counted(sum(counters["changes"].values()), "change")
        failures = phrases.counted(sum(counters["failures"].values()), "failure")
        yield f"since the start      {cycles}, {changes}, {failures}"


def _endpoint(one: dict[str, Any]) -> str:
    host = f"[{one['address']}]" if ":" in one["address"] else one["address"]
    return f"{host}:{one['port']}" + (f" ({one['name']})" if one["name"] else "")


def left(iso: str) -> float:
    """Seconds from now until then."""
    return times.seconds_of(iso) - time.time()
