"""Files and JSON, written whole or not at all."""

import errno
import json
import os
import secrets
import stat
import sys
import tempfile
import zipfile
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from base.errors import UserError

# What building an object from foreign JSON can raise.
PARSE_ERRORS = (
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    UserError,
)
# What reading an archive that is none, or a damaged one, can raise; NotImplementedError and
# RecursionError are RuntimeErrors.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)

UNFINISHED = ".unfinished"
# What file systems say that write at once, or when they like, whoever asks.
WITHOUT_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `UserError` where the machine does not let `path` be written: disk full, read-only."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room there, make it "
            "writable, or name another place"
        ) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary name, fsync and rename.

    Raises `UserError` where the disk is full or the folder read-only; the old file stays.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}"
        try:
            with unfinished.open("xb") as file:  # who may read it, the user's umask says
                file.write(content)
                file.flush()
                _sync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in WITHOUT_SYNC:
            raise


def settle_home() -> None:
    """Give a user without a home, as in many containers, one for caches and downloads; say where.

    A home that cannot be entered, or is / and not to be written to, is none.
    """
    with suppress(RuntimeError):  # nobody knows this user
        home = Path.home()
        entered = os.access(home, os.R_OK | os.X_OK)
        if entered and (home != Path(home.anchor) or os.access(home, os.W_OK)):
            return
    home = Path(tempfile.gettempdir(), f"oyster-{os.getuid()}")
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if found.st_uid != os.getuid() or stat.filemode(found.st_mode) != "drwx------":
        home = Path(tempfile.mkdtemp(prefix="oyster-"))  # somebody else put it there
    os.environ["HOME"] = str(home)
    print(f"no home folder: caches and downloads go to {home}; HOME may say where", file=sys.stderr)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers have left below `folder`, where nobody may be writing now."""
    for left in folder.rglob(f".*{UNFINISHED}"):
        left.unlink()


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write `value` as JSON; NaN and infinity raise `ValueError`."""
    write_atomic(path, (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """Read a JSON object; raise `UserError` for what is missing, truncated, NaN or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); make it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a JSON object")
    return value


def read_names(path: Path) -> tuple[str, ...]:
    """Read names in a text file, one a line, without blanks around them and blank lines.

    Raises `UserError` for what is no UTF-8, nor UTF-16 that says so.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
        lines = content.decode(encoding).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; expected one class name a line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def first_difference(found: object, expected: object, name: str = "") -> str | None:
    """Name the first field in which two JSON values differ: `stages.0.widths 24, expected 16`."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        pairs = {key: (found.get(key), expected.get(key)) for key in {**expected, **found}}
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(found) != len(expected):
            return f"{name} {list(found)}, expected {list(expected)}"
        pairs = dict(enumerate(zip(found, expected, strict=True)))
    else:
        return None if found == expected else f"{name} {found!r}, expected {expected!r}"
    inside = (first_difference(a, b, f"{name}.{key}".lstrip(".")) for key, (a, b) in pairs.items())
    return next(filter(None, inside), None)
