"""Mixed precision: weights and losses stay fp32, a network's own arithmetic may be shorter."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which networks on `device` run forward in `precision`.

    It is opened anew for every pass: autocast keeps converted weights until it is left.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
