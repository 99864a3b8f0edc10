"""FUDGE's guides inside the CVAE's decoder: control by the latent and, at every token, by classifiers of the reply so far.

Two kinds of control that know nothing of each other. The latent's energy chooses where to write from, the guides (`baselines.fudge`)
which of the k most probable tokens to write. No published method does this; it answers what one adds to the other.
"""

import torch

from baselines.fudge import Fudge, Guidance, GuidedCache
from baselines.language_model import Step
from common.errors import InputError
from generation.decoding import Decoder
from generation.generator import ReplyGenerator
from generation.options import DecodingArguments
from generation.requests import Request
from model.decoder import LatentDecoder
from model.sampler import Sample


class GuidedLatentDecoder:
    """A `LatentDecoder` whose candidates guides have their say about; its condition are the numbers of the replies, [B].

    Args:
        z: latents of all replies, [N, D].
        guidance: whose targets are those of all replies.
    """

    to_logits = None  # what z adds to the logits is in `call`, before the candidates are taken

    def __init__(self, decoder: LatentDecoder, z: torch.Tensor, guidance: Guidance):
        self.decoder, self.z, self.guidance = decoder, z, guidance
        self.n_prefix = decoder.n_prefix

    def to_offset(self, rows: torch.Tensor) -> torch.Tensor:
        """The numbers of the replies [B] as they are: `generate` keeps them for the rows still alive."""
        return rows

    def embed(self, ids: torch.Tensor, rows: torch.Tensor) -> Step:
        """What `call` reads."""
        return Step(ids, rows)

    def prefix_mask(self, rows: torch.Tensor) -> torch.Tensor:
        """As `LatentDecoder.prefix_mask`, of these replies."""
        return self.decoder.prefix_mask(self.z[rows])

    def start_cache(self, rows: torch.Tensor, room: int) -> GuidedCache:
        """As `LatentDecoder.start_cache`, with room for the guides' caches beside it."""
        dtype = self.decoder.lm.dtype
        prefix = [(keys.to(dtype), values.to(dtype)) for keys, values in self.decoder.prefix(self.z[rows])]
        return GuidedCache(prefix, room)

    def call(
        self, step: Step, mask: torch.Tensor, position_ids: torch.Tensor, cache: GuidedCache, /, *, logits_to_keep: int = 1
    ) -> torch.Tensor:  # fmt: skip
        """Guided logits of the last position, [B, 1, V]; arguments as for `LatentDecoder.call`."""
        z = self.z[step.rows]
        embeddings = self.decoder.embed(step.ids, self.decoder.to_offset(z))
        logits = self.decoder.call(embeddings, mask, position_ids, cache, logits_to_keep=1)[:, -1].float()
        if self.decoder.to_logits is not None:
            logits = logits + self.decoder.to_logits(z)
        return self.guidance.of(logits, step, cache)


class GuidedWriting(ReplyGenerator):
    """A trained CVAE that decodes with guides, once `guide` has said whose and how strongly."""

    fudge: Fudge | None = None
    strength: float = 0.0
    guide_candidates: int = 50

    def guide(self, fudge: Fudge) -> None:
        """Take these guides.

        Raises:
            InputError: where they read other tokens than the decoder writes.
        """
        if fudge.model.tokenizer.get_vocab() != self.decoder_tokenizer.get_vocab():
            raise InputError("the guides' tokenizer is not the decoder's; train both from the same base")
        self.fudge = fudge

    def conditioned(
        self, requests: list[Request], sample: Sample, how: DecodingArguments
    ) -> tuple[Decoder, torch.Tensor, torch.Tensor | None]:
        """The decoder with its guides, and the numbers of the replies; a strength of 0 leaves the guides out.

        Raises:
            InputError: for a strength beside guidance by the latent without control, which needs the decoder twice.
        """
        if self.fudge is None or self.strength == 0:
            return super().conditioned(requests, sample, how)
        if how.guidance != 1:
            raise InputError(f"guide_strength goes without guidance; found guidance {how.guidance}")
        guidance = self.fudge.guidance(requests, how, self.strength, self.guide_candidates)
        numbers = torch.arange(len(requests), device=self.device)
        return GuidedLatentDecoder(self.decoder(how), sample.z, guidance), numbers, None
