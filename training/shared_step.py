"""Forward and backward of a training step in several processes, as CUDA graphs with what the processes tell each other between.

The terms of the loss are means over all processes, so a step is cut where they begin: one graph computes what they are
computed from (`model.losses.LossInputs`, small tensors), the terms and their gradients are computed as usual, with their sums
over the processes, and further graphs take the gradients from there back to the weights: one to those of the decoder, whose
sum over the processes is under way while the other one goes on to the encoders'. No communication is part of a graph, so
processes may record different shapes at different times.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed

from model.graphs import recorded
from model.losses import LossInputs
from training.recorded_step import MOST_SHAPES, Batch

Logged = tuple[torch.Tensor, torch.Tensor]  # the loss, and what is logged


@dataclass
class _Recorded:
    """The graphs and the tensors that they read and write."""

    inputs: Batch
    given: LossInputs
    gradients: list[torch.Tensor]
    forward: Callable[[], None]
    backward: tuple[Callable[[], None], Callable[[], None]]


class SharedStep:
    """Computes this process's share of the gradients, from graphs where the shape of its batch has come before.

    Args:
        forward: a batch -> what the loss is computed from. It reads nothing back from the device and tells no other process.
        terms: (that, weight of the KL term) -> the loss of all processes' examples and what is to be logged, [n].
        decoder, others: the parameters that get gradients: those that the losses of tokens alone depend on, and the others.
    """

    def __init__(
        self,
        forward: Callable[[Batch], LossInputs],
        terms: Callable[[LossInputs, float], Logged],
        decoder: list[torch.nn.Parameter],
        others: list[torch.nn.Parameter],
        device: torch.device,
    ):
        self.forward, self.terms, self.parameters = forward, terms, (decoder, others)
        self.records = device.type == "cuda"
        # the gradients of the decoder and of the others, one piece a type, once it is known which weights have one
        self.flats: list[list[torch.Tensor]] = []
        self.views: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self.graphs: OrderedDict[tuple, _Recorded] = OrderedDict()

    def __call__(self, batch: Batch, kl: float, scale: float = 1.0, last: bool = True) -> torch.Tensor:
        """Add the gradients of ``scale * loss`` to the parameters', up to the sum over the processes; returns what is to be logged, [n].

        Args:
            last: no further batch belongs to this step, and the gradients become those of all processes.
        """
        if not self.flats:
            for parameter in chain(*self.parameters):
                torch.distributed.broadcast(parameter.data, 0)  # all begin with the first one's weights
        self._place_gradients()
        graph = self._recorded(batch) if self.flats else None
        if graph is None:
            given = self.forward(batch)
            logged, gradients = self._gradients(given, kl, scale)
            backward = self._backward(given, gradients)
        else:
            for name, value in batch.items():
                if isinstance(value, torch.Tensor):
                    graph.inputs[name].copy_(value, non_blocking=True)
            graph.forward()
            logged, gradients = self._gradients(graph.given, kl, scale)
            torch._foreach_copy_(graph.gradients, gradients)
            backward = graph.backward
        under_way = []
        for number, work in enumerate(backward):
            work()
            if last and self.flats:
                under_way += self._summing(number)
        if not self.flats:
            self._lay_out()
            under_way += [*self._summing(0), *self._summing(1)] if last else []
        for sums in under_way:
            sums.wait()
        return logged

    def _backward(
        self, given: LossInputs, gradients: list[torch.Tensor]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """What takes gradients of `LossInputs.differentiable` back to the decoder's weights, and then to the others."""
        z, slopes = given.decoded, []
        assert z is not None, "these are a model's outputs"

        def decoder() -> None:
            torch.autograd.backward(given.token_losses, gradients[0], inputs=[*self.parameters[0], z])
            slopes.append(z.grad)
            z.grad = None

        def others() -> None:
            torch.autograd.backward([*given.differentiable[1:], z], [*gradients[1:], slopes.pop()])
            z.grad = None

        return decoder, others

    def _gradients(
        self, given: LossInputs, kl: float, scale: float
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What is to be logged, and the gradients of what the loss is computed from."""
        leaves = [tensor.detach().requires_grad_() for tensor in given.differentiable]
        loss, logged = self.terms(given.replace(leaves), kl)
        # the loss's gradient is the mean of all processes', and divided here they need only be summed up
        share = scale / torch.distributed.get_world_size()
        gradients_or_none = torch.autograd.grad(loss * share, leaves, allow_unused=True)
        gradients = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients_or_none)]
        return logged.detach(), gradients

    def _summing(self, number: int) -> list[torch.distributed.Work]:
        """Begin to sum up the gradients of the decoder (0) or the others (1) over the processes."""
        return [torch.distributed.all_reduce(flat, async_op=True) for flat in self.flats[number]]

    def _lay_out(self) -> None:
        """Put the gradients of a type into one tensor, of which the parameters' are parts from now on."""
        for parameters in self.parameters:
            self.flats.append([])
            for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
                those = [p for p in parameters if p.grad is not None and p.dtype == dtype]
                if not those:
                    continue
                flat = torch.cat([parameter.grad.flatten() for parameter in those])
                parts = flat.split([parameter.numel() for parameter in those])
                self.views += [(parameter, part.view_as(parameter)) for parameter, part in zip(those, parts)]
                self.flats[-1].append(flat)
        for parameter, view in self.views:
            parameter.grad = view

    def _place_gradients(self) -> None:
        """The optimizer's step takes the gradients away; what computes them adds to where they were."""
        if any(parameter.grad is not view for parameter, view in self.views):
            torch._foreach_zero_([*chain(*self.flats)])
            for parameter, view in self.views:
                parameter.grad = view

    def _recorded(self, batch: Batch) -> _Recorded | None:
        """The graphs of a batch's shape; None where it cannot be recorded."""
        if not self.records:
            return None
        shape = tuple(
            (name, tuple(value.shape) if isinstance(value, torch.Tensor) else value)
            for name, value in sorted(batch.items())
        )
        if shape in self.graphs:
            self.graphs.move_to_end(shape)
            return self.graphs[shape]
        while len(self.graphs) >= MOST_SHAPES:
            self.graphs.popitem(last=False)
        torch.cuda.empty_cache()  # the graphs' memory is their own
        graph = self._record(batch)
        if graph is None:
            self.forget()
            self.records = False
        else:
            self.graphs[shape] = graph
        return graph

    def _record(self, batch: Batch) -> _Recorded | None:
        inputs = {
            name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()
        }
        made: list[LossInputs] = []
        forward = recorded(lambda: made.append(self.forward(inputs)))
        if forward is None:
            return None
        outputs = made[0].differentiable
        gradients = [torch.zeros_like(tensor) for tensor in outputs]
        passes = self._backward(made[0], gradients)
        if (decoder := recorded(passes[0])) is None or (others := recorded(passes[1])) is None:
            return None
        outputs = [tensor.detach() for tensor in outputs]
        return _Recorded(inputs, made[0].replace(outputs), gradients, forward, (decoder, others))

    def forget(self) -> None:
        """Give the graphs' memory back; shapes are recorded again when they come."""
        self.graphs.clear()
        if self.records:
            torch.cuda.empty_cache()
