"""supernet.safetensors: the shared weights and alpha, refused when they are another space's."""

import math
from pathlib import Path

from torch import Tensor

from export.errors import UserError
from export.files import read_tensors, write_tensors
from supernet.alpha import Alpha
from supernet.space import SearchSpace
from supernet.supernet import Supernet


def save_supernet(path: Path, supernet: Supernet, alpha: Alpha, table: str) -> None:
    """Write weights, alpha and the fingerprints of the space and of the latency `table`."""
    tensors = {f"w.{name}": part for name, part in supernet.state_dict().items()}
    tensors |= {f"alpha.{name}": part for name, part in alpha.state_dict().items()}
    write_tensors(path, tensors, {"space": supernet.space.fingerprint(), "table": table})


def load_supernet(path: Path, space: SearchSpace, table: str) -> tuple[Supernet, Alpha]:
    """Read (supernet, alpha); missing, damaged or foreign files raise `UserError`."""
    if not path.exists():
        raise UserError(f"{path}: no supernet here; run train.py to its end first")
    tensors, metadata = read_tensors(path)
    for field, expected in (("space", space.fingerprint()), ("table", table)):
        if metadata.get(field) != expected:
            raise UserError(
                f"{path}: {field} {metadata.get(field)}, expected {expected}; "
                "it belongs to another run: train the supernet again"
            )
    try:
        logits = tensors["alpha.logits"]
        alpha = Alpha(space, 1.0, math.e, len(logits))
        alpha.load_state_dict(_under(tensors, "alpha."))
        supernet = Supernet(space)
        supernet.load_state_dict(_under(tensors, "w."))
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}); train the supernet again") from error
    return supernet, alpha


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
