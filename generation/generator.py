"""Replies from a trained CVAE: contexts and targets in, latents by ODE or Langevin, text out."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from common.base_models import ensure_bases
from common.errors import InputError
from common.schema import Schema, target_name
from dataset.batching import pad_inputs
from dataset.encoding import Cut, DialogueTemplate, cuts, encode_contexts, encode_for_decoder, prompt_length
from generation.choosing import Merits, merits
from generation.decoding import generate
from generation.options import ControlArguments, DecodingArguments, in_bf16, parse_weights
from model.bases import BaseNotFound, tokenizer_beside
from model.config import MiracleConfig
from model.cvae import Miracle
from model.decoder import LatentDecoder, positions_limit
from model.energy import Energy, aspect_energy
from model.gaussian import Gaussian
from model.langevin import sample_langevin
from model.noise import generators, normal
from model.prior import combine
from model.sampler import PSEUDO_TIME, Sample, SamplerSettings, follow, sample_ode

WAY_GRADING = 2.0  # points of a way that is looked at lie closer at the start, where it is steep
ENCODER_TOKENIZER = "encoder_tokenizer"  # folder inside cvae/; the decoder's tokenizer lies in cvae/ itself


@dataclass(frozen=True)
class Request:
    """One reply to write: `id` names the context's row, which several targets share.

    Attributes:
        candidate: which of several replies to the same context and target; all but the first start from a sample of the prior.
    """

    id: str
    context: tuple[str, ...]
    target: dict[str, str]
    reference: str | None = None
    candidate: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What seeds its noise: the same context has the same wherever it stands."""
        return "\n".join(self.context), target_name(self.target) + (
            f"#{self.candidate}" if self.candidate else ""
        )


@dataclass(frozen=True)
class Replies:
    """What was written for a list of requests, in order.

    Attributes:
        texts: one per request.
        sample: the latents that they were decoded from, [B, ...].
        candidates: which of the candidates each is.
    """

    texts: list[str]
    sample: Sample
    candidates: list[int]


@dataclass(frozen=True)
class Drafts:
    """All candidates for a list of requests, a request's behind one another.

    Attributes:
        texts: one per candidate.
        sample: their latents.
        merits: what speaks for each; None where there is nothing to choose, or the writing was stopped.
    """

    texts: list[str]
    sample: Sample
    merits: Merits | None


@dataclass(frozen=True)
class Problem:
    """What the sampler solves for a list of requests.

    Attributes:
        start: z at t = 1, [B, D].
        prior: the combined prior of each request, [B, D].
        make_energy: rows [n] -> the `Energy` of those requests.
        targets: aspect index per attribute, [B, K], -1 where none is named.
        keys: what seeds each request's noise.
    """

    start: torch.Tensor
    prior: Gaussian
    make_energy: Callable[[torch.Tensor], Energy]
    targets: torch.Tensor
    keys: list[tuple[str, str]]

    def way(self, settings: SamplerSettings, points: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents' ways through the ODE, to be looked at, whatever solver found their ends.

        Args:
            settings: geometry and energy over time.
            points: of every way, besides its start; they lie at `way_times`.

        Returns:
            (latents [points + 1, B, D], energies [points + 1, B]).
        """
        path = follow(settings, self.start, self.prior, self.make_energy, way_times(points)[1:])
        path = torch.cat([self.start.unsqueeze(0), path])
        energy = self.make_energy(torch.arange(len(self.keys), device=self.start.device))
        with torch.no_grad():
            return path, torch.stack([energy(z) for z in path])


def way_times(points: int) -> list[float]:
    """The pseudo-times of `Problem.way`'s points: 0 = prior, 5.025 = end."""
    return [PSEUDO_TIME * (i / points) ** WAY_GRADING for i in range(points + 1)]


def load_cvae(folder: Path) -> Miracle:
    """A checkpoint, whole or adapters; bases that adapters stand on are fetched where they are not there (`common.base_models`).

    Raises:
        model.bases.BaseNotFound: where they are not found, or are others.
    """
    try:
        return Miracle.from_pretrained(folder, use_safetensors=True).eval()
    except BaseNotFound:
        known = {
            (base["known"], base["source"])
            for base in MiracleConfig.from_pretrained(folder).bases.values()
            if base["known"]
        }
        if not known:
            raise
    for name, source in sorted(known):
        ensure_bases(name, source)
    return Miracle.from_pretrained(folder, use_safetensors=True).eval()


def tokenizers_of(
    folder: Path, config: MiracleConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """The encoder's and the decoder's tokenizer of a checkpoint."""
    return (
        tokenizer_beside(folder / ENCODER_TOKENIZER, "encoder", config.bases.get("encoder")),
        tokenizer_beside(folder, "decoder", config.bases.get("decoder")),
    )


class ReplyGenerator:
    """A trained CVAE with its tokenizers, ready to write replies."""

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
        self.config, self.device, self.precision = self.model.config, device, precision
        if schema is not None and schema.aspects != self.config.attributes:
            raise InputError(
                f"{folder} was trained for the aspects {self.config.attributes}; the schema has {schema.aspects}"
            )
        self.template = DialogueTemplate(**self.config.template)
        self.names = list(self.config.attributes)

    @torch.no_grad()
    def priors(self, contexts: list[tuple[str, ...]], batch_size: int) -> Gaussian:
        """p(z | c, attribute) of every attribute, [N, K, D]; every context is encoded once."""
        rows = encode_contexts(self.encoder_tokenizer, contexts, None, self.config.encoder_length)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        means, logvars = [None] * len(rows), [None] * len(rows)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad_inputs([rows[index] for index in chosen], self.encoder_tokenizer.pad_token_id)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=in_bf16(self.precision, self.device)
            ):
                prior = self.model.encode_prior(
                    batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
                )
            for index, mean, logvar in zip(chosen, prior.mean, prior.logvar):
                means[index], logvars[index] = mean, logvar
        return Gaussian(torch.stack(means), torch.stack(logvars))

    def target_indices(self, requests: list[Request]) -> torch.Tensor:
        """Aspect index per attribute, [B, K], -1 where a target names none."""
        attributes = self.config.attributes
        rows = [
            [attributes[name].index(r.target[name]) if name in r.target else -1 for name in self.names]
            for r in requests
        ]
        return torch.tensor(rows, device=self.device).view(len(requests), len(self.names))

    def problem(self, requests: list[Request], control: ControlArguments, batch_size: int) -> "Problem":
        """Priors, energies and starting points of all requests; the targets of a context share its encoding and its priors."""
        position = {}
        for request in requests:
            position.setdefault(request.context, len(position))
        priors = self.priors(list(position), batch_size)
        rows = torch.tensor([position[request.context] for request in requests], device=self.device)
        targets = self.target_indices(requests)
        prior = combine(
            Gaussian(priors.mean[rows], priors.logvar[rows]), targets >= 0, control.prior_combination
        )
        weights = torch.tensor(parse_weights(control.weights, self.names), device=self.device)
        keys = [request.key for request in requests]
        noise = normal(generators(control.seed, keys, "prior"), self.config.latent_size, self.device)
        if control.start == "mean":
            noise = noise * torch.tensor(
                [[float(request.candidate > 0)] for request in requests], device=self.device
            )
        start = prior.sample(noise)
        heads, stacked = self.model.heads, self.model.heads.stacked()

        def make_energy(chosen: torch.Tensor):
            return aspect_energy(heads, targets[chosen], weights, stacked)

        return Problem(start, prior, make_energy, targets, keys)

    def latents(self, requests: list[Request], control: ControlArguments, batch_size: int) -> Sample:
        """Latents for all requests, in order."""
        problem = self.problem(requests, control, batch_size)
        return dataclasses.replace(self._solved(problem, control), reference=problem.prior.mean)

    def write(
        self,
        requests: list[Request],
        control: ControlArguments,
        how: DecodingArguments,
        seconds: dict[str, float] | None = None,
        on_text: Callable[[dict[int, str]], bool] | None = None,
    ) -> Replies:
        """Latents, their replies, and of the candidates for each request the best (`generation.choosing`).

        Args:
            seconds: takes the wall-clock seconds of the parts.
            on_text: see `decode`; of several candidates it is told the first, which is also kept where it stops the writing.
        """
        n, drafts = (
            control.candidates,
            self.drafts(requests, control, how, {} if seconds is None else seconds, on_text),
        )
        if n == 1:
            return Replies(drafts.texts, drafts.sample, [0] * len(requests))
        best = (
            [0] * len(requests)
            if drafts.merits is None
            else drafts.merits.best(n, control.fluency, control.relevance)
        )
        kept = [position * n + i for position, i in enumerate(best)]
        parts = [getattr(drafts.sample, field.name) for field in dataclasses.fields(Sample)]
        return Replies(
            [drafts.texts[i] for i in kept],
            Sample(*(None if part is None else part[kept] for part in parts)),
            best,
        )

    def drafts(
        self,
        requests: list[Request],
        control: ControlArguments,
        how: DecodingArguments,
        seconds: dict[str, float],
        on_text: Callable[[dict[int, str]], bool] | None = None,
    ) -> Drafts:
        """All candidates for all requests, a request's behind one another; arguments as for `write`."""
        self.prompt_room(how)  # refuses what leaves no room, before anything is computed
        n, stopped = control.candidates, False
        everything = (
            [dataclasses.replace(request, candidate=i) for request in requests for i in range(n)]
            if n > 1
            else requests
        )

        def told(texts: dict[int, str]) -> bool:
            nonlocal stopped
            firsts = {index // n: text for index, text in texts.items() if index % n == 0}
            stopped = stopped or (bool(firsts) and not on_text(firsts))
            return not stopped

        sample = timed(seconds, "latents", self.latents, everything, control, how.batch_size)
        texts = timed(
            seconds,
            "decoding",
            self.decode,
            everything,
            sample,
            how,
            control.seed,
            None if on_text is None else told,
        )
        found = None
        if n > 1 and not stopped:
            likelihoods = control.fluency > 0 or control.relevance > 0
            found = timed(seconds, "choosing", self.merits, everything, texts, sample, how, likelihoods)
        return Drafts(texts, sample, found)

    def merits(
        self,
        requests: list[Request],
        replies: list[str],
        sample: Sample,
        how: DecodingArguments,
        likelihoods: bool = True,
    ) -> Merits:
        """What the model itself says of replies: `heard`, and the decoder's likelihoods behind the latents without control.

        Of a decoder that reads no context the relevance is 0.

        Args:
            sample: of `latents`; its `reference` is what the decoder stands behind.
            likelihoods: False leaves fluency and relevance out, which cost two readings of every reply.
        """
        heard = self.heard(requests, replies, how.batch_size)
        if not likelihoods:
            return Merits(heard)
        decoder, tokenizer, contexts = (
            self._decoder(how),
            self.decoder_tokenizer,
            [request.context for request in requests],
        )

        def logits_of(ids: torch.Tensor, mask: torch.Tensor, chosen: list[int], last: int) -> torch.Tensor:
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=in_bf16(how.precision, self.device)
            ):
                return decoder(ids.to(self.device), mask.to(self.device), sample.reference[chosen], last)

        behind = [
            encode_for_decoder(
                tokenizer, self.template, contexts, replies, self.config.decoder_length, use_context
            )
            for use_context in (self.config.use_context, False)
        ]
        return merits(heard, *behind, logits_of, tokenizer.pad_token_id, how.batch_size)

    @torch.no_grad()
    def heard(self, requests: list[Request], replies: list[str], batch_size: int) -> torch.Tensor:
        """How well the model itself hears each request's aspects in a reply: the latent heads on the posterior's mean.

        Returns:
            log-probability of all named aspects, [B], on the CPU; minus infinity for a reply without a letter.
        """
        rows = encode_contexts(
            self.encoder_tokenizer, [r.context for r in requests], replies, self.config.encoder_length
        )
        targets = self.target_indices(requests)
        found = torch.full((len(rows),), -torch.inf)
        order = sorted(
            (i for i in range(len(rows)) if replies[i].strip()),
            key=lambda index: len(rows[index]["input_ids"]),
        )
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad_inputs([rows[index] for index in chosen], self.encoder_tokenizer.pad_token_id)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=in_bf16(self.precision, self.device)
            ):
                posterior = self.model.encode_posterior(
                    *(
                        batch[name].to(self.device)
                        for name in ("input_ids", "attention_mask", "token_type_ids")
                    )
                )
            total = torch.zeros(len(chosen), device=self.device)
            for k, logits in enumerate(self.model.heads(posterior.mean.float())):
                wanted = targets[chosen, k]
                own = (
                    torch.log_softmax(logits.float(), -1)
                    .gather(1, wanted.clamp_min(0).unsqueeze(1))
                    .squeeze(1)
                )
                total += torch.where(wanted >= 0, own, torch.zeros_like(own))
            found[chosen] = total.cpu()
        return found

    def _solved(self, problem: Problem, control: ControlArguments) -> Sample:
        start, prior, everyone = (
            problem.start,
            problem.prior,
            torch.arange(len(problem.keys), device=self.device),
        )
        if control.algorithm == "ode":
            return sample_ode(control.sampler, start, prior, problem.make_energy)
        energy = problem.make_energy(everyone)
        if control.algorithm == "langevin":
            sources = generators(control.seed, problem.keys, "langevin")
            return sample_langevin(
                start, prior, energy, sources, control.langevin_steps, control.langevin_step_size
            )
        with torch.no_grad():
            value = energy(start)
        return Sample(start, value, value, torch.zeros_like(everyone))

    def _decoder(self, how: DecodingArguments) -> LatentDecoder:
        """The decoder, with its language model in the precision that is asked for."""
        self.model.decoder.lm.to(torch.bfloat16 if in_bf16(how.precision, self.device) else torch.float32)
        return self.model.decoder

    def prompt_room(self, how: DecodingArguments) -> int:
        """Tokens that a prompt may have; raises `InputError` where a reply of `max_new_tokens` leaves none."""
        return prompt_length(
            positions_limit(self.model.decoder.lm), self.config.decoder_length, how.max_new_tokens
        )

    def cuts(self, contexts: list[tuple[str, ...]], how: DecodingArguments) -> list[Cut | None]:
        """What the decoder does not read of each context, so that its reply has room; None where it reads all of it."""
        return cuts(
            self.decoder_tokenizer, self.template, contexts, self.prompt_room(how), self.config.use_context
        )

    @torch.no_grad()
    def decode(
        self,
        requests: list[Request],
        sample: Sample,
        how: DecodingArguments,
        seed: int,
        on_text: Callable[[dict[int, str]], bool] | None = None,
    ) -> list[str]:
        """One reply per latent of the sample that `latents` gave, in order; batches are grouped by the prompt's length.

        Args:
            on_text: called after every token with the texts so far of the requests under way, by their position; where
                it returns False, their replies end there.
        """
        decoder, tokenizer = self._decoder(how), self.decoder_tokenizer
        room = self.prompt_room(how)
        rows = encode_for_decoder(
            tokenizer, self.template, [r.context for r in requests], None, room, self.config.use_context
        )
        sources = None
        if how.decoding == "top_p":
            sources = generators(seed, [request.key for request in requests], "decoding")
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        replies = [""] * len(rows)

        def watching(chosen: list[int]) -> Callable[[torch.Tensor], bool] | None:
            if on_text is None:
                return None
            return lambda written: on_text(
                {
                    i: " ".join(t.split())
                    for i, t in zip(chosen, tokenizer.batch_decode(written, skip_special_tokens=True))
                }
            )

        with tqdm(
            total=len(rows), desc="decoding", unit="reply", leave=False, disable=True if on_text else None
        ) as bar:
            for begin in range(0, len(order), how.batch_size):
                chosen = order[begin : begin + how.batch_size]
                batch = pad_inputs([rows[index] for index in chosen], tokenizer.pad_token_id, side="left")
                tokens = generate(
                    decoder,
                    sample.z[chosen],
                    batch["input_ids"].to(self.device),
                    batch["attention_mask"].to(self.device),
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    max_new_tokens=how.max_new_tokens,
                    decoding=how.decoding,
                    top_p=how.top_p,
                    temperature=how.temperature,
                    sources=None if sources is None else [sources[index] for index in chosen],
                    no_repeat_ngram_size=how.no_repeat_ngram_size,
                    repetition_penalty=how.repetition_penalty,
                    reference=sample.reference[chosen],
                    guidance=how.guidance,
                    plausibility=how.plausibility,
                    on_step=watching(chosen),
                )
                for index, text in zip(chosen, tokenizer.batch_decode(tokens, skip_special_tokens=True)):
                    replies[index] = " ".join(text.split())
                bar.update(len(chosen))
        return replies


def sampling_warnings(sample: Sample, tolerance: float) -> list[str]:
    """What the solver's own check says against the latents; empty where it holds or was not made."""
    found = []
    if sample.settled is not None and not sample.settled.all():
        lost = float((~sample.settled).float().mean())
        found.append(
            f"sampler: the ODE could not be followed to its end in {lost:.1%} of replies (steps too small or too many); lower --weights or raise --tolerance"
        )
    if sample.latent_change is None:
        return found
    for name, change in (("latent", sample.latent_change), ("energy", sample.energy_change)):
        over = float((~(change <= tolerance)).float().mean())
        if over > 0:
            found.append(
                f"sampler: halving the last step still changes the {name} by over {tolerance:.0%} in {over:.1%} of replies; raise --steps or --max-halvings"
            )
    return found


def context_warnings(cut: list[Cut | None]) -> list[str]:
    """Says how many contexts were read in part; empty where none was."""
    some = [one for one in cut if one is not None]
    if not some:
        return []
    return [
        f"context: {len(some)} of {len(cut)} replies were written without the beginning of their context: the decoder reads {some[0].room} tokens of it, so that every reply has room"
    ]


def sampling_record(sample: Sample) -> dict:
    """What the results say about the sampler: cost, energies and the solver's own check."""

    def mean(values: torch.Tensor | None) -> float | None:
        return None if values is None else float(values.float().mean())

    return {
        "nfe": mean(sample.nfe),
        "energy_start": mean(sample.energy_start),
        "energy": mean(sample.energy),
        "settled": mean(sample.settled),
        "halving_latent_change": mean(sample.latent_change),
        "halving_energy_change": mean(sample.energy_change),
    }


def timed(seconds: dict[str, float], name: str, work, *args, **kwargs):
    """Run `work`, note its wall-clock seconds under `name`, and return what it returns."""
    started = time.monotonic()
    value = work(*args, **kwargs)
    seconds[name] = round(time.monotonic() - started, 2)
    return value
