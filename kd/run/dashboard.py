"""A run's numbers in Weights & Biases: online, offline, or gone; training never ends for it."""

import netrc
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import wandb

from base.errors import UserError

# Seconds: W&B is offline where they pass; what it could not take until then, stays in its folder.
REACHED_WITHIN, FINISHED_WITHIN = 30, 600
# What W&B raises when its service is not to be had, or has died.
LOST = (wandb.Error, OSError)


class Dashboard:
    """One W&B run, whose files lie in the run's folder.

    Online with WANDB_MODE=online or an API key, offline otherwise, and where W&B cannot be reached.
    When its service dies, that is said once, and everything goes on without it.
    """

    def __init__(self, folder: Path, config: dict, job: str, run_id: str) -> None:
        self._run: wandb.Run | None = _begun(folder, config, job, run_id)
        self._phases: set[str] = set()

    def log(self, phase: str, step: int, numbers: Mapping[str, float]) -> None:
        """Keep numbers of one step of a phase."""
        if phase not in self._phases:
            self._phases.add(phase)
            self._try(lambda run: run.define_metric(f"{phase}/step", hidden=True))
            self._try(lambda run: run.define_metric(f"{phase}/*", step_metric=f"{phase}/step"))
        named = {f"{phase}/{name}": value for name, value in numbers.items()}
        self._try(lambda run: run.log({f"{phase}/step": step, **named}))

    def summary(self, values: Mapping[str, object]) -> None:
        """Set values that are not a series."""
        self._try(lambda run: run.summary.update(values))

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Keep a file, read from where it lies when it is uploaded."""

        def upload(run: wandb.Run) -> None:
            artifact = wandb.Artifact(name, type=kind)
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
            run.log_artifact(artifact)

        self._try(upload)

    def finish(self, exit_code: int) -> None:
        """End it, uploading what is left."""
        self._try(lambda run: run.finish(exit_code=exit_code))

    def _try(self, call: Callable[[wandb.Run], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except LOST as error:
            reason = _first_line(error)
            print(
                f"W&B: lost ({reason}); going on without it, all numbers are in metrics.jsonl",
                file=sys.stderr,
            )
            self._run = None
            with suppress(*LOST):
                wandb.teardown()


def _begun(folder: Path, config: dict, job: str, run_id: str) -> wandb.Run:
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_api_key() else "offline")
    limits = {"init_timeout": REACHED_WITHIN, "finish_timeout": FINISHED_WITHIN}
    settings = wandb.Settings(silent=True, console="off", **limits)
    shared = {
        "project": "oyster",
        "id": run_id,
        "resume": "allow",
        "name": folder.name,
        "job_type": job,
        "dir": folder,
        "config": config,
        "settings": settings,
    }
    try:
        return wandb.init(mode=mode, **shared)
    except wandb.Error as error:
        print(f"W&B: no online run ({_first_line(error)}); continuing offline", file=sys.stderr)
        wandb.teardown()  # its service would hold on to the name of the run
        return wandb.init(mode="offline", **shared)
    except ValueError as error:
        reason = " ".join(str(error).split("[type")[0].split())
        raise UserError(f"W&B: {reason}; change the WANDB_ variable of that name") from error


def _has_api_key() -> bool:
    """Whether W&B would find a key in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
