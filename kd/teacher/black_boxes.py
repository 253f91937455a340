"""Teachers that are the user's own code."""

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from base.errors import UserError


class FunctionNetwork(nn.Module):
    """Any function of images as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        return self.function(images)


def python_network(reference: str) -> tuple[nn.Module, Path]:
    """Run the user's own code: "module:factory", a function without arguments.

    Returns the network that it makes and the module's file. This executes that code, with all that
    it may do. Raises `UserError` when it cannot be imported, fails, or returns nothing callable.
    """
    module_name, _, factory_name = reference.partition(":")
    if not module_name or not factory_name:
        raise UserError(f"teacher python:{reference}: expected python:MODULE:FACTORY")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        network = getattr(module, factory_name)()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise UserError(
            f"teacher python:{reference}: {type(error).__name__}: {reason}; expected a function "
            f"{factory_name or 'FACTORY'}() in {module_name}.py that returns a torch module"
        ) from error
    if not callable(network):
        raise UserError(
            f"teacher python:{reference}: returned {type(network).__name__}, expected a torch "
            "module or a function of images [B, 3, H, W]"
        )
    return (network if isinstance(network, nn.Module) else FunctionNetwork(network)), Path(
        module.__file__
    )


def file_fingerprint(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
