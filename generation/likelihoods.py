"""How likely a decoder finds replies: every prompt is read once, whatever the number of replies to it."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from dataset.batching import pad, pad_inputs
from dataset.encoding import IGNORED
from generation.decoding import Decoder
from model.decoder import causal_mask, positions_of

LARGEST = 4096  # positions whose logits are computed at once: of a vocabulary of 50,000 they take 0.8 GB, several times over
LARGEST_ON_GPU = (
    16384  # where there is memory for them: a small model's batch takes Python as long as the GPU
)
COLUMNS = 4  # of keys and values, for each of these positions

Group = tuple[
    list[int], list[int]
]  # a prompt, and the numbers of the rows that begin with it behind one condition


def positions_at_once(device: torch.device, vocabulary: int) -> int:
    """How many positions' logits there is room for, with what is computed from them."""
    if device.type != "cuda":
        return LARGEST
    there = torch.cuda.get_device_properties(device).total_memory // (
        64 * vocabulary
    )  # a sixteenth of it, in fp32
    return max(LARGEST, min(LARGEST_ON_GPU, there))


@torch.no_grad()
def log_likelihoods(
    rows: list[dict], decoder: Decoder, conditions: torch.Tensor, pad_token_id: int, batch_size: int, positions: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Log-likelihood in nats and number of tokens, the end included, of every row's reply, [B] each, on the CPU.

    A first token that nothing stands in front of does not count.

    Args:
        rows: with ``input_ids`` and ``labels``, see `dataset.encoding.encode_for_decoder`.
        conditions: what the decoder is given for each, [B, ...]: a latent, or a number that it makes nothing of.
        batch_size: replies at once.
        positions: whose logits are computed at once; default: `LARGEST`.
    """
    totals, counts = torch.zeros(len(rows)), torch.ones(len(rows))
    replies = [row["input_ids"][_prompt_length(row) :] for row in rows]
    for groups in _batches(_groups(rows, conditions), replies, batch_size, positions or LARGEST):
        chosen = [number for _, numbers in groups for number in numbers]
        found = _of_batch(groups, replies, decoder, conditions, pad_token_id)
        totals[chosen] = found.float().cpu()
        counts[chosen] = torch.tensor([max(1, len(replies[number])) for number in chosen]).float()
    return totals, counts


def _prompt_length(row: dict) -> int:
    """Tokens in front of those that count: at least one."""
    return max(1, sum(label == IGNORED for label in row["labels"]))


def _groups(rows: list[dict], conditions: torch.Tensor) -> list[Group]:
    """Rows that begin alike behind the same condition, those with short prompts first."""
    found: dict[tuple, list[int]] = {}
    for number, (row, condition) in enumerate(zip(rows, conditions.cpu().numpy())):
        prompt = tuple(row["input_ids"][: _prompt_length(row)])
        found.setdefault((prompt, condition.tobytes()), []).append(number)
    return sorted(
        ((list(prompt), numbers) for (prompt, _), numbers in found.items()), key=lambda g: len(g[0])
    )


def _batches(
    groups: list[Group], replies: list[list[int]], batch_size: int, positions: int
) -> Iterator[list[Group]]:
    """Groups, or parts of large ones, that can be looked at at once."""
    chosen: list[Group] = []
    count = longest = 0  # of the replies chosen
    for prompt, numbers in groups:
        part: list[int] = []
        for number in sorted(numbers, key=lambda number: len(replies[number])):
            length = max(longest, len(replies[number]))
            columns = (count + 1) * (len(prompt) + length)
            full = count == batch_size or (count + 1) * length > positions or columns > COLUMNS * positions
            if count and full:
                yield [*chosen, (prompt, part)] if part else chosen
                chosen, part, count, length = [], [], 0, len(replies[number])
            part.append(number)
            count, longest = count + 1, length
        chosen.append((prompt, part))
    if chosen:
        yield chosen


def _of_batch(
    groups: list[Group], replies: list[list[int]], decoder: Decoder, conditions: torch.Tensor, pad_token_id: int
) -> torch.Tensor:  # fmt: skip
    """Log-likelihoods of the groups' replies, in order."""
    device, prefix = conditions.device, decoder.n_prefix
    batch = pad_inputs([{"input_ids": prompt} for prompt, _ in groups], pad_token_id, side="left")
    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
    owner = torch.tensor([i for i, (_, numbers) in enumerate(groups) for _ in numbers], device=device)
    own = [replies[number] for _, numbers in groups for number in numbers]
    written = pad(own, pad_token_id).to(device)  # [B, T]
    there = pad([[1] * len(reply) for reply in own], 0).to(device)
    width, longest = ids.shape[1], written.shape[1]
    if longest == 0:
        return torch.zeros(len(own))

    condition = conditions[[numbers[0] for _, numbers in groups]]
    offset, cache = decoder.to_offset(condition), decoder.start_cache(condition, width + longest)
    lexical = None if decoder.to_logits is None else decoder.to_logits(condition)
    seen = torch.cat([decoder.prefix_mask(condition), mask], dim=1)
    cache.set_columns(torch.arange(prefix, prefix + width, device=device), prefix + width)
    first = decoder.call(
        decoder.embed(ids, offset), causal_mask(seen, width), positions_of(mask), cache, logits_to_keep=1
    )[:, -1]
    first = (first if lexical is None else first + lexical).float().log_softmax(-1)
    total = first[owner, written[:, 0]] * there[:, 0]
    if longest > 1:
        cache.keep(owner)
        filled = prefix + width + longest - 1
        cache.set_columns(torch.arange(prefix + width, filled, device=device), filled)
        logits = decoder.call(
            decoder.embed(written[:, :-1], offset[owner]),
            causal_mask(torch.cat([seen[owner], there[:, :-1]], dim=1), longest - 1),
            mask.sum(1)[owner].unsqueeze(1) + positions_of(there[:, :-1]),  # padding stays within the table
            cache,
        )
        logits = logits if lexical is None else logits + lexical[owner].unsqueeze(1)
        nats = F.cross_entropy(logits.float().flatten(0, 1), written[:, 1:].flatten(), reduction="none")
        total = total - (nats.view(len(own), -1) * there[:, 1:]).sum(1)
    return total
