"""One of two processes that take the same training steps twice, recorded and not; prints what came out. ``python -m common.launch 2 recorded_steps.py tiny``"""

import json
import sys

import torch

from common import processes
from scripts.bench_processes import TrainingSteps, batch_of
from training.shared_step import SharedStep

STEPS = 8


def steps_of(size: str, recorded: bool, device: torch.device) -> TrainingSteps:
    """Training steps from the first process's weights, without dropout."""
    torch.manual_seed(0)
    training = TrainingSteps(size, device, recorded=True)
    training.model.eval()
    assert isinstance(training.step, SharedStep)
    training.step.records &= recorded
    for parameter in training.model.parameters():
        torch.distributed.broadcast(parameter.data, 0)
    return training


def take(training: TrainingSteps, size: str, number: int) -> float:
    """A step of one batch or two, of four rows or six, with noise that depends on the process and the step alone; its loss."""
    batches = 1 + number % 2
    for k in range(batches):
        rows, draw = 4 + 2 * ((number + k) % 2), 1000 * number + 10 * k + processes.rank()
        batch = batch_of(size, rows, training.device)
        noise = torch.randn(
            rows, training.model.config.latent_size, generator=torch.Generator().manual_seed(draw)
        )
        batch["noise"] = noise.to(training.device)
        loss = training.step(batch, 0.05, 1 / batches, k == batches - 1).item()
    torch.nn.utils.clip_grad_norm_(training.parameters, 1.0)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    return loss


def main(size: str) -> None:
    """Both, step by step; the first process prints."""
    processes.wait_for_all()
    device = torch.device("cuda")
    both = [steps_of(size, recorded, device) for recorded in (True, False)]
    losses = [[take(training, size, number) for training in both] for number in range(STEPS)]
    recorded, plain = (
        torch.cat([p.detach().flatten() for p in training.model.parameters()]) for training in both
    )
    first = recorded.clone()
    torch.distributed.broadcast(first, 0)
    apart = processes.greatest(int(((first - recorded).abs().max() > 0).item()))
    if processes.is_first():
        found = {"losses": losses, "weights": (recorded - plain).abs().max().item(), "apart": apart}
        print(json.dumps(found | {"graphs": len(both[0].step.graphs)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
