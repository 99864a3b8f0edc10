"""What a visitor can set, and the link that carries it."""

from dataclasses import dataclass, field
from urllib.parse import urlencode

from common.schema import Schema

NONE = "(none)"  # no aspect can be called so
LONGEST = 4_000  # characters of a message
FLAGS = ("seed", "sample", "remember")  # every link of ours has them
STRENGTHS = (-2.0, 2.0, 0.5)  # powers of ten: lowest, highest, step


@dataclass(frozen=True)
class Settings:
    """One visitor's settings.

    Attributes:
        target: attribute -> aspect; attributes that are not controlled are left out.
        strengths: attribute -> power of ten on the run's own weight.
        seed: of all noise.
        sample: start from a sample of the prior; otherwise the first candidate starts from its mean.
        remember: the turns before are part of the context.
    """

    target: dict[str, str] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    sample: bool = False
    remember: bool = True

    @classmethod
    def read(cls, schema: Schema, values: tuple) -> "Settings":
        """From the page's inputs: aspect and strength of every attribute, then seed, sample and remember."""
        aspects, strengths = values[: 2 * len(schema.names) : 2], values[1 : 2 * len(schema.names) : 2]
        target = {name: aspect for name, aspect in zip(schema.names, aspects) if aspect != NONE}
        seed, sample, remember = values[2 * len(schema.names) :]
        return cls(target, dict(zip(schema.names, strengths)), int(seed or 0), bool(sample), bool(remember))

    def values(self, schema: Schema) -> list:
        """The inverse of `read`."""
        pairs = [(self.target.get(name, NONE), self.strengths.get(name, 0.0)) for name in schema.names]
        return [value for pair in pairs for value in pair] + [self.seed, self.sample, self.remember]

    def options(self, model) -> dict:
        """Keyword arguments of `Miracle.reply`; attributes that the model lacks are ignored."""
        weights = {
            name: weight * factor(self.strengths.get(name, 0.0)) for name, weight in model.weights.items()
        }
        return {"weights": weights, "seed": self.seed, "start": "sample" if self.sample else "mean"}

    def target_of(self, schema: Schema) -> dict[str, str]:
        """The part of the target that a schema knows."""
        return {
            a.name: self.target[a.name] for a in schema.attributes if self.target.get(a.name) in a.aspects
        }


def factor(strength: float) -> float:
    """10 to the strength, to one digit: 0.01, 0.03, 0.1, ..., 100."""
    return float(f"{10**strength:.0e}")


def to_link(schema: Schema, settings: Settings, question: str) -> str:
    """A query that brings the settings and the question back; what has its default is left out."""
    query = {f"a.{name}": aspect for name, aspect in settings.target.items()}
    query |= {
        f"s.{name}": f"{settings.strengths[name]:g}" for name in schema.names if settings.strengths.get(name)
    }
    query |= {"seed": settings.seed, "sample": int(settings.sample), "remember": int(settings.remember)}
    return "?" + urlencode(query | ({"q": question} if question else {}))


def from_link(schema: Schema, query: dict[str, str], default: Settings) -> tuple[Settings, str]:
    """Settings and question of a link; whatever it has that cannot be used is ignored.

    The default's aspects are those of an address without any setting; a link that has some leaves out attributes that are
    not controlled.
    """
    target = {
        a.name: query[f"a.{a.name}"] for a in schema.attributes if query.get(f"a.{a.name}") in a.aspects
    }
    if not any(key in FLAGS or key.startswith(("a.", "s.")) for key in query):
        target = dict(default.target)
    strengths = {name: strength_of(query.get(f"s.{name}")) for name in schema.names}
    seed = query.get("seed", "")
    seed = int(seed) if seed.isascii() and seed.isdigit() and len(seed) < 10 else default.seed
    flags = [
        {"0": False, "1": True}.get(query.get(name), own)
        for name, own in (("sample", default.sample), ("remember", default.remember))
    ]
    return Settings(target, strengths, seed, *flags), query.get("q", "")[:LONGEST]


def strength_of(text: str | None) -> float:
    """The slider's position nearest to a number; 0 for anything else."""
    low, high, step = STRENGTHS
    try:
        return min(max(round(float(text) / step) * step, low), high)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def cut(text: str) -> tuple[str, str]:
    """A message of at most `LONGEST` characters, and a note where it was cut."""
    text = text.strip()
    note = (
        f"Your message had {len(text):,} characters; the first {LONGEST:,} were used."
        if len(text) > LONGEST
        else ""
    )
    return text[:LONGEST], note
