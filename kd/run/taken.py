"""Seconds that the phases of a run have taken, over all its starts."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from base.errors import UserError
from base.files import PARSE_ERRORS, read_json, write_json
from base.processes import is_main_process

Result = TypeVar("Result")


class Taken:
    """Seconds by phase, kept at `path` for the next start.

    `identity` says what the phases depend on: seconds of something else do not count. A process
    that is killed loses the seconds of the phase that it was in. Raises `UserError` for a damaged
    file.
    """

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self._path, self._identity = path, dict(identity)
        try:
            kept = read_json(path) if path.exists() else {}
            found = kept["seconds"] if kept.get("identity") == self._identity else {}
            self.seconds = {name: float(seconds) for name, seconds in found.items()}
        except (UserError, *PARSE_ERRORS) as error:
            raise UserError(f"{path}: damaged ({error}); remove it and go on") from error

    @contextmanager
    def count(self, phase: str) -> Iterator[None]:
        """Add what is done now to a phase's seconds, also when it is interrupted."""
        start = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + passed
            if is_main_process():
                write_json(self._path, {"identity": self._identity, "seconds": self.seconds})

    def counted(self, phase: str, call: Callable[..., Result]) -> Callable[..., Result]:
        """Return `call` as one whose seconds are a phase's."""

        def timed(*arguments: object) -> Result:
            with self.count(phase):
                return call(*arguments)

        return timed
