"""Rows of token ids continued by a decoder, as text: the loop over batches that our model and the baselines share."""

from collections.abc import Callable

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dataset.batching import batches_by_length, pad_inputs
from generation.decoding import Decoder, generate
from generation.options import DecodingArguments


def decode_rows(
    decoder: Decoder,
    conditions: torch.Tensor,
    rows: list[dict],
    tokenizer: PreTrainedTokenizerBase,
    how: DecodingArguments,
    device: torch.device,
    sources: list[torch.Generator] | None = None,
    reference: torch.Tensor | None = None,
    on_text: Callable[[dict[int, str]], bool] | None = None,
) -> list[str]:
    """One text per row, in order; none depends on what else is in its batch.

    Args:
        conditions: what the decoder is given for each row, [N, ...]: a latent, or the row's number.
        rows: prompts, with ``input_ids``.
        sources: of the noise of each row; None where nothing is sampled.
        reference: latents that guidance is measured against, [N, D].
        on_text: called after every token with the texts so far of the rows under way, by number; where it returns
            False, they end there.
    """
    texts = [""] * len(rows)

    def watching(chosen: list[int]) -> Callable[[torch.Tensor], bool] | None:
        if on_text is None:
            return None

        def step(written: torch.Tensor) -> bool:
            decoded = tokenizer.batch_decode(written, skip_special_tokens=True)
            return on_text({index: " ".join(text.split()) for index, text in zip(chosen, decoded)})

        return step

    with tqdm(
        total=len(rows), desc="decoding", unit="reply", leave=False, disable=True if on_text else None
    ) as bar:
        for chosen in batches_by_length(rows, how.batch_size):
            batch = pad_inputs([rows[index] for index in chosen], tokenizer.pad_token_id, side="left")
            tokens = generate(
                decoder,
                conditions[chosen],
                batch["input_ids"].to(device),
                batch["attention_mask"].to(device),
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                max_new_tokens=how.max_new_tokens,
                decoding=how.decoding,
                top_p=how.top_p,
                temperature=how.temperature,
                sources=None if sources is None else [sources[index] for index in chosen],
                no_repeat_ngram_size=how.no_repeat_ngram_size,
                repetition_penalty=how.repetition_penalty,
                reference=None if reference is None else reference[chosen],
                guidance=how.guidance,
                plausibility=how.plausibility,
                context_block_ngram=how.context_block_ngram,
                on_step=watching(chosen),
            )
            for index, text in zip(chosen, tokenizer.batch_decode(tokens, skip_special_tokens=True)):
                texts[index] = " ".join(text.split())
            bar.update(len(chosen))
    return texts
