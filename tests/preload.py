"""What the tests' fork server has loaded before it starts a script: all that the scripts import.

It also holds the exported graphs of the digits space, which a process would otherwise export anew.
"""

import torch
import wandb.sdk.launch  # noqa: F401

import search  # noqa: F401
import train  # noqa: F401
from supernet.latency.parts import structures
from supernet.latency.structures import export_together
from supernet.presets import preset_space

torch.set_num_threads(1)
export_together(structures(preset_space("digits", 10)))
