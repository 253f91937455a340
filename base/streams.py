"""What is printed: streams that take any text and are there, and names that UTF-8 can say."""

import io
import os
import shlex
import sys
from collections.abc import Sequence

LAST_STREAM = 2  # stdin, stdout and stderr are 0, 1 and 2


def open_streams() -> None:
    """Let stdout and stderr take any text, and be there where whoever started this closed them.

    What their encoding cannot say is escaped; what is printed to a closed one is dropped.
    """
    # A file that is opened later would stand in for a closed stream, and libraries print into it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STREAM:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout, sys.stderr = _taking_all(sys.stdout), _taking_all(sys.stderr)


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
