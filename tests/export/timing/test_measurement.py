"""A measurement grows by a round, survives an interruption, and is refused when damaged."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial, reduce
from itertools import islice
from operator import getitem
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from export.timing.measurement import Measurement, measure, new_measurement, resume_measurement
from export.timing.stopwatch import Patience, Round, rounds
from export.timing.unit_of_work import UnitOfWork

UNIT = UnitOfWork(8, (16, 16))
SECONDS = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 2.5}
NAMES = tuple(SECONDS)


class Machine:
    """A machine that never drifts; its runner number `breaks` is interrupted."""

    def __init__(self, breaks: int | None = None) -> None:
        self.now = 0.0
        self.visited: list[str] = []
        self.breaks = breaks

    def run(self, name: str, seconds: float) -> None:
        if len(self.visited) == self.breaks:
            raise KeyboardInterrupt
        self.visited.append(name)
        self.now += seconds

    def orders(self) -> list[str]:
        """The order of every whole round after the warm-up."""
        visits = "".join(name for name in self.visited if name != "reference")[len(NAMES) :]
        return [visits[i : i + len(NAMES)] for i in range(0, len(visits), len(NAMES))]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Measurement]]:
    """`measure` on the machine's own clock; yields until it is over, or `count` times."""

    def take(
        on: Machine, so_far: Measurement, patience: Patience, path: Path, count: int | None = None
    ) -> list[Measurement]:
        monkeypatch.setattr(
            "export.timing.measurement.rounds", partial(rounds, clock=lambda: on.now)
        )
        runners = {name: partial(on.run, name, s) for name, s in SECONDS.items()}
        reference = partial(on.run, "reference", 1.0)
        return list(islice(measure(runners, reference, so_far, patience, path), count))

    return take


def fresh(seed: int = 3) -> Measurement:
    return new_measurement("plan 1", seed, UNIT, {"torch": "2.0"})


def made_up(count: int = 5) -> Measurement:
    random = np.random.default_rng(0)
    done = [
        Round({name: float(random.lognormal(0, 9)) for name in NAMES}, 0.001 * (1 + i), 1.25 + i)
        for i in range(count)
    ]
    return replace(fresh(), rounds=tuple(done))


def just(rounds: int) -> Patience:
    """Takes any spread, after so many rounds."""
    return Patience(spread=1e9, seconds=1e9, least_rounds=rounds)


def test_a_new_measurement_is_of_this_machine_and_moment() -> None:
    made = fresh()
    assert made.rounds == ()
    assert made.machine == {"torch": "2.0"}
    assert datetime.fromisoformat(made.date).utcoffset() == timedelta(0)


def test_round_trip_keeps_six_digits(tmp_path: Path) -> None:
    path, saved = tmp_path / "a.json", made_up()
    saved.save(path)
    loaded = Measurement.load(path)
    assert replace(loaded, rounds=()) == replace(saved, rounds=())
    for ours, theirs in zip(saved.rounds, loaded.rounds, strict=True):
        assert theirs.seconds == pytest.approx(ours.seconds, rel=5e-6)
        assert (theirs.reference, theirs.took) == (ours.reference, ours.took)
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


def test_names_keep_their_seconds_whatever_the_order_of_a_round(tmp_path: Path) -> None:
    one = Round({"a": 1.5, "b": 2.5}, 0.001, 1.0)
    other = Round({"b": 4.5, "a": 3.5}, 0.001, 1.0)
    replace(fresh(), rounds=(one, other)).save(tmp_path / "a.json")
    assert Measurement.load(tmp_path / "a.json").rounds == (one, other)


def put(value: object, *place: str | int) -> Callable[[dict], object]:
    """The damage that sets the entry at this place of a file."""
    return lambda file: reduce(getitem, place[:-1], file).__setitem__(place[-1], value)


NOT_TIMES = (float("nan"), float("inf"), 10**400, -1.0, 0.0, True, None, "1.0", [1.0])
DAMAGES = {
    **{f"seconds {str(v)[:9]}": put(v, "rounds", 2, "seconds", 1) for v in NOT_TIMES},
    **{f"reference {str(v)[:9]}": put(v, "rounds", 2, "reference") for v in NOT_TIMES},
    **{f"took {str(v)[:9]}": put(v, "rounds", 2, "took") for v in NOT_TIMES},
    **{f"no {n}": lambda f, n=n: f.pop(n) for n in ("plan", "unit", "machine", "date", "names")},
    **{f"{n} is null": put(None, n) for n in ("seed", "unit", "machine", "names", "rounds")},
    **{f"round without {n}": lambda f, n=n: f["rounds"][1].pop(n) for n in ("took", "seconds")},
    "no rounds": put([], "rounds"),
    "no names": lambda f: (f["names"].clear(), [r["seconds"].clear() for r in f["rounds"]]),
    "a name too few": lambda file: file["names"].pop(),
    "ragged seconds": lambda file: file["rounds"][4]["seconds"].pop(),
    "a second too many": lambda file: file["rounds"][0]["seconds"].append(1.0),
    "a round is a number": put(7, "rounds", 0),
    "rounds by name": lambda file: file.update(rounds={"0": file["rounds"][0]}),
    "the same name twice": put(NAMES[0], "names", 1),
    "seed in words": put("three", "seed"),
    "seed infinite": put(float("inf"), "seed"),
    "seed not a number": put(float("nan"), "seed"),
    "foreign field of the unit": put("red", "unit", "colour"),
    "batch of none": put(0, "unit", "batch"),
    "foreign precision": put("fp7", "unit", "precision"),
    "unit of two lines": put(1, "unit", "a\nb"),
    "unit without resolution": lambda file: file["unit"].pop("resolution"),
    "machine in a word": put("fast", "machine"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_measurement_is_named_in_one_line(
    tmp_path: Path, damage: Callable[[dict], object]
) -> None:
    path = tmp_path / "a.json"
    made_up().save(path)
    file = json.loads(path.read_bytes())
    damage(file)
    path.write_text(json.dumps(file))
    refused(path)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"null", b"{}", b"\xff\x00", b"[" * 100_000])
def test_what_is_no_measurement_is_named_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    refused(path)


def refused(path: Path) -> None:
    with pytest.raises(UserError) as raised:
        Measurement.load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_random_damage_loads_or_is_refused(tmp_path: Path, random: np.random.Generator) -> None:
    """Bytes set at random, or the end cut off: positive finite numbers, or one `UserError`."""
    path = tmp_path / "a.json"
    made_up().save(path)
    whole = path.read_bytes()
    messages, numbers = [], []
    for case in range(240):
        content = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(len(content), size=1 + case % 3)
        letters, digits = (32, 127), (45, 58)
        content[places] = random.integers(*(digits if case % 2 else letters), size=len(places))
        end = random.integers(len(content)) if case % 4 == 0 else len(content)
        path.write_bytes(content[:end].tobytes())
        try:
            done = Measurement.load(path).rounds
        except UserError as error:
            messages.append(str(error))
        else:
            numbers.append([x for r in done for x in (r.reference, r.took, *r.seconds.values())])
    assert min(len(messages), len(numbers)) > 20
    assert [m for m in messages if str(path) not in m or "\n" in m] == []
    assert all(np.isfinite(row).all() and min(row) > 0 for row in numbers)


def test_every_round_is_in_the_file_before_it_is_yielded(
    tmp_path: Path, measured: Callable[..., list[Measurement]]
) -> None:
    path = tmp_path / "a.json"
    for count in range(1, 5):
        path.unlink(missing_ok=True)
        yielded = measured(Machine(), fresh(), just(4), path, count)
        assert [len(m.rounds) for m in yielded] == list(range(1, count + 1))
        assert Measurement.load(path) == yielded[-1]
        assert all(r.seconds == pytest.approx(SECONDS) for r in yielded[-1].rounds)


def test_the_seed_of_a_measurement_fixes_its_orders(
    tmp_path: Path, measured: Callable[..., list[Measurement]]
) -> None:
    machines = [Machine(), Machine(), Machine()]
    for on, seed in zip(machines, (1, 1, 2), strict=True):
        measured(on, fresh(seed), just(6), tmp_path / "a.json")
    one, again, other = (on.orders() for on in machines)
    assert one == again != other


@pytest.mark.parametrize("done", [1, 3, 6])
def test_a_continued_measurement_is_the_uninterrupted_one(
    tmp_path: Path, measured: Callable[..., list[Measurement]], done: int
) -> None:
    path, whole, first, second = tmp_path / "a.json", Machine(), Machine(), Machine()
    uninterrupted = measured(whole, fresh(), just(7), tmp_path / "whole.json")[-1]
    measured(first, fresh(), just(7), path, done)
    continued = measured(second, resume_measurement(path, fresh()), just(7), path)[-1]
    assert first.orders() + second.orders() == whole.orders()
    assert len(set(whole.orders())) > 1
    assert len(Measurement.load(path).rounds) == len(continued.rounds) == 7
    assert [r.seconds for r in continued.rounds] == [
        pytest.approx(r.seconds) for r in uninterrupted.rounds
    ]


@pytest.mark.parametrize("into", range(len(NAMES) + 2))
def test_an_interrupted_round_is_done_again(
    tmp_path: Path, measured: Callable[..., list[Measurement]], into: int
) -> None:
    """The third round breaks off; a round visits 4 runners, and the reference at its ends."""
    path, whole, second = tmp_path / "a.json", Machine(), Machine()
    measured(whole, fresh(), just(5), tmp_path / "whole.json")
    warm_up, each = len(NAMES) + 1, len(NAMES) + 2
    first = Machine(breaks=warm_up + 2 * each + into)
    with pytest.raises(KeyboardInterrupt):
        measured(first, fresh(), just(5), path)
    assert len(Measurement.load(path).rounds) == 2
    measured(second, resume_measurement(path, fresh()), just(5), path)
    assert first.orders()[:2] + second.orders() == whole.orders()


@pytest.mark.parametrize(
    "patience", [Patience(0.0, 4 * 4.25, least_rounds=4), just(5)], ids=["no time", "settled"]
)
def test_nothing_is_run_when_patience_is_over(
    tmp_path: Path, measured: Callable[..., list[Measurement]], patience: Patience
) -> None:
    on = Machine()
    assert measured(on, made_up(5), patience, tmp_path / "a.json") == []
    assert on.visited == []
    assert list(tmp_path.iterdir()) == []
    assert len(measured(on, made_up(4), patience, tmp_path / "a.json")) == 1


def test_a_found_measurement_goes_on_and_a_missing_one_begins(tmp_path: Path) -> None:
    path, begun = tmp_path / "a.json", fresh()
    assert resume_measurement(path, begun) is begun
    stored = replace(made_up(), date="2020-01-01T00:00:00+00:00")
    stored.save(path)
    assert resume_measurement(path, begun) == Measurement.load(path)
    assert resume_measurement(path, begun).date == stored.date


OTHERS = {
    "plan": ({"plan": "plan 2"}, "plan 'plan 1', expected 'plan 2'"),
    "seed": ({"seed": 4}, "seed 3, expected 4"),
    "unit": ({"unit": replace(UNIT, threads=2)}, "unit.threads 1, expected 2"),
    "machine": ({"machine": {**fresh().machine, "cpu": "other"}}, "machine.cpu .*expected 'other'"),
    "driver": ({"machine": {**fresh().machine, "gpu": "big"}}, "machine.gpu None, expected 'big'"),
}


@pytest.mark.parametrize(("change", "text"), OTHERS.values(), ids=OTHERS.keys())
def test_one_of_another_plan_or_machine_is_refused(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    path = tmp_path / "a.json"
    made_up().save(path)
    with pytest.raises(UserError, match=f"a.json: cannot be continued here: {text}"):
        resume_measurement(path, replace(fresh(), **change))
