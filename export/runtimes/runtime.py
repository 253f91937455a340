"""Which runtime runs a unit of work."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from base.errors import UserError
from export.runtimes.network import Network
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import (
    ONNXRUNTIME,
    RUNTIMES,
    UnitOfWork,
    check_threads,
    machine,
)


class Runtime(Protocol):
    """What every file `in_*.py` has. `FORMS` says which precisions it knows, and in which forms."""

    FORMS: Mapping[str, tuple[str, ...]]

    def providers(self) -> Sequence[str]:
        """Name those here that run ONNX files; `UserError` when the runtime is not installed."""

    def check(self, unit: UnitOfWork) -> None:
        """Raise `UserError` when it cannot run the unit of work here."""

    def runner(self, network: Network, unit: UnitOfWork) -> Runner:
        """Return a call that runs the network once on random images and waits for its end."""

    def logits(
        self, model: bytes | Path, images: Iterable[np.ndarray], unit: UnitOfWork
    ) -> Iterator[np.ndarray]:
        """Yield what an ONNX model answers [B, K] to batches of images [B, C, H, W]."""

    def machine(self, unit: UnitOfWork) -> dict[str, str]:
        """Return the versions and the device that would run the unit of work."""

    def how(self, unit: UnitOfWork) -> str:
        """Say how a program gets the unit's milliseconds."""


def runtime_of(unit: UnitOfWork) -> Runtime:
    """Return the runtime that the unit of work names; the others are not imported."""
    return _runtime(unit.runtime)


def runtimes() -> Iterator[Runtime]:
    """Yield all that Oyster knows."""
    yield from map(_runtime, (ONNXRUNTIME, *RUNTIMES))


def _runtime(name: str) -> Runtime:
    return cast(Runtime, import_module(f"export.runtimes.in_{name}"))


def this_machine(unit: UnitOfWork) -> dict[str, str]:
    """Return the machine and the runtime that would run the unit of work now."""
    return {**machine(), **runtime_of(unit).machine(unit)}


def check_unit(unit: UnitOfWork) -> None:
    """Raise `UserError` when nothing here can run the unit of work."""
    check_threads(unit)
    check_precision(unit)
    runtime_of(unit).check(unit)


def check_answers(unit: UnitOfWork) -> None:
    """Raise `UserError` when the processor here cannot tell what is answered elsewhere."""
    check_precision(unit)
    runtime_of(unit).check(unit.on_cpu())


def check_precision(unit: UnitOfWork) -> None:
    """Raise `UserError` when the runtime does not know the precision."""
    forms = runtime_of(unit).FORMS
    if not any(unit.precision in known for known in forms.values()):
        raise UserError(
            f"precision {unit.precision}: not of {unit.runtime_text()}, which has "
            f"{', '.join(forms)}; name one of these or another provider"
        )
