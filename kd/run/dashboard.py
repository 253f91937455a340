"""A run's numbers in Weights & Biases: online, offline, or gone; training never ends for it."""

import netrc
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import wandb
from pydantic import ValidationError

from base.errors import UserError
from base.streams import utf8

# Seconds: W&B is offline where they pass; what it could not take until then, stays in its folder.
REACHED_WITHIN, FINISHED_WITHIN = 30, 600
LONGEST_NAME = 128  # of an artifact
PUBLIC_HOST = "api.wandb.ai"  # netrc may know it so, by whatever address W&B calls it itself


class Dashboard:
    """One W&B run, whose files lie in the run's folder.

    What W&B's own settings and the WANDB_ variables say is respected. Where they say nothing, it is
    online with an API key and offline otherwise, and where W&B cannot be reached. When W&B fails,
    that is said once, and everything goes on without it.
    """

    def __init__(self, folder: Path, config: dict, job: str, run_id: str) -> None:
        self._run: wandb.Run | None = _begun(folder, config, job, run_id)
        self._phases: set[str] = set()

    def log(self, phase: str, step: int, numbers: Mapping[str, float]) -> None:
        """Keep numbers of one step of a phase."""
        phase = utf8(phase)
        if phase not in self._phases:
            self._phases.add(phase)
            self._try(lambda run: run.define_metric(f"{phase}/step", hidden=True))
            self._try(lambda run: run.define_metric(f"{phase}/*", step_metric=f"{phase}/step"))
        named = {f"{phase}/{name}": value for name, value in numbers.items()}
        self._try(lambda run: run.log({f"{phase}/step": step, **named}))

    def summary(self, values: Mapping[str, object]) -> None:
        """Set values that are not a series."""
        self._try(lambda run: run.summary.update(_said(values)))

    def artifact(self, path: Path, name: str, kind: str) -> None:
        """Keep a file, if there is one, read from where it lies when it is uploaded."""

        def upload(run: wandb.Run) -> None:
            artifact = wandb.Artifact(_artifact_name(name), type=kind)
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
            run.log_artifact(artifact)

        if not path.is_file():
            return
        if _is_utf8(path):
            self._try(upload)
        elif self._run:
            print(f"W&B: not given {path}: its name is not UTF-8", file=sys.stderr)

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table of text; one of the same name takes its place."""
        columns, data = _said([header, rows])
        self._try(lambda run: run.log({utf8(name): wandb.Table(columns=columns, data=data)}))

    def finish(self, exit_code: int) -> None:
        """End it, uploading what is left."""
        self._try(lambda run: run.finish(exit_code=exit_code))

    def _try(self, call: Callable[[wandb.Run], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # its service fails in ways of its own
            _say_lost(_first_line(error))
            self._run = None
            with suppress(Exception):
                wandb.teardown()


def _said(value: object) -> object:
    """Return plain values with every text in UTF-8."""
    if isinstance(value, Mapping):
        return {utf8(str(name)): _said(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_said(inner) for inner in value]
    return utf8(value) if isinstance(value, str) else value


def _is_utf8(path: Path) -> bool:
    return utf8(str(path)) == str(path)


def _artifact_name(name: str) -> str:
    """Return a name as W&B takes it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:LONGEST_NAME]


def _say_lost(reason: str) -> None:
    print(
        f"W&B: lost ({reason}); going on without it, all numbers are in metrics.jsonl",
        file=sys.stderr,
    )


def _begun(folder: Path, config: dict, job: str, run_id: str) -> wandb.Run | None:
    try:
        return _run(_settings(folder, job, run_id), _said(config))
    except ValidationError as error:
        reason = " ".join(str(error).split("[type")[0].split())
        raise UserError(f"W&B: {reason}; change the WANDB_ variable of that name") from error
    except Exception as error:  # whatever it is, the run does not need W&B
        _say_lost(_first_line(error))
        return None


def _settings(folder: Path, job: str, run_id: str) -> wandb.Settings:
    """Return what W&B's environment and files of settings leave open."""
    own = wandb.setup().settings
    fallback = {
        "project": "oyster",
        "run_id": run_id,
        "resume": "allow",
        "run_name": utf8(folder.name),
        "run_job_type": job,
        "root_dir": str(folder),
        "silent": True,
        "console": "off",
        "init_timeout": REACHED_WITHIN,
        "finish_timeout": FINISHED_WITHIN,
        "mode": "online" if _has_credentials(own) else "offline",
    }
    asked = own.model_fields_set
    settings = wandb.Settings(**{name: v for name, v in fallback.items() if name not in asked})
    root = Path(own.root_dir if "root_dir" in asked else folder)
    if own.mode != "disabled" and not _is_utf8(root):
        raise OSError(f"{root}: a name that is not UTF-8; WANDB_DIR may name another folder")
    return settings


def _run(settings: wandb.Settings, config: object) -> wandb.Run:
    try:
        return wandb.init(config=config, settings=settings)
    except wandb.Error as error:
        print(f"W&B: no online run ({_first_line(error)}); continuing offline", file=sys.stderr)
        wandb.teardown()  # its service would hold on to the name of the run
        settings.mode = "offline"
        return wandb.init(config=config, settings=settings)


def _has_credentials(own: wandb.Settings) -> bool:
    """Whether W&B would find a key, in its settings or in netrc, or a token."""
    if own.api_key or own.identity_token_file:
        return True
    hosts = [urlsplit(own.base_url).netloc]
    if "base_url" not in own.model_fields_set:
        hosts.append(PUBLIC_HOST)
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
        return any(known.authenticators(host) for host in hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
