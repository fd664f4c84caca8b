"""`meshexp config check|show|import`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from harness import decode, paths, reading, terminal
from harness.arguments import output
from harness.errors import ConfigError, UnavailableError, UsageError
from harness.terminal import Answer


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "config", help="check, show or import the configuration", description="The configuration, from all its sources."
    )
    what = verb.add_subparsers(dest="what", metavar="WHAT", required=True)
    check = what.add_parser(
        "check", help="name every fault at once, with its place; also files, users and programs of this machine"
    )
    check.add_argument("-q", "--quiet", action="store_true", help="only the exit code: 0 when all is right, 78 when not")
    show = what.add_parser("show", help="the merged result, with the origin of each value")
    output(check)
    output(show, "yaml", "json")
    importing = what.add_parser("import", help="from the JSON configuration of Buoyant's linkerd-proxy-harness")
    importing.add_argument("file", metavar="FILE", help="usually /var/lib/linkerd/linkerd-proxy-harness.cfg")
    output(importing, "yaml", "json")
    importing.add_argument("--write", action="store_true", help="as harness.d/20-imported.yaml, instead of printing it")
    return verb


def run(options: argparse.Namespace) -> int:
    verbs = {"check": _check, "show": _show, "import": _import}
    return verbs[options.what](paths.from_environment(), options)


def _check(where: paths.Paths, options: argparse.Namespace) -> int:
    """As a reload does, which takes no other. Of files that only root may read, a user is told that they were not looked at."""
    from harness.daemon import needs
    from harness.errors import PermissionError_

    try:
        config, _ = needs.configuration(where, os.environ, new=True)
        if denied := needs.denied_to_us(config):
            files = ", ".join(f"{key} ({path})" for key, path in denied)
            text = f"not looked at, since only root may read them: {files}; the rest is right"
            raise PermissionError_(text, "run it with sudo")
    except ConfigError as error:
        return _checked(options, error)
    return _checked(options)


def _checked(options: argparse.Namespace, error: ConfigError | None = None) -> int:
    """The faults are the result: JSON has them, and for people the error goes on, which names them."""
    code = error.exit_code if error is not None else 0
    if options.quiet:
        return code
    if options.output == "json":
        faults = error.faults if error is not None else ()
        terminal.say_json({"valid": error is None, "faults": [dataclasses.asdict(fault) for fault in faults]})
        return code
    if error is not None:
        raise error
    print("the configuration is right")
    return 0


def _show(where: paths.Paths, options: argparse.Namespace) -> int:
    """Keys hold paths of secrets, never secrets: all of it may be shown."""
    from harness.config import environment, load

    config, layers = load.load_with_origins(where, os.environ)
    encoded = decode.encode(config)
    rows = []
    for path, _, _ in environment.leaves():
        value: Any = encoded
        for name in path:
            value = value.get(name)
        key = ".".join(path)
        rows.append((key, value, layers.origins.get(key) or _below(layers.origins, key) or "default"))
    if options.output == "json":
        terminal.say_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
        return 0
    section = ""
    for key, value, origin in rows:
        head, _, name = key.rpartition(".")
        if head != section:
            print(_opened(section, head))
            section = head
        text = f"{'  ' * key.count('.')}{name}: {json.dumps(value, ensure_ascii=False)}"
        _print_value(text, origin)
    return 0


def _print_value(text: str, origin: str) -> None:
    """Where both do not fit into one line of the terminal, the origin is a comment in the line above."""
    line = f"{text:<60} # {origin}"
    width = terminal.columns()
    if width is None or len(line) <= width:
        print(line)
    elif len(text) + len(origin) + 3 <= width:
        print(f"{text} # {origin}")
    else:
        print(f"{' ' * (len(text) - len(text.lstrip()))}# {origin}\n{text}")


def _opened(before: str, now: str) -> str:
    """The lines that open the sections of `now` which are not open yet."""
    have, want = before.split("."), now.split(".")
    common = next((i for i, (a, b) in enumerate(zip(have, want, strict=False)) if a != b), min(len(have), len(want)))
    return "\n".join(f"{'  ' * depth}{name}:" for depth, name in enumerate(want) if depth >= common)


def _below(origins: dict[str, str], key: str) -> str:
    """Of a value that is a mapping: where its own entries come from."""
    return ", ".join(sorted({origin for name, origin in origins.items() if name.startswith(f"{key}.")}))


def _import(where: paths.Paths, options: argparse.Namespace) -> int:
    from harness.config import imported
    from harness.system import files

    try:
        with Path(options.file).open("rb") as file:
            data = json.loads(reading.whole(file))
    except OSError as error:
        raise UnavailableError(f"{options.file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{options.file} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{options.file} is no configuration: it must be a JSON object")
    found = imported.read(data)
    text = yaml.safe_dump(found.values, sort_keys=False)
    for note in found.notes:
        terminal.say(f"‼ {note}", stream=sys.stderr)
    answer = Answer(options.output)
    target = where.drop_ins / "20-imported.yaml"
    if options.write:
        files.write(target, f"# From {options.file}\n{text}", mode=0o644, durable=True)
        answer.say(f"{target} is written; `meshexp config check`, then `systemctl reload meshexp-harness`")
    else:
        answer.raw(text)
    return answer.end(0, values=found.values, notes=list(found.notes), written=str(target) if options.write else None)
