"""Cached, batched decoding of replies, greedy or by nucleus (top-p) sampling."""

from collections.abc import Callable

import torch
from transformers.generation.logits_process import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from model.decoder import LatentDecoder
from model.noise import uniform

DECODINGS = ("greedy", "top_p")


def nucleus_choice(logits: torch.Tensor, uniforms: torch.Tensor, top_p: float, temperature: float) -> torch.Tensor:
    """One token per row from the smallest set of tokens whose probability reaches `top_p` (Holtzman et al., 2020).

    Args:
        logits: [B, V].
        uniforms: [B] in [0, 1), the randomness.
        top_p: in (0, 1].
        temperature: over 0; divides the logits.

    Returns:
        Token ids, [B].
    """
    probabilities, order = torch.softmax(logits.float() / temperature, dim=-1).sort(dim=-1, descending=True)
    cumulative = probabilities.cumsum(-1)
    kept = torch.where(cumulative - probabilities < top_p, probabilities, torch.zeros_like(probabilities)).cumsum(-1)
    position = torch.searchsorted(kept, (uniforms.to(kept) * kept[:, -1]).unsqueeze(1), right=True)
    return order.gather(1, position.clamp_max(order.shape[1] - 1)).squeeze(1)


@torch.no_grad()
def generate(
    decoder: LatentDecoder,
    z: torch.Tensor,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    *,
    eos_token_id: int,
    pad_token_id: int,
    max_new_tokens: int,
    decoding: str = "greedy",
    top_p: float = 0.9,
    temperature: float = 1.0,
    sources: list[torch.Generator] | None = None,
    no_repeat_ngram_size: int = 0,
    repetition_penalty: float = 1.0,
    on_step: Callable[[torch.Tensor], bool] | None = None,
) -> list[list[int]]:
    """Decode one reply per latent; rows that have ended leave the batch.

    Args:
        z: [B, D].
        prompt_ids, prompt_mask: [B, T], padded on the LEFT.
        decoding: ``greedy`` or ``top_p``.
        sources: one generator per row, needed for ``top_p``; each draws all its noise at once, so that a reply does not
            depend on the batch it is decoded in.
        no_repeat_ngram_size: no n-gram of that size twice in a reply; 0 allows all.
        repetition_penalty: over 1, tokens that the reply has already become less likely (Keskar et al., 2019); 1 is off.

        on_step: called after every step with all rows' tokens so far, [B, steps], padded where a row has ended; where it
            returns False, decoding ends there.

    Returns:
        Token ids per row without the end-of-sequence token.

    Raises:
        ValueError: for an unknown decoding, or ``top_p`` without sources.
    """
    if decoding not in DECODINGS:
        raise ValueError(f"decoding must be one of {DECODINGS}, got {decoding!r}")
    if decoding == "top_p" and sources is None:
        raise ValueError("top_p decoding needs one generator per row in `sources`")
    batch = z.shape[0]
    uniforms = uniform(sources, max_new_tokens, z.device) if decoding == "top_p" else None  # [B, max_new_tokens]
    processors = LogitsProcessorList([NoRepeatNGramLogitsProcessor(no_repeat_ngram_size)] if no_repeat_ngram_size else [])
    if repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(repetition_penalty))

    offset, cache = decoder.to_offset(z), decoder.start_cache(z)
    lexical = None if decoder.to_logits is None else decoder.to_logits(z)  # [B, V]
    rows = torch.arange(batch, device=z.device)  # which reply each live row writes
    written = torch.full((batch, max_new_tokens), pad_token_id, device=z.device)
    past_mask, step_mask = prompt_mask, prompt_mask
    embeddings = decoder.embed(prompt_ids, offset)
    for step in range(max_new_tokens):
        logits = decoder.run(embeddings, step_mask, past_mask, cache, logits_to_keep=1)[:, -1]
        logits = logits if lexical is None else logits + lexical[rows]
        logits = processors(written[rows, :step], logits)
        if decoding == "greedy":
            tokens = logits.argmax(-1)
        else:
            tokens = nucleus_choice(logits, uniforms[rows, step], top_p, temperature)
        written[rows, step] = torch.where(tokens == eos_token_id, pad_token_id, tokens)
        if on_step is not None and not on_step(written[:, : step + 1]):
            break
        alive = (tokens != eos_token_id).nonzero().squeeze(1)
        if alive.numel() == 0:
            break
        if alive.numel() < rows.numel():
            cache.batch_select_indices(alive)
            rows, tokens, offset, past_mask = rows[alive], tokens[alive], offset[alive], past_mask[alive]
        step_mask = past_mask.new_ones(rows.numel(), 1)
        past_mask = torch.cat([past_mask, step_mask], dim=1)
        embeddings = decoder.embed(tokens.unsqueeze(1), offset)
    return _until_padding(written, pad_token_id)


def _until_padding(written: torch.Tensor, pad_token_id: int) -> list[list[int]]:
    replies = []
    for row in written.tolist():
        end = row.index(pad_token_id) if pad_token_id in row else len(row)
        replies.append(row[:end])
    return replies
