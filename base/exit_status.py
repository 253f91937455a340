"""How a script ends: its exit status, and one line for what the user can mend."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from base.errors import UserError

# Nothing more can be written: disk or quota full, size of files limited, disk read-only.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def run_script(name: str, main: Callable[[], bool | None], resume: str) -> NoReturn:
    """Call `main` and exit; `resume` says what goes on after Ctrl-C or SIGTERM.

    0: done. 1: `main` returned False, a promise was not kept. 2: what the user can mend, said in
    one line. 130: interrupted. 141: nobody reads what it prints, as in `| head`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = 1 if main() is False else 0
        sys.stdout.flush()
    except UserError as error:
        status = _say(f"{name}: {error}", 2)
    except KeyboardInterrupt:
        status = _say(f"\n{name}: interrupted; {resume}", 130)
    except BrokenPipeError:
        if _is_read():
            raise
        status = 141
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or "the disk"
        mend = "make it writable" if error.errno == errno.EROFS else "make room there"
        status = _say(f"{name}: {place}: {error.strerror}; {mend}, then {resume}", 2)
    sys.exit(status)


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status


def _is_read() -> bool:
    """Whether somebody reads the output; where nobody does, the rest of it is dropped."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return False
