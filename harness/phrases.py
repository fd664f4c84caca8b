"""Words of what came back. Code that reports a failure uses them, and a problem has hints for some of them (Problem.cases)."""

from __future__ import annotations

REFUSED = "connection refused"
NO_CONNECTION = "no connection"
NO_ANSWER = "no answer"
UNRESOLVED = "does not resolve"
NOT_HTTP = "is no HTTP"
NO_TLS = "speaks no TLS"
RESET = "connection reset"
DISCONNECTED = "closed the connection"
NOT_INSTALLED = "is not installed"
NO_USER = "no such user"
NO_COMMAND = "allows no command"
NO_PROGRAM = "no such program"
NOT_STARTED = "cannot be started"
ENDED = "ended with"
IS_ROOT = "is a root itself"
NO_ROOM = ("is read-only", "is full", "has no inode left")
"""Why a file cannot be written, of a file system."""
LEFT = "left as the daemon before this one had it, until the controller answers"
NO_GROUP = "group-not-found"
