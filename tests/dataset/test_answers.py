"""Dialogues are found in whatever a model writes, and bad ones are refused with a reason."""

import json

import pytest

from dataset.synthesis.answers import Malformed, Refusal, find_dialogue, read_answer, without_reasoning
from dataset.synthesis.tasks import Persona

LYRICAL = Persona({"style": "lyrical"}, {"lyrical": "..."})
PAIR = {"user": "Where is the old boat?", "reply": "It sleeps under the snow."}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"dialogue": [PAIR]}),
        json.dumps([PAIR]),
        json.dumps(PAIR),
        "Sure! Here it is:\n```json\n" + json.dumps({"dialogue": [PAIR]}, indent=2) + "\n```\nAnything else?",
        json.dumps(
            {
                "conversation": [
                    {"role": "user", "content": PAIR["user"]},
                    {"role": "assistant", "content": PAIR["reply"]},
                ]
            }
        ),
        json.dumps([{"User": PAIR["user"]}, {"Assistant": PAIR["reply"]}]),
        'Note {braces} first. {"dialogue": [{"user": "Where is the old boat?", "reply": "It sleeps\nunder the snow."}]}',
        f"User: {PAIR['user']}\nReply: {PAIR['reply']}",
        f'**User:** {PAIR["user"]}\n\n**Person B:** "{PAIR["reply"]}"',
    ],
)
def test_a_dialogue_is_found(text):
    found = find_dialogue(text)
    assert found.users == [PAIR["user"]] and found.replies == [PAIR["reply"]]


def answer(*pairs):
    return json.dumps({"dialogue": [{"user": u, "reply": r} for u, r in pairs]})


GOOD = ("Where is the boat?", "It sleeps under the snow.")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Hello there.", "no JSON dialogue"),
        ('{"dialogue": [{"user": "Where', "no JSON dialogue"),
        (
            json.dumps(
                [{"role": "assistant", "content": "Hi there you."}, {"role": "user", "content": "Oh."}]
            ),
            "must alternate",
        ),
        (json.dumps([{"role": "user", "content": "Hi there you."}]), "must alternate"),
        (answer(("Where is it?", "")), "empty or not text"),
        (answer(GOOD, GOOD), "2 exchanges; 1 were asked for"),
        (answer(("Where is it?", "There.")), "a reply has 1 words"),
        (answer(("Where is it?", "word " * 81)), "a reply has 81 words"),
        (answer(("Where?", "It sleeps under the snow.")), "a user turn has 1 words"),
        (answer(("Where is it?", "In my Lyrical way I say: there.")), "names its own character"),
    ],
)
def test_a_malformed_answer_is_refused_with_the_reason(text, reason):
    with pytest.raises(Malformed, match=reason):
        read_answer(text, LYRICAL, 1)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "As an AI, I do not write such things.",
        answer(("Tell me?", "I cannot help with that, friend.")),
    ],
)
def test_a_refusal_is_told_from_a_mistake(text):
    with pytest.raises(Refusal):
        read_answer(text, LYRICAL, 1)


def test_what_the_service_says_counts_too():
    with pytest.raises(Refusal, match="content filter"):
        read_answer(answer(GOOD), LYRICAL, 1, finish_reason="content_filter")
    with pytest.raises(Refusal, match="not this"):
        read_answer("", LYRICAL, 1, refusal="not this")
    with pytest.raises(Malformed, match="cut off"):
        read_answer(answer(GOOD), LYRICAL, 1, finish_reason="length")


def test_two_equal_replies_are_refused():
    with pytest.raises(Malformed, match="the same"):
        read_answer(answer(GOOD, GOOD), LYRICAL, 2)


def test_a_feeling_of_sorrow_is_no_refusal():
    """Emotional replies say sorry a lot; only declining to answer is a refusal."""
    text = answer(("My dog has died.", "I'm sorry, I can still see him running to the gate."))
    assert read_answer(text, LYRICAL, 1).replies


DRAFT = json.dumps(
    {"dialogue": [{"user": "Where was that old boat?", "reply": "This is only a draft of mine."}]}
)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>A draft: {DRAFT} Too flat.</think>\n{answer(GOOD)}",
        f'<think>Start with [{{"user": "only one side so far"}}] and go on.</think>{answer(GOOD)}',
        f"A draft: {DRAFT} Too flat.\n</think>\n{answer(GOOD)}",  # the server took the beginning away
        f"<THINKING>{DRAFT}</THINKING><think>{DRAFT}</think>{answer(GOOD)}",
        f"[THINK]{DRAFT}[/THINK]{answer(GOOD)}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{answer(GOOD)}<|return|>",
        f"◁think▷{DRAFT}◁/think▷{answer(GOOD)}",
        f"First idea: {DRAFT}\nBetter: {answer(GOOD)}",
        f'Not [{{"user": "this"}}] but {answer(GOOD)}',
        "[[[[ " + answer(GOOD),
    ],
)
def test_a_reasoning_model_s_draft_is_not_taken(text):
    """The first dialogue in the text, a draft inside <think>, became training data."""
    assert read_answer(text, LYRICAL, 1).replies == [GOOD[1]]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}",
        f"<think>{DRAFT}</think>",
        "[" * 200_000,
        '{"a": ' * 5000,
        "9" * 5000,
        '{"dialogue": ' + "9" * 5000 + "}",
    ],
)
def test_a_text_without_an_answer_is_refused_whatever_it_is(text):
    with pytest.raises(Malformed):
        read_answer(text, LYRICAL, 1)


def test_no_part_of_a_malformed_dialogue_is_taken():
    with pytest.raises(Malformed, match="empty or not text"):
        read_answer(answer(("Where is it?", ""), GOOD), LYRICAL, 1)
    with pytest.raises(Malformed, match="broken characters"):
        read_answer(
            '{"dialogue": [{"user": "Where is the boat?", "reply": "It sleeps under \\ud83d snow."}]}',
            LYRICAL,
            1,
        )


def test_text_that_only_mentions_thinking_stays():
    assert without_reasoning("I think, therefore <b>") == "I think, therefore <b>"
