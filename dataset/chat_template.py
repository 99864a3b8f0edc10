"""The turn marks of an instruct model, read off its tokenizer's chat template."""

from transformers import PreTrainedTokenizerBase

from common.errors import InputError
from dataset.encoding import DialogueTemplate

USER, REPLY, LAST = (
    "Uxuserturnx",
    "Rxreplyturnx",
    "Lxlastturnx",
)  # stand for turns; words that no template has


class UnreadableTemplate(InputError):
    """A chat template whose marks depend on more than who speaks; the message says what was found."""


def template_of(tokenizer: PreTrainedTokenizerBase, otherwise: DialogueTemplate) -> DialogueTemplate:
    """The marks of the tokenizer's chat template, or `otherwise` where it has none.

    A short conversation is rendered with words in place of its turns, and the marks are what stands between them. The
    beginning-of-sequence token is kept where the template writes one. A default system message is not: it says nothing
    about the reply asked for, and would be read again before every one.

    Raises:
        UnreadableTemplate: for a template that refuses such a conversation, changes its turns, or marks equal turns differently.
    """
    if not getattr(tokenizer, "chat_template", None):
        return otherwise
    try:
        closed = _rendered(tokenizer, [USER, REPLY], False)
        whole = _rendered(tokenizer, [USER, REPLY, LAST], True)
    except (
        Exception
    ) as error:  # jinja's own errors, and whatever a template raises for a conversation that it refuses
        raise UnreadableTemplate(
            f"the chat template of this tokenizer cannot be rendered: {' '.join(str(error).split())[:200]}"
        ) from error
    if any(whole.count(word) != 1 for word in (USER, REPLY, LAST)) or any(
        closed.count(word) != 1 for word in (USER, REPLY)
    ):
        raise UnreadableTemplate(
            "the chat template of this tokenizer does not write every turn once, as it is"
        )
    before, _, rest = whole.partition(USER)
    to_reply, _, rest = rest.partition(REPLY)  # the end of a user's turn and the mark of a reply
    to_user, _, after = rest.partition(LAST)  # the end of a reply and the mark of a user
    reply_end = closed.partition(REPLY)[2]
    reply_end = to_user[: _common(reply_end, to_user)]
    user_prefix = to_user[len(reply_end) :]
    if not before.endswith(user_prefix):
        raise UnreadableTemplate(
            f"the chat template of this tokenizer begins its first turn with {before!r} and later ones with {user_prefix!r}"
        )
    turn_end, assistant_prefix = _split(tokenizer, to_reply, after)
    bos = tokenizer.bos_token or ""
    preamble = before[: len(before) - len(user_prefix)]
    start = (
        bos if bos and preamble.startswith(bos) and bos not in user_prefix else ""
    )  # ChatML's mark of a turn may be called so
    return DialogueTemplate(user_prefix, assistant_prefix, "", turn_end, start, reply_end)


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[str], prompt: bool) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def _common(first: str, second: str) -> int:
    """How many letters two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


def _split(tokenizer: PreTrainedTokenizerBase, to_reply: str, after: str) -> tuple[str, str]:
    """The end of a user's turn, and the mark of a reply: what stands between the two, divided where a prompt for a reply begins."""
    plain = _rendered(tokenizer, [USER], False).partition(USER)[2]
    end = to_reply[: _common(plain, to_reply)]
    if not after.startswith(end):
        raise UnreadableTemplate(
            f"the chat template of this tokenizer ends a user's turn with {end!r} and the last one with {after!r}"
        )
    return end, to_reply[len(end) :]
