"""A library's network, fitted to the images and classes of a run."""

import torch
from torch import Tensor, nn

from base.errors import UserError
from base.size import Size, pixels_text

# Pixels of the images on which a network shows where it halves the resolution.
TRACED = 256
SMALL, DROPPED = 64, 2


def fit_strides(network: nn.Module, resolution: Size) -> None:
    """Set the stem's stride and the next one to 1 where images are small: `SMALL` pixels or fewer.

    A network made for large images would leave one pixel of a small one. One that takes images of
    one size alone is left as it is.
    """
    if min(resolution) > SMALL:
        return
    reducing: dict[int, list[nn.Module]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if _strided(module) and output.shape[-1] < inputs[0].shape[-1]:
            reducing.setdefault(inputs[0].shape[-1], []).append(module)

    hooks = [m.register_forward_hook(note) for m in network.modules() if _strided(m)]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, TRACED, TRACED))
    except (AssertionError, RuntimeError, ValueError):
        return
    finally:
        for hook in hooks:
            hook.remove()
    for size in sorted(reducing, reverse=True)[:DROPPED]:
        for module in reducing[size]:
            module.stride = 1 if isinstance(module.stride, int) else (1, 1)


def _strided(module: nn.Module) -> bool:
    stride = getattr(module, "stride", 1)
    return stride in (2, (2, 2)) and isinstance(module, nn.Conv2d | nn.MaxPool2d)


def check_network(name: str, network: nn.Module, resolution: Size, classes: int) -> None:
    """Raise `UserError` unless `network` maps images [B, 3, H, W] to logits [B, K]."""
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, 3, *resolution))
        shape = tuple(logits.shape)
    except Exception as error:  # a library's networks fail in ways of their own
        reason = " ".join(str(error).split())
        raise UserError(
            f"rival {name}: does not take images of {pixels_text(resolution)} ({reason}); name "
            "another"
        ) from error
    if shape != (2, classes):
        raise UserError(
            f"rival {name}: gives {list(shape)} for 2 images, expected [2, {classes}]; name another"
        )
