"""Answers of a language model that judges: how likely it finds each option, from its tokens' probabilities or from what it said.

The expectation over the answer token's probabilities instead of the sampled answer: G-Eval (Liu et al., EMNLP 2023).
"""

import math
import re
from dataclasses import dataclass

from dataset.synthesis.answers import without_reasoning
from dataset.synthesis.journal import Answer, Journal
from scoring.judge_questions import LETTERS, Question

ATTEMPTS = 2  # the first answer and one more, with a word on what was wrong
LEAST_MASS = 0.5  # of the options' letters together; where a token's alternatives are mostly something else, the sampled answer counts
MARKS = " \t\r\n()[]{}.:;,*_\"'`#<>|-▁Ġ"


class Unreadable(ValueError):
    """An answer from which no option can be told; the message says why, in words that the model can act on."""


@dataclass(frozen=True)
class JudgeRating:
    """What became of a question: answered, given up, or still open.

    Attributes:
        probabilities: option -> probability, 1 for the sampled one where there are no token probabilities; None where not answered.
        by_tokens: whether they are the tokens' probabilities.
        reason: why the last answer could not be read.
        next_attempt: the attempt to make; None where it is answered or given up.
    """

    question: Question
    probabilities: dict[str, float] | None = None
    by_tokens: bool = False
    reason: str | None = None
    next_attempt: int | None = None
    last: Answer | None = None


def rating_of(question: Question, journal: Journal) -> JudgeRating:
    """The first of a question's answers that can be read."""
    answer, reason = None, None
    for attempt in range(ATTEMPTS):
        found = journal.answers.get((question.key, attempt))
        if found is None:
            return JudgeRating(question, reason=reason, next_attempt=attempt, last=answer)
        answer = found
        if answer.refusal:
            return JudgeRating(question, reason=f"declined: {answer.refusal}", last=answer)
        try:
            probabilities, by_tokens = read_answer(answer, question)
        except Unreadable as error:
            reason = str(error)
            continue
        return JudgeRating(question, probabilities, by_tokens, last=answer)
    return JudgeRating(question, reason=reason, last=answer)


def read_answer(answer: Answer, question: Question) -> tuple[dict[str, float], bool]:
    """(option -> probability, whether by the tokens' probabilities).

    Raises:
        Unreadable: where the answer names no option, or several.
    """
    text = without_reasoning(answer.text)
    choice = sampled(text, question)
    if (
        answer.logprobs and text == answer.text.strip()
    ):  # of a model that reasons first, the first tokens are not the answer
        shares = by_tokens(answer.logprobs, choice, len(question.options))
        if shares is not None:
            return dict(zip(question.options, shares)), True
    return {option: float(i == choice) for i, option in enumerate(question.options)}, False


def sampled(text: str, question: Question) -> int:
    """The number of the option that an answer names: by its letter, or by the option's own name; raises `Unreadable`."""
    n = len(question.options)
    if not text.strip():
        raise Unreadable("the answer is empty")
    letters = LETTERS[:n]
    alone = text.strip(MARKS)
    if len(alone) == 1 and alone.upper() in letters:
        return letters.index(alone.upper())
    # a capital letter on its own; "A" and "I" before a word in lower case are words
    found = {
        m[1]
        for m in re.finditer(rf"(?<![A-Za-z'])(?![AI]\s+(?!or\b|and\b)[a-z])([{letters}])(?![A-Za-z'])", text)
    }
    if len(found) == 1:
        return letters.index(found.pop())
    named = [
        i for i, option in enumerate(question.options) if re.search(rf"\b{re.escape(option)}\b", text, re.I)
    ]
    if len(named) == 1 and not found and not question.options[named[0]].isdigit():
        return named[0]
    raise Unreadable(
        "it names several options" if found or named else f"it names none of {', '.join(letters)}"
    )


def by_tokens(logprobs: list[dict[str, float]], choice: int, n: int) -> list[float] | None:
    """The options' probabilities at the first token that is the chosen letter; None where there is no such token, or the letters
    have less than `LEAST_MASS` there."""
    letters = LETTERS[:n]
    for tokens in logprobs:
        if next(iter(tokens)).strip(MARKS).upper() != letters[choice]:
            continue
        mass = [0.0] * n
        for token, value in tokens.items():
            letter = token.strip(MARKS).upper()
            if len(letter) == 1 and letter in letters:
                mass[letters.index(letter)] += math.exp(min(value, 0.0))
        return [share / sum(mass) for share in mass] if sum(mass) >= LEAST_MASS else None
    return None
