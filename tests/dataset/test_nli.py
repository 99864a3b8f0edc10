"""dataset/nli.py: coherence pairs, read or made."""

import random
from collections import Counter

import pytest

from common.errors import InputError
from dataset.dialogues import Dialogue
from dataset.nli import COHERENT, CORRUPTIONS, INCOHERENT, NEGATIVE_KINDS, Pair, make_pairs, read_nli

REPLY = "Put a tray of hot water under the rye, and wrap the loaf afterwards."


def dialogue(context, response, topic=None, id="0"):
    return Dialogue(id, context if isinstance(context, tuple) else (context,), response, {}, topic)


def some_dialogues():
    """Two topics; every context twice with different replies; openings that differ."""
    openings = ("Perhaps the", "Maybe my", "Put some", "Wait until")
    return [
        dialogue(
            f"question {n // 2}?",
            f"{openings[n % 4]} answer number {n} comes late.",
            topic=("bread", "rain")[n % 8 < 4],
        )
        for n in range(24)
    ]


def true_replies(dialogues):
    replies = {}
    for d in dialogues:
        replies.setdefault(d.context[-1], set()).add(d.response)
    return replies


def test_nli_rows(write_rows):
    path = write_rows(
        {"input": "one\n\n two \nthree", "output": " a  reply", "label": 1},
        {"input": "one", "output": "", "labels": 0, "kind": "empty"},
    )
    assert list(read_nli(path)) == [
        Pair(("one", "two", "three"), "a reply", 1, "file"),
        Pair(("one",), "", 0, "empty"),
    ]
    assert len(list(read_nli(path, limit=1))) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"input": ["one"], "output": "a", "label": 1},
            r"'input' must be a non-empty string, found \['one'\]",
        ),
        ({"input": "\n", "output": "a", "label": 1}, "'input' must be a non-empty string"),
        ({"input": "one", "label": 1}, "'output' must be a string, found None"),
        ({"input": "one", "output": "a"}, r"'label' must be 0 \(incoherent\) or 1 \(coherent\), found None"),
        ({"input": "one", "output": "a", "label": 2}, "found 2"),
        ({"input": "one", "output": "a", "label": "1"}, "found '1'"),
        ({"input": "one", "output": "a", "label": True}, "found True"),
    ],
)
def test_bad_nli_rows_are_named(write_rows, row, message):
    with pytest.raises(InputError, match="rows.jsonl:2: .*" + message):
        list(read_nli(write_rows({"input": "one", "output": "a", "label": 1}, row)))


@pytest.mark.parametrize("seed", range(20))
def test_corruptions_are_what_their_names_say(seed):
    words = REPLY.split()
    made = {kind: corrupt(REPLY, random.Random(seed)) for kind, corrupt in CORRUPTIONS.items()}
    assert sorted(made["shuffled"].split()) == sorted(words) and made["shuffled"] != REPLY
    assert REPLY.startswith(made["cut"]) and 1 <= len(made["cut"].split()) <= len(words) // 2
    assert sorted(made["neighbours"].split()) == sorted(words) and made["neighbours"] != REPLY
    middle = words.index(made["swapped"].split()[0])
    assert made["swapped"].split() == words[middle:] + words[:middle] and 0 < middle < len(words)
    loop = made["repeated"].split()
    assert len(loop) == len(words) and 1 <= len(set(loop)) <= 3 and " ".join(loop[: len(set(loop))]) in REPLY
    assert all(len(word) <= 3 for word in made["empty"].split())


def test_every_true_reply_stands_beside_as_many_wrong_ones():
    dialogues = some_dialogues()
    pairs = make_pairs(dialogues, rounds=3, seed=0)
    assert len(pairs) == 2 * 3 * len(dialogues)
    for position, (true, wrong) in enumerate(zip(pairs[::2], pairs[1::2])):
        source = dialogues[position // 3]
        assert true == Pair(source.context, source.response, COHERENT, "true")
        assert wrong.context == source.context and wrong.label == INCOHERENT and wrong.kind in NEGATIVE_KINDS


def test_a_full_round_uses_every_kind_in_its_share():
    dialogues = some_dialogues()
    kinds = Counter(pair.kind for pair in make_pairs(dialogues, len(NEGATIVE_KINDS), seed=0))
    assert kinds.pop("true") == len(NEGATIVE_KINDS) * len(dialogues)
    assert kinds == {kind: count * len(dialogues) for kind, count in Counter(NEGATIVE_KINDS).items()}


def test_one_round_is_not_one_kind_for_all():
    assert len({pair.kind for pair in make_pairs(some_dialogues(), 1, seed=0)} - {"true"}) >= 5


def test_harder_negatives_come_from_the_same_topic_and_the_same_opening():
    dialogues = some_dialogues()
    by_reply = {d.response: d for d in dialogues}
    topic_of = {d.context: d.topic for d in dialogues}
    for true, wrong in zip(*[iter(make_pairs(dialogues, 10, seed=1))] * 2):
        if wrong.kind == "topic":
            assert by_reply[wrong.response].topic == topic_of[wrong.context]
        if wrong.kind == "opening":
            assert wrong.response.split()[0] == true.response.split()[0]
        if wrong.kind == "echo":
            assert wrong.response == wrong.context[-1]
        if wrong.kind in ("topic", "opening", "random"):
            assert by_reply[wrong.response].context[-1] != wrong.context[-1]


def test_a_kind_without_material_becomes_random():
    dialogues = [dialogue("one?", "Alpha is here now."), dialogue("two?", "Beta is there now.")]
    kinds = Counter(pair.kind for pair in make_pairs(dialogues, len(NEGATIVE_KINDS), seed=0))
    lacking = sum(NEGATIVE_KINDS.count(kind) for kind in ("random", "topic", "opening"))
    assert kinds["topic"] == kinds["opening"] == 0 and kinds["random"] == 2 * lacking


def test_no_negative_is_a_true_reply_to_the_same_words():
    dialogues = some_dialogues()
    replies = true_replies(dialogues)
    assert all(
        pair.response not in replies[pair.context[-1]]
        for pair in make_pairs(dialogues, 20, seed=2)
        if pair.label == INCOHERENT
    )


def test_a_short_reply_is_never_its_own_negative():
    """One word cannot be shuffled, cut or repeated into something else; such a 'negative' would teach noise."""
    dialogues = [
        dialogue("how are you?", "Fine"),
        dialogue("still there?", "Yes"),
        dialogue("tired?", "no no"),
    ]
    replies = true_replies(dialogues)
    wrong = [pair for pair in make_pairs(dialogues, 20, seed=0) if pair.label == INCOHERENT]
    assert [pair for pair in wrong if pair.response in replies[pair.context[-1]]] == []


def test_a_reply_that_also_answers_the_same_words_is_no_negative():
    """'I do not know.' answers tea, but somebody also gave it to coffee: it is no wrong reply to coffee."""
    dialogues = [
        dialogue("coffee?", "I do not know yet."),
        dialogue("coffee?", "With milk, please, and hot."),
        dialogue("tea?", "I do not know yet."),
        dialogue("rain?", "It stopped at noon today."),
    ]
    replies = true_replies(dialogues)
    wrong = [pair for pair in make_pairs(dialogues, 20, seed=0) if pair.label == INCOHERENT]
    assert [pair for pair in wrong if pair.response in replies[pair.context[-1]]] == []


def test_pairs_depend_on_the_seed_alone():
    dialogues = some_dialogues()
    assert (
        make_pairs(dialogues, 2, seed=3)
        == make_pairs(dialogues, 2, seed=3)
        != make_pairs(dialogues, 2, seed=4)
    )


def test_one_context_gives_no_pairs():
    with pytest.raises(InputError, match="at least two different last user turns"):
        make_pairs([dialogue("one?", "a b c"), dialogue(("zero", "half", "one?"), "d e f")], 1, seed=0)
