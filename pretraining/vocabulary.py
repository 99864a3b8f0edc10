"""The tiny bases' vocabularies, and the marks of the two speakers as a chat template, by which every script knows them."""

from collections.abc import Iterable

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
    tokenizer = train_encoder_tokenizer(texts, vocab_size - 1)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    return tokenizer


def dialogue_ids(tokenizer: PreTrainedTokenizerBase, dialogues: list[tuple[str, ...]]) -> list[list[int]]:
    """Whole dialogues as the decoder will read them, mark for mark."""
    template = template_of(tokenizer, DialogueTemplate())
    rows = encode_for_decoder(
        tokenizer, template, [turns[:-1] for turns in dialogues], [turns[-1] for turns in dialogues], 10**9
    )
    return [row["input_ids"] for row in rows]
