"""Time a search space on this device. Needs Python 3.10 or newer, numpy and the runtime alone.

python kit.zip                          times everything and writes measurement.json
python kit.zip --model student.onnx     milliseconds of a finished student, by that measurement

Interrupted, the first command goes on where it was. measurement.json is what train.py and search.py
take as --latency-table. (In the repository this file is export/runtimes/kit_script.py, in a kit
__main__.py.)
"""

import argparse
import json
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from base.errors import UserError
from base.files import ARCHIVE_ERRORS
from base.streams import open_streams
from export.runtimes.faster import FP32, compare_forms, refuse_slower
from export.runtimes.network import Network
from export.runtimes.runtime import check_unit, runtime_of, this_machine
from export.timing.measurement import (
    Measurement,
    anchor_ms,
    measure,
    new_measurement,
    resume_measurement,
)
from export.timing.stopwatch import Patience, Runner, Timing, rounds, timings_beside
from export.timing.unit_of_work import UnitOfWork, unit_of_work

KIT = Path(__file__).parent


def main(options: argparse.Namespace) -> None:
    """Time the kit, or one model against the kit's reference."""
    manifest = json.loads(read("manifest.json"))
    unit = chosen_unit(manifest, options)
    check_unit(unit)
    compare_precisions(manifest, unit, options)
    patience = Patience(options.spread, options.seconds)
    if options.model:
        timing = time_model(manifest, unit, options)
        print(f"{options.model}: {timing.ms:.3f} ms (spread {timing.spread:.1%}) for a {unit}")
        return
    done = resume_measurement(
        options.out, new_measurement(manifest["plan"], manifest["seed"], unit, this_machine(unit))
    )
    if patience.is_over(done.rounds):
        print(f"{options.out} is complete: {patience.progress(done.rounds)}")
        return
    print(f"opening {len(manifest['graphs'])} models for a {unit}", file=sys.stderr)
    runners = {name: runner(entry, unit) for name, entry in manifest["graphs"].items()}
    for latest in measure(
        runners, runner(manifest["reference"], unit), done, patience, options.out
    ):
        print(f"round {len(latest.rounds)}: {patience.progress(latest.rounds)}", file=sys.stderr)
    print(f"{options.out} is complete; take it back as --latency-table")


def read(name: str) -> bytes:
    """Read a file of the kit, zipped or unpacked; `UserError` when it is missing or damaged."""
    try:
        if KIT.is_dir():
            return (KIT / name).read_bytes()
        with zipfile.ZipFile(KIT) as kit:
            return kit.read(name)
    except (KeyError, *ARCHIVE_ERRORS) as error:
        raise UserError(f"{KIT}: {name} is missing or damaged; copy the whole kit again") from error


def compare_precisions(manifest: dict, unit: UnitOfWork, options: argparse.Namespace) -> None:
    """Say how the kit's precision compares with fp32 here; one that is not faster is refused."""
    if options.model or options.out.exists() or not manifest["compared"]:
        return
    ratios = compare_forms(
        {
            form: [runner(entry, replace(unit, precision=form)) for entry in entries]
            for form, entries in manifest["compared"].items()
            if form in (FP32, *runtime_of(unit).FORMS["int8"])
        }
    )
    print(f"precision: {ratios}", file=sys.stderr)
    if ratios.fastest != unit.precision:
        raise UserError(
            f"{ratios.fastest} is faster here than {unit.precision}; write the kit with "
            f"--precision {ratios.fastest}"
        )
    if not options.slower:
        refuse_slower(ratios, "--slower")


def chosen_unit(manifest: dict, options: argparse.Namespace) -> UnitOfWork:
    """Return the kit's unit of work, with what the options change."""
    fields = ("threads", "provider", "precision")
    asked = {field: getattr(options, field) for field in fields}
    written = unit_of_work(manifest["unit"])
    unit = replace(written, **{field: value for field, value in asked.items() if value is not None})
    if unit.precision != written.precision and (unit.is_int8 or written.is_int8):
        raise UserError(
            f"precision {unit.precision}: this kit's models are {written.precision}; write another "
            f"with --precision {unit.precision}"
        )
    return unit


def runner(entry: dict, unit: UnitOfWork) -> Runner:
    """Open one of the kit's graphs."""
    features = {name: entry[name] for name in ("takes_features", "gives_features")}
    network = Network(tuple(entry["shape"]), lambda: read(entry["file"]), **features)
    return runtime_of(unit).runner(network, unit)


def time_model(manifest: dict, unit: UnitOfWork, options: argparse.Namespace) -> Timing:
    """Time a model beside some of the kit's networks, at the speed of the measurement's day."""
    stored = Measurement.load(options.out)
    if stored.plan != manifest["plan"] or stored.unit != unit:
        raise UserError(f"{options.out}: of a {stored.unit}, expected this kit's, of a {unit}")
    known_ms = anchor_ms(stored)
    runners = {name: runner(manifest["graphs"][name], unit) for name in known_ms}
    network = Network(unit.shape, lambda: options.model)
    runners["model"] = runtime_of(unit).runner(network, unit)
    estimate = partial(timings_beside, known_ms=known_ms)
    patience, done = Patience(options.spread / 2, 60), []
    for latest in rounds(runners, runner(manifest["reference"], unit)):
        done.append(latest)
        if patience.is_over(done, estimate):
            break
    return estimate(done)["model"]


def options_of(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kit.zip", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, default=Path("measurement.json"), help="result")
    parser.add_argument("--model", type=Path, help="an ONNX file to time")
    parser.add_argument("--threads", type=int, help="CPU threads of a run")
    parser.add_argument("--provider", help="ONNX Runtime execution provider, or openvino:CPU")
    parser.add_argument("--precision", help="fp32, or bf16 where the provider has it")
    parser.add_argument("--slower", action="store_true", help="go on where fp32 is faster")
    parser.add_argument("--spread", type=float, default=0.01, help="go on until it is this small")
    parser.add_argument("--seconds", type=float, default=1800, help="but no longer than this")
    return parser.parse_args(argv)


if __name__ == "__main__":
    open_streams()
    try:
        main(options_of(sys.argv[1:]))
    except (UserError, OSError) as error:
        print(f"kit: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("kit: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
