"""Whatever comes in: spaces keep their invariants, readers say one line or what is in the file."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from base.errors import UserError
from base.files import read_json
from export.report.compare import read_run
from export.report.students import read_students, students_text
from kd.run.folder import read_metrics
from kd.run.settings import settings_of, train_config_of
from kd.run.train_config import TrainConfig
from kd.stored_outputs import StoredShape, open_outputs
from kd.teacher.saved import read_facts
from supernet.choice.pick import cached_pick
from supernet.choice.programme import candidates, check_budget, programme
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler, log_uniform
from supernet.space import Architecture, SearchSpace
from supernet.space_files import space_from_json
from supernet.student import Student
from supernet.supernet import Supernet
from supernet.training.storage import load_alpha, load_supernet, load_surrogate
from tests.any_space import SPACES
from tests.tiny import tiny_space, tiny_table

SOLVER = 1e-5  # what the integer programme allows itself
QUICK = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@QUICK
@given(SPACES, st.integers(0, 2**32 - 1))
def test_any_space_keeps_its_invariants(space: SearchSpace, seed: int) -> None:
    draws = np.random.default_rng(seed)
    architecture, table = space.random(draws), tiny_table(space)
    assert space_from_json(json.loads(json.dumps(asdict(space)))) == space
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert space.architecture(space.positions(architecture)) == architecture
    choices = space.one_hot(architecture)
    exact = {name: p.double() for name, p in choices.items()}
    assert math.isclose(
        table.expected_ms(exact).item(), table.predicted_ms(architecture), rel_tol=1e-12
    )


@QUICK
@given(SPACES, st.integers(0, 2**32 - 1))
def test_any_one_hot_supernet_is_its_student(space: SearchSpace, seed: int) -> None:
    torch.manual_seed(seed)
    supernet, images = Supernet(space).train(), torch.rand(4, *space.image_shape)
    architecture = space.random(np.random.default_rng(seed))
    student: Student = supernet.extract(architecture).train()
    logits = supernet(images, space.one_hot(architecture))
    assert torch.allclose(logits, student(images), rtol=1e-3, atol=1e-4)


@QUICK
@given(SPACES, st.floats(-0.2, 1.5), st.integers(0, 2**32 - 1))
def test_any_budget_is_kept_or_refused(space: SearchSpace, place: float, seed: int) -> None:
    problem, draws = programme(tiny_table(space)), np.random.default_rng(seed)
    fastest_ms, slowest_ms = problem.range_ms()
    budget_ms = fastest_ms + place * (slowest_ms - fastest_ms + 0.1)
    log_p = {
        d.name: torch.from_numpy(draws.normal(size=len(d.choices))).log_softmax(0)
        for d in space.decisions()
    }
    assume(abs(budget_ms / fastest_ms - 1) > SOLVER)
    if budget_ms < fastest_ms:
        with pytest.raises(UserError, match="too fast"):
            check_budget(problem, budget_ms)
        assert candidates(problem, log_p, budget_ms, 3, draws) == []
        return
    assert check_budget(problem, budget_ms) == (budget_ms > slowest_ms)
    found = candidates(problem, log_p, budget_ms, 3, draws)
    assert found
    assert len(set(found)) == len(found)
    assert all(problem.table.predicted_ms(a) <= budget_ms * (1 + SOLVER) for a in found)


@QUICK
@given(st.floats(max_value=0) | st.sampled_from([math.nan, math.inf]))
def test_budgets_that_are_none(budget_ms: float) -> None:
    with pytest.raises(UserError, match="target-latency"):
        check_budget(programme(tiny_table(tiny_space())), budget_ms)


@QUICK
@given(SPACES, st.integers(0, 2**32 - 1))
def test_any_fair_student_is_of_its_space(space: SearchSpace, seed: int) -> None:
    table, draws = tiny_table(space), np.random.default_rng(seed)
    range_ms = programme(table).range_ms()
    if range_ms[0] == range_ms[1]:
        return
    sampler = fair_sampler(table, *range_ms)
    student = sampler.near(log_uniform(range_ms, draws), draws)
    assert range_ms[0] - 1e-9 <= table.predicted_ms(student) <= range_ms[1] + 1e-9


def places(value: object, here: tuple = ()) -> list[tuple]:
    """Every place inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    inside = [
        place
        for key, part in items
        for place in (
            [(*here, key)] + (places(part, (*here, key)) if isinstance(part, dict | list) else [])
        )
    ]
    return inside


def changed(value: dict, place: tuple, other: object) -> dict:
    """A copy with something else at a place."""
    whole = copy.deepcopy(value)
    inside = whole
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = other
    return whole


def table_json(folder: Path) -> dict:
    tiny_table(tiny_space()).save(folder / "latency.json")
    return read_json(folder / "latency.json")


def pick_json(_: Path) -> dict:
    timing = {"ms": 1.0, "spread": 0.1}
    pick = {"architecture": tiny_space().smallest().to_json(), "predicted_ms": 1.0}
    pick |= {"measured": timing}
    return {"identity": {}, "pick": pick}


def preferences_json(_: Path) -> dict:
    return {"guide": "a", "budgets": [{"stage1.width": {"4": 0.5, "6": 0.5}}]}


def teacher_json(_: Path) -> dict:
    return {
        "classes": ["a", "b"],
        "fingerprint": "f",
        "data": "d",
        "answers": [[0.5]],
        "search_accuracy": 0.5,
    }


def student_json(_: Path) -> dict:
    numbers = dict.fromkeys(("target_ms", "predicted_ms", "measured_ms", "params", "macs"), 2.0)
    shares = dict.fromkeys(("test_accuracy", "teacher_test_accuracy"), 0.5)
    return {**numbers, **shares, "table": "t", "meets_target": True}


def read_student(path: Path) -> str:
    return students_text(read_students(path.parent.parent, "t"))


def targets_json(folder: Path) -> dict:
    shape = StoredShape(views=1, images=2, classes=4, kept=3)
    for name, (dtype, size) in shape.arrays().items():
        np.save(folder / f"{name}.npy", np.zeros(size, dtype))
    return {"identity": {"teacher": "t"}, "shape": asdict(shape), "batch": 2}


def read_targets(path: Path) -> object:
    return open_outputs(path.parent, {"teacher": "t"}).rows(None, torch.tensor([0, 1]))


def config_json(_: Path) -> dict:
    return {"settings": settings_of(TrainConfig())}


def read_pick(path: Path) -> object:
    def never() -> None:
        raise UserError("searched anew")

    return cached_pick(path, {}, never)


def said_of(read: Callable[[], object]) -> str:
    """The line of a `UserError`, or nothing; any other error is the test's own failure."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


READERS: dict[str, tuple[Callable[[Path], dict], Callable[[Path], object]]] = {
    "latency.json": (table_json, lambda path: LatencyTable.load(path, tiny_space())),
    "pick.json": (pick_json, read_pick),
    "teacher.json": (teacher_json, lambda path: len(read_facts(path.parent)["classes"])),
    "targets.json": (targets_json, read_targets),
    "20ms/metrics.json": (student_json, read_student),
    "preferences.json": (preferences_json, lambda path: read_run(path.parent)),
    "config.json": (
        config_json,
        lambda path: train_config_of(read_json(path)["settings"], path.parent),
    ),
}


@pytest.mark.parametrize("name", READERS)
@QUICK
@given(data=st.data())
def test_readers_of_json_say_one_line_or_what_is_there(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    make, read = READERS[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    value = make(tmp_path)
    value = changed(value, data.draw(st.sampled_from(places(value))), data.draw(JSON))
    (tmp_path / name).write_text(json.dumps(value))
    said = said_of(lambda: read(tmp_path / name))
    assert "\n" not in said


@pytest.mark.parametrize("name", READERS)
@QUICK
@given(content=st.binary(max_size=60))
def test_readers_of_json_survive_any_bytes(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError):
        READERS[name][1](tmp_path / name)


LINE = {"phase": "w", "step": 3, "loss": 0.5}


@QUICK
@given(at=st.sampled_from(places(LINE)), other=JSON, junk=st.binary(max_size=30))
def test_lines_of_metrics_are_read_or_refused(
    at: tuple, other: object, junk: bytes, tmp_path: Path
) -> None:
    for line in (json.dumps(changed(LINE, at, other)).encode(), junk):
        (tmp_path / "metrics.jsonl").write_bytes(line + b"\n")
        said = said_of(lambda: [row["step"] + 1 for row in read_metrics(tmp_path)])
        assert "\n" not in said


@QUICK
@given(content=st.binary(max_size=200))
def test_weights_survive_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    path.write_bytes(content)
    for read in (
        lambda: load_supernet(path, tiny_space()),
        lambda: load_alpha(path, tiny_space(), "table"),
        lambda: load_surrogate(path, tiny_space()),
    ):
        with pytest.raises(UserError):
            read()
