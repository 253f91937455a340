"""What a person sees of a finished student: a table on the terminal, and report.html."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from export.report.architecture import DrawnPart, architecture_figure
from export.report.figures import ACCURACY, curves_figure
from export.report.page import Section, drawing_last, fact_rows, write_report

IN_TABLES = ("trials", "parts")  # facts that have a table or a picture of their own
ALL = ("other students", "those of the latency table that was searched last")
# What each control is called, and what the student has that it has not.
CONTROLS = {
    "random": ("random student", "search"),
    "ungated": ("random, no gates", "search"),
    "largest": ("most MACs", "search"),
    "labels": ("without teacher", "teacher"),
}

# Of plain runs, by their names in metrics.json.
STATISTICS = {"median": "median", "p95": "95th percentile"}
# What the weights were before the training, by its name in metrics.json.
STARTS = {"scratch": "scratch", "shared": "its slice of the shared weights"}


def summary_rows(facts: Mapping, onnx_path: Path) -> list[tuple[str, str]]:
    """Return the short table of a student's metrics.json."""
    error, agree = facts["onnx_max_abs_error"], facts["onnx_top1_agreement"]
    return [
        ("target", _target(facts)),
        ("predicted", _predicted(facts)),
        ("measured", _measured(facts)),
        *_plain(facts),
        ("student", _accuracy(facts, "test")),
        *_teacher(facts),
        *_trials(facts),
        *_controls(facts),
        *_rivals(facts),
        *_precision(facts),
        ("size", f"{facts['params']:,} parameters, {facts['macs']:,} MACs an image"),
        (
            "ONNX parity",
            f"{'passed' if facts['onnx_parity'] else 'FAILED'}: largest error "
            f"{'not finite' if error is None else f'{error:.1e}'}"
            f"{'' if agree is None else f', {agree:.2%} of answers agree'}",
        ),
        *_origin(facts),
        ("retraining", f"{facts['retrain_seconds']:.0f} s"),
        ("cost", facts["cost"]),
        ("file", str(onnx_path)),
        ("to run it", facts["how_to_run"]),
    ]


def _origin(facts: Mapping) -> list[tuple[str, str]]:
    """Say where the architecture is from, and the weights that it was trained from."""
    timing = facts.get("timing_seconds")
    told = f", {timing:.0f} of them to time students" if timing else ""
    rows = [("search", f"{facts['search_seconds']:.0f} s{told}")]
    if found := facts["settings"]["architecture"]:
        rows = [("architecture", f"that of {found}, not searched for these images")]
    start = STARTS.get(facts["start"])
    if start is None:
        start = f"{facts['start']}; controls take of it what fits them, rivals take nothing"
    return [*rows, ("trained from", start)]


def _accuracy(facts: Mapping, whose: str) -> str:
    """Say accuracy, and the mean over the classes, where few images count as much as many."""
    if pairs := facts.get(f"{whose}_verification"):
        return _verified(pairs)
    balanced = facts[f"{whose}_balanced_accuracy"]
    return f"{facts[f'{whose}_accuracy']:.2%} of the test split, {balanced:.2%} balanced"


def _verified(pairs: Mapping) -> str:
    """Say how well pairs of images are told."""
    return (
        f"{pairs['accuracy']:.2%} ± {pairs['accuracy_std']:.2%} of {pairs['pairs']} pairs right "
        f"({pairs['folds']} folds), AUC {pairs['auc']:.4f}, {pairs['accepted']:.2%} of the same "
        "accepted where at most 0.1% of the others are"
    )


def _teacher(facts: Mapping) -> list[tuple[str, str]]:
    if facts["teacher_test_accuracy"] is None:
        return [("teacher", "its outputs for the test split are not stored")]
    agree = f"{facts['teacher_agreement']:.2%} of answers are the teacher's"
    if "teacher_test_verification" in facts:
        agree = f"mean cosine of {facts['teacher_agreement']:.4f} with the teacher's vectors"
    return [("teacher", _accuracy(facts, "teacher_test")), ("agreement", agree)]


def _trials(facts: Mapping) -> list[tuple[str, str]]:
    """Say how many students were trained briefly, and what the first and the best came to."""
    if not (trials := facts["trials"]):
        return []
    losses, epochs = list(map(_loss, trials)), facts["settings"]["trial_epochs"]
    told = f"{len(trials)} students trained for {epochs} epochs each"
    return [
        (
            "trials",
            f"{told}: the first came to a loss of {losses[0]:.3f}, the best to {min(losses):.3f}",
        )
    ]


def _controls(facts: Mapping) -> list[tuple[str, str]]:
    """Say what the search brought over students as fast, and the teacher over labels alone."""
    rows = []
    for kind, (title, cause) in CONTROLS.items():
        if control := facts["controls"].get(kind):
            points = 100 * (facts["test_accuracy"] - control["test_accuracy"])
            ms = f"{control['predicted_ms']:.2f} ms predicted"
            rows.append(
                (
                    title,
                    f"{_accuracy(control, 'test')}, {ms}: the {cause} brought {points:+.2f} points",
                )
            )
    return rows


def _precision(facts: Mapping) -> list[tuple[str, str]]:
    """Say what the precision that ships costs, where it is not fp32."""
    if facts["precision"] == "fp32":
        return []
    points = 100 * (facts["test_accuracy"] - facts["fp32_test_accuracy"])
    tuned = ", after training on for it" if facts["fine_tuned"] else ""
    verdict = "kept" if facts["precision_kept"] else "TOO MUCH IS LOST"
    bound = f"{100 * facts['settings']['accuracy_loss']:g} may be lost, or what may be chance"
    agree = f"{facts['fp32_agreement']:.2%} of answers agree"
    told = f"{points:+.2f} points beside fp32 ({bound}), {agree}"
    return [(facts["precision"], f"{verdict}: {told}{tuned}")]


def _target(facts: Mapping) -> str:
    """Say the budget, and which runs keep it where that is not their undisturbed time."""
    told = f"{facts['target_ms']:g} ms for a {facts['unit_of_work']}"
    if not (words := STATISTICS.get(facts["latency_statistic"])):
        return told
    return f"{told}: the {words} of plain runs, {facts['slowdown']:.2f} times undisturbed ones"


def _verdict(facts: Mapping) -> str:
    return "within budget" if facts["meets_target"] else "OVER BUDGET"


def _predicted(facts: Mapping) -> str:
    """Say what the table predicts; where that is over the budget, why the student was taken."""
    ms = f"{facts['predicted_ms']:.2f} ms"
    over = facts["predicted_ms"] > facts["target_ms"]
    return f"{ms} by the table, which errs a little; what is measured counts" if over else ms


def _measured(facts: Mapping) -> str:
    if facts["measured_ms"] is None:
        return f"not here: {facts['not_measured']}; time the file on its device"
    verdict = "undisturbed" if facts["latency_statistic"] in STATISTICS else _verdict(facts)
    return f"{facts['measured_ms']:.2f} ms, {verdict} (spread {facts['measured_ms_spread']:.1%})"


def _plain(facts: Mapping) -> list[tuple[str, str]]:
    """Say what runs take one after the other, disturbed as they are."""
    if not (plain := facts["plain_runs"]):
        return []
    ms = f"{plain['median_ms']:.2f} ms the median, {plain['p95_ms']:.2f} ms the 95th percentile"
    told = f"{ms} of {plain['runs']}, one after the other, with what else runs now"
    if words := STATISTICS.get(facts["latency_statistic"]):
        told += f": the {words} is {_verdict(facts)}"
    return [("plain runs", told)]


def write_student_report(
    folder: Path,
    ships: Path,
    facts: Mapping,
    architecture: Mapping,
    retraining: Sequence[Mapping[str, object]],
) -> None:
    """Write architecture.png, curves.png and report.html of one student, whose file `ships`.

    `architecture` is its JSON form.

    `retraining` are the lines of metrics.jsonl that its training logged. What cannot be drawn is
    said.
    """
    with drawing_last(folder / "report.html", " in metrics.json"):
        phase = f"student_{folder.name}"
        curves = [(phase, "loss"), (phase, facts["quality"])]
        curves_figure(folder / "curves.png", retraining, curves)
        architecture_figure(folder / "architecture.png", drawn_parts(architecture, facts["parts"]))
        header = ("part", "width", "operation", "kernel", "expansion", "squeeze-and-excitation")
        plain = {key: own for key, own in facts.items() if key not in IN_TABLES}
        sections = [
            Section("Result", table=summary_rows(facts, ships)),
            Section("Architecture", pictures=[folder / "architecture.png"]),
            Section("Its parts", table=parts_of(architecture), header=header),
            *_tried(facts["trials"], facts["quality"]),
            Section("Retraining", pictures=[folder / "curves.png"]),
            Section("All numbers", table=list(fact_rows(plain))),
            Section("More", table=[ALL], links={ALL[0]: "../report.html"}),
        ]
        write_report(folder / "report.html", f"Oyster: student within {folder.name}", sections)


def _tried(trials: Sequence[Mapping], quality: str) -> list[Section]:
    """Return a table of the students that were trained briefly, the best first."""
    if not trials:
        return []
    rows = [
        (
            f"{_loss(trial):.3f}",
            f"{trial[quality]:.2%}" if quality == ACCURACY else f"{trial[quality]:.4f}",
            f"{trial['predicted_ms']:.2f} ms",
            short_form(trial["architecture"]),
        )
        for trial in sorted(trials, key=_loss)
    ]
    text = (
        "Students that fill the budget, each trained briefly from scratch and judged on the search "
        "split. A layer is its operation, kernel×kernel, and after a slash its expansion; SE is "
        "squeeze-and-excitation."
    )
    header = ("loss", quality, "predicted", "stem, stages and head")
    return [Section("Trials", text, rows, header)]


def _loss(trial: Mapping) -> float:
    """Return a trial's loss; one that diverged has none in JSON."""
    return math.inf if trial["loss"] is None else trial["loss"]


def short_form(architecture: Mapping) -> str:
    """Say an architecture's JSON form in one line."""

    def layer(own: Mapping) -> str:
        gate = " SE" if own["squeeze_excite"] else ""
        return f"{own['operation']} {own['kernel']}×{own['kernel']}/{own['expansion']}{gate}"

    stages = (
        f"{stage['width']}: {', '.join(map(layer, stage['layers']))}"
        for stage in architecture["stages"]
    )
    head = architecture["head_width"] or "none"
    return f"stem {architecture['stem_width']}; {'; '.join(stages)}; head {head}"


def _rivals(facts: Mapping) -> list[tuple[str, str]]:
    """Return a row a rival, and who is best for these milliseconds."""
    rows = []
    for rival in facts["rivals"]:
        ms = f"{rival['measured_ms']:.2f} ms"
        told = f"{ms}, slower than the budget: left out"
        if rival["test_accuracy"] is not None:
            ahead, error = 100 * rival["ahead"], 100 * rival["ahead_error"]
            told = (
                f"{ms}, {_accuracy(rival, 'test')}, {ahead:+.2f} ± {error:.2f} points "
                f"beside the student, {rival['params']:,} parameters"
            )
        rows.append((f"rival {rival['name']}", told))
    return [*rows, ("best", facts["verdict"])] if rows else []


def drawn_parts(architecture: Mapping, parts: Sequence[Mapping]) -> list[DrawnPart]:
    """Join the rows of `parts_of` with what metrics.json says of every part."""
    found = []
    for row, known in zip(parts_of(architecture), parts, strict=True):
        name, width, operation, kernel, expansion, gate = row
        form = f"{operation} {kernel}×{kernel}" if kernel else "classifier alone"
        form += f", expansion {expansion}" if expansion else ""
        form += ", SE" if gate == "yes" else ""
        ms = known["predicted_ms"]
        found.append(DrawnPart(name, form, int(width or 0), tuple(known["size"]), ms))
    return found


def parts_of(architecture: Mapping) -> list[tuple[str, ...]]:
    """Return a row a part, stem to head, of an architecture's JSON form."""
    stem, head = str(architecture["stem_width"]), architecture["head_width"]
    rows = [("stem", stem, "convolution", "3", "", "")]
    for s, stage in enumerate(architecture["stages"], start=1):
        for i, layer in enumerate(stage["layers"], start=1):
            gate = "yes" if layer["squeeze_excite"] else "no"
            form = (layer["operation"], str(layer["kernel"]), str(layer["expansion"]), gate)
            rows.append((f"stage {s}, layer {i}", str(stage["width"]), *form))
    last = (
        ("head", str(head), "convolution", "1", "", "")
        if head
        else ("head", "", "none", "", "", "")
    )
    return [*rows, last]
