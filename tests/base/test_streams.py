"""What is printed: any text, to whoever reads it or to nobody."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from tqdm import tqdm

from base.streams import EVERY, LineByLine, shell_word, utf8
from tests.smoke import ROOT

ODD = os.fsdecode(b"z\xff")
PRINTS = """
import os, sys
from base.exit_status import run_script

def main():
    print("3\\u00d796", os.fsdecode(b"z\\xff"))
    with open(sys.argv[1], "w") as file:
        os.system("echo from a library")
        file.write("whole")

run_script("x.py", main, "")
"""


def printing(
    tmp_path: Path, redirection: str, **environment: str
) -> tuple[subprocess.CompletedProcess, str]:
    """Run a script that prints and writes a file; return how it ended, and the file's content."""
    command = f'exec "{sys.executable}" -c "$0" "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, PRINTS, str(tmp_path / "file")],
        **{"cwd": ROOT, "env": os.environ | environment, "capture_output": True},
        check=False,
    )
    return done, (tmp_path / "file").read_text() if (tmp_path / "file").exists() else ""


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"3\\xd796 z\\udcff\nfrom a library\n"),
        ({"PYTHONIOENCODING": "latin-1"}, b"3\xd796 z\\udcff\nfrom a library\n"),
        ({"PYTHONIOENCODING": "utf-8:strict"}, "3×96 z\\udcff\nfrom a library\n".encode()),
        (
            {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            b"3\\xd796 z\\udcff\nfrom a library\n",
        ),
    ],
    ids=["ascii", "latin-1", "strict", "C"],
)
def test_any_text_on_any_terminal(tmp_path: Path, environment: dict[str, str], said: bytes) -> None:
    done, written = printing(tmp_path, "", PYTHONUNBUFFERED="1", **environment)
    assert (done.returncode, done.stdout, written) == (0, said, "whole"), done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nobodys_loss(tmp_path: Path, closed: str) -> None:
    """Nor does what a library prints end in a file that was opened in a closed stream's place."""
    done, written = printing(tmp_path, closed)
    assert (done.returncode, written) == (0, "whole")


def test_nobody_reads_the_errors(tmp_path: Path) -> None:
    done, _ = printing(tmp_path, "2> >(exec true)", PYTHONUNBUFFERED="1")
    assert done.returncode in (0, 141)  # the reader may still be there


def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    done, _ = printing(tmp_path, "> /dev/full")
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("x.py: the disk: No space left on device; make room there")


def test_names_in_utf8() -> None:
    assert utf8(ODD) == "z\\udcff"
    assert utf8("日本 é ×") == "日本 é ×"


@pytest.mark.parametrize(
    "name", ["runs/digits", "my runs/a", "it's", "$HOME `x` \\", "a\nb'\\", ODD, "日本", ""]
)
def test_a_name_is_what_a_shell_reads(name: str) -> None:
    command = ["bash", "-c", f"printf %s {utf8(shell_word(name))}"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == os.fsencode(name)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_in_a_log_file_leaves_a_few_lines() -> None:
    """Its first state, one now and then, and its last; another bar begins anew."""
    file, clock = io.StringIO(), Clock()
    stream = LineByLine(file, clock)
    with redirect_stderr(stream):
        for name in ("w", "alpha"):
            for _ in (bar := tqdm(range(100), name, mininterval=0, miniters=1)):
                clock.now += EVERY / 50
                bar.set_postfix(loss=1.5)
    told = file.getvalue()
    assert "\r" not in told
    for name in ("w", "alpha"):
        lines = [line for line in told.splitlines() if line.startswith(f"{name}:")]
        steps = [int(re.search(r"(\d+)/100", line)[1]) for line in lines]
        assert (steps[0], steps[-1]) == (0, 100)
        # A minute passes: one at half of it, and perhaps one at its end before the last.
        assert len(steps) in (3, 4)
        assert 48 <= steps[1] <= 52
    assert told.index("alpha:") > told.rindex("w:")


def test_other_text_is_written_as_it_comes() -> None:
    """Also between two states of a bar, which then has a line of its own."""
    file = io.StringIO()
    stream = LineByLine(file, Clock())
    for text in (
        "a",
        "b\n",
        "\n",
        "\rw: 1",
        "\rw: 2",
        "\rw: 3",
        "x.py: refused\n",
        "\rw: 4",
        "\n",
        "c",
    ):
        assert stream.write(text) == len(text)
    assert file.getvalue() == "ab\n\nw: 1\nw: 3\nx.py: refused\nw: 4\nc"
    assert stream.getvalue() == file.getvalue()  # all else is the stream's own


@pytest.mark.parametrize("script", ["x.py"])
def test_nobody_watches_a_file(tmp_path: Path, script: str) -> None:
    """A script whose stderr is no terminal."""
    code = (
        "from base.exit_status import run_script\nfrom tqdm import tqdm\n"
        f"run_script({script!r}, lambda: [None for _ in tqdm(range(5000), 'bar')] and None, '')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
