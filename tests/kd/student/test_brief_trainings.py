"""Students on trial: what they learn from and are judged on; none is tried twice."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from base.errors import Diverged
from base.phase import Phase
from kd.batches import Batch, Outputs, endless
from kd.evaluate import calibration_images, recalibrate, scores
from kd.fit import FitSettings, fit
from kd.images.splits import Split
from kd.loss import Loss
from kd.retrain import retrain
from kd.student import brief_trainings
from kd.student.brief_trainings import BriefTrainings
from kd.student.retraining import Retrainer
from tests.kd.student.recording import Numbers
from tests.kd.student.test_int8 import small_network
from tests.tiny import refuse


@pytest.fixture
def brief(retrainer: Retrainer) -> Retrainer:
    """Of two epochs a trial, where a retraining has three."""
    return replace(retrainer, config=replace(retrainer.config, trial_epochs=2))


def metrics_of(own: Retrainer) -> Numbers:
    return own.metrics


def by_hand(own: Retrainer, network: nn.Module) -> tuple[float, float]:
    """Train on the train split alone for the epochs of a trial; judge on the search split."""
    loss, batch = own.taught.config.loss(own.taught.config.guide), own.taught.config.batch
    split, outputs = own.taught.data.train, own.taught.outputs.train
    loader = replace(own.taught.config.loader(), batch=batch, seed=own.config.seed)
    recipe = FitSettings(2, own.config.learning_rate, own.config.weight_decay)
    batches = partial(endless, split, outputs, loader, torch.device("cpu"))
    fit(network, batches, loss, recipe, len(split) // batch, Phase("by hand"))
    recalibrate(network, calibration_images(split, batch, own.config.seed))
    split, outputs = own.taught.search_split
    return scores([network], split, outputs, loss, batch)[0]


@pytest.mark.parametrize("guide", ["teacher", "labels"])
def test_a_trial_is_a_brief_training_on_the_train_split(brief: Retrainer, guide: str) -> None:
    """What guides the search is what is learned; the search split judges, the test split waits."""
    settings = replace(brief.taught.config, guide=guide)
    own = replace(brief, taught=replace(brief.taught, config=settings))
    tried = BriefTrainings(own, "20ms")
    loss = tried.loss("it", small_network())
    assert tried.scores() == {"it": by_hand(own, small_network())}
    assert loss == tried.scores()["it"][0]
    assert metrics_of(own).lines == [("trials_20ms", 0)]


def test_guides_differ(brief: Retrainer, tmp_path: Path) -> None:
    labels = replace(brief.taught.config, guide="labels")
    taught = replace(brief.taught, config=labels)
    other = replace(brief, taught=taught, metrics=Numbers(tmp_path / "other"))
    losses = {BriefTrainings(own, "20ms").loss("it", small_network()) for own in (brief, other)}
    assert len(losses) == 2


def test_none_is_tried_twice_and_an_interruption_forgets_none(
    brief: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = BriefTrainings(brief, "20ms")
    found = [first.loss(what, small_network()) for what in ("one", "other", "one")]
    assert found[0] == found[2]
    again = replace(brief, metrics=Numbers(metrics_of(brief).folder))
    monkeypatch.setattr(brief_trainings, "retrain", refuse)
    goes_on = BriefTrainings(again, "20ms")
    assert goes_on.scores() == first.scores()
    assert list(goes_on.scores()) == ["one", "other"]
    assert goes_on.loss("other", small_network()) == found[1]
    assert not metrics_of(again).lines


def test_trials_of_another_recipe_begin_anew(brief: Retrainer) -> None:
    BriefTrainings(brief, "20ms").loss("it", small_network())
    longer = replace(brief, config=replace(brief.config, trial_epochs=3))
    assert not BriefTrainings(longer, "20ms").scores()
    assert not BriefTrainings(brief, "10ms").scores()


def test_one_that_is_interrupted_goes_on_to_the_same_loss(
    brief: Retrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second epoch of the second student; what was done before is not done again."""
    whole = BriefTrainings(brief, "20ms")
    expected = [whole.loss(what, small_network()) for what in ("one", "other")]
    stopped = replace(brief, metrics=Numbers(tmp_path / "stopped"))
    begun = BriefTrainings(stopped, "20ms")
    begun.loss("one", small_network())
    monkeypatch.setattr(brief_trainings, "retrain", counting(calls := [], stop_at=7))
    with pytest.raises(KeyboardInterrupt):
        begun.loss("other", small_network())
    again = replace(brief, metrics=Numbers(tmp_path / "stopped"))
    monkeypatch.setattr(brief_trainings, "retrain", counting(rest := []))
    goes_on = BriefTrainings(again, "20ms")
    assert list(goes_on.scores()) == ["one"]
    assert goes_on.loss("other", small_network()) == expected[1]
    assert len(calls) == 7
    assert len(rest) == 2 * (len(brief.taught.data.train) // brief.taught.config.batch) - 7


def counting(calls: list[int], stop_at: int | None = None) -> Callable[..., None]:
    """Train as ever, counting the steps; be interrupted after some of them."""

    def counted(
        student: nn.Module,
        split: Split,
        outputs: Outputs,
        loss: Loss,
        *rest: object,
        **more: object,
    ) -> None:
        def stopping(logits: Tensor, batch: Batch) -> Tensor:
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            calls.append(len(calls))
            return loss(logits, batch)

        retrain(student, split, outputs, stopping, *rest, **more)

    return counted


def test_one_that_diverges_is_the_worst_and_the_search_goes_on(
    brief: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*_: object) -> None:
        raise Diverged("loss nan")

    with monkeypatch.context() as during:
        during.setattr(brief_trainings, "retrain", diverging)
        found = BriefTrainings(brief, "20ms")
        assert found.loss("it", small_network()) == math.inf
    assert math.isfinite(found.loss("other", small_network()))
    again = BriefTrainings(replace(brief, metrics=Numbers(metrics_of(brief).folder)), "20ms")
    assert again.scores()["it"] == (math.inf, 0.0)


def test_what_is_not_finite_when_it_is_judged_can_be_written_as_json(
    brief: Retrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[tuple[float, float]]:
        return [(math.nan, math.nan)]

    monkeypatch.setattr(brief_trainings, "scores_recalibrated", broken)
    found = BriefTrainings(brief, "20ms")
    assert found.loss("it", small_network()) == math.inf
    assert found.scores()["it"] == (math.inf, 0.0)


def test_what_is_asked_of_the_table_is_found_once(brief: Retrainer) -> None:
    assert BriefTrainings(brief, "20ms").asked_ms(lambda: 19.5) == 19.5
    again = BriefTrainings(replace(brief, metrics=Numbers(metrics_of(brief).folder)), "20ms")
    assert again.asked_ms(refuse) == 19.5
    assert not again.scores()
