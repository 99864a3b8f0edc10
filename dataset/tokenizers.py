"""Tokenizers trained from scratch on the project's own texts, for models that start from no public base."""

import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dataset.encoding import DialogueTemplate

LONGEST_WORD = 1000  # characters between spaces that a vocabulary is trained on in one piece
LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
SCRATCH_TEMPLATE = DialogueTemplate(
    user_prefix="<user>", assistant_prefix="<reply>", turn_start=" ", turn_end=""
)


def divided(texts: Iterable[str]) -> Iterator[str]:
    """The texts with their longest words in pieces: a vocabulary's training takes time that grows with the square of a word's length.

    Says once that there are such words.
    """
    warned = False
    for text in texts:
        if len(text) > LONGEST_WORD and (long := LONG_WORD.findall(text)):
            if not warned:
                print(
                    f"warning: a text has {max(map(len, long))} characters without a space; the vocabulary is trained on pieces of {LONGEST_WORD} of them",
                    flush=True,
                )
            warned = True
            text = LONG_WORD.sub(_pieces, text)
        yield text


def _pieces(word: re.Match) -> str:
    return " ".join(word[0][begin : begin + LONGEST_WORD] for begin in range(0, len(word[0]), LONGEST_WORD))


def train_encoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Lower-cased WordPiece with BERT's special tokens."""

    def wordpiece(**vocabulary) -> Tokenizer:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", **vocabulary))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer

    texts, tokenizer, special = list(divided(texts)), wordpiece(), ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = sorted(
        {
            letter
            for text in texts
            for letter in tokenizer.normalizer.normalize_str(text)
            if not letter.isspace()
        }
    )
    # the trainer numbers "##" letters in the order of a hash map and breaks ties by number: named first, they keep theirs
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=special + ["##" + letter for letter in letters],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = wordpiece(vocab=tokenizer.get_vocab())  # without the letters as special tokens
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def train_decoder_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with marks for the two speakers (`SCRATCH_TEMPLATE`)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<eos>", "<pad>", SCRATCH_TEMPLATE.user_prefix, SCRATCH_TEMPLATE.assistant_prefix]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" " + text for text in divided(texts)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        bos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=special[2:],
    )
