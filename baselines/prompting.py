"""An instruct model whose prompt says what a reply should be like: what prompting and persona vectors stand on.

The instructions are a system turn where the base's chat template has one, else a user turn of their own in front of the
conversation. The base is not trained, and examples are drawn from the training dialogues.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from baselines.language_model import LanguageModel, PlainDecoder
from baselines.training import TrainingSetting, once
from common.schema import Schema
from dataset.dialogues import Dialogue
from dataset.encoding import DialogueTemplate, marker_ids, text_ids
from generation.options import DecodingArguments
from generation.requests import Request
from model.decoder import align_head, fuse_norms
from model.noise import generator

TASK = "Write the next reply in this conversation: one to three short sentences, nothing else."
QUALITIES = "The reply must have all of these qualities at once:"
QUALITY = "- {aspect}: {description}"
EXAMPLE = '  To "{turn}" such a reply is "{reply}"'
MOST_EXAMPLES = 8  # that are drawn for every aspect
INSTRUCTIONS, TURN = "Ixinstructionsx", "Uxuserturnx"  # stand for both; words that no template has


def marks_of_instructions(tokenizer: PreTrainedTokenizerBase, template: DialogueTemplate) -> tuple[str, str]:
    """What stands before and after the instructions in a prompt.

    Args:
        template: the marks of the base's turns.

    Returns:
        The chat template's marks of a system turn, what it begins with included; where it has no such turn, those of a user's.
    """
    instead = template.start + template.user_prefix + template.turn_start, template.turn_end
    if not getattr(tokenizer, "chat_template", None):
        return instead
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": TURN}]
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    except Exception:  # a template may refuse the role in any way, and says so by its own error
        return instead
    front = rendered.partition(TURN)[0]
    before, found, after = front.removesuffix(template.user_prefix).partition(INSTRUCTIONS)
    turns = [mark for mark in (template.user_prefix, template.assistant_prefix) if mark]
    if not found or not front.endswith(template.user_prefix) or any(before.endswith(mark) for mark in turns):
        return instead  # left out, merged into the user's turn, or written as if somebody had said it
    return before, after


def instructions(schema: Schema, target: dict[str, str], examples: dict[str, list[Dialogue]]) -> str:
    """The instructions for a target in words; for an empty one, the task alone.

    Args:
        examples: aspect -> dialogues whose last turn and reply are shown.
    """
    lines = [TASK]
    for name in schema.names:
        if aspect := target.get(name):
            lines.append(
                QUALITY.format(aspect=aspect, description=schema.attribute(name).description(aspect))
            )
            lines += [
                EXAMPLE.format(turn=dialogue.context[-1], reply=dialogue.reply)
                for dialogue in examples.get(aspect, [])
            ]
    return "\n".join([lines[0], QUALITIES, *lines[1:]] if lines[1:] else lines)


@dataclass(frozen=True)
class Instructed:
    """The base as it is, with its instructions.

    Attributes:
        model: its prompts begin behind the instructions.
        marks: before and after these.
        examples: aspect -> drawn training dialogues, the first of which are shown.
    """

    model: LanguageModel
    schema: Schema
    marks: tuple[str, str]
    examples: dict[str, list[Dialogue]]

    def front(self, target: dict[str, str], examples: int = 0) -> list[int]:
        """Token ids of the instructions for a target, with so many examples of each aspect."""
        shown = {aspect: drawn[:examples] for aspect, drawn in self.examples.items()}
        tokenizer, (before, after) = self.model.tokenizer, self.marks
        (words,) = text_ids(tokenizer, [instructions(self.schema, target, shown)])
        return marker_ids(tokenizer, before) + words + marker_ids(tokenizer, after)

    def write(
        self, requests: list[Request], how: DecodingArguments, seed: int, fronts: list[list[int]],
        decoder: Callable[[PreTrainedModel], PlainDecoder] = PlainDecoder,
    ) -> list[str]:  # fmt: skip
        """A reply to every request behind its front, which takes none of the room that the context has otherwise.

        Args:
            decoder: see `LanguageModel.write`; one that looks up what it adds by number needs fronts of one length.

        Raises:
            InputError: where the model has not enough positions for a reply behind its front.
        """
        replies = [""] * len(requests)
        for size in sorted(set(map(len, fronts))):
            indices = [index for index, front in enumerate(fronts) if len(front) == size]
            model = replace(self.model, decoder_length=self.model.decoder_length + size)
            some, before = [requests[index] for index in indices], [fronts[index] for index in indices]
            for index, reply in zip(indices, model.write(some, how, seed, decoder, before=before)):
                replies[index] = reply
        return replies


def instructed(setting: TrainingSetting, shared: dict) -> Instructed:
    """The base, not trained; loaded once for all methods of a run."""

    def make() -> Instructed:
        lm, tokenizer = setting.base()
        if isinstance(head := lm.get_output_embeddings(), nn.Linear):
            align_head(head)
        fuse_norms(lm)
        template = replace(setting.template, start="")  # the instructions begin with it
        model = LanguageModel(
            lm.eval().requires_grad_(False), tokenizer, template, setting.decoder_length, setting.device
        )
        marks = marks_of_instructions(tokenizer, setting.template)
        return Instructed(model, setting.schema, marks, drawn_examples(setting, shared))

    return once(setting, shared, "instructed", make)


def drawn_examples(setting: TrainingSetting, shared: dict) -> dict[str, list[Dialogue]]:
    """`MOST_EXAMPLES` training dialogues of every aspect, or all where there are fewer, drawn by the setting's seed."""
    by_aspect: dict[str, list[Dialogue]] = {aspect: [] for aspect in setting.aspects}
    for aspect, dialogue in setting.dialogues(shared):
        by_aspect[aspect].append(dialogue)
    return {
        aspect: random.Random(generator(setting.seed, aspect, "", "examples").initial_seed()).sample(
            dialogues, min(MOST_EXAMPLES, len(dialogues))
        )
        for aspect, dialogues in by_aspect.items()
    }
