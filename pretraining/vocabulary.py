"""The tiny bases' vocabularies, and the marks of the two speakers as a chat template, by which every script knows them."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dataset.chat_template import template_of
from dataset.encoding import DialogueTemplate, encode_for_decoder
from dataset.tokenizers import train_encoder_tokenizer

END, PAD, USER, REPLY = "<eos>", "<pad>", "<user>", "<reply>"
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<user>' + message['content'] if message['role'] == 'user' else '<reply>' + message['content'] + '<eos>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<reply>' -}}{%- endif -%}"
)


@contextmanager
def all_cores() -> Iterator[None]:
    """Tokenizers work on all cores meanwhile, and on one again before any process is forked, where their threads would be missing."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = "false" if before is None else before


def decoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which a turn's first word is the token that it is within a sentence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, PAD, USER, REPLY]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with all_cores():
        tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=PAD,
        extra_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


def encoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Lower-cased WordPiece with BERT's special tokens and one for masked words."""
    with all_cores():
        tokenizer = train_encoder_tokenizer(texts, vocab_size - 1)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


def dialogue_ids(tokenizer: PreTrainedTokenizerBase, dialogues: list[tuple[str, ...]]) -> list[list[int]]:
    """Whole dialogues as the decoder will read them, mark for mark."""
    template = template_of(tokenizer, DialogueTemplate())
    with all_cores():
        rows = encode_for_decoder(
            tokenizer,
            template,
            [turns[:-1] for turns in dialogues],
            [turns[-1] for turns in dialogues],
            10**9,
        )
    return [row["input_ids"] for row in rows]
