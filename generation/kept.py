"""Replies on disk as they are written, so that memory does not grow with their number and an ended run goes on."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from common.eta import Pace
from common.jsonl import read_jsonl
from common.parts import SharedParts
from common.processes import count, is_first
from common.provenance import device_name, fingerprint
from common.shapes import Fields, Items, Maybe, Number, Values, misfit
from dataset.encoding import Cut
from generation.generator import ReplyGenerator
from generation.loading import ENCODER_TOKENIZER
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Replies, Request
from model.sampler import Sample

AT_ONCE = 4096  # candidates whose latents, prompts and texts are held in memory
PARTS = 32  # there are at least so many, unless they would be smaller than a batch, so that processes can share them
NUMBERS = (
    "energy_start",
    "energy",
    "nfe",
    "latent_change",
    "energy_change",
    "converged",
)  # of a reply, by the sampler
NOTE = Fields(
    {
        "candidates": Items(Number(0)),
        "sampler": Values(Maybe(Items(object))),
        "cuts": Items(Maybe(Items(Number(0), 3))),
        "lengths": Items(Number(0)),
        "seconds": Values(Number(0)),
        "part": Number(0),
    },
    ("candidates", "sampler", "cuts", "lengths", "seconds"),
)


@dataclass(frozen=True)
class KeptReplies:
    """All replies of a run, whose texts are on disk.

    Attributes:
        parts: rows of a generations file, not scored yet.
        sample: the sampler's numbers for each, without latents.
        candidates: which of its candidates each is.
        cuts: what its prompt left out.
        lengths: its tokens, as the decoder's tokenizer reads it again.
        seconds: wall-clock seconds of latents, decoding and choosing, those of ended runs included; of several processes
            their sum over their number.
    """

    parts: SharedParts
    sample: Sample
    candidates: list[int]
    cuts: list[Cut | None]
    lengths: list[int]
    seconds: dict[str, float]


def chunks_of(
    requests: list[Request], control: ControlArguments, how: DecodingArguments
) -> list[list[Request]]:
    """The requests in lists whose candidates are held in memory together, the same for any number of processes."""
    candidates = -(-len(requests) * control.candidates // PARTS)
    batches = max(1, -(-candidates // how.batch_size))
    size = max(1, min(AT_ONCE, batches * how.batch_size) // control.candidates)
    return [requests[begin : begin + size] for begin in range(0, len(requests), size)]


def write_kept(
    path: Path, generator: ReplyGenerator, folder: Path, requests: list[Request], control: ControlArguments, how: DecodingArguments,
    cvae: str | None = None,
) -> KeptReplies:  # fmt: skip
    """Write all replies, part by part, into a file; what it holds already of the same replies is not written again.

    Several processes (`common.processes`) share the parts, and each has a file of its own.

    Args:
        folder: the CVAE's, whose files decide what comes out.
        cvae: the hash of its weights as they were trained, which every row names.

    Raises:
        InputError: for a file of parts that is damaged.
    """
    chunks = chunks_of(requests, control, how)
    parts = SharedParts(path, request_hash(generator, folder, requests, control, how, cvae), len(chunks))
    if parts:
        written = sum(len(chunks[number]) for number in parts.found)
        print(f"going on behind {written} of {len(requests)} replies", flush=True)
    mine = parts.mine()
    progress = Progress(sum(len(chunks[number]) for number in mine))
    for number in mine:
        chunk = chunks[number]
        seconds: dict[str, float] = {}
        cut = generator.cuts([request.context for request in chunk], how)
        replies = generator.write(chunk, control, how, seconds)
        note = _note(replies, cut, generator.lengths(replies.texts), seconds)
        parts.close_part(number, generations_of(chunk, replies.texts, control.seed, cvae), note)
        progress.add(len(chunk))
    parts.complete()
    return _kept(parts, len(requests))


class Progress:
    """Says every half minute how many replies are written and how long the rest takes; the first process, of its own share.

    Args:
        total: replies that this process has to write.
    """

    EVERY = 30.0  # seconds

    def __init__(self, total: int):
        self.done, self.said, self.pace = 0, 0.0, Pace(total)

    def add(self, replies: int) -> None:
        """Count replies that are written."""
        self.done += replies
        words = self.pace.words(self.done)
        if is_first() and words and self.pace.elapsed >= self.said + self.EVERY:
            self.said = self.pace.elapsed
            print(f"{self.done} of {self.pace.total} replies, {words}", flush=True)


def _note(written: Replies, cut: list[Cut | None], lengths: list[int], seconds: dict[str, float]) -> dict:
    return {
        "candidates": written.candidates,
        "sampler": numbers_of(written.sample),
        "cuts": [None if one is None else [one.turns, one.tokens, one.room] for one in cut],
        "lengths": lengths,
        "seconds": seconds,
    }


def _kept(parts: SharedParts, replies: int) -> KeptReplies:
    for note in parts.notes:
        if wrong := misfit(note, NOTE):
            raise InputError(f"{parts.path}: {wrong}; delete the file to begin again")
    candidates = [int(number) for note in parts.notes for number in note["candidates"]]
    if len(candidates) != replies:
        raise InputError(
            f"{parts.path}: {len(candidates)} replies, expected {replies}; delete the file to begin again"
        )
    seconds: Counter = Counter()
    for note in parts.notes:
        seconds.update(note["seconds"])
    cuts = [None if one is None else Cut(*map(int, one)) for note in parts.notes for one in note["cuts"]]
    lengths = [int(number) for note in parts.notes for number in note["lengths"]]
    sample = sample_of([note["sampler"] for note in parts.notes])
    return KeptReplies(
        parts,
        sample,
        candidates,
        cuts,
        lengths,
        {name: round(value / count(), 2) for name, value in seconds.items()},
    )


def numbers_of(sample: Sample) -> dict[str, list | None]:
    """A sample's numbers as JSON holds them."""
    numbers = {name: getattr(sample, name) for name in NUMBERS}
    return {name: None if values is None else values.tolist() for name, values in numbers.items()}


def sample_of(numbers: list[dict[str, list | None]]) -> Sample:
    """The sampler's numbers of several parts as those of all replies; there are no latents in it."""
    joined: dict[str, Any] = {}
    for name in NUMBERS:
        parts = [part.get(name) for part in numbers]
        known = [values for values in parts if values is not None]
        joined[name] = (
            torch.tensor([value for values in known for value in values])
            if len(known) == len(parts)
            else None
        )
    return Sample(torch.empty(0), **joined)


def request_hash(
    generator: ReplyGenerator, folder: Path, requests: Iterable[Request], control: ControlArguments, how: DecodingArguments,
    cvae: str | None = None,
) -> str:  # fmt: skip
    """What decides the replies, as a hash: requests, options, the CVAE's files, the device."""
    digest = hashlib.sha256()
    for r in requests:
        digest.update(json.dumps([r.id, r.context, r.target, r.reference]).encode())
    settings = {
        "control": dataclasses.asdict(control),
        "decoding": dataclasses.asdict(how),
        "at once": [AT_ONCE, PARTS],
        "cvae": cvae,
    }
    settings |= {"requests": digest.hexdigest(), "device": device_name(generator.device)}
    files = [folder / "config.json", folder / "tokenizer.json", folder / ENCODER_TOKENIZER / "tokenizer.json"]
    return fingerprint(settings, [*sorted(folder.glob("*.safetensors")), *files])


def generations_of(
    requests: list[Request], replies: list[str], seed: int, cvae: str | None = None
) -> list[dict]:
    """Rows of a generations file, not scored yet; `cvae` is the hash of the weights that wrote them."""
    unscored = dict.fromkeys(("predicted", "probabilities", "nli", "nats", "tokens"))
    return [
        {
            "id": r.id,
            "context": list(r.context),
            "target": r.target,
            "response": reply,
            "reference": r.reference,
            **unscored,
            "seed": seed,
            **({"cvae": cvae} if cvae else {}),
        }
        for r, reply in zip(requests, replies)
    ]


def replies_digest(path: Path) -> str | None:
    """A hash of the replies in a generations file, whatever their scores; None where there is no file that can be read."""
    digest = hashlib.sha256()
    try:
        for _, row in read_jsonl(path):
            digest.update(json.dumps(row.get("response")).encode())
    except InputError:
        return None
    return digest.hexdigest()
