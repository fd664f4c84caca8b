"""The Faces page as a person sees it: in headless Chromium, by the pixels of each cell."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.ports import free_port
from tests.unit.test_faces import faces

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium here (`./setup neighbours` installs Debian's)", allow_module_level=True)
CELL, GAP, BORDER, SIZE = 128, 8, 4, 4
GOOD, FAILED, GREY, LATCHED = "#66CCEE", "#AA3377", "#BBBBBB", "#CCBB44"
Answer = tuple[int, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels`: three bytes each, row by row."""

    width: int
    height: int
    pixels: bytes

    def at(self, x: int, y: int) -> str:
        start = 3 * (y * self.width + x)
        return "#" + self.pixels[start : start + 3].hex().upper()

    def corner(self, color: str) -> tuple[int, int]:
        """Of the grid, within the first cell's border, told by a colour that is in each row and each column."""
        wanted = bytes.fromhex(color[1:])
        found = [divmod(i, self.width) for i in range(self.width * self.height) if self.pixels[3 * i : 3 * i + 3] == wanted]
        left, right = min(x for _, x in found), max(x for _, x in found)
        assert right - left + 1 == SIZE * CELL + (SIZE - 1) * GAP - 2 * BORDER, (left, right)
        return left, min(y for y, _ in found)


def read_png(data: bytes) -> Picture:
    """Eight bits a channel, with or without alpha, not interlaced (W3C PNG, sections 9 and 11)."""
    at, parts, header = 8, b"", b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        header, parts = (body, parts) if kind == b"IHDR" else (header, parts + body if kind == b"IDAT" else parts)
        at += length + 12
    width, height, depth, color = struct.unpack(">IIBB", header[:10])
    channels = {2: 3, 6: 4}[color]
    assert depth == 8
    raw, step, line, pixels = zlib.decompress(parts), channels, bytearray(width * channels), bytearray()
    for y in range(height):
        start = y * (width * step + 1)
        line = _unfiltered(raw[start], raw[start + 1 : start + 1 + width * step], line, step)
        pixels += line if step == 3 else b"".join(line[i : i + 3] for i in range(0, len(line), 4))
    return Picture(width, height, bytes(pixels))


def _unfiltered(kind: int, data: bytes, above: bytearray, step: int) -> bytearray:
    line = bytearray(data)
    for i in range(len(line)):
        left = line[i - step] if i >= step else 0
        up, corner = above[i], above[i - step] if i >= step else 0
        if kind == 4:
            guess = left + up - corner
            nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
            line[i] = (line[i] + nearest[2]) & 255
        elif kind:
            line[i] = (line[i] + (left, up, (left + up) // 2)[kind - 1]) & 255
    return line


def seen(port: int, folder: Path) -> Picture:
    """The page after every cell has had its answer."""
    shot = folder / "page.png"
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")
    where = (
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={shot}",
        "--window-size=640,720",
        "--virtual-time-budget=4000",
    )
    subprocess.run([str(CHROMIUM), *flags, *where, f"http://127.0.0.1:{port}/"], check=True, capture_output=True, timeout=90)
    return read_png(shot.read_bytes())


def grid(picture: Picture, color: str) -> list[list[tuple[str, str]]]:
    """Background and border of each cell."""
    left, top = picture.corner(color)
    step = CELL + GAP
    return [
        [
            (
                picture.at(left + column * step + 12, top + row * step + 12),
                picture.at(left + column * step - 2, top + row * step + 60),
            )
            for column in range(SIZE)
        ]
        for row in range(SIZE)
    ]


@contextlib.contextmanager
def face(answer: Callable[[int, int], Answer]) -> Iterator[int]:
    """A face of the test's own, which answers by row and column; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            status, data = answer(int(query["row"][0]), int(query["col"][0]))
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_all_is_well(tmp_path: Path) -> None:
    with faces("smiley") as smiley, faces("color") as color:
        parts = {"SMILEY_SERVICE": f"127.0.0.1:{smiley}", "COLOR_SERVICE": f"127.0.0.1:{color}"}
        with faces("face", **parts) as real, faces("gui", FACE_SERVICE=f"127.0.0.1:{real}") as page:
            cells = grid(seen(page, tmp_path), GOOD)
    assert [[background for background, _ in row] for row in cells] == [[GOOD] * SIZE] * SIZE
    assert FAILED not in {border for row in cells for _, border in row}


def test_face_is_gone(tmp_path: Path) -> None:
    with faces("gui", FACE_SERVICE=f"127.0.0.1:{free_port()}") as page:
        cells = grid(seen(page, tmp_path), FAILED)
    assert [[background for background, _ in row] for row in cells] == [[FAILED] * SIZE] * SIZE


def test_some_of_each(tmp_path: Path) -> None:
    """By diagonals: good, failed, with errors, latched."""
    rows: list[Answer] = [
        (200, {"smiley": "&#x1F603;", "color": GOOD}),
        (500, {}),
        (200, {"smiley": "&#x1F92C;", "color": GREY, "errors": ["smiley"]}),
        (599, {}),
    ]
    with face(lambda row, column: rows[(row + column) % SIZE]) as port, faces("gui", FACE_SERVICE=f"127.0.0.1:{port}") as page:
        cells = grid(seen(page, tmp_path), GOOD)
    order = [GOOD, FAILED, GREY, LATCHED]
    for row in range(SIZE):
        for column in range(SIZE):
            background, border = cells[row][column]
            assert background == order[(row + column) % SIZE], (row, column, cells)
            assert (border == FAILED) == (background == GREY), (row, column, cells)
