"""Which cluster a command is for, and who asks: the flags as kubectl and linkerd have them."""

from __future__ import annotations

import argparse
import csv

from controller.kubernetes import access
from controller.kubernetes.access import Access, Impersonated
from harness.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kubeconfig", metavar="FILE", default="", help="$KUBECONFIG, else ~/.kube/config, if unset")
    parser.add_argument("--context", metavar="NAME", default="", help="of the kubeconfig; its current context if unset")
    parser.add_argument("--as", dest="as_user", metavar="USER", default="", help="ask as this user (impersonation)")
    parser.add_argument(
        "--as-group", dest="as_groups", metavar="GROUP", action="append", default=[], help="and as of this group; may be repeated"
    )


def find(options: argparse.Namespace) -> Access:
    """Raises UsageError or ConfigError."""
    groups = tuple(group for given in options.as_groups for group in _groups(given))
    if groups and not options.as_user:
        raise UsageError("--as-group needs --as: a group alone cannot ask")
    return access.find(options.kubeconfig, options.context, Impersonated(options.as_user, groups))


def _groups(given: str) -> list[str]:
    """`linkerd check` hands all groups to its extensions in one flag, as [a,b], and as [] where there are none."""
    if not (given.startswith("[") and given.endswith("]")):
        return [given]
    return [group for row in csv.reader([given[1:-1]]) for group in row]
