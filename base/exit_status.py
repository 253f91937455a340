"""How a script ends: its exit status, and one line for what the user can mend."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from base.errors import UserError
from base.files import settle_home
from base.streams import open_streams

# Nothing more can be written: disk or quota full, size of files limited, disk read-only.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# Nobody reads what is printed: the other end of a pipe is closed, the terminal is gone.
UNREAD = {errno.EPIPE, errno.EIO}


def run_script(name: str, main: Callable[[], bool | None], resume: str) -> NoReturn:
    """Call `main` and exit; `resume` says what goes on after Ctrl-C or SIGTERM.

    0: done. 1: `main` returned False, a promise was not kept. 2: what the user can mend, said in
    one line. 130: interrupted. 141: nobody reads what it prints, as in `| head`.
    """
    open_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settle_home()
        status = 1 if main() is False else 0
        sys.stdout.flush()
    except UserError as error:
        status = _say(f"{name}: {error}", 2)
    except KeyboardInterrupt:
        status = _say(f"\n{name}: interrupted; {resume}", 130)
    except OSError as error:
        if error.errno in UNREAD and any(map(_hung_up, (sys.stdout, sys.stderr))):
            status = 141
        elif error.errno in UNWRITABLE:
            place = error.filename or "the disk"
            mend = "make it writable" if error.errno == errno.EROFS else "make room there"
            status = _say(f"{name}: {place}: {error.strerror}; {mend}, then {resume}", 2)
        else:
            raise
    _drop_unprinted()
    sys.exit(status)


def _say(line: str, status: int) -> int:
    with suppress(OSError):  # nobody reads it
        print(line, file=sys.stderr)
    return status


def _hung_up(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _drop_unprinted() -> None:
    """Drop what a stream can no longer take: Python would fail on it again at its own end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
