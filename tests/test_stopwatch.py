"""The stopwatch against a clock whose machine drifts and stumbles."""

import math
import random
from collections.abc import Callable
from itertools import chain

import numpy as np
import onnx
import onnxruntime
import pytest

from export.errors import UserError
from export.stopwatch import (
    UnitOfWork,
    cpu_name,
    machine,
    onnx_runner,
    onnx_session,
    stopwatch,
    timed,
    visits,
)


class Machine:
    """A machine whose speed drifts by ±30 %, and whose every tenth run takes five times as long."""

    def __init__(self) -> None:
        self.now = 0.0
        self.visited: list[str] = []
        self.chance = random.Random(0)

    def runner(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            drift = 1 + 0.3 * math.sin(self.now / 20)
            stumble = 5 if self.chance.random() < 0.1 else 1
            self.now += seconds * drift * stumble
            self.visited.append(name)

        return run


SECONDS = {"small": 0.002, "middle": 0.005, "large": 0.04, "middle again": 0.005}


def simulate(rounds: int, runs: int, seed: int = 0) -> tuple[dict[str, float], list[str]]:
    simulated = Machine()
    runners = {name: simulated.runner(name, seconds) for name, seconds in SECONDS.items()}
    timings = stopwatch(runners, rounds, runs, seed, clock=lambda: simulated.now)
    assert timings.keys() == SECONDS.keys()
    return {name: timing.ms for name, timing in timings.items()}, simulated.visited


def test_true_ratios_survive_drift_and_stumbles() -> None:
    ms, _ = simulate(rounds=300, runs=3)
    for name, seconds in SECONDS.items():
        assert ms[name] / ms["large"] == pytest.approx(seconds / SECONDS["large"], rel=0.02)
        assert 0.7 * seconds * 1e3 <= ms[name] <= 1.3 * seconds * 1e3


def test_every_round_visits_every_runner_once_in_its_own_order() -> None:
    rounds, runs = 12, 3
    _, visited = simulate(rounds, runs)
    visits = visited[::runs]
    assert visited == [name for name in visits for _ in range(runs)]
    orders = [tuple(visits[i : i + 4]) for i in range(0, len(visits), 4)]
    assert len(orders) == 1 + rounds  # the warm-up first
    assert all(sorted(order) == sorted(SECONDS) for order in orders)
    assert len(set(orders)) > 4


def test_the_seed_fixes_the_order() -> None:
    assert simulate(8, 1, seed=1)[1] == simulate(8, 1, seed=1)[1]
    assert simulate(8, 1, seed=1)[1] != simulate(8, 1, seed=2)[1]


def test_lower_quartile_and_spread_by_hand() -> None:
    now = 0.0
    warm_up = [9.0, 9.0]
    visits = [[0.001, 7.0], [7.0, 0.002], [0.003, 7.0], [7.0, 0.004], [0.005, 7.0]]
    lengths = iter([*warm_up, *chain.from_iterable(visits)])

    def run() -> None:
        nonlocal now
        now += next(lengths)

    timing = stopwatch({"a": run}, rounds=5, runs=2, clock=lambda: now)["a"]
    assert timing.ms == pytest.approx(2.0)
    assert timing.spread == pytest.approx((4 - 2) / 2)


@pytest.mark.parametrize(("rounds", "runs"), [(0, 3), (5, 0)])
def test_no_rounds_or_runs_is_refused(rounds: int, runs: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        stopwatch({"a": lambda: None}, rounds, runs)


def relu() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> '
        "g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"
    )


def test_a_runner_runs_the_model_on_its_inputs() -> None:
    unit = UnitOfWork(batch=2, resolution=1)
    onnx_runner(relu(), {"x": np.zeros((2, 3), np.float32)}, unit)()
    with pytest.raises(RuntimeError, match=r"(?i)dimension"):
        onnx_runner(relu(), {"x": np.zeros((2, 4), np.float32)}, unit)()


def test_a_session_has_the_threads_of_the_unit() -> None:
    options = onnx_session(relu().SerializeToString(), threads=2).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL


def test_an_unknown_provider_names_the_available_ones() -> None:
    unit = UnitOfWork(batch=1, resolution=1, provider="AbacusExecutionProvider")
    with pytest.raises(UserError, match=r"AbacusExecutionProvider.*CPUExecutionProvider"):
        onnx_runner(relu(), {}, unit)


def test_a_unit_of_work_reads_as_a_sentence() -> None:
    assert str(UnitOfWork(64, 16)) == (
        "batch of 64 images at 16×16, 1 thread, fp32, ONNX Runtime CPUExecutionProvider"
    )
    assert str(UnitOfWork(1, 224, threads=4, provider="P", precision="int8")) == (
        "batch of 1 image at 224×224, 4 threads, int8, ONNX Runtime P"
    )


def test_provenance_is_filled_in() -> None:
    provenance = machine()
    assert provenance["cpu"] == cpu_name() != ""
    assert provenance["onnxruntime"] == onnxruntime.__version__
    assert int(provenance["cores"]) >= 1
    assert all(provenance.values())


def test_visits_of_one_round_share_the_machines_speed() -> None:
    """Ratios inside a round are nearly free of drift, which the raw visits are full of."""
    simulated = Machine()
    runners = {name: simulated.runner(name, SECONDS[name]) for name in ("small", "middle")}
    seconds = visits(runners, rounds=400, runs=3, clock=lambda: simulated.now)
    small, middle = np.array(seconds["small"]), np.array(seconds["middle"])
    assert np.median(middle / small) == pytest.approx(2.5, rel=0.01)
    assert np.std(middle / small) / 2.5 < 0.5 * np.std(small) / small.mean()


def test_timed_returns_the_result() -> None:
    result, seconds = timed(lambda: "done")
    assert result == "done"
    assert seconds >= 0
