"""The command line. Heavy libraries are imported by the verb that needs them, so that `meshexp status` answers at once."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from harness import __version__, paths, phrases, terminal
from harness.arguments import Parser, output, seconds
from harness.errors import HarnessError, PermissionError_
from harness.terminal import Answer

# Verbs with verbs of their own, each in its own module, which only a call of it imports.
_GROUPS = {
    "join": ("harness.join_cli", "make this machine a member, by an invitation; on a failure everything is as before"),
    "leave": ("harness.leave_cli", "leave the mesh in good order: drain, stop, disable, deregister"),
    "check": ("harness.check_cli", "what is wrong with this machine and how to fix it; exit code 1 when a check fails"),
    "explain": ("harness.explain_cli", "what a problem's code means, and what to do; without a code the list of all"),
    "anchors": ("harness.anchors_cli", "the trust anchors in force, those of the file, and those that the controller tells"),
    "config": ("harness.config_cli", "check, show or import the configuration"),
    "redirect": ("harness.redirect_cli", "show, apply, remove or test the redirect rules"),
    "ca": ("harness.ca_cli", "make or renew a machine's intermediate CA, on the admin's machine"),
    "proxy": ("harness.proxy_cli", "install, list and choose versions of the Linkerd proxy"),
    "completion": ("harness.completion_cli", "print the script by which a shell completes this command"),
    "container": ("harness.container_cli", "run the daemon and a workload as a container's first process"),
}


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """All verbs; of those with verbs of their own only the one that is `asked` for in full, or all without one."""
    root = _Parser(prog="meshexp", description="Makes this machine a member of a Linkerd mesh.", instance=_INSTANCE_HELP)
    verbs: Verbs = root.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    root.add_argument("--version", action="version", version=f"meshexp-harness {__version__}")
    run = _verb(verbs, "run", "run the daemon in the foreground (what the systemd unit does)", _run)
    text = "a stop leaves the redirect in place; a container removes it after its workload has ended"
    run.add_argument("--keep-redirect", action="store_true", help=text)
    plan = _verb(verbs, "plan", "print what would be changed on this machine, and change nothing", _plan)
    output(plan)
    text = "what `plan` would change against what is, as lines of - and +; exit code 1 when anything differs"
    output(_verb(verbs, "diff", text, _diff))
    status = _verb(verbs, "status", "how things stand; exit code 0 when ready, 1 when not", _status)
    output(status)
    status.add_argument("--wait", type=seconds, metavar="SECONDS", help="wait until ready, at most so long")
    text = "exit code 0 unless something is wrong that this machine can fix: not for a lost controller (for health checks)"
    status.add_argument("--local", action="store_true", help=text)
    status.add_argument("-w", "--watch", action="store_true", help="again at each change, until Ctrl-C; json: one object a line")
    cordon = _verb(verbs, "cordon", "no new traffic to this machine until `meshexp uncordon`", _cordon)
    output(_verb(verbs, "uncordon", "traffic again, when the machine is ready", _uncordon))
    drain = _verb(verbs, "drain", "cordon, and wait until no request is open; exit code 1 when some still are", _drain)
    for verb in (cordon, drain):
        text = "shown in status and in the ExternalWorkload; without it the reason of an earlier cordon stays"
        verb.add_argument("--reason", metavar="TEXT", help=text)
        output(verb)
    drain.add_argument("--timeout", type=seconds, metavar="SECONDS", help="wait at most so long (drain.deadline if unset)")
    text = "remove everything that a stopped or crashed harness left on this machine, also under traffic; needs no configuration"
    cleanup = _verb(verbs, "cleanup", text, _cleanup)
    cleanup.add_argument("--after-exit", action="store_true", help="for ExecStopPost=: what a restarted daemon takes over stays")
    output(cleanup)
    cleanup.add_argument("-n", "--dry-run", action="store_true", help="say what would be removed, and change nothing")
    logs = _verb(verbs, "logs", "what the harness and the proxy have logged", _logs)
    logs.add_argument("-f", "--follow", action="store_true", help="and what they log from now on")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="the last N lines (default %(default)s)")
    for name, (module, text) in _GROUPS.items():
        if asked in (None, name):
            group = importlib.import_module(module)
            group.add_parser(verbs).set_defaults(function=group.run)
        else:
            verbs.add_parser(name, help=text)
    output(_verb(verbs, "version", "print the version", _version))
    words = verbs.add_parser("help", help="print the help of a verb, or of all")
    words.add_argument("words", nargs="*", metavar="VERB", help="such as `proxy install`")
    return root


Verbs = Any  # argparse keeps the type of what add_subparsers returns to itself


_INSTANCE_HELP = "another workload of this machine than its first; also after the verb"


class _Parser(Parser):
    """All verbs take --instance, and the first alone tells of it."""

    def __init__(self, *words: Any, instance: str = argparse.SUPPRESS, **options: Any) -> None:
        super().__init__(*words, **options)
        self.add_argument("--instance", metavar="NAME", default=argparse.SUPPRESS, help=instance)


def _verb(verbs: Verbs, name: str, text: str, function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(function=function)
    return verb


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    options = parser(_verb_of(words)).parse_args(words)
    if "instance" in options:
        os.environ[paths.INSTANCE] = options.instance
    try:
        if "instance" in options and options.verb != "join":
            _guess_instance(paths.from_environment())
        return int(options.function(options))
    except HarnessError as error:
        terminal.say_error("meshexp", error.message, error.hint)
        return error.exit_code
    except PermissionError as error:
        if error.filename is None or os.geteuid() == 0:  # an output that fails, or a bug
            raise
        terminal.say_error("meshexp", f"this user may not look at {error.filename}", "run it with sudo")
        return PermissionError_.exit_code


def _guess_instance(where: paths.Paths) -> None:
    """Warns of a name that looks mistyped. The verb goes on, because the name can be that of a workload that was there before."""
    known = [other.instance for other in paths.configured(where)[1:]]
    if not where.instance or where.instance in known:
        return
    never = not where.state.exists() and not where.run.exists()
    if (guess := phrases.near(where.instance, known)) or never:
        there = guess or (f"there are {', '.join(known)}" if known else "there is none but the first")
        terminal.say_error("meshexp", f"no workload {where.instance!r} is configured on this machine; {there}")


def _verb_of(words: Sequence[str]) -> str:
    """What is asked for; empty when there is nothing but options."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word
        if word == "--instance":
            next(rest, None)
    return ""


def _run(options: argparse.Namespace) -> int:
    from harness import log
    from harness.clock import SystemClock
    from harness.config import load
    from harness.daemon import head_start, in_force, needs, waiting
    from harness.errors import ConfigError
    from harness.system import early_signals, privileges, systemd

    early_signals.take()
    where = paths.from_environment()
    privileges.check()
    try:
        found = in_force.InForce(*needs.configuration(where, os.environ))
    except ConfigError as error:
        before = in_force.kept(where, error.message)
        if before is None or needs.faults(before.config, os.environ, anchors=False):
            if not systemd.supervised():
                raise
            return waiting.run(where, os.environ, None if load.is_unconfigured(where, os.environ) else error)
        found = before
    log.set_up(found.config.log.level, found.config.log.format, systemd.journal_sender())
    return head_start.start(found, where, SystemClock(), options.keep_redirect)


def _plan(options: argparse.Namespace) -> int:
    from harness.daemon import plan

    return plan.run(options.output)


def _status(options: argparse.Namespace) -> int:
    from harness import status_cli

    if options.watch:
        return status_cli.watch(paths.from_environment(), options.output)
    return status_cli.run(paths.from_environment(), options.output, options.wait, options.local)


def _cordon(options: argparse.Namespace) -> int:
    from harness import cordon_cli

    return cordon_cli.cordon(paths.from_environment(), options.reason, Answer(options.output))


def _uncordon(options: argparse.Namespace) -> int:
    from harness import cordon_cli

    return cordon_cli.uncordon(paths.from_environment(), Answer(options.output))


def _drain(options: argparse.Namespace) -> int:
    from harness import cordon_cli

    return cordon_cli.drain(paths.from_environment(), options.reason, options.timeout, Answer(options.output))


def _cleanup(options: argparse.Namespace) -> int:
    from harness.daemon import cleanup

    answer = Answer(options.output)
    code = cleanup.run(paths.from_environment(), options.after_exit, options.dry_run, answer)
    return answer.end(code, dry_run=options.dry_run)


def _diff(options: argparse.Namespace) -> int:
    from harness.daemon import difference

    return difference.run(options.output)


def _logs(options: argparse.Namespace) -> int:
    from harness import logs_cli

    return logs_cli.run(options.follow, options.lines, paths.from_environment().instance)


def _version(options: argparse.Namespace) -> int:
    answer = Answer(options.output)
    answer.say(f"meshexp-harness {__version__}")
    return answer.end(0, version=__version__)
