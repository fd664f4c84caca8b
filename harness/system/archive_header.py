"""Headers of tar archives, within bounds: tarfile reads whole what one header says of the next, and one within the other."""

from __future__ import annotations

import tarfile

from harness.errors import UnavailableError

MOST_BYTES = 1 << 20
"""Of the names and attributes of one member."""
_OF_THE_NEXT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Header(tarfile.TarInfo):
    """For `tarfile.open(tarinfo=…)`: raises UnavailableError while the archive is read."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _OF_THE_NEXT and not 0 <= self.size <= MOST_BYTES:
            raise UnavailableError(f"a header in the archive has {self.size} bytes; {MOST_BYTES} are the most that is read")
        try:
            made: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        except RecursionError:
            raise UnavailableError("too many headers in the archive follow each other without a member") from None
        return made
