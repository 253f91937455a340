"""What a script's end tells the shell and the user."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from base.errors import UserError
from base.exit_status import run_script
from tests.smoke import ROOT

GOES_ON = "then the same command goes on"


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ends(main: Callable[[], bool | None]) -> int:
    with pytest.raises(SystemExit) as caught:
        run_script("x.py", main, "the same command goes on")
    return caught.value.code


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(("kept", "status"), [(None, 0), (True, 0), (False, 1)])
def test_promises(kept: bool | None, status: int, capsys: pytest.CaptureFixture) -> None:
    assert ends(lambda: kept) == status
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("--batch 0: expected more"), 2, "x.py: --batch 0: expected more\n"),
        (KeyboardInterrupt(), 130, "\nx.py: interrupted; the same command goes on\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/a"),
            2,
            f"x.py: /run/a: No space left on device; make room there, {GOES_ON}\n",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            2,
            f"x.py: the disk: Read-only file system; make it writable, {GOES_ON}\n",
        ),
    ],
    ids=["mendable", "interrupted", "full", "read-only"],
)
def test_what_is_said(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    assert ends(raising(error)) == status
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    "error", [ValueError("a fault of ours"), OSError(errno.EBADF, "bad"), BrokenPipeError()]
)
def test_faults_of_the_program_are_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_script("x.py", raising(error), "")


def test_sigterm_is_an_interruption(capsys: pytest.CaptureFixture) -> None:
    assert ends(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["buffered", "more than a pipe holds"])
def test_nobody_reads_what_it_prints(size: int) -> None:
    code = (
        "from base.exit_status import run_script; "
        f"run_script('x.py', lambda: print('a' * {size}), '')"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
