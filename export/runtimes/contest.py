"""One ONNX file in every runtime, precision and number of threads: timed together, and judged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from tqdm import tqdm

from base.errors import UserError
from export.int8.quantise import quantised
from export.runtimes.faster import FP32
from export.runtimes.given import GivenImages, ModelFile
from export.runtimes.network import Network
from export.runtimes.runtime import check_unit, runtime_of, runtimes
from export.timing.stopwatch import Patience, Runner, Timing, rounds, timings
from export.timing.unit_of_work import CPU, SIGNED, UnitOfWork

Key = TypeVar("Key")  # what is timed
# The file in each form of a precision: as bytes, or where it lies.
Models = Mapping[str, bytes | Path]
# Images on which the quantiser finds its ranges.
MOST_CALIBRATION, CALIBRATION_BATCH = 256, 16


@dataclass(frozen=True)
class Verdict:
    """How far answers are from those of the fp32 file; accuracy where classes are known."""

    agreement: float
    largest_difference: float
    accuracy: float | None


def units_here(asked: UnitOfWork, threads: Sequence[int]) -> tuple[list[UnitOfWork], list[str]]:
    """Return a unit of work for all that there may be here, and why there is no more.

    Devices that are no CPU have one, with the least number of threads.
    """
    units, missing = [], []
    for runtime in runtimes():
        try:
            providers = runtime.providers()
        except UserError as error:
            missing.append(f"not timed: {error}")
            continue
        for provider in providers:
            for form in (form for forms in runtime.FORMS.values() for form in forms):
                unit = replace(asked, provider=provider, precision=form)
                counts = threads if unit.device in (CPU, "CPU") else threads[:1]
                units += [replace(unit, threads=count) for count in counts]
    return units, missing


def int8_models(file: ModelFile, images: GivenImages) -> tuple[Models, list[str]]:
    """Return the file quantised, with unsigned activations and signed ones, or why it cannot be."""
    model, models = onnx.load(file.path), {}
    size = file.batch or CALIBRATION_BATCH
    try:
        for form in tqdm(("int8", SIGNED), "quantising", unit="form"):
            batches = map(torch.from_numpy, images.batches(size))
            models[form] = quantised(model, batches, form == SIGNED).SerializeToString()
    except UserError as error:
        return {}, [f"not timed: {error}"]
    return models, []


def open_all(
    models: Models, units: Iterable[UnitOfWork]
) -> tuple[dict[UnitOfWork, Runner], list[str]]:
    """Open and run once what the models' units can do here; return why the others cannot."""
    runners, missing = {}, {}
    for unit in units:
        if (model := _model(models, unit)) is None:
            continue
        try:
            check_unit(unit)
            runner = runtime_of(unit).runner(Network(unit.shape, lambda model=model: model), unit)
            runner()
        except Exception as error:  # runtimes' own exceptions share no narrower base class
            reason = " ".join(str(error).split())
            missing[f"not timed: {unit.runtime_text()} {unit.precision}: {reason}"] = unit
        else:
            runners[unit] = runner
    return runners, list(missing)


def time_together(
    runners: Mapping[Key, Runner], baseline: Key, patience: Patience
) -> dict[Key, Timing]:
    """Time all in the same rounds, until patience is over; what is timed differs as text."""
    named, done = {str(key): runner for key, runner in runners.items()}, []
    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
    with tqdm(desc="timing", total=patience.seconds, bar_format=bar_format) as bar:
        for latest in rounds(named, runners[baseline]):
            done.append(latest)
            bar.set_postfix_str(patience.progress(done), refresh=False)
            bar.update(latest.took)
            if patience.is_over(done):
                break
    by_name = timings(done)
    return {key: by_name[str(key)] for key in runners}


def judge(
    models: Models,
    units: Iterable[UnitOfWork],
    baseline: UnitOfWork,
    images: GivenImages,
    gives_vectors: bool = False,
) -> dict[tuple[str, str], Verdict]:
    """Compare the answers of every provider and precision with the baseline's.

    Answers that are vectors agree by their mean cosine.
    """
    # Threads do not change answers: the last, with the most, is the fastest.
    by_place = {(unit.provider, unit.precision): unit for unit in units}
    exact, verdicts = _answers(models, baseline, images), {}
    usual = exact.argmax(axis=1)
    for place, unit in tqdm(by_place.items(), "answers", unit="runtime"):
        found = _answers(models, unit, images)
        told = found.argmax(axis=1)
        verdicts[place] = Verdict(
            mean_cosine(found, exact) if gives_vectors else float((told == usual).mean()),
            float(np.abs(found - exact).max()),
            None if images.labels is None else float((told == images.labels).mean()),
        )
    return verdicts


def mean_cosine(vectors: np.ndarray, others: np.ndarray) -> float:
    """Return the mean cosine between vectors [N, D] and others [N, D]."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    return float(((vectors * others).sum(axis=1) / lengths).mean())


def _answers(models: Models, unit: UnitOfWork, images: GivenImages) -> np.ndarray:
    """Return the logits [N, K]."""
    found = runtime_of(unit).logits(_model(models, unit), images.batches(unit.batch), unit)
    return np.concatenate(list(found))[: len(images)]


def _model(models: Models, unit: UnitOfWork) -> bytes | Path | None:
    """Return what the unit of work runs: int8 is in the file, bf16 is the runtime's own affair."""
    return models.get(unit.precision if unit.is_int8 else FP32)
