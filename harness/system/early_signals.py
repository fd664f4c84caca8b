"""Signals that come before the daemon listens to them. By default each of them would end it, and systemd takes an end by SIGHUP
for a stop in good order: `systemctl reload` twice within a second would take the machine out of the mesh.
"""

from __future__ import annotations

import signal

_NOTED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_ENDING = (signal.SIGTERM, signal.SIGINT)
ALL = (*_NOTED, *_ENDING)
"""What a process that becomes a fresh one keeps blocked meanwhile, so that what comes then is not lost."""
_seen: set[int] = set()


def take() -> None:
    """From now on they are noted. Handlers of ours, and neither blocked nor ignored signals: children would inherit those."""
    for number in _NOTED:
        signal.signal(number, lambda number, _: _seen.add(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)


def reload_was_asked() -> bool:
    return signal.SIGHUP in _seen
