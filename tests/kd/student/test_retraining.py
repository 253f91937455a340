"""Trained once, and once more where int8 costs too much; the fp32 network stays as it was."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from base.errors import UserError
from export.parity import Rounding
from export.timing.unit_of_work import UnitOfWork
from kd.batches import OnlineOutputs
from kd.evaluate import accuracy, calibration_images, predict
from kd.images.splits import Data, Split
from kd.student import retraining
from kd.student.int8 import CALIBRATION_BATCHES, Int8, answers, in_int8
from kd.student.retraining import Retrainer, Retraining, Trained
from tests.kd.student.recording import CONFIG, INT8, UNIT, Numbers
from tests.kd.student.test_int8 import small_network
from tests.tiny import refuse


def own(name: str = "20ms") -> Retraining:
    return Retraining(name, "it", small_network(), "kd")


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: part.clone() for name, part in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(p, other[n]) for n, p in one.items())


def costs(lost: float) -> Rounding:
    return Rounding(0.9, 0.9 - lost, 0.9, 0.0)


def judged_as(monkeypatch: pytest.MonkeyPatch, *lost: float) -> list[dict[str, Tensor]]:
    """Let int8 cost so much, one time after the other; return the networks that were judged."""
    left, judged = iter(lost), []

    def told(network: nn.Module, exact: nn.Module, *_: object) -> Int8:
        assert not network.training
        assert same(state(exact), judged[0] if judged else state(network))
        judged.append(state(network))
        return Int8(str(len(judged)).encode(), costs(next(left)))

    monkeypatch.setattr(retraining, "in_int8", told)
    return judged


def test_what_ships_in_fp32_is_trained_and_nothing_else(
    retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining, "in_int8", refuse)
    trained = replace(retrainer, unit=UNIT).train(own())
    assert trained == Trained(trained.network)
    assert retrainer.metrics.phases == ["student_20ms"]
    assert not trained.network.training


@pytest.mark.parametrize(("learns_from", "views"), [("kd", [0, 1, 0]), ("labels", [0, 1, 2])])
def test_labels_are_seen_with_new_views_in_every_epoch_and_without_the_teacher(
    retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch, learns_from: str, views: list[int]
) -> None:
    """The teacher's answers are stored for two views; three epochs are trained."""
    seen, asked = [], []

    def watched(split: Split, version: int | None) -> Split:
        seen.append(version)
        return view(split, version)

    def rows(outputs: OnlineOutputs, *of: object) -> Tensor:
        asked.append(outputs)
        return answer(outputs, *of)

    view, answer = Split.view, OnlineOutputs.rows
    monkeypatch.setattr(Split, "view", watched)
    monkeypatch.setattr(OnlineOutputs, "rows", rows)
    replace(retrainer, unit=UNIT).train(replace(own(), learns_from=learns_from))
    assert [version for version, _ in itertools.groupby(seen)] == views
    assert bool(asked) is (learns_from == "kd")


def test_no_view_comes_twice_to_labels_where_other_images_have_none(
    retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are as many as all images give, so those with labels pass more often."""
    data, seen = retrainer.taught.data, []
    silent = replace(data.train, labels=torch.full_like(data.train.labels, -1))
    taught = replace(
        retrainer.taught,
        data=replace(data, unlabelled=silent),
        outputs=replace(retrainer.taught.outputs, unlabelled=retrainer.taught.outputs.train),
    )

    def watched(split: Split, version: int | None) -> Split:
        seen.append(version)
        return view(split, version)

    view = Split.view
    monkeypatch.setattr(Split, "view", watched)
    replace(retrainer, unit=UNIT, taught=taught).train(replace(own(), learns_from="labels"))
    passes = [version for version, _ in itertools.groupby(seen)]
    assert passes == list(range(len(passes)))
    assert len(passes) > CONFIG.epochs


@pytest.mark.parametrize(("lost", "tuned"), [(0.004, False), (0.006, True)])
def test_it_is_trained_on_only_where_int8_costs_more_than_the_bound(
    retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch, lost: float, tuned: bool
) -> None:
    judged = judged_as(monkeypatch, lost, 0.0)
    trained = retrainer.train(own())
    phases = ["student_20ms", "student_20ms-int8"] if tuned else ["student_20ms"]
    assert retrainer.metrics.phases == phases
    assert trained.fine_tuned is tuned
    assert (trained.int8, trained.rounding.lost) == (
        (b"2", 0.0) if tuned else (b"1", costs(lost).lost)
    )
    # The copy has moved, with the keys of a plain network; what is kept in fp32 has not.
    assert same(state(trained.network), judged[0])
    assert len(judged) == 1 + tuned
    if tuned:
        assert judged[1].keys() == judged[0].keys()
        assert not same(judged[1], judged[0])


@pytest.mark.parametrize(("after", "better"), [(0.2, b"1"), (0.05, b"2"), (0.1, b"1")])
def test_the_better_of_both_is_kept(
    retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch, after: float, better: bytes
) -> None:
    """Also where both lose too much: whoever promised that says so later."""
    judged_as(monkeypatch, 0.1, after)
    trained = retrainer.train(own())
    assert trained.int8 == better
    assert trained.fine_tuned is (better == b"2")
    assert trained.rounding.lost == pytest.approx(min(0.1, after))


def test_the_network_in_fp32_is_the_one_that_training_alone_leaves(
    retrainer: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, however it is rounded and trained on; really done here."""
    alone = replace(retrainer, unit=UNIT, metrics=Numbers(tmp_path / "alone")).train(own())
    monkeypatch.setattr(Rounding, "within", lambda *_: False)
    trained = retrainer.train(own())
    assert same(state(trained.network), state(alone.network))
    assert retrainer.metrics.phases == ["student_20ms", "student_20ms-int8"]
    epochs = [phase for phase, _ in retrainer.metrics.lines]
    assert epochs == ["student_20ms"] * CONFIG.epochs + ["student_20ms-int8"] * 2
    assert trained.rounding.agreement > 0.8


def test_an_interrupted_fine_tuning_goes_on_to_the_same_bits(
    retrainer: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rounding, "within", lambda *_: False)
    # Which of both is better does not count here.
    monkeypatch.setattr(retraining, "min", lambda found, tuned, key: tuned, raising=False)
    whole = replace(retrainer, metrics=Numbers(tmp_path / "whole")).train(own())
    stopped = Numbers(tmp_path / "stopped", stop_in="student_20ms-int8")
    with pytest.raises(KeyboardInterrupt):
        replace(retrainer, metrics=stopped).train(own())
    again = Numbers(tmp_path / "stopped")
    goes_on = replace(retrainer, metrics=again).train(own())
    assert {phase for phase, _ in again.lines} == {"student_20ms-int8"}
    assert goes_on.int8 == whole.int8
    assert goes_on.fine_tuned
    assert same(state(goes_on.network), state(whole.network))


def test_ranges_are_found_on_the_train_split(
    retrainer: Retrainer, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it costs on the search split; the test split waits."""
    seen = []

    def told(
        network: nn.Module,
        exact: nn.Module,
        images: Sequence[Tensor],
        judged: Split,
        unit: UnitOfWork,
        batch: int,
    ) -> Int8:
        seen.append((images, judged, unit))
        return in_int8(network, exact, images, judged, unit, batch)

    monkeypatch.setattr(retraining, "in_int8", told)
    retrainer.train(own())
    ((images, judged, unit),) = seen
    assert (judged, unit) == (data.search, INT8)
    assert len(images) == len(data.train) // 32 < CALIBRATION_BATCHES
    expected = calibration_images(data.train, 32, CONFIG.seed, CALIBRATION_BATCHES)
    assert all(map(torch.equal, images, expected))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_test_split_is_answered_as_shipped(
    retrainer: Retrainer, data: Data, precision: str
) -> None:
    unit = replace(INT8, precision=precision)
    retrainer = replace(retrainer, unit=unit)
    trained = retrainer.train(own())
    opened = replace(retrainer, taught=replace(retrainer.taught, data=data))
    told, labels = opened.test_answers(trained)
    exact, truth = predict(trained.network, data.test, 32)
    assert torch.equal(labels, truth)
    if precision == "fp32":
        assert torch.equal(told, exact)
    else:
        assert torch.equal(told, answers(trained.int8, data.test, unit, 32))
        assert not torch.equal(told, exact)
    assert opened.test_scores(trained)["test_accuracy"] == accuracy(told, labels)
    with pytest.raises(AssertionError, match="test split was read"):
        retrainer.test_answers(trained)


def test_without_images_to_train_on_it_is_one_line(
    retrainer: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining, "calibration_images", lambda *_: [])
    with pytest.raises(UserError, match="no calibration images"):
        retrainer.train(own())
