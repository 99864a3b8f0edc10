"""The next tokens of rows of equal rules, chosen on the device while the CPU does something else."""

from typing import TYPE_CHECKING

import torch

from dataset.batching import pad
from generation.decoding import Rules
from generation.token_choice import (
    UNDECIDED,
    UNWRITTEN,
    ban_repeated_ngrams,
    ban_said_ngrams,
    guide,
    likely_choice,
    nucleus_choice,
    penalise_repetition,
)
from model.transfers import Arriving, to_device

if TYPE_CHECKING:
    from server.slots import DecodingRow


class NextTokens:
    """Tokens that are being chosen as `generation.decoding.DecodingState` chooses them.

    To make it launches the work and waits for nothing.

    Args:
        readings: logits behind the latents, [B, V], and with guidance behind the references as well; they stay as they
            are until `take`.
        rows: B of them, of these rules.
    """

    def __init__(self, readings: list[torch.Tensor], rows: list["DecodingRow"], rules: Rules):
        self._rows, self._rules = rows, rules
        self._logits = ruled_logits(readings, rows, rules)
        if rules.decoding == "greedy":
            chosen = self._logits.argmax(-1)
        else:
            draws = [row.uniforms[len(row.written)] for row in rows if row.uniforms is not None]
            self._uniforms = to_device(torch.tensor(draws, dtype=torch.float32), self._logits.device)
            chosen = likely_choice(self._logits, self._uniforms, rules.top_p, rules.temperature)
        self._chosen = Arriving(chosen)

    def take(self) -> None:
        """Give every row its token, once they are known."""
        tokens = self._chosen.wait().tolist()
        if UNDECIDED in tokens:  # now and then: many tokens are nearly equally likely
            rules = self._rules
            tokens = nucleus_choice(self._logits, self._uniforms, rules.top_p, rules.temperature).tolist()
        for row, token in zip(self._rows, tokens):
            row.take(token)


def ruled_logits(readings: list[torch.Tensor], rows: list["DecodingRow"], rules: Rules) -> torch.Tensor:
    """Logits [B, V] by which the next tokens are chosen: guided, and without what the rules forbid; see `NextTokens`."""
    logits = readings[0]
    if len(readings) == 2:
        logits = guide(logits.float(), readings[1].float(), rules.guidance, rules.plausibility)
    device = logits.device
    # what is unwritten lies in front, where no n-gram can begin as a reply ends
    written = to_device(pad([row.written for row in rows], UNWRITTEN, side="left"), device)
    most = written.shape[1]
    step = torch.full((1,), most, device=device)
    if rules.no_repeat_ngram_size:
        logits = ban_repeated_ngrams(logits, written, step, rules.no_repeat_ngram_size)
    if rules.context_block_ngram:
        said = to_device(pad([row.prompt for row in rows], UNWRITTEN, side="left"), device)
        logits = ban_said_ngrams(logits, said, written, step, rules.context_block_ngram, rules.eos_token_id)
    if rules.repetition_penalty != 1.0 and most:
        used = torch.zeros(len(rows), logits.shape[1] + 1, dtype=torch.bool, device=device)
        used.scatter_(1, torch.where(written == UNWRITTEN, logits.shape[1], written), True)
        logits = penalise_repetition(logits, used[:, :-1], rules.repetition_penalty)
    return logits
