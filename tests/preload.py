"""What the tests' fork server has loaded before it starts a script: all that the scripts import.

It also holds the exported graphs of the digits space, which a process would otherwise export anew.
"""

import torch
import wandb.sdk.launch  # noqa: F401

import search  # noqa: F401
import train  # noqa: F401
from supernet.latency.graphs import part_graph
from supernet.latency.parts import parts
from supernet.presets import preset_space

torch.set_num_threads(1)
for part in parts(preset_space("digits", 10)).values():
    part_graph(part.module, part.size)
