"""search.py beside rivals: trained, reported, shipped; what cannot be compared costs nothing."""

import json
from pathlib import Path

import pytest

from tests.smoke import QUICK_SEARCH, middle_ms, refused, run


def test_rivals_are_trained_beside_the_student(trained_copy: Path) -> None:
    """One is within the budget, one far over it."""
    folder = trained_copy
    name = f"{middle_ms(folder) + 0.002:g}"
    rivals = ("--rivals", "plain:4-8-16", "resnet:128-256-512")
    options = ("--run", folder, "--target-latency", name, *QUICK_SEARCH, *rivals)
    done = run("search.py", *options)
    assert done.returncode in (0, 1), done.stderr
    student = folder / "students" / f"{name}ms"
    facts = json.loads((student / "metrics.json").read_text())
    small, large = facts["rivals"]
    assert (small["name"], large["name"]) == rivals[1:]
    assert small["measured_ms"] <= facts["target_ms"] < large["measured_ms"]
    assert large["test_accuracy"] is None
    # Both are judged on the test split: a share of the same images.
    apart = small["test_accuracy"] - facts["test_accuracy"]
    assert small["ahead"] == pytest.approx(apart, abs=1e-6)
    for told in ("rival plain:4-8-16", "slower than the budget: left out", facts["verdict"]):
        assert told in done.stdout
        assert told in (student / "report.html").read_text()
    assert [path.name for path in (student / "rivals").iterdir()] == ["plain-4-8-16.onnx"]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if line["phase"] == f"student_{name}ms-plain-4-8-16"]
    assert len(steps) == 2  # as many epochs as the student's
    assert not list((folder / "checkpoint").glob(f"*{name}ms*"))


@pytest.mark.parametrize(
    ("rivals", "said"),
    [
        (("plain:8-16",), "rival plain:8-16: expected 3 widths"),
        (("resnet81",), "rival resnet81: unknown"),
        (("vit_tiny_patch16_224",), "does not take images of 16×16"),
        (("plain:4-8-16", "--rival-checkpoint", "w.pt"), "plain:4-8-16: takes no checkpoint"),
    ],
    ids=["widths", "name", "resolution", "checkpoint"],
)
def test_rivals_that_cannot_be_compared_cost_nothing(
    trained_copy: Path, rivals: tuple[str, ...], said: str
) -> None:
    before = sorted(trained_copy.rglob("*"))
    done = run("search.py", "--run", trained_copy, "--target-latency", 9999, "--rivals", *rivals)
    refused(done, said)
    assert sorted(trained_copy.rglob("*")) == before


def test_rivals_are_not_timed_for_a_device_that_is_not_here(
    trained_copy: Path, tmp_path: Path
) -> None:
    table = json.loads((trained_copy / "latency.json").read_text())
    table["provenance"]["machine"]["cpu"] = "Telephone"
    (tmp_path / "phone.json").write_text(json.dumps(table))
    options = ("--latency-table", tmp_path / "phone.json", "--rivals", "plain:4-8-16")
    done = run("search.py", "--run", trained_copy, "--target-latency", 9999, *options)
    refused(done, "--rivals: cannot be timed here: machine.cpu 'Telephone'")
