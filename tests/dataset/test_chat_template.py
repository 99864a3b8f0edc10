"""Marks of turns read off chat templates."""

import pytest

from dataset.chat_template import UnreadableTemplate, template_of
from dataset.encoding import DialogueTemplate, encode_for_decoder

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
DIALOGPT = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
CASES = {
    "chatml": (
        CHATML,
        DialogueTemplate(
            "<|im_start|>user\n", "<|im_start|>assistant\n", "", "<|im_end|>\n", "", "<|im_end|>\n"
        ),
    ),
    "default system message": (
        WITH_SYSTEM,
        DialogueTemplate(
            "<|im_start|>user\n", "<|im_start|>assistant\n", "", "<|im_end|>\n", "", "<|im_end|>\n"
        ),
    ),
    "bos": (
        LLAMA3,
        DialogueTemplate(
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "",
            "<|eot_id|>",
            "[BOS]",
            "<|eot_id|>",
        ),
    ),
    "another end for replies": (
        INST,
        DialogueTemplate("[INST] ", " ", "", " [/INST]", "[BOS]", "<|endoftext|>"),
    ),
    "no names": (DIALOGPT, DialogueTemplate("", "", "", "<|endoftext|>", "", "<|endoftext|>")),
}


@pytest.fixture
def tokenizer(word_tokenizer):
    import copy

    tokenizer = copy.deepcopy(word_tokenizer)
    tokenizer.bos_token = "[BOS]"
    return tokenizer


@pytest.mark.parametrize("name", CASES)
def test_marks_are_those_of_the_template(tokenizer, name):
    tokenizer.chat_template, expected = CASES[name]
    assert template_of(tokenizer, DialogueTemplate("other")) == expected


@pytest.mark.parametrize("name", CASES)
def test_marks_write_what_the_template_writes(tokenizer, name):
    """Turns between the marks are the template's own text, but for a system message that nobody gave."""
    tokenizer.chat_template = CASES[name][0]
    marks, turns = template_of(tokenizer, DialogueTemplate()), ["a", "b", "c"]
    ends = (marks.turn_end, marks.reply_end)
    ours = (
        marks.start
        + "".join(
            (marks.user_prefix, marks.assistant_prefix)[i % 2] + turn + ends[i % 2]
            for i, turn in enumerate(turns)
        )
        + marks.assistant_prefix
    )
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.rstrip() == theirs.replace("<|im_start|>system\nYou help.<|im_end|>\n", "").rstrip()


def test_a_bos_that_opens_every_turn_stands_there_only(tokenizer):
    """SmolLM2 calls the mark of a turn its beginning-of-sequence token."""
    tokenizer.bos_token, tokenizer.chat_template = "<|im_start|>", WITH_SYSTEM
    assert template_of(tokenizer, DialogueTemplate()).start == ""


def test_bases_without_a_chat_template_keep_the_marks_given(tokenizer):
    assert template_of(tokenizer, DialogueTemplate("User:")) == DialogueTemplate("User:")


@pytest.mark.parametrize(
    "template, message",
    [
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "every turn once"),
        (
            "{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}",
            "begins its first turn with '1'",
        ),
    ],
)
def test_templates_that_cannot_be_read_are_refused_by_name(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(UnreadableTemplate, match=message):
        template_of(tokenizer, DialogueTemplate())


def test_the_beginning_of_the_sequence_stands_first_however_much_is_cut(word_tokenizer):
    template = DialogueTemplate("<user>", "<reply>", "", "[SEP]", "[CLS]", "[SEP]")
    rows = encode_for_decoder(word_tokenizer, template, [("a b c", "d", "e f")], ["g"], 9)
    assert word_tokenizer.convert_ids_to_tokens(rows[0]["input_ids"]) == [
        "[CLS]",
        "<user>",
        "e",
        "f",
        "[SEP]",
        "<reply>",
        "g",
        "<|endoftext|>",
    ]


def test_replies_in_the_context_end_by_their_own_mark(word_tokenizer):
    template = DialogueTemplate("<user>", "<reply>", "", "[SEP]", "", "[PAD]")
    rows = encode_for_decoder(word_tokenizer, template, [("a", "b", "c")], None, 32)
    assert word_tokenizer.convert_ids_to_tokens(rows[0]["input_ids"]) == [
        "<user>",
        "a",
        "[SEP]",
        "<reply>",
        "b",
        "[PAD]",
        "<user>",
        "c",
        "[SEP]",
        "<reply>",
    ]
