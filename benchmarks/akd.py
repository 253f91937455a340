"""Does the search have to look at the distilled student? AKD's claim, on CIFAR-10 images.

    python -m benchmarks.akd --data PATH

Supernets guided by labels and by two teachers of different architecture search a student each for
three budgets; each student is retrained from scratch with labels and with KD. AKD
(arXiv:1911.09074) says that what a teacher finds is better once that teacher distils it. What each
supernet prefers is left in folders for

    python -m export.report.compare runs/akd/labels-0 runs/akd/labels-1 runs/akd/convmixer-0 ...

Every student is a line of benchmarks/results/akd.csv, and is not made again. For two cores run it
twice, with other --seeds.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import tyro
from timm.models.convmixer import ConvMixer

from base.checkpoint import Checkpoint
from base.errors import UserError
from base.files import write_json
from base.phase import Phase
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import by_seeds, mean_std
from benchmarks.provenance import provenance
from benchmarks.shared_search import (
    ALPHA,
    SURVEYED,
    calibration_images,
    shared_loss,
    surveyed,
    trained_alpha,
    trained_weights,
)
from benchmarks.world import BATCH, KD_LOSS, World, accuracy, open_world, trained_student
from kd.fit import FitSettings, fit
from kd.loss import label_loss
from kd.teacher.model import Teacher
from supernet.alpha import preferences
from supernet.choice.pick import PredictLoss, alphas_proposal, budget_predicted, pick_predicted
from supernet.choice.programme import Programme, programme
from supernet.presets import fused, mbconv
from supernet.sampling import fair_sampler, random_as_fast
from supernet.space import Architecture, Choices, SearchSpace, StageSpace
from supernet.student import parameters_and_macs

SPACE = SearchSpace(
    name="akd",
    resolution=(16, 16),
    classes=10,
    stem_stride=1,
    stem_widths=(8, 16, 24),
    stages=(
        StageSpace(2, (16, 24, 32, 48), (1, 2), (mbconv((3, 5), (2, 4)), fused(1, 2))),
        StageSpace(2, (32, 48, 64, 96), (1, 2, 3), (mbconv((3, 5), (2, 4)), fused(1, 2))),
    ),
    head_widths=(0, 64, 128),
)
CANDIDATES, SHOWN_BUDGETS = 16, 8
RESNET, MIXER = "small_resnet18", "convmixer"
OWN = f"{RESNET}, own losses"  # candidates ranked without the surrogate
LOSSES = {"labels": label_loss, RESNET: KD_LOSS, MIXER: KD_LOSS}
# (what guided the search, what the student learns from): AKD's claim first.
PAIRS = (
    *(("labels", "labels"), ("labels", RESNET), (RESNET, "labels"), (RESNET, RESNET)),
    *(("random", RESNET), (OWN, RESNET)),
    *((RESNET, MIXER), (MIXER, RESNET), (MIXER, MIXER)),
)
Picks = dict[tuple[str, float], Architecture]  # by guide and budget


@dataclass(frozen=True)
class Settings:
    """What is searched and retrained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with, and at most as many test images."""
    w_epochs: int = 16
    epochs: int = 12
    """Of a student."""
    guides: tuple[str, ...] = ("labels", RESNET, MIXER)
    budgets: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/akd")
    out: Path = Path("benchmarks/results/akd.csv")


def main(settings: Settings) -> None:
    """Search and retrain what is not done yet, and test the claim."""
    world = open_world(settings.data, settings.limit, settings.run, SPACE)
    worlds = {"labels": world, RESNET: world}
    if MIXER in settings.guides:
        worlds[MIXER] = with_mixer(world, settings.run)
    problem = programme(world.table)
    budgets = np.geomspace(*problem.range_ms(), settings.budgets + 2)[1:-1].tolist()
    facts = {"teachers": {guide: own.teacher for guide, own in worlds.items()}}
    facts |= {"students": SPACE.size(), "budgets_ms": budgets}
    facts = world.facts() | facts | provenance("akd", settings)
    write_json(settings.out.with_suffix(".json"), facts)
    for seed in settings.seeds:
        picks = picked(settings, worlds, problem, budgets, seed)
        pairs = [(g, way) for g, way in PAIRS if (g, budgets[0]) in picks and way in worlds]
        for (guide, way), target_ms in product(pairs, budgets):
            key = (str(seed), f"{target_ms:.4f}", guide, way)
            if key in {tuple(line.values())[:4] for line in read_lines(settings.out)}:
                continue
            architecture = picks[guide, target_ms]
            epochs = settings.epochs
            student = trained_student(worlds[way], architecture, LOSSES[way], epochs, seed)
            params, macs = parameters_and_macs(SPACE, architecture)
            line = dict(zip(("seed", "target_ms", "guide", "learns_from"), key, strict=True))
            line |= {"test_accuracy": accuracy(student, world.test), "params": params, "macs": macs}
            line |= {"predicted_ms": world.table.predicted_ms(architecture)}
            append_lines(settings.out, [line | {"architecture": architecture.to_json()}])
    report(read_lines(settings.out))


def with_mixer(world: World, folder: Path) -> World:
    """The same images with the answers of a ConvMixer (arXiv:2201.09792) trained on them."""
    torch.manual_seed(0)
    network = ConvMixer(dim=128, depth=6, kernel_size=5, patch_size=2, num_classes=SPACE.classes)
    batches = partial(world.train.endless, BATCH, 0)
    steps = len(world.train.labels) // BATCH
    checkpoint = Checkpoint(folder / "convmixer.pt", {}, 60)
    settings = FitSettings(20, 0.05)
    fit(network, batches, label_loss, settings, steps, Phase(MIXER, checkpoint=checkpoint))
    teacher = Teacher(network)
    told = f"{MIXER}, {accuracy(teacher, world.search):.2%} of the search split"
    answered = {"train": world.train.answered(teacher), "search": world.search.answered(teacher)}
    return replace(world, **answered, teacher=told)


def picked(
    settings: Settings, worlds: dict[str, World], problem: Programme, budgets: list, seed: int
) -> Picks:
    """Search a student for every guide and budget, and draw a random one as fast as RESNET's."""
    found: Picks = {}
    for guide in settings.guides:
        world = worlds[guide]
        folder, loss = settings.run / f"{guide}-{seed}", LOSSES[guide]
        supernet = trained_weights(world, problem, loss, settings.w_epochs, seed, folder)
        steps = ALPHA.alpha_steps
        alpha = trained_alpha(world, supernet, problem, loss, steps, seed, folder / "alpha.pt")
        liked = {"guide": guide, "budgets": preferences(alpha, SHOWN_BUDGETS)}
        write_json(folder / "preferences.json", liked)
        score = partial(shared_loss, supernet, world, loss, calibration_images(world))
        expect = surveyed(problem, score, SURVEYED, seed).loss
        for target_ms in budgets:
            with torch.no_grad():
                log_p = alpha(target_ms)
            found[guide, target_ms] = best_candidate(problem, log_p, target_ms, seed, expect)
            if guide == RESNET:
                found[OWN, target_ms] = best_candidate(problem, log_p, target_ms, seed, score)
    sampler = fair_sampler(problem.table, *problem.range_ms())
    draws = np.random.default_rng(seed)
    for target_ms in budgets if RESNET in settings.guides else []:
        own = found[RESNET, target_ms]
        most_ms = problem.table.predicted_ms(own)
        found["random", target_ms] = random_as_fast(sampler, most_ms, own, draws)
    return found


def best_candidate(
    problem: Programme, log_p: Choices, target_ms: float, seed: int, expect: PredictLoss
) -> Architecture:
    """Return the one of alpha's candidates for a budget whose expected loss is least."""
    asked_ms = budget_predicted(problem, target_ms)
    own = alphas_proposal(problem, log_p, CANDIDATES, seed, expect, asked_ms)
    return pick_predicted(problem, own, target_ms).architecture


def report(lines: list[dict[str, str]]) -> None:
    """Print mean ± standard deviation in points, and the differences that the claims are about."""
    points: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for line in lines:
        place = line["target_ms"], line["seed"]
        points[line["guide"], line["learns_from"]][place] = 100 * float(line["test_accuracy"])
    for (guide, way), found in points.items():
        for target_ms in dict.fromkeys(target for target, _ in found):
            own = [value for (target, _), value in found.items() if target == target_ms]
            print(f"{target_ms} ms  found by {guide:14} taught by {way:14} {mean_std(own)} %")
    for what, a, b in (
        ("teacher-guided over label-guided, KD", (RESNET, RESNET), ("labels", RESNET)),
        ("teacher-guided over label-guided, labels", (RESNET, "labels"), ("labels", "labels")),
        ("searched over random as fast, KD", (RESNET, RESNET), ("random", RESNET)),
        ("surrogate over own losses, KD", (RESNET, RESNET), (OWN, RESNET)),
        ("KD over labels, teacher-guided", (RESNET, RESNET), (RESNET, "labels")),
        ("own teacher's over the other's, small_resnet18", (RESNET, RESNET), (MIXER, RESNET)),
        ("own teacher's over the other's, convmixer", (MIXER, MIXER), (RESNET, MIXER)),
    ):
        print(f"{what}: {by_seeds(points[a], points[b])}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"akd: {error}") from error
