"""What is printed: streams that take any text and are there, and names that UTF-8 can say."""

import io
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

LAST_STREAM = 2  # stdin, stdout and stderr are 0, 1 and 2
EVERY = 30.0  # seconds
UP = "\x1b[A"  # moves a terminal's cursor up, from a bar below another


def open_streams() -> None:
    """Let stdout and stderr take any text, and be there where whoever started this closed them.

    What their encoding cannot say is escaped; what is printed to a closed one is dropped.
    """
    # A file that is opened later would stand in for a closed stream, and libraries print into it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STREAM:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout, sys.stderr = _taking_all(sys.stdout), _taking_all(sys.stderr)
    if not sys.stderr.isatty():
        sys.stderr = LineByLine(sys.stderr)


class LineByLine:
    """A stream that goes into a file, where a progress bar would leave every state that it had.

    Of a line that is written over again and again it keeps the first state, one every `EVERY`
    seconds, and the last, each on a line of its own. A line is another one when what it says before
    its first colon is another.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._state: str | None = None  # of a line that is written over
        self._kept, self._when = "", 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, but for states of a line that nobody needs."""
        for part in re.findall(r"\r[^\r\n]*|\n|[^\r\n]+", text.replace(UP, "")):
            if part.startswith("\r"):
                self._show(part[1:].rstrip())
            elif self._state is None:
                self._stream.write(part)
            else:
                self._finish()
                if part != "\n":
                    self._stream.write(part)
        return len(text)

    def _show(self, state: str) -> None:
        self._state = state
        another = state.partition(":")[0] != self._kept.partition(":")[0]
        if state and (another or self._clock() - self._when >= EVERY):
            self._keep()

    def _finish(self) -> None:
        if self._state and self._state != self._kept:
            self._keep()
        self._state = None

    def _keep(self) -> None:
        self._stream.write(f"{self._state}\n")
        self._stream.flush()
        self._kept, self._when = self._state, self._clock()


def _taking_all(stream: io.TextIOBase | None) -> io.TextIOBase:
    if stream is None:
        stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(stream, io.TextIOWrapper):  # a notebook's own are none, and take all
        stream.reconfigure(errors="backslashreplace")
    return stream


def utf8(text: str) -> str:
    """Return text that UTF-8 can say: a byte of a file's name that is none stands as \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def shell_word(text: str) -> str:
    """Return text as a shell reads it back; what cannot be printed stands as $'\\xff' there."""
    if text.isprintable():
        return shlex.quote(text)
    quoted = {ord("'"): "\\'", ord("\\"): "\\\\"}
    letters = (quoted.get(b, chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in os.fsencode(text))
    return f"$'{''.join(letters)}'"


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of as many cells each as lines, their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
