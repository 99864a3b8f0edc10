"""What the journal amounts to: dialogues kept, answers rejected and why, tasks still to be asked."""

from dataclasses import dataclass

from dataset.synthesis.answers import Exchanges, Malformed, Refusal, read_answer
from dataset.synthesis.journal import Answer, Journal
from dataset.synthesis.tasks import Task

ATTEMPTS = 2  # the first answer and one repair


@dataclass(frozen=True)
class Outcome:
    """A task's state: kept (with its dialogue), rejected (with the reason), or open (with the attempt to make next)."""

    task: Task
    dialogue: Exchanges | None = None
    reason: str | None = None
    next_attempt: int | None = None
    last: Answer | None = None


def outcome_of(task: Task, journal: Journal) -> Outcome:
    """Check a task's answers in the order they came; the first usable one counts."""
    answer, reason, key = None, None, task.key
    for attempt in range(ATTEMPTS):
        stored = journal.answers.get((key, attempt))
        if stored is None:
            return Outcome(task, reason=reason, next_attempt=attempt, last=answer)
        answer = stored
        try:
            dialogue = read_answer(
                answer.text, task.persona, task.turns, answer.finish_reason, answer.refusal
            )
        except Refusal as error:
            return Outcome(task, reason=str(error), last=answer)
        except Malformed as error:
            reason = str(error)
            continue
        return Outcome(task, dialogue=dialogue, last=answer)
    return Outcome(task, reason=reason, last=answer)
