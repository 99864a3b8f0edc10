"""What a run costs: prices per model, tokens so far, and an estimate of the rest."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.yaml_files import read_yaml
from dataset.synthesis.journal import Answer
from dataset.synthesis.tasks import Task

PRICES = Path(__file__).with_name("prices.yaml")
BYTES_PER_TOKEN = 4.0  # of UTF-8 in English, fewer tokens than bytes in any language; for estimates
TOKENS_PER_PROMPT = 250  # of an answer that was journalled without its tokens
TOKENS_PER_EXCHANGE = 75  # a user turn, a reply and their JSON; likewise


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, where nobody counted them; at least 1."""
    return max(1, round(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN))


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; `batch` multiplies both where the Batch API is used."""

    input: float
    output: float
    batch: float = 0.5

    def of(self, tokens_in: float, tokens_out: float, batch: bool = False) -> float:
        """Dollars for that many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6 * (self.batch if batch else 1.0)


def price_of(model: str, path: Path | None = None) -> Price | None:
    """The model's price from a YAML file ``model: {input, output, batch}`` (default: the table here); None if unknown.

    Raises:
        InputError: for a file that is missing or not of that form.
    """
    path = path or PRICES
    if not path.is_file():
        raise InputError(f"prices not found: {path}")
    try:
        table = read_yaml(path) or {}
        return (
            Price(**{key: _dollars(value) for key, value in table[model].items()}) if model in table else None
        )
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: expected lines such as `{model}: {{input: 0.4, output: 1.6}}` ({' '.join(str(error).split()):.200})"
        ) from None


def _dollars(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{number} dollars")
    return number


@dataclass
class Meter:
    """Tokens and dollars of a run so far."""

    price: Price | None
    answers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float = 0.0

    def add(self, answer: Answer) -> None:
        """Count an answer; of one that was journalled without its tokens, an estimate."""
        if answer.refusal and not answer.text and not answer.tokens_in:
            return  # a prompt that was refused is not charged
        tokens_out = answer.tokens_out or estimated_tokens(answer.text)
        tokens_in = answer.tokens_in or (
            self.tokens_in // self.answers if self.answers else TOKENS_PER_PROMPT
        )
        self.answers += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if self.price:
            self.dollars += self.price.of(tokens_in, tokens_out, answer.batch)

    def expected_tokens(self, task: Task) -> tuple[float, float]:
        """Tokens in and out of one more request: the mean so far, or a guess from the prompt's length."""
        if self.answers and self.tokens_out:
            return self.tokens_in / self.answers, self.tokens_out / self.answers
        return estimated_tokens(
            "".join(message["content"] for message in task.messages())
        ), task.turns * TOKENS_PER_EXCHANGE

    def expected_dollars(self, task: Task, batch: bool = False) -> float:
        """Dollars of one more request; 0 where the price is unknown."""
        return self.price.of(*self.expected_tokens(task), batch) if self.price else 0.0

    def __str__(self) -> str:
        tokens = f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out"
        return tokens + (f", ${self.dollars:.4f}" if self.price else "")
