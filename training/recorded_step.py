"""Forward and backward of a training step as CUDA graphs, one for every shape that batches have."""

from collections import OrderedDict
from collections.abc import Callable

import torch

from model.graphs import recorded

Batch = dict[str, torch.Tensor | int]
MOST_SHAPES = 48  # graphs that are kept; a graph of thousands of kernels takes some tens of megabytes


class GraphedStep:
    """Computes gradients of a batch, from a graph where its shape has come before.

    A step of a large model launches thousands of small kernels, and launching them takes longer than computing them. The
    very first batch is computed as usual; after that every shape is recorded when it first comes, and further batches of
    it are one launch each. Results are those of the plain step: the same kernels run in the same order.

    Args:
        forward: (batch, weight of the KL term as a scalar tensor) -> the loss and what is to be logged, [n]. It must not
            read anything back from the device.
        parameters: those that get gradients.
    """

    def __init__(
        self,
        forward: Callable[[Batch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        parameters: list[torch.nn.Parameter],
        device: torch.device,
    ):
        self.forward, self.parameters = forward, parameters
        self.kl, self.scale = torch.zeros((), device=device), torch.ones((), device=device)
        self.gradients: list[tuple[torch.nn.Parameter, torch.Tensor]] | None = (
            None  # where backward passes leave them, every time
        )
        self.graphs: OrderedDict[tuple, tuple[Batch, torch.Tensor, Callable[[], None]]] = OrderedDict()
        self.records = device.type == "cuda"

    def __call__(self, batch: Batch, kl: float, scale: float = 1.0) -> torch.Tensor:
        """Add the gradients of ``scale * loss`` to the parameters'; returns what `forward` wants logged, [n]."""
        self.kl.fill_(kl)
        self.scale.fill_(scale)
        self._place_gradients()
        shape = tuple(
            (name, tuple(value.shape) if isinstance(value, torch.Tensor) else value)
            for name, value in sorted(batch.items())
        )
        if self.gradients is None:
            logged = self._compute(batch)
            self._recorded(
                shape, batch
            )  # the longest batch comes first, and what is recorded later finds room in its memory
            return logged
        if not self._recorded(shape, batch):
            return self._compute(batch)
        inputs, logged, replay = self.graphs[shape]
        for name, value in batch.items():
            if isinstance(value, torch.Tensor):
                inputs[name].copy_(value, non_blocking=True)
        replay()
        return logged.clone()

    def _compute(self, batch: Batch) -> torch.Tensor:
        loss, logged = self.forward(batch, self.kl)
        (loss * self.scale).backward()
        if self.gradients is None:
            self.gradients = [
                (parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None
            ]
        return logged.detach()

    def _place_gradients(self) -> None:
        """The optimizer's step takes the gradients away; the graphs add to where they were."""
        missing = [
            (parameter, gradient)
            for parameter, gradient in self.gradients or []
            if parameter.grad is not gradient
        ]
        if missing:
            torch._foreach_zero_([gradient for _, gradient in missing])
            for parameter, gradient in missing:
                parameter.grad = gradient

    def _recorded(self, shape: tuple, batch: Batch) -> bool:
        """Whether there is a graph of that shape now."""
        if shape in self.graphs:
            self.graphs.move_to_end(shape)
            return True
        if not self.records:
            return False
        while len(self.graphs) >= MOST_SHAPES:
            self.graphs.popitem(last=False)
        torch.cuda.empty_cache()  # the graphs' memory is their own
        for _ in range(2):
            inputs = {
                name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
            }
            logged: list[torch.Tensor] = []
            replay = recorded(lambda: logged.append(self._compute(inputs)))  # noqa: B023
            if replay is not None:
                self.graphs[shape] = (inputs, logged[0], replay)
                return True
            self.forget()  # where memory ran out, it may have been split up by the others
        self.records = False
        return False

    def forget(self) -> None:
        """Give the graphs' memory back; shapes are recorded again when they come."""
        self.graphs.clear()
        if self.records:
            torch.cuda.empty_cache()
