"""Where a phase of training left off, on disk: written whole, read back without running code."""

import hashlib
import io
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from base.errors import UserError
from base.files import write_atomic

HASH_SIZE = 32  # bytes of SHA-256, before the content


class Stateful(Protocol):
    """A module, an optimiser, a schedule: whatever gives its state and takes it back."""

    def state_dict(self) -> Mapping:
        """Return tensors, numbers and text, in dictionaries and lists."""
        ...

    def load_state_dict(self, state: Mapping) -> object:
        """Take such a state."""
        ...


class Checkpointer(Protocol):
    """What a training loop asks of a checkpoint."""

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Put `parts` back as they were kept; return how many steps were done then."""
        ...

    def save_if_due(self, done: int, steps: int, parts: Mapping[str, Stateful]) -> None:
        """Keep `parts` after `done` of `steps` steps, if it is time to."""
        ...


class NoCheckpoint:
    """A checkpoint that saves and restores nothing."""

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Return 0: nothing was done before."""
        return 0

    def save_if_due(self, done: int, steps: int, parts: Mapping[str, Stateful]) -> None:
        """Keep nothing."""


class ReadOnlyCheckpoint:
    """The checkpoint of a process that is not the first: restored from, never written."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self._checkpoint = checkpoint

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Put `parts` back as they were kept; return how many steps were done then."""
        return self._checkpoint.restore(parts)

    def save_if_due(self, done: int, steps: int, parts: Mapping[str, Stateful]) -> None:
        """Keep nothing."""

    def remove(self) -> None:
        """Leave the file to the first process."""


class Checkpoint:
    """One phase's checkpoint at `path`, kept every `seconds` and after the last step.

    `identity` says what the phase depends on: a checkpoint of something else is begun anew.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, str],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path, self.identity, self.seconds = path, dict(identity), seconds
        self._clock, self._kept = clock, clock()

    def done(self) -> int:
        """Return how many steps were done when it was saved; 0 without one of this identity.

        Raises `UserError` for a damaged file.
        """
        return self._read().get("done", 0)

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Put `parts` back as they were kept; return how many steps were done then.

        Raises `UserError` for a damaged file, and for one of other parts.
        """
        stored = self._read()
        if not stored:
            return 0
        try:
            for name, part in parts.items():
                part.load_state_dict(stored["parts"][name])
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise self._damaged() from error
        return stored["done"]

    def save_if_due(self, done: int, steps: int, parts: Mapping[str, Stateful]) -> None:
        """Keep `parts` after `done` of `steps` steps, if it is the last or the time has come."""
        if done < steps and self._clock() - self._kept < self.seconds:
            return
        content = io.BytesIO()
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"identity": self.identity, "done": done, "parts": states}, content)
        # torch.load would not notice that a bit has turned.
        write_atomic(self.path, _hash(content.getvalue()) + content.getvalue())
        self._kept = self._clock()

    def remove(self) -> None:
        """Remove it: its phase is over and what came of it is kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict:
        if not self.path.exists():
            return {}
        try:
            whole = self.path.read_bytes()
            if _hash(whole[HASH_SIZE:]) != whole[:HASH_SIZE]:
                raise ValueError("not what was written")
            content = io.BytesIO(whole[HASH_SIZE:])
            stored = torch.load(content, map_location="cpu", weights_only=True)
            same = stored["identity"] == self.identity
            complete = isinstance(stored["done"], int) and isinstance(stored["parts"], dict)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._damaged() from error
        except pickle.UnpicklingError as error:
            raise self._damaged() from error
        if not complete:
            raise self._damaged()
        return stored if same else {}

    def _damaged(self) -> UserError:
        return UserError(f"{self.path}: damaged; remove it, and its phase begins anew")


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
