"""Replies with a chosen personality, from Python: ``Miracle.from_run("outs/demo").reply("...", "lyrical,optimistic")``."""

import dataclasses
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from common.devices import choose_device
from common.entry import quiet_transformers
from common.errors import InputError
from common.jsonl import read_json
from common.schema import Attribute, Schema
from dataset.encoding import Cut
from generation.control_weights import by_attribute
from generation.generator import ReplyGenerator
from generation.options import ControlArguments, DecodingArguments, recorded_options, uncontrolled
from generation.problem import Problem, trajectory_times
from generation.requests import Request
from generation.sharing import fetch, has_evaluators, push_run, run_parts, save_run
from model.gaussian import Gaussian
from scoring.scorer import Scorer

Context = str | list[str] | tuple[str, ...] | list[dict]
Target = str | list[str] | dict[str, str] | None
EXPLAINED_POINTS = 32


@dataclass(frozen=True)
class Reply:
    """One reply, and how it came about.

    Attributes:
        text: what is said.
        context: the turns it answers, user first and last.
        target: attribute -> aspect, as asked for.
        weights: attribute -> strength, as used.
        seed: of all noise; the same seed gives the same reply.
        predicted: attribute -> the aspect that the run's classifier predicts; None without evaluators.
        probabilities: attribute -> aspect -> probability, by the same; None without evaluators.
        coherence: the probability that the reply fits its context; None without evaluators.
        energy_start, energy: E(a | z) before and after the ODE, in nats times weights; low = the latent has the aspects.
        seconds: from the call to the text, shared by the replies of one call.
        finished: False where it was stopped on the way.
        control: how its latent was found, for `Miracle.explain`.
        latent: z, [D].
        candidate: which of the candidates was kept, where there were several.
        cut: what the decoder did not read of the context, so that the reply has room; None where it read all of it.
    """

    text: str
    context: tuple[str, ...]
    target: dict[str, str]
    weights: dict[str, float]
    seed: int
    predicted: dict[str, str] | None
    probabilities: dict[str, dict[str, float]] | None
    coherence: float | None
    energy_start: float
    energy: float
    seconds: float
    finished: bool = True
    control: ControlArguments | None = field(default=None, repr=False)
    latent: np.ndarray | None = field(default=None, repr=False, compare=False)
    candidate: int = field(default=0, repr=False)
    cut: Cut | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Explanation:
    """The trajectory of one reply's latent through the ODE.

    Attributes:
        time: pseudo-times s, 0 = prior, 5.025 = end; [points].
        energy: E(a | z) along it, nats times weights; [points].
        probabilities: attribute -> aspect -> the latent head's probability along it; [points] each.
        path: the latents themselves, [points, D].
    """

    time: list[float]
    energy: list[float]
    probabilities: dict[str, dict[str, list[float]]]
    path: np.ndarray = field(repr=False)


class Miracle:
    """A trained run, ready to reply.

    Examples:
        >>> from miracle import Miracle
        >>> model = Miracle.from_run("outs/demo")
        >>> reply = model.reply("My bread did not rise.", "lyrical,optimistic", seed=1)[0]
        >>> print(reply.text, reply.probabilities["attitude"]["optimistic"])

    Runs on CPU and CUDA; it keeps to what Apple's MPS has too, but has not been run there. Calls of one model from
    several threads are safe: they wait for one another.

    Attributes:
        schema: attributes and aspects, as trained; without files.
        control, decoding: the run's own settings, which a call's options replace for that call.
        generator: the CVAE with its tokenizers; scorer: the evaluators, or None. Neither is safe in several threads by itself.
        folder: where it was loaded from.
    """

    def __init__(
        self,
        generator: ReplyGenerator,
        scorer: Scorer | None,
        control: ControlArguments,
        decoding: DecodingArguments,
        folder: Path | None = None,
    ):
        """Of loaded parts; `from_run` and `from_pretrained` load them."""
        self.generator, self.scorer, self.control, self.decoding, self.folder = (
            generator,
            scorer,
            control,
            decoding,
            folder,
        )
        self.schema: Schema = schema_of(generator.config.attributes)
        self._lock = threading.RLock()

    @classmethod
    def from_run(cls, path: str | Path, device: str | torch.device | None = None) -> "Miracle":
        """Load a run's folder, or a ``cvae/`` folder alone.

        Settings are those that the run's own replies were generated with, where it has some. The evaluators are loaded
        where the run has all of them; without them replies carry no probabilities.

        Args:
            device: ``cpu``, ``cuda``, ``mps``; None: CUDA, MPS or CPU, in that order.

        Raises:
            InputError: where there is no trained CVAE, or no such device.
        """
        quiet_transformers()
        place = choose_device(device)
        run, cvae = run_parts(Path(path))
        recorded = (
            (read_json(run / "results.json") or {}).get("run", {}).get("config", {}).get("generation", {})
            if run
            else {}
        )
        settings = [_recorded(kind, recorded, Path(path)) for kind in (ControlArguments, DecodingArguments)]
        generator = ReplyGenerator(cvae, place)
        schema = schema_of(generator.config.attributes)
        return cls(
            generator,
            Scorer(run, schema, place) if run and has_evaluators(run, schema.names) else None,
            *settings,
            Path(path),
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> "Miracle":
        """Load a shared run: a folder that `save_pretrained` wrote, or a repository of the Hugging Face hub, ``user/name``.

        What a repository holds is kept in the hub's cache; of its files only weights, tokenizers and records are fetched.

        Args:
            device: see `from_run`.
            revision: of the repository, a branch, a tag or a commit; None: its main branch.
            token: for a private repository; None: that of ``hf auth login``.

        Raises:
            InputError: where there is neither such a folder nor such a repository, or it holds no run.
        """
        return cls.from_run(name if Path(name).is_dir() else fetch(str(name), revision, token), device)

    def save_pretrained(self, folder: str | Path, license: str | None = None) -> Path:
        """Write all that a reply needs into a folder, with a model card: CVAE, tokenizers, and where they are there evaluators and results.

        Args:
            folder: a new or empty one; `from_run` and `from_pretrained` load it.
            license: for the card, an identifier of the hub's such as ``mit``.

        Returns:
            The folder.

        Raises:
            InputError: where the folder holds something, or the run's results are of another training.
        """
        return save_run(self._source(), Path(folder), license=license)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        license: str | None = None,
    ) -> str:
        """Share the run in a repository of the Hugging Face hub, which is made where there is none; see `save_pretrained`.

        Args:
            repo_id: ``user/name``.
            private: None: the hub's default, which for most accounts is public.
            token: None: that of ``hf auth login``.

        Returns:
            The repository's address.

        Raises:
            InputError: as `save_pretrained`, and where the hub refuses or cannot be reached.
        """
        return push_run(
            self._source(),
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            license=license,
        )

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Attribute -> aspects, as trained."""
        return self.generator.config.attributes

    @property
    def weights(self) -> dict[str, float]:
        """Attribute -> the run's own strength."""
        return by_attribute(self.control.weights, self.schema.names)

    def reply(
        self,
        context: Context,
        target: Target = None,
        weights: float | dict[str, float] | None = None,
        n: int = 1,
        seed: int | None = None,
        on_text: Callable[[str], bool] | None = None,
        **options: object,
    ) -> list[Reply]:
        """Reply to one context.

        Args:
            context: what the user says, the turns of a conversation, user first and last, or the same as OpenAI-style messages,
                ``[{"role": "user", "content": "..."}, ...]``.
            target: aspects, ``"lyrical,optimistic"``, ``["lyrical"]`` or ``{"attitude": "optimistic"}``; None or ``{}``: no control.
            weights: strength for all attributes, or by attribute (others keep the run's); None: the run's. One of an attribute
                that the target does not name has no effect.
            n: that many different replies, by consecutive seeds; more than one start from samples of the prior.
            seed: of all noise; None: the run's.
            on_text: called with the text so far after every token, for ``n = 1``; where it returns False, the reply ends there.
            options: any field of `ControlArguments` or `DecodingArguments`: ``decoding="top_p"``, ``max_new_tokens=30``, ...

        Raises:
            InputError: for an empty context or target text, an unknown aspect or option, or a negative weight.
        """
        if not isinstance(n, int) or n < 1:
            raise InputError(f"n must be 1 or more, found {n!r}")
        if n > 1:
            options = {"start": "sample"} | options
        if not isinstance(seed, (int, type(None))):
            raise InputError(f"a seed is a whole number, found {seed!r}")
        first = self.control.seed if seed is None else seed
        return self.replies(
            [context] * n,
            [target] * n,
            weights,
            [first + i for i in range(n)],
            None if on_text is None else lambda texts: on_text(texts[0]),
            **options,
        )

    def replies(
        self,
        contexts: list[Context],
        targets: list[Target],
        weights: float | dict[str, float] | None = None,
        seeds: list[int] | int | None = None,
        on_text: Callable[[dict[int, str]], bool] | None = None,
        **options: object,
    ) -> list[Reply]:
        """Reply to many contexts at once; see `reply`. Equal contexts are encoded once.

        Raises:
            InputError: as `reply`, and for lists of different lengths.
        """
        started = time.monotonic()
        for seed in seeds if isinstance(seeds, (list, tuple)) else [seeds]:
            if not isinstance(seed, (int, type(None))):
                raise InputError(f"a seed is a whole number, found {seed!r}")
        if seeds is None or isinstance(seeds, int):
            seeds = [self.control.seed if seeds is None else seeds] * len(contexts)
        if not len(contexts) == len(targets) == len(seeds):
            raise InputError(
                f"{len(contexts)} contexts, {len(targets)} targets and {len(seeds)} seeds; expected as many of each"
            )
        control, decoding = self.settings(weights, options)
        turns = [turns_of(context) for context in contexts]
        wanted = [self.target(target) for target in targets]
        texts: list[str] = [""] * len(turns)
        starts, energies, latents, used = (
            np.zeros(len(turns)),
            np.zeros(len(turns)),
            [None] * len(turns),
            [control] * len(turns),
        )
        candidates, stopped = [0] * len(turns), False

        def watch(chosen: list[int]) -> Callable[[dict[int, str]], bool] | None:
            if on_text is None:
                return None

            def told(found: dict[int, str]) -> bool:
                nonlocal stopped
                go_on = on_text({chosen[i]: text for i, text in found.items()})
                stopped = stopped or not go_on
                return go_on

            return told

        with self._lock:
            for settings in (control, uncontrolled(control)):
                chosen = [i for i, target in enumerate(wanted) if bool(target) == (settings is control)]
                if not chosen:
                    continue
                requests = [Request("\n".join(turns[i]), turns[i], wanted[i]) for i in chosen]
                own = [dataclasses.replace(settings, seed=seeds[i]) for i in chosen]
                found = self.generator.write(requests, own[0], decoding, on_text=watch(chosen), own=own)
                sample = found.sample
                for place, i in enumerate(chosen):
                    texts[i], latents[i], used[i], candidates[i] = (
                        found.texts[place],
                        sample.z[place].cpu().numpy(),
                        own[place],
                        found.candidates[place],
                    )
                    starts[i], energies[i] = float(sample.energy_start[place]), float(sample.energy[place])
            cuts = self.generator.cuts(turns, decoding)
            rows = [{"context": list(turn), "response": text} for turn, text in zip(turns, texts)]
            if self.scorer is not None:
                self.scorer.score(rows)
        seconds = time.monotonic() - started
        strengths = by_attribute(control.weights, self.schema.names)
        return [
            Reply(
                text, turn, target, {name: strengths[name] for name in target}, seed, row.get("predicted"), row.get("probabilities"), row.get("nli"),
                float(start), float(energy), seconds, not stopped, settings, latent, candidate, cut,
            )
            for text, turn, target, seed, row, start, energy, settings, latent, candidate, cut in zip(texts, turns, wanted, seeds, rows, starts, energies, used, latents, candidates, cuts)
        ]  # fmt: skip

    def all_combinations(
        self,
        context: Context,
        weights: float | dict[str, float] | None = None,
        seed: int | None = None,
        **options: object,
    ) -> list[Reply]:
        """The same context under every combination of aspects, in the schema's order."""
        targets = self.schema.combinations()
        return self.replies([context] * len(targets), targets, weights, seed, **options)

    @torch.no_grad()
    def explain(self, reply: Reply) -> Explanation:
        """How the latent heads' probabilities and the energy went along the ODE that led to a reply.

        The trajectory is integrated once more, with `EXPLAINED_POINTS` points that lie closer at the start, where it is steep.
        """
        with self._lock:
            problem = self._problem(reply)
            path, energies = problem.trajectory(reply.control.sampler, EXPLAINED_POINTS)
            chances = [
                torch.softmax(logits.float(), -1).cpu().numpy()
                for logits in self.generator.model.heads(path[:, 0])
            ]
        probabilities = {
            name: {aspect: values[:, i].tolist() for i, aspect in enumerate(aspects)}
            for (name, aspects), values in zip(self.attributes.items(), chances)
        }
        return Explanation(
            trajectory_times(EXPLAINED_POINTS),
            energies[:, 0].tolist(),
            probabilities,
            path[:, 0].cpu().numpy(),
        )

    @torch.no_grad()
    def prior(self, reply: Reply) -> Gaussian:
        """The combined prior that a reply's latent started from, mean and log-variance [D] each."""
        with self._lock:
            prior = self._problem(reply).prior
        return Gaussian(prior.mean[0], prior.logvar[0])

    def warm_up(self) -> None:
        """Write a short reply, so that the first one asked for does not wait for what is set up on first use."""
        self.reply("Hello.", self.schema.combinations()[0], max_new_tokens=2)

    def target(self, target: Target) -> dict[str, str]:
        """A target in any of its forms as attribute -> aspect; raises `InputError` for an unknown name, and for a text or list without any."""
        if target is None:
            return {}
        if not isinstance(target, (str, list, tuple, dict)) or not all(
            isinstance(word, str)
            for word in (*target, *(target.values() if isinstance(target, dict) else ()))
        ):
            raise InputError(
                f"the target is {target!r:.80}; expected aspects, such as 'lyrical,optimistic', or None for no control"
            )
        if isinstance(target, dict):
            for name, aspect in target.items():
                self.schema.attribute(name).index(aspect)
            return {name: target[name] for name in self.schema.names if name in target}
        words = target.replace("+", ",").split(",") if isinstance(target, str) else target
        if not (aspects := [aspect.strip() for aspect in words if aspect.strip()]):
            raise InputError(
                f"the target is {target!r}; expected aspects, such as 'lyrical,optimistic', or None for no control"
            )
        return self.schema.target(aspects)

    def _problem(self, reply: Reply) -> Problem:
        """What the sampler solved for a reply."""
        return self.generator.problem(
            [Request("\n".join(reply.context), reply.context, reply.target, candidate=reply.candidate)],
            reply.control,
            1,
        )

    def _source(self) -> Path:
        """The folder that can be shared; raises `InputError` where there is none."""
        if self.folder is None:
            raise InputError(
                "this model was put together by hand; only one that was loaded from a run's folder can be shared"
            )
        return self.folder

    def settings(
        self, weights: float | dict[str, float] | None, options: dict
    ) -> tuple[ControlArguments, DecodingArguments]:
        """The run's settings with a call's own in their place, as `reply` uses them; raises `InputError` as it does."""
        kinds = {
            f.name: kind for kind in (ControlArguments, DecodingArguments) for f in dataclasses.fields(kind)
        }
        if unknown := sorted(set(options) - set(kinds)):
            raise InputError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(kinds))}")
        if weights is not None:
            own = self.weights
            given = weights if isinstance(weights, dict) else dict.fromkeys(own, weights)
            if unknown := sorted(set(given) - set(own)):
                raise InputError(f"weights of {unknown}; the schema has {self.schema.names}")
            options = options | {"weights": own | given}
        changes = [
            {name: value for name, value in options.items() if kinds[name] is kind}
            for kind in (ControlArguments, DecodingArguments)
        ]
        try:
            control, decoding = (
                dataclasses.replace(self.control, **changes[0]),
                dataclasses.replace(self.decoding, **changes[1]),
            )
        except TypeError as error:  # a text where a number is compared
            raise InputError(f"an option has a value of another kind: {error}") from None
        return control, decoding


def turns_of(context: Context) -> tuple[str, ...]:
    """A context's turns, with single spaces; OpenAI-style messages become turns, see `turns_of_messages`.

    Raises:
        InputError: where there is none, one is empty or no text, or the user is not last.
    """
    if isinstance(context, (str, dict)):
        context = (context,)
    if not isinstance(context, (list, tuple)):
        raise InputError(
            f"the context is a {type(context).__name__}; expected a text, a list of turns, or messages with 'role' and 'content'"
        )
    if any(isinstance(turn, dict) for turn in context):
        context = turns_of_messages(context)
    for number, turn in enumerate(context, 1):
        if not isinstance(turn, str):
            raise InputError(f"turn {number} of the context is a {type(turn).__name__}; expected a text")
        if any("\ud800" <= letter <= "\udfff" for letter in turn):
            raise InputError(
                f"turn {number} of the context has broken characters (lone surrogates); decode it as UTF-8 first"
            )
    turns = tuple(" ".join(turn.split()) for turn in context)
    if not any(turns):
        raise InputError("the context is empty")
    if not all(turns):
        raise InputError(
            f"turn {turns.index('') + 1} of the context is empty; leave it out together with the turn that it answers"
        )
    if len(turns) % 2 == 0:
        raise InputError(
            f"{len(turns)} turns; they alternate, user first and last, so an odd number is expected"
        )
    return turns


def turns_of_messages(messages: list[dict] | tuple[dict, ...]) -> list[str]:
    """OpenAI-style messages as turns, user first and last.

    Neighbouring messages of one role are one turn; a content may be a list of text parts. The models read no system
    message: it is left out, with a Python warning that says so.

    Raises:
        InputError: with the message's number, for anything else.
    """
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or "role" not in message:
            raise InputError(f"{where}: expected {{'role': ..., 'content': ...}}, found {message!r:.80}")
        role, content = message["role"], message.get("content")
        if role in ("system", "developer"):
            warnings.warn(
                f"{where}: a {role} message is not read; the target says what the reply is to be like",
                stacklevel=4,
            )
            continue
        if role not in ("user", "assistant"):
            raise InputError(f"{where}: role {role!r:.40}; expected 'user' or 'assistant'")
        if isinstance(content, list) and all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
        ):
            content = " ".join(part["text"] for part in content)
        if not isinstance(content, str) or not content.strip():
            raise InputError(f"{where}: 'content' must be a text that is not empty, found {content!r:.80}")
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]} {content}")
        else:
            turns.append((role, content))
    if not turns or turns[0][0] != "user" or turns[-1][0] != "user":
        raise InputError(
            "messages must begin and end with the user's; a reply to the last is what is written"
        )
    return [content for _, content in turns]


def _recorded(kind: type, values: dict, run: Path):
    """Options of a dataclass as a run's results record them; those that they do not name keep their defaults.

    Raises:
        InputError: for a value of another type, or one that the dataclass refuses.
    """
    place = f"{run / 'results.json'}: run.config.generation"
    try:
        given = recorded_options(kind, values)
    except InputError as error:
        raise InputError(f"{place}.{error}") from None
    for option in dataclasses.fields(kind):
        if option.name not in given or "read" in option.metadata:
            continue
        value, types = given[option.name], get_args(option.type) or (option.type,)
        right = isinstance(value, types) or (float in types and isinstance(value, int))
        if not right or (isinstance(value, bool) and bool not in types):
            raise InputError(f"{place}.{option.name}: expected {types[0].__name__}, found {value!r:.40}")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{place}.{error}") from None


def schema_of(attributes: dict[str, list[str]]) -> Schema:
    """A schema without files, from what a checkpoint remembers."""
    return Schema(tuple(Attribute(name, tuple(aspects)) for name, aspects in attributes.items()))
