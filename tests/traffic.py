"""What a step would move between a GPU and the rest, counted where there is no GPU."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__, Tensor.cpu)


class Traffic(TorchFunctionMode):
    """While it is entered, collects the tensors that are read, and counts those that are made.

    A list of positions is made a tensor, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []
        self.made = 0

    def __torch_function__(
        self,
        function: object,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if function in READS:
            self.read.append(args[0])
        listed = function is Tensor.__getitem__ and isinstance(args[1], list)
        self.made += function is torch.tensor or listed
        return function(*args, **(kwargs or {}))


class CopiesTo(TorchDispatchMode):
    """While it is entered, counts the copies to a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count = torch.device(device), 0

    def __torch_dispatch__(
        self,
        function: object,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        copies = function is torch.ops.aten._to_copy.default
        self.count += copies and kwargs.get("device") == self.device
        return function(*args, **kwargs)
