"""What a request may say, and how its messages become turns."""

import json

import pytest

from server.errors import Refused
from server.protocol import MOST_CHARACTERS, Message, conversation_of, read_request

HELLO = [{"role": "user", "content": "Hello."}]


def read(**fields):
    return read_request(json.dumps({"messages": HELLO} | fields).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"), ({"logprobs": True}, "logprobs"), ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"), ({"colour": "red"}, "colour"),
        ({"n": 0}, "n"), ({"n": "2"}, "n"), ({"seed": 1.5}, "seed"), ({"temperature": 3}, "temperature"), ({"top_p": 0}, "top_p"),
        ({"stop": ["a"] * 5}, "stop"), ({"stop": ""}, "stop"), ({"max_tokens": -1}, "max_tokens"), ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"), ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"stream_options": {"include_usage": True}}, "stream_options"), ({"target": 5}, "target"), ({"candidates": 0}, "candidates"),
        ({"guidance": -1}, "guidance"), ({"model": 5}, "model"), ({"fluency": 1e308}, "fluency"), ({"relevance": 1e308}, "relevance"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]}, "messages[0].content[1].type"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"weights": {"attitude": None}}, "weights.attitude"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields, param):
    with pytest.raises(Refused) as refused:
        read(**fields)
    assert refused.value.status == 400 and refused.value.param.startswith(param)
    assert param.split("[")[0] in str(refused.value)
    assert set(refused.value.body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"messages": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 10_000 + b"}",
             b'{"messages": [{"role": "user", "content": "\\ud800"}]}']
)  # fmt: skip
def test_what_is_no_request_is_refused(body):
    with pytest.raises(Refused) as refused:
        read_request(body)
    assert refused.value.status == 400 and str(refused.value)


def test_fields_that_ask_for_nothing_are_let_through():
    request = read(
        presence_penalty=0, frequency_penalty=0.0, logprobs=False, response_format={"type": "text"}, tools=None, user="me",
        metadata={"a": "b"}, logit_bias={}, stop=None, n=None, temperature=None,
    )  # fmt: skip
    assert request.options() == {} and request.client == "me"


def test_a_message_may_have_fields_that_say_nothing():
    nothing = {"refusal": None, "audio": None, "function_call": None, "annotations": [], "tool_calls": None}
    found = read(messages=[*HELLO, {"role": "assistant", "content": "Yes?"} | nothing, *HELLO])
    assert [message.text for message in found.messages] == ["Hello.", "Yes?", "Hello."]


def test_temperature_says_how_tokens_are_chosen():
    assert read(temperature=0).options() == {"decoding": "greedy"}
    assert read(temperature=0.5, top_p=0.8).options() == {
        "decoding": "top_p",
        "temperature": 0.5,
        "top_p": 0.8,
    }
    assert read(candidates=4, start="sample").options() == {"candidates": 4, "start": "sample"}


def conversation(*pairs, most=9, context=lambda text: text):
    return conversation_of([Message(role=role, content=text) for role, text in pairs], context, most)


def test_a_system_message_is_context_in_front_of_the_user_s_turn():
    found = conversation(
        ("system", "Be  kind."),
        ("user", "Hi."),
        ("assistant", "Yes?"),
        ("developer", "Now."),
        ("user", "Go."),
    )
    assert found.turns == ("Be kind. Hi.", "Yes?", "Now. Go.") and found.dropped == 0
    assert conversation(("system", "lyrical"), ("user", "Hi."), context=lambda _: "").turns == ("Hi.",)


def test_a_greeting_and_empty_replies_and_neighbours():
    assert conversation(("assistant", "Welcome."), ("user", "Hi.")).turns == ("Welcome. Hi.",)
    assert conversation(("user", "A."), ("assistant", ""), ("user", "B.")).turns == ("A. B.",)


def test_the_oldest_turns_are_dropped_and_the_user_stays_first():
    pairs = [(("user", "assistant")[i % 2], str(i)) for i in range(21)]
    found = conversation(*pairs, most=5)
    assert found.turns == ("16", "17", "18", "19", "20") and found.dropped == 16


def test_what_is_far_too_long_is_not_looked_at():
    """A quarter of a megabyte held all replies up for seconds while it was read into tokens."""
    long, half = "a " * MOST_CHARACTERS, "a" * (MOST_CHARACTERS // 2)
    found = conversation(("user", "A."), ("assistant", long), ("user", "B."))
    assert found.turns == ("B.",) and found.dropped == 2
    found = conversation(
        ("user", half), ("assistant", "x"), ("user", half), ("assistant", "y"), ("user", "B.")
    )
    assert found.turns == (half, "y", "B.") and found.dropped == 2
    for pairs in ([("user", long)], [("system", long), ("user", "A.")]):
        with pytest.raises(
            Refused, match="expected at most 20000 characters in the last turn, found [34]"
        ) as refused:
            conversation(*pairs)
        assert refused.value.status == 400 and refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "pairs", [[("system", "x")], [("user", "a"), ("assistant", "b")], [("user", "  ")], [("assistant", "b")]]
)
def test_the_user_speaks_last(pairs):
    with pytest.raises(Refused) as refused:
        conversation(*pairs)
    assert refused.value.status == 400 and refused.value.param.startswith("messages")
