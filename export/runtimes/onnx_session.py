"""ONNX Runtime sessions, opened the same way each time."""

from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import onnxruntime

from base.errors import UserError
from base.streams import utf8

PREFERRED = ("CUDAExecutionProvider", "CPUExecutionProvider")
# Hundreds of sessions are open while networks are timed, each with an arena of its own on a GPU:
# it is to grow by what is asked for, not by powers of two.
_OPTIONS = {"CUDAExecutionProvider": {"arena_extend_strategy": "kSameAsRequested"}}


@cache
def _share_memory() -> None:
    """Let all CPU sessions draw on one arena: hundreds of open ones would each keep their own."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def check_provider(provider: str) -> None:
    """Raise `UserError`, with those there are, when this ONNX Runtime lacks `provider`."""
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UserError(
            f"provider {provider}: not in this ONNX Runtime, which has {', '.join(available)}; "
            "name one of these or install the ONNX Runtime package that brings it"
        )


def preferred_provider() -> str:
    """Return what runs a file for its answers alone: CUDA where this ONNX Runtime has it.

    Those that it names first may lack their libraries, or leave all to the CPU.
    """
    available = onnxruntime.get_available_providers()
    return next(name for name in PREFERRED if name in available)


def onnx_session(
    model: bytes | Path, threads: int = 1, provider: str = "CPUExecutionProvider"
) -> onnxruntime.InferenceSession:
    """Open a quiet, fully optimised ONNX Runtime session with `threads` threads.

    Raises `UserError` when `provider` cannot be had or the file is not a model that it can run.
    """
    check_provider(provider)
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only
    # Threads spin inside a run, as when deployed, but never while another session is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        with redirect_stdout(None):  # it prints a banner when it falls back to another provider
            own = [(provider, _OPTIONS.get(provider, {}))]
            session = onnxruntime.InferenceSession(_named(model), options, providers=own)
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base class
        if not isinstance(model, Path):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{model}: ONNX Runtime cannot open it ({reason}); make it again"
        ) from error
    # A provider that fails to start is replaced by the CPU without an error.
    if session.get_providers()[0] != provider:
        raise UserError(f"provider {provider}: did not start here; check its driver and libraries")
    return session


def _named(model: bytes | Path) -> bytes | str:
    """Return a model's content, or its file's name; where that is not UTF-8, the content."""
    if isinstance(model, bytes):
        return model
    return str(model) if utf8(str(model)) == str(model) else model.read_bytes()
