"""What the kept replies of a cell say by context: what intervals over contexts are computed from after the cell is measured."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.jsonl import read_jsonl
from common.schema import target_name

Context = tuple[str, ...]


@dataclass(frozen=True)
class ReplyScores:
    """The scored replies of a cell.

    Attributes:
        contexts, targets: of each reply.
        joint: [N], 1 where all its aspects are predicted.
        coherence: [N], in [0, 1].
    """

    contexts: list[Context]
    targets: list[str]
    joint: np.ndarray
    coherence: np.ndarray


def replies_of(folder: Path, key: str) -> ReplyScores | None:
    """Of a cell's ``generations/<key>.jsonl``; None where it was not kept (``keep_replies: false``) or some reply has no scores.

    Raises:
        InputError: naming file and line of a row that cannot be read.
    """
    path = folder / "generations" / f"{key}.jsonl"
    if not path.is_file():
        return None
    contexts, targets, joint, coherence = [], [], [], []
    for where, row in read_jsonl(path):
        try:
            target, predicted = row["target"], row["predicted"]
            right = all(predicted[name] == aspect for name, aspect in target.items())
            context, fits = tuple(row["context"]), float(row["nli"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where}: not a scored reply ({type(error).__name__}: {error!s:.80}); move the file away to do without its interval"
            ) from None
        contexts.append(context)
        targets.append(target_name(target))
        joint.append(float(right))
        coherence.append(fits)
    return ReplyScores(contexts, targets, np.array(joint), np.array(coherence))


def by_context(scores: ReplyScores, order: dict[Context, int]) -> np.ndarray:
    """Sums over each context's replies, [contexts, 3]: joint, coherence, replies.

    Args:
        order: context -> row; replies to other contexts do not count.
    """
    rows = np.array([order.get(context, -1) for context in scores.contexts])
    known = rows >= 0
    columns = (scores.joint, scores.coherence, np.ones(len(rows)))
    return np.stack(
        [np.bincount(rows[known], column[known], minlength=len(order)) for column in columns], axis=1
    )
