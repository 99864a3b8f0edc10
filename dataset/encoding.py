"""Dialogues as token ids: what the encoder, the decoder and the coherence model read.

Special tokens that appear in a user's text are taken as plain text, never as control. Truncation drops the oldest
turns first, then the beginning of the last user turn, and never the response as long as it fits on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from common.errors import InputError
from dataset.word_pieces import ids_by_word, known_words

IGNORED = -100  # label of positions without a loss
UNBOUNDED = 10**9  # tokens, of which nothing is left out
SHORTEST = 8  # tokens that an input must have room for: special ones and a word or two of either side


@dataclass(frozen=True)
class DialogueTemplate:
    """How a decoder's text marks who speaks; the default is DialoGPT's, whose turns end with its end-of-text token.

    `dataset.chat_template` reads the marks of an instruct model off its tokenizer.
    """

    user_prefix: str = ""
    assistant_prefix: str = ""
    turn_start: str = ""  # stands before every turn's text; " " for a byte-level vocabulary after a prefix
    turn_end: str = "<|endoftext|>"
    start: str = ""  # stands before the first turn that is read: the beginning-of-sequence token of bases that want one
    reply_end: str | None = None  # after a reply, where that differs from the end of a user's turn


def ended(template: DialogueTemplate, tokenizer: PreTrainedTokenizerBase) -> DialogueTemplate:
    """The template for a decoder's tokenizer: where that has no DialoGPT end-of-text token, its own ends a turn."""
    default = DialogueTemplate().turn_end
    return (
        replace(template, turn_end=tokenizer.eos_token)
        if template.turn_end == default and default not in tokenizer.get_vocab()
        else template
    )


def _brackets(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What an encoder's input begins with, and what ends each part: cls and sep, else bos (or nothing) and eos.

    Raises:
        InputError: where the tokenizer has neither sep nor eos.
    """
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if end is None:
        raise InputError(
            f"the encoder's tokenizer ({tokenizer.name_or_path or type(tokenizer).__name__}) has neither a separator nor an end-of-sequence token; turns cannot be told apart"
        )
    return [] if start is None else [start], [end]


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of plain texts, without special tokens and with none recognised in them."""
    if not texts:
        return []
    known = known_words(tokenizer)
    if known is not None:
        return ids_by_word(tokenizer, texts, known)
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def marker_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a mark, in which special tokens count; none of an empty one."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _all_turn_ids(
    tokenizer: PreTrainedTokenizerBase, contexts: list[tuple[str, ...]], start: str = ""
) -> list[list[list[int]]]:
    """Ids of every turn of every context, from one call of the tokenizer; a turn that stands in many of them is read once."""
    different = list(dict.fromkeys(start + turn for context in contexts for turn in context))
    ids = dict(zip(different, text_ids(tokenizer, different)))
    return [[ids[start + turn] for turn in context] for context in contexts]


def _fitting(turns: list[list[int]], room: int) -> list[int]:
    """The latest turns that fit into `room` tokens; of a single turn that does not fit, its end."""
    kept: list[int] = []
    for turn in reversed(turns):
        if len(kept) + len(turn) > room:
            break
        kept = turn + kept
    if not kept and room > 0:
        kept = turns[-1][-room:]
    return kept


def encode_contexts(
    tokenizer: PreTrainedTokenizerBase,
    contexts: list[tuple[str, ...]],
    responses: list[str] | None,
    max_length: int,
    exact_match: bool = False,
) -> list[dict[str, list[int]]]:
    """``[CLS] turn [SEP] turn [SEP]`` (token type 0), with ``response [SEP]`` (token type 1) where given.

    Args:
        tokenizer: of a BERT-type encoder, with ``cls`` and ``sep`` tokens.
        responses: one per context, or None to encode contexts alone.
        max_length: tokens, special ones included.
        exact_match: add 2 to the token type of a token that also stands on the other side (the exact-match feature of
            Chen et al., ACL 2017): what an encoder trained from scratch cannot learn from a few thousand pairs.

    Returns:
        ``{"input_ids", "token_type_ids"}`` per context.
    """
    cls, sep = _brackets(tokenizer)
    turns_of = _all_turn_ids(tokenizer, contexts)
    response_ids = text_ids(tokenizer, responses) if responses is not None else [None] * len(contexts)
    encoded = []
    for turns, response in zip(turns_of, response_ids):
        tail = [] if response is None else response[: max_length - 2 - len(cls)] + sep
        context = _fitting([turn + sep for turn in turns], max_length - len(cls) - len(tail))
        ids = cls + context + tail
        types = [0] * (len(ids) - len(tail)) + [1] * len(tail)
        if exact_match:
            shared = set(ids[: len(ids) - len(tail)]) & set(tail) - set(sep)
            types = [kind + 2 if token in shared else kind for token, kind in zip(ids, types)]
        encoded.append({"input_ids": ids, "token_type_ids": types})
    return encoded


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int
) -> list[dict[str, list[int]]]:
    """``[CLS] text [SEP]``, cut at its end to `max_length` tokens: what an attribute classifier reads.

    A decoder's tokenizer, which has no ``[CLS]``, gives the text and its end-of-sequence token, without token types: such a
    classifier pools at the last token, which has seen all others.
    """
    if tokenizer.cls_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer ({tokenizer.name_or_path or type(tokenizer).__name__}) has neither a [CLS] nor an end-of-sequence token; a text's end cannot be marked"
            )
        return [
            {"input_ids": [*ids[: max_length - 1], tokenizer.eos_token_id]}
            for ids in text_ids(tokenizer, texts)
        ]
    cls, sep = _brackets(tokenizer)
    rows = [cls + ids[: max_length - 2] + sep for ids in text_ids(tokenizer, texts)]
    return [{"input_ids": ids, "token_type_ids": [0] * len(ids)} for ids in rows]


def encode_for_decoder(
    tokenizer: PreTrainedTokenizerBase,
    template: DialogueTemplate,
    contexts: list[tuple[str, ...]],
    responses: list[str] | None,
    max_length: int,
    use_context: bool = True,
) -> list[dict[str, list[int]]]:
    """The decoder's prompt (context, if it is used, and the mark of the reply), followed by the response where given.

    Args:
        max_length: tokens, prompt and response together; a prompt alone leaves no room, so pass less for generation.
        use_context: False for responses from the latent alone, as published.

    Returns:
        ``{"input_ids", "labels"}`` per context; labels are -100 over the prompt, the response ends with the
        end-of-sequence token. Without responses ``labels`` is absent.
    """
    eos = [tokenizer.eos_token_id]
    reply_end = template.turn_end if template.reply_end is None else template.reply_end
    begin, user, assistant, *ends = (
        marker_ids(tokenizer, mark)
        for mark in (
            template.start,
            template.user_prefix,
            template.assistant_prefix,
            template.turn_end,
            reply_end,
        )
    )
    start = assistant or (
        []
        if use_context or begin
        else [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else eos[0]]
    )
    turns_of = _all_turn_ids(
        tokenizer, contexts if use_context else [() for _ in contexts], template.turn_start
    )
    replies: Sequence[list[int] | None] = (
        text_ids(tokenizer, [template.turn_start + reply if reply else "" for reply in responses])
        if responses is not None
        else [None] * len(contexts)
    )
    encoded = []
    for turns, reply in zip(turns_of, replies):
        room = max_length - len(begin) - len(start)
        tail = [] if reply is None else reply[: room - 1 - bool(turns)] + eos
        marked = [
            (user, assistant)[position % 2] + turn + ends[position % 2] for position, turn in enumerate(turns)
        ]
        prompt = begin + (_fitting(marked, room - len(tail)) if marked else []) + start
        row = {"input_ids": prompt + tail}
        if reply is not None:
            row["labels"] = [IGNORED] * len(prompt) + tail
        encoded.append(row)
    return encoded


def prompt_length(positions: int | None, decoder_length: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have, so that every reply has room for all its tokens, whatever else is in its batch.

    Args:
        positions: of the decoder's table; None where it has none.

    Raises:
        InputError: where less than `SHORTEST` tokens would be left for the context.
    """
    if positions is None:
        return decoder_length
    if positions - max_new_tokens < SHORTEST:
        raise InputError(
            f"--max-new-tokens {max_new_tokens} leaves no room for the context; the decoder has {positions} positions"
        )
    return min(decoder_length, positions - max_new_tokens)


@dataclass(frozen=True)
class Cut:
    """What a prompt leaves out of its context: so many of the oldest turns, and tokens of the oldest one that is left."""

    turns: int
    tokens: int
    room: int

    def __str__(self) -> str:
        parts = (
            [f"the {'oldest turn' if self.turns == 1 else f'{self.turns} oldest turns'}"]
            if self.turns
            else []
        )
        parts += [f"the first {self.tokens} tokens of the last turn"] if self.tokens else []
        return f"{' and '.join(parts)} left out: the decoder reads {self.room} tokens, so that the reply has room"


def cuts(
    tokenizer: PreTrainedTokenizerBase,
    template: DialogueTemplate,
    contexts: list[tuple[str, ...]],
    room: int,
    use_context: bool = True,
) -> list[Cut | None]:
    """What prompts of at most `room` tokens leave out of their contexts; None where nothing, as where no context is used."""

    def lengths(some: list[tuple[str, ...]]) -> list[int]:
        return [
            len(row["input_ids"]) for row in encode_for_decoder(tokenizer, template, some, None, UNBOUNDED)
        ]

    if not use_context:
        return [None] * len(contexts)
    different = list(dict.fromkeys(contexts))
    by_context: dict[tuple[str, ...], Cut] = {}
    for context, needed in zip(different, lengths(different)):
        if needed > room:
            rest = lengths([context[start:] for start in range(len(context))])
            turns = next((start for start, length in enumerate(rest) if length <= room), len(context) - 1)
            by_context[context] = Cut(turns, max(0, rest[turns] - room), room)
    return [by_context.get(context) for context in contexts]
