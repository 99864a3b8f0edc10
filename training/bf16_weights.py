"""All weights of a large decoder trained in bf16: 6 bytes a parameter for weight, gradient and 8-bit moments instead of 16.

A bf16 weight has 8 bits of mantissa, so an update of less than 0.2 to 0.4 % of it is lost where the sum is rounded to the
nearest number, and training at small rates stands still. Rounded stochastically, up or down with probabilities that make the
mean the exact sum, updates that small count on average (Zamirai et al., "Revisiting BFloat16 Training", 2020, section 4).
The update itself is computed in fp32, by ``bitsandbytes``' AdamW with 8-bit moments (Dettmers et al., ICLR 2022).

``torchao.optim.AdamW8bit`` rounds so as well; it compiles its step with ``torch.compile``, which needs a C compiler on the
machine that trains, and draws its random numbers from the device's generator, which differs between processes.
"""

import functools

import torch
from torch import nn

CHUNK = (
    2**22
)  # numbers that are updated at once: 16 MB in fp32, three times, so that little is held and caches hold it
APART = 1_000_003  # between the seeds of two trainings
NUMBERS = {
    "state1": 1,
    "state2": 1,
    "absmax1": 256,
    "absmax2": 256,
}  # that an entry of the moments' tensors is for


def hold_in_bf16(module: nn.Module) -> None:
    """Keep all weights of a module in bf16, in place; what is no weight, as the frequencies of rotary positions, stays as it is."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def round_stochastically(values: torch.Tensor, generator: torch.Generator, out: torch.Tensor) -> torch.Tensor:
    """Write fp32 numbers as bf16, each one of its two neighbours, with the number itself as the mean; NaN and infinity are NaN.

    Of a number's 32 bits bf16 has the upper half. A whole random number of 16 bits is added and the lower half cut off: the
    upper half gets one more, which is the next number away from zero, as often as the lower half says.

    Args:
        values: [n], fp32.
        generator: of the same device; draws n numbers.
        out: [n], bf16.

    Returns:
        `out`.
    """
    bits = torch.randint(2**16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    bits += values.view(torch.int32)
    bits &= -(2**16)
    # what was added can carry a NaN over into the sign, and then it would be 0; 0 x NaN is NaN
    return torch.add(bits.view(torch.float32), values, alpha=0, out=out)


@functools.cache
def rounding_adamw() -> type[torch.optim.Optimizer]:
    """``bitsandbytes.optim.AdamW`` that rounds the weights it is given in bf16 stochastically; of others it is the same.

    The class takes ``seed`` besides. A step's random numbers depend on it and on the number of the step alone, so that a
    resumed training draws those that it would have drawn, and all of several processes the same.

    Raises:
        ModuleNotFoundError: without ``bitsandbytes``.
    """
    import bitsandbytes

    class RoundingAdamW(bitsandbytes.optim.AdamW):
        def __init__(self, params, *args, seed: int = 0, **options):
            super().__init__(params, *args, **options)
            self.seed, self.generators = seed, {}

        @torch.no_grad()
        def step(self, closure=None):
            """As the library's, which waits for the GPU after every weight."""
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            self.generators.clear()
            for number, group in enumerate(self.param_groups):
                for position, weight in enumerate(group["params"]):
                    if weight.grad is not None:
                        if not self.state[weight]:
                            self.init_state(group, weight, number, position)
                        self.update_step(group, weight, number, position)
            return loss

        @torch.no_grad()
        def update_step(self, group, weight, number, position):
            """A weight in bf16 piece by piece: each as the library updates it in fp32, then rounded."""
            if weight.dtype != torch.bfloat16:
                super().update_step(group, weight, number, position)
                return
            state, weights, gradient = self.state[weight], weight.data.view(-1), weight.grad.reshape(-1)
            generator = self._generator(weight.device, state["step"])
            for start in range(0, len(weights), CHUNK):
                piece = weights[start : start + CHUNK].float()
                piece.grad = gradient[start : start + CHUNK].float()
                self.state[piece] = state | {
                    name: state[name].view(-1)[start // size : (start + CHUNK) // size]
                    for name, size in NUMBERS.items()
                    if name in state
                }
                super().update_step(group, piece, number, position)
                del self.state[piece]
                round_stochastically(piece, generator, weights[start : start + CHUNK])
            state["step"] += 1

        def _generator(self, device: torch.device, step: int) -> torch.Generator:
            """This step's."""
            if device not in self.generators:
                self.generators[device] = torch.Generator(device).manual_seed(self.seed * APART + step)
            return self.generators[device]

    return RoundingAdamW
