"""Replies from a trained CVAE: contexts and targets in, latents by ODE or Langevin, text out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from common.errors import InputError
from common.schema import Schema
from dataset.batching import batches_by_length, pad_inputs, rounded
from dataset.encoding import (
    UNBOUNDED,
    Cut,
    DialogueTemplate,
    cuts,
    encode_contexts,
    encode_for_decoder,
    prompt_length,
)
from generation.choosing import CandidateScores, candidate_scores
from generation.control_weights import by_attribute
from generation.decoding import Decoder
from generation.energies import ENERGIES, Wanted
from generation.likelihoods import positions_at_once
from generation.loading import load_cvae, tokenizers_of
from generation.options import ControlArguments, DecodingArguments, in_bf16
from generation.problem import Problem
from generation.record import timed
from generation.requests import Drafts, Replies, Request
from generation.samplers import SAMPLERS
from generation.writing import decode_rows
from model.decoder import LatentDecoder, positions_limit
from model.fused_layers import fuse_layers
from model.gaussian import Gaussian
from model.graphs import Recordings
from model.noise import generators, normal
from model.prior import combine
from model.sampler import Sample


class ReplyGenerator:
    """A trained CVAE with its tokenizers, ready to write replies.

    Attributes:
        positions: tokens that the decoder's position table has room for; None where it has none.
    """

    def __init__(
        self, folder: Path, device: torch.device, schema: Schema | None = None, precision: str = "auto"
    ):
        """Load ``outs/<run>/cvae``; `precision` is that of the contexts' encoding.

        Raises:
            InputError: where there is none, or one that was trained for another schema.
        """
        if not (folder / "config.json").is_file():
            raise InputError(
                f"no trained CVAE in {folder}; train it first: RUN={folder.parent.name} bash train_cvae.sh"
            )
        self.model = load_cvae(folder)
        self.encoder_tokenizer, self.decoder_tokenizer = tokenizers_of(folder, self.model.config)
        self.model.merge()  # adapters cost time at every token, and nothing once they are part of the weights
        self.model.to(device)
        fuse_layers(self.model.decoder.lm)
        self.config, self.device, self.precision = self.model.config, device, precision
        if schema is not None and schema.aspects != self.config.attributes:
            raise InputError(
                f"{folder} was trained for the aspects {self.config.attributes}; the schema has {schema.aspects}"
            )
        self.template = DialogueTemplate(**self.config.template)
        self.names = list(self.config.attributes)
        self.positions = positions_limit(self.model.decoder.lm)
        self._priors_of = Recordings(self._encoded_priors, device)
        self._aspects_of = Recordings(self._read_aspects, device)

    def _encoded_priors(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Means and log-variances of every attribute's prior, [2, B, K, D], for the encoder's inputs."""
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=in_bf16(self.precision, self.device)
        ):  # entered here, as its copies of the weights belong to a recording
            prior = self.model.encode_prior(batch["input_ids"], batch["attention_mask"])
        return torch.stack(prior)

    def _read_aspects(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log-probability of the aspects in ``targets``, [B, K], by the latent heads on the posterior's mean, [B]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16(self.precision, self.device)):
            posterior = self.model.encode_posterior(
                batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
            )
        total = torch.zeros(len(posterior.mean), device=self.device)
        for k, logits in enumerate(self.model.heads(posterior.mean.float())):
            wanted = batch["targets"][:, k]
            own = torch.log_softmax(logits.float(), -1).gather(1, wanted.clamp_min(0).unsqueeze(1)).squeeze(1)
            total += torch.where(wanted >= 0, own, torch.zeros_like(own))
        return total

    @torch.no_grad()
    def priors(self, contexts: list[tuple[str, ...]], batch_size: int) -> Gaussian:
        """p(z | c, attribute) of every attribute, [N, K, D]; every context is encoded once."""
        pad, longest = self.encoder_tokenizer.pad_token_id, self.config.encoder_length
        rows = encode_contexts(self.encoder_tokenizer, contexts, None, longest)
        batches = batches_by_length(rows, batch_size)
        parts = []
        for chosen in batches:
            batch = pad_inputs([rows[index] for index in chosen], pad)
            del batch["token_type_ids"]
            if self._priors_of.wanted:
                batch = rounded(batch, pad, longest)
            parts.append(self._priors_of(batch)[:, : len(chosen)].clone())
        order = torch.tensor([index for chosen in batches for index in chosen]).argsort()
        return Gaussian(*torch.cat(parts, dim=1)[:, order.to(self.device)])

    def target_indices(self, requests: list[Request]) -> torch.Tensor:
        """Aspect index per attribute, [B, K], -1 where a target names none."""
        attributes = self.config.attributes
        rows = [
            [attributes[name].index(r.target[name]) if name in r.target else -1 for name in self.names]
            for r in requests
        ]
        return torch.tensor(rows, device=self.device).view(len(requests), len(self.names))

    def problem(
        self,
        requests: list[Request],
        control: ControlArguments,
        batch_size: int,
        own: list[ControlArguments] | None = None,
    ) -> Problem:
        """Priors, energies and starting points of all requests; the targets of a context share its encoding and its priors.

        Args:
            own: settings of each request whose seed and weights take the place of `control`'s; None: `control` for all.
        """
        position: dict[tuple[str, ...], int] = {}
        for request in requests:
            position.setdefault(request.context, len(position))
        priors = self.priors(list(position), batch_size)
        rows = torch.tensor([position[request.context] for request in requests], device=self.device)
        targets = self.target_indices(requests)
        prior = combine(
            Gaussian(priors.mean[rows], priors.logvar[rows]), targets >= 0, control.prior_combination
        )
        keys = [request.key for request in requests]
        dials: list[float] | list[list[float]]
        seeds = None if own is None else [settings.seed for settings in own]
        if own is None:
            dials = [*by_attribute(control.weights, self.names).values()]
        else:
            dials = [[*by_attribute(settings.weights, self.names).values()] for settings in own]
        sources = generators(control.seed if seeds is None else seeds, keys, "prior")
        weights = torch.tensor(dials, device=self.device)
        noise = normal(sources, self.config.latent_size, self.device)
        if control.start == "mean":
            noise = noise * torch.tensor(
                [[float(request.candidate > 0)] for request in requests], device=self.device
            )
        start = prior.sample(noise)
        make_energy = ENERGIES[control.energy](Wanted(self.model.heads, targets, weights, prior))
        return Problem(start, prior, make_energy, targets, keys, weights, self.model.flow, seeds)

    def latents(
        self,
        requests: list[Request],
        control: ControlArguments,
        batch_size: int,
        own: list[ControlArguments] | None = None,
    ) -> Sample:
        """Latents for all requests, in order; `own` as for `problem`.

        Raises:
            InputError: where a latent or its energy is not finite, as with a step or a weight that is far too large.
        """
        problem = self.problem(requests, control, batch_size, own)
        sample = SAMPLERS[control.algorithm](problem, control)
        lost = int((~(sample.z.isfinite().all(-1) & ~sample.energy.isnan())).sum())
        if lost:
            raise InputError(
                f"{lost} of {len(requests)} latents are not finite: the weights{', or langevin_step_size,' if control.algorithm == 'langevin' else ''} are too large"
            )
        return dataclasses.replace(sample, reference=problem.prior.mean)

    def write(
        self,
        requests: list[Request],
        control: ControlArguments,
        how: DecodingArguments,
        seconds: dict[str, float] | None = None,
        on_text: Callable[[dict[int, str]], bool] | None = None,
        own: list[ControlArguments] | None = None,
    ) -> Replies:
        """Latents, their replies, and of the candidates for each request the best (`generation.choosing`).

        Args:
            seconds: takes the wall-clock seconds of the parts.
            on_text: see `decode`; of several candidates it receives the first's text, which is also kept where it stops the writing.
            own: as for `problem`.
        """
        n = control.candidates
        drafts = self.drafts(requests, control, how, {} if seconds is None else seconds, on_text, own)
        if n == 1:
            return Replies(drafts.texts, drafts.sample, [0] * len(requests))
        best = (
            [0] * len(requests)
            if drafts.scores is None
            else drafts.scores.best(n, control.fluency, control.relevance)
        )
        kept = [position * n + i for position, i in enumerate(best)]
        return Replies([drafts.texts[i] for i in kept], drafts.sample.take(kept), best)

    def drafts(
        self,
        requests: list[Request],
        control: ControlArguments,
        how: DecodingArguments,
        seconds: dict[str, float],
        on_text: Callable[[dict[int, str]], bool] | None = None,
        own: list[ControlArguments] | None = None,
    ) -> Drafts:
        """All candidates for all requests, a request's behind one another; arguments as for `write`."""
        self.prompt_room(how)  # refuses what leaves no room, before anything is computed
        n, stopped = control.candidates, False
        candidates = (
            [dataclasses.replace(request, candidate=i) for request in requests for i in range(n)]
            if n > 1
            else requests
        )
        owners = None if own is None else [settings for settings in own for _ in range(n)]

        def tell_firsts(texts: dict[int, str]) -> bool:
            nonlocal stopped
            firsts = {index // n: text for index, text in texts.items() if index % n == 0}
            stopped = stopped or (bool(firsts) and on_text is not None and not on_text(firsts))
            return not stopped

        sample = timed(seconds, "latents", self.latents, candidates, control, how.batch_size, owners)
        texts = timed(
            seconds,
            "decoding",
            self.decode,
            candidates,
            sample,
            how,
            control.seed if owners is None else [settings.seed for settings in owners],
            None if on_text is None else tell_firsts,
        )
        scores = None
        if n > 1 and not stopped:
            likelihoods = control.fluency > 0 or control.relevance > 0
            scores = timed(
                seconds, "choosing", self.candidate_scores, candidates, texts, sample, how, likelihoods
            )
        return Drafts(texts, sample, scores)

    def candidate_scores(
        self,
        requests: list[Request],
        replies: list[str],
        sample: Sample,
        how: DecodingArguments,
        likelihoods: bool = True,
    ) -> CandidateScores:
        """What the model itself says of replies: `attributes`, and the decoder's likelihoods behind the latents without control.

        Of a decoder that reads no context the relevance is 0.

        Args:
            sample: of `latents`; its `reference` is what the decoder stands behind.
            likelihoods: False leaves fluency and relevance out, which cost two readings of every reply.
        """
        attributes = self.attribute_scores(requests, replies, how.batch_size)
        if not likelihoods:
            return CandidateScores(attributes)
        assert sample.reference is not None, "`latents` sets it"
        reference, contexts = sample.reference, [request.context for request in requests]
        tokenizer = self.decoder_tokenizer
        within, without = (
            encode_for_decoder(
                tokenizer, self.template, contexts, replies, self.config.decoder_length, use_context
            )
            for use_context in (self.config.use_context, False)
        )
        positions = positions_at_once(self.device, len(tokenizer))
        return candidate_scores(
            attributes, within, without, self.decoder(how), reference, tokenizer.pad_token_id, how.batch_size, positions
        )  # fmt: skip

    @torch.no_grad()
    def attribute_scores(self, requests: list[Request], replies: list[str], batch_size: int) -> torch.Tensor:
        """How well the model itself predicts each request's aspects in a reply: the latent heads on the posterior's mean.

        Returns:
            log-probability of all named aspects, [B], on the CPU; minus infinity for a reply without a letter.
        """
        rows = encode_contexts(
            self.encoder_tokenizer, [r.context for r in requests], replies, self.config.encoder_length
        )
        pad, longest, targets = self.encoder_tokenizer.pad_token_id, self.config.encoder_length, self.target_indices(requests)  # fmt: skip
        log_probabilities = torch.full((len(rows),), -torch.inf)
        spoken = [index for index in range(len(rows)) if replies[index].strip()]
        if not spoken:
            return log_probabilities
        order, parts = [], []
        for numbers in batches_by_length([rows[index] for index in spoken], batch_size):
            chosen = [spoken[number] for number in numbers]
            batch, wanted = pad_inputs([rows[index] for index in chosen], pad), targets[chosen]
            if self._aspects_of.wanted:
                batch = rounded(batch, pad, longest)
                missing = len(batch["input_ids"]) - len(chosen)
                wanted = torch.cat([wanted, wanted[-1:].expand(missing, -1)])
            parts.append(self._aspects_of(batch | {"targets": wanted})[: len(chosen)].clone())
            order += chosen
        log_probabilities[order] = torch.cat(parts).cpu()  # at once: a transfer waits for the device
        return log_probabilities

    def lengths(self, replies: list[str]) -> list[int]:
        """Tokens of each reply, as the decoder's tokenizer reads them."""
        if not replies:
            return []
        return [len(ids) for ids in self.decoder_tokenizer(replies, add_special_tokens=False)["input_ids"]]

    def decoder(self, how: DecodingArguments) -> LatentDecoder:
        """The decoder, with its language model in the precision that is asked for."""
        dtype = torch.bfloat16 if in_bf16(how.precision, self.device) else torch.float32
        if self.model.decoder.lm.dtype != dtype:  # looking at every module takes milliseconds
            self.model.decoder.lm.to(dtype)
        return self.model.decoder

    def prompt_room(self, how: DecodingArguments) -> int:
        """Tokens that a prompt may have; raises `InputError` where a reply of `max_new_tokens` leaves none."""
        return prompt_length(self.positions, self.config.decoder_length, how.max_new_tokens)

    def prompts(
        self, contexts: list[tuple[str, ...]], how: DecodingArguments
    ) -> tuple[list[list[int]], list[Cut | None]]:
        """What the decoder reads in front of a reply to each context, as token ids, and `cuts`."""
        tokenizer, room, reads = self.decoder_tokenizer, self.prompt_room(how), self.config.use_context
        rows = encode_for_decoder(tokenizer, self.template, contexts, None, UNBOUNDED, reads)
        found: list[Cut | None] = [None] * len(contexts)
        if any(len(row["input_ids"]) > room for row in rows):
            rows = encode_for_decoder(tokenizer, self.template, contexts, None, room, reads)
            found = self.cuts(contexts, how)
        return [row["input_ids"] for row in rows], found

    def cuts(self, contexts: list[tuple[str, ...]], how: DecodingArguments) -> list[Cut | None]:
        """What the decoder does not read of each context, so that its reply has room; None where it reads all of it."""
        return cuts(
            self.decoder_tokenizer, self.template, contexts, self.prompt_room(how), self.config.use_context
        )

    def conditioned(
        self, requests: list[Request], sample: Sample, how: DecodingArguments
    ) -> tuple[Decoder, torch.Tensor, torch.Tensor | None]:
        """What decodes, what it is given for each request, [N, ...], and the latents that guidance is measured against."""
        return self.decoder(how), sample.z, sample.reference

    @torch.no_grad()
    def decode(
        self,
        requests: list[Request],
        sample: Sample,
        how: DecodingArguments,
        seed: int | list[int],
        on_text: Callable[[dict[int, str]], bool] | None = None,
    ) -> list[str]:
        """One reply per latent of the sample that `latents` gave, in order; batches are grouped by the prompt's length.

        Args:
            seed: of all sampling, or one for each request.
            on_text: called after every token with the texts so far of the requests under way, by their position; where
                it returns False, their replies end there.
        """
        tokenizer, room = self.decoder_tokenizer, self.prompt_room(how)
        decoder, conditions, reference = self.conditioned(requests, sample, how)
        rows = encode_for_decoder(
            tokenizer, self.template, [r.context for r in requests], None, room, self.config.use_context
        )
        sources = None
        if how.decoding == "top_p":
            sources = generators(seed, [request.key for request in requests], "decoding")
        return decode_rows(
            decoder,
            conditions,
            rows,
            tokenizer,
            how,
            self.device,
            sources,
            reference=reference,
            on_text=on_text,
        )
