"""Cached, batched decoding of replies, greedy or by nucleus (top-p) sampling."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from generation.token_choice import (
    UNWRITTEN,
    ban_repeated_ngrams,
    ban_said_ngrams,
    guide,
    nucleus_choice,
    penalise_repetition,
)
from model.cache import StaticPrefixCache
from model.decoder import causal_mask, positions_of
from model.graphs import recorded
from model.noise import uniform

DECODINGS = ("greedy", "top_p")
WIDEN_BY = 16  # columns of the cache that a large batch's recorded step reads more, once they are reached
LARGE = 256  # replies
FEW = 16  # replies, whose recorded step is kept for those of a later call
FEW_ROOM = 64  # their cache has a multiple of so many columns, so that calls are alike
KEPT = 2  # recorded steps of a decoder and a thread
LOOK_EVERY = 8  # steps on a GPU between two looks at which replies have ended: looking waits for the device


@dataclass(frozen=True)
class Rules:
    """How the next token is chosen; see `generate`."""

    eos_token_id: int
    decoding: str
    top_p: float
    temperature: float
    no_repeat_ngram_size: int
    repetition_penalty: float
    guidance: float
    plausibility: float
    context_block_ngram: int = 0


class Decoder(Protocol):
    """What `generate` decodes with: `model.decoder.LatentDecoder`, and a baseline's `baselines.language_model.PlainDecoder`.

    `condition` is whatever a decoder is given for each reply, [B, ...]: a latent, or the reply's number. Nothing in `call`
    may read anything back from the device, so that a step can be recorded as a CUDA graph.
    """

    n_prefix: int

    @property
    def to_logits(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """condition -> what is added to every step's logits, [B, V]; None for nothing."""

    def to_offset(self, condition: torch.Tensor) -> torch.Tensor:
        """What `embed` adds for each reply, [B, ...]; kept for the rows still alive."""

    def prefix_mask(self, condition: torch.Tensor) -> torch.Tensor:
        """1 for the positions in front of the prompt that count, [B, n_prefix]."""

    def start_cache(self, condition: torch.Tensor, room: int) -> StaticPrefixCache:
        """A cache with room for so many tokens behind the prefix."""

    def embed(self, ids: torch.Tensor, offset: torch.Tensor) -> Any:
        """What `call` reads for token ids [B, T]."""

    def call(
        self,
        inputs: Any,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: StaticPrefixCache,
        /,
        *,
        logits_to_keep: int = 0,
    ) -> torch.Tensor:
        """Next-token logits [B, T or logits_to_keep, V]."""


class DecodingState:
    """The replies of a batch while they are written.

    With a reference every reply is read twice, behind its latent and behind its reference; the rows of the second reading
    lie behind those of the first in all that the decoder sees.

    All tensors stay where they are from step to step, and a step reads nothing back, so that it can be recorded as a CUDA
    graph (`model.graphs`); only `keep` moves them.

    Attributes:
        rows: which reply of the batch each row writes, [live rows].
        written: tokens so far, `UNWRITTEN` behind them, [live rows, longest reply].
        ended: [live rows].
    """

    def __init__(
        self, decoder: Decoder, z: torch.Tensor, reference: torch.Tensor | None, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor,
        longest: int, rules: Rules, uniforms: torch.Tensor | None, room_step: int = 1,
    ):  # fmt: skip
        """Reads the prompts and writes the first token; arguments as for `generate`, and the randomness [B, longest].

        Args:
            room_step: columns of the cache are a multiple of it.
        """
        self.decoder, self.rules, self.uniforms = decoder, rules, uniforms
        (batch, length), device, prefix = prompt_ids.shape, z.device, decoder.n_prefix
        self.readings = 1 if reference is None else 2
        if reference is not None:
            z, prompt_ids, prompt_mask = (
                torch.cat([z, reference]),
                prompt_ids.repeat(2, 1),
                prompt_mask.repeat(2, 1),
            )
        self.offset = decoder.to_offset(z)
        self.lexical = None if decoder.to_logits is None else decoder.to_logits(z)  # [B, V]
        columns = -(-(prefix + length + longest) // room_step) * room_step
        self.cache = decoder.start_cache(z, columns - prefix)
        room = self.cache.room
        self.rows = torch.arange(batch, device=device)
        self.written = torch.full((batch, longest), UNWRITTEN, device=device)
        self.said: torch.Tensor | None = None  # [B, T]
        if rules.context_block_ngram:
            self.said = torch.where(prompt_mask[:batch].bool(), prompt_ids[:batch], UNWRITTEN)
        self.ended = torch.zeros(batch, dtype=torch.bool, device=device)
        self.used: torch.Tensor | None = None  # [B, V]
        self.tokens = torch.zeros(batch, dtype=torch.long, device=device)
        self.count = torch.zeros(1, dtype=torch.long, device=device)  # tokens that every reply has

        seen = torch.cat([decoder.prefix_mask(z), prompt_mask], dim=1)
        positions = positions_of(prompt_mask)
        self.cache.set_columns(torch.arange(prefix, prefix + length, device=device), prefix + length)
        self._choose(
            decoder.call(
                decoder.embed(prompt_ids, self.offset),
                causal_mask(seen, length),
                positions,
                self.cache,
                logits_to_keep=1,
            )
        )

        self.mask = torch.zeros(
            len(seen), 1, 1, room, dtype=torch.bool, device=device
        )  # what the next token sees
        self.mask[:, 0, 0, : prefix + length] = seen.bool()
        self.column = torch.full((1,), prefix + length, device=device)  # where it goes in the cache
        self.position = positions[:, -1:] + 1
        self.room, self.filled = room, prefix + length

    def columns(self, needed: int, graphs: bool) -> int:
        """How many columns of the cache a step reads: those that it needs, or more, so that a recorded step serves longer."""
        if not graphs:
            return needed
        return self.room if self.rows.numel() < LARGE else min(self.room, -(-needed // WIDEN_BY) * WIDEN_BY)

    def step(self, visible: int) -> None:
        """Write one more token of every reply; attention reads the first `visible` columns of the cache."""
        self.mask.index_fill_(3, self.column, True)
        self.cache.set_columns(self.column, visible)
        embeddings = self.decoder.embed(self.tokens.repeat(self.readings).unsqueeze(1), self.offset)
        self._choose(
            self.decoder.call(
                embeddings, self.mask[..., :visible], self.position, self.cache, logits_to_keep=1
            )
        )
        self.column += 1
        self.position += 1

    def _choose(self, logits: torch.Tensor) -> None:
        rules, logits = self.rules, logits[:, -1]
        logits = logits if self.lexical is None else logits + self.lexical
        if self.readings == 2:
            guided, plain = logits.float().chunk(2)
            logits = guide(guided, plain, rules.guidance, rules.plausibility)
        if rules.no_repeat_ngram_size:
            logits = ban_repeated_ngrams(logits, self.written, self.count, rules.no_repeat_ngram_size)
        if self.said is not None:
            size, end = rules.context_block_ngram, rules.eos_token_id
            logits = ban_said_ngrams(logits, self.said, self.written, self.count, size, end)
        if rules.repetition_penalty != 1.0:
            if self.used is None:
                self.used = torch.zeros_like(logits, dtype=torch.bool)
            logits = penalise_repetition(logits, self.used, rules.repetition_penalty)
        if rules.decoding == "greedy":
            tokens = logits.argmax(-1)
        else:
            assert self.uniforms is not None, "top_p has its randomness"
            tokens = nucleus_choice(
                logits, self.uniforms.index_select(1, self.count).squeeze(1), rules.top_p, rules.temperature
            )
        self.ended |= tokens == rules.eos_token_id
        self.tokens.copy_(tokens)
        if self.used is not None:
            self.used.scatter_(1, tokens.unsqueeze(1), True)
        self.written.index_copy_(1, self.count, torch.where(self.ended, UNWRITTEN, tokens).unsqueeze(1))
        self.count += 1

    def like(self) -> tuple:
        """What two states have in common if a step that is recorded of the one writes the other's replies."""
        tensors = {
            name: None if value is None else (value.shape, value.dtype) for name, value in self._tensors()
        }
        weights: list[int] = []
        if isinstance(self.decoder, torch.nn.Module):
            weights = [weight.data_ptr() for weight in self.decoder.parameters()]
        return self.readings, self.room, self.rules, *tensors.items(), *weights

    def take(self, other: "DecodingState") -> None:
        """Go on with the replies of a state that is `like` this one, in this one's own tensors."""
        for (_, own), (_, value) in zip(self._tensors(), other._tensors()):
            if own is not None and value is not None:
                own.copy_(value)
        self.filled = other.filled

    def _tensors(self) -> list[tuple[str, torch.Tensor | None]]:
        names = ("rows", "written", "ended", "used", "tokens", "uniforms", "said", "offset", "lexical", "mask", "position", "column", "count")  # fmt: skip
        states = [(f"{kind} {n}", getattr(layer, kind)) for n, layer in enumerate(self.cache.layers) for kind in ("keys", "values")]  # fmt: skip
        return [(name, getattr(self, name)) for name in names] + states

    def keep(self, live: torch.Tensor) -> None:
        """Only these rows, [n], go on."""
        read = torch.cat([live + reading * self.rows.numel() for reading in range(self.readings)])
        self.cache.keep(read)
        for names, chosen in (
            (("rows", "written", "ended", "used", "tokens", "uniforms", "said"), live),
            (("offset", "lexical", "mask", "position"), read),
        ):
            for name in names:
                value = getattr(self, name)
                setattr(self, name, None if value is None else value[chosen])


def can_record(z: torch.Tensor) -> bool:
    """Whether steps are recorded: on a GPU alone."""
    return z.is_cuda


class KeptStep:
    """A recorded step, and the state whose replies it writes."""

    def __init__(self, state: DecodingState, replay: Callable[[], None]):
        self.like, self.state, self.replay = state.like(), state, replay


def kept_steps(decoder: Decoder) -> list[KeptStep] | None:
    """A decoder's recorded steps of this thread, the last ones; None where a step may read what is another's at the next call."""
    if not getattr(decoder, "steps_can_be_kept", False):
        return None
    kept: dict[int, list[KeptStep]] = decoder.__dict__.setdefault("kept_steps", {})
    if threading.get_ident() not in kept:
        for ended in kept.keys() - {thread.ident for thread in threading.enumerate()}:
            del kept[ended]  # with what its steps hold on the device
    return kept.setdefault(threading.get_ident(), [])


@torch.no_grad()
def generate(
    decoder: Decoder,
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
    reference: torch.Tensor | None = None,
    guidance: float = 1.0,
    plausibility: float = 0.0,
    context_block_ngram: int = 0,
    on_step: Callable[[torch.Tensor], bool] | None = None,
    graphs: bool = True,
) -> list[list[int]]:
    """Decode one reply per latent; rows that have ended leave the batch.

    Args:
        z: the decoder's condition of each reply, [B, ...]; a latent [B, D] for ours.
        prompt_ids, prompt_mask: [B, T], padded on the LEFT.
        decoding: ``greedy`` or ``top_p``.
        sources: one generator per row, needed for ``top_p``; each draws all its noise at once, so that a reply does not
            depend on the batch it is decoded in.
        no_repeat_ngram_size: no n-gram of that size twice in a reply; 0 allows all.
        repetition_penalty: over 1, tokens that the reply has already become less likely (Keskar et al., 2019); 1 is off.
        reference: [B, D], latents without control, needed for a guidance other than 1.
        guidance, plausibility: see `generation.token_choice.guide`; a guidance of 1 is off.
        context_block_ngram: no n-gram of that size that the prompt has; 0 allows all.
        on_step: called after every step with all rows' tokens so far, [B, steps], padded where a row has ended; where it
            returns False, decoding ends there.
        graphs: record the step as a CUDA graph where there is a GPU.

    Returns:
        Token ids per row without the end-of-sequence token.

    Raises:
        ValueError: for an unknown decoding, ``top_p`` without sources, or guidance without a reference.
    """
    if decoding not in DECODINGS:
        raise ValueError(f"decoding must be one of {DECODINGS}, got {decoding!r}")
    if decoding == "top_p" and sources is None:
        raise ValueError("top_p decoding needs one generator per row in `sources`")
    if guidance != 1.0 and reference is None:
        raise ValueError(f"guidance {guidance} needs the latents without control in `reference`")
    if max_new_tokens < 1:
        return [[] for _ in range(z.shape[0])]
    graphs = graphs and can_record(z)
    uniforms = None
    if decoding == "top_p" and sources is not None:
        uniforms = uniform(sources, max_new_tokens, z.device)
    rules = Rules(
        eos_token_id,
        decoding,
        top_p,
        temperature,
        no_repeat_ngram_size,
        repetition_penalty,
        guidance,
        plausibility,
        context_block_ngram,
    )
    kept = kept_steps(decoder) if graphs and len(z) <= FEW else None
    replies = DecodingState(
        decoder,
        z,
        None if guidance == 1.0 else reference,
        prompt_ids,
        prompt_mask,
        max_new_tokens,
        rules,
        uniforms,
        1 if kept is None else FEW_ROOM,
    )
    whole = torch.full(
        (z.shape[0], max_new_tokens), UNWRITTEN, device=z.device
    )  # all replies, those that have ended included
    replay: Callable[[], None] | None = None
    recorded_columns = 0
    if kept:
        like = replies.like()
        for earlier in kept:
            if earlier.like == like:
                earlier.state.take(replies)
                replies, replay, recorded_columns = earlier.state, earlier.replay, earlier.state.room
                break
    for step in range(1, max_new_tokens + 1):  # `step` tokens are written
        if on_step is not None:
            whole[replies.rows] = replies.written
            if not on_step(torch.where(whole[:, :step] == UNWRITTEN, pad_token_id, whole[:, :step])):
                break
        if step == max_new_tokens:
            break
        if not graphs or step % LOOK_EVERY == 0:
            live = (~replies.ended).nonzero().squeeze(1)
            if live.numel() == 0:
                break
            if kept is None and live.numel() <= replies.rows.numel() * (
                0.5 if graphs else 0.85
            ):  # moving the rest costs as much as some steps
                whole[replies.rows] = replies.written
                replies.keep(live)
                replay = None
        columns = replies.columns(replies.filled + step, graphs)
        if replay is not None and columns == recorded_columns:
            replay()
        else:
            replies.step(columns)
            replay, recorded_columns = None, columns
            if graphs and step + LOOK_EVERY < max_new_tokens:
                replay = recorded(lambda: replies.step(recorded_columns))  # noqa: B023
                graphs = replay is not None
                if kept is not None and replay is not None:
                    kept[:] = [KeptStep(replies, replay), *kept[: KEPT - 1]]
    whole[replies.rows] = replies.written
    return _until_end(whole)


def _until_end(written: torch.Tensor) -> list[list[int]]:
    lengths = (written != UNWRITTEN).sum(1).tolist()
    return [row[:length] for row, length in zip(written.tolist(), lengths)]
