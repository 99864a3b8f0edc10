"""The Python interface, and the terminal that is built on it."""

import dataclasses
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import chat
from common.errors import InputError
from miracle import Miracle, turns_of

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "My bread did not rise. What shall I do?"


@pytest.fixture(scope="module")
def model(tiny_run):
    return Miracle.from_run(tiny_run, "cpu")


def test_a_reply_says_what_it_is_and_where_it_comes_from(model, tiny_run):
    reply = model.reply(QUESTION, "optimistic,lyrical", max_new_tokens=8)[0]
    assert reply.context == (QUESTION,) and reply.target == {
        "languagestyle": "lyrical",
        "attitude": "optimistic",
    }
    assert set(reply.probabilities) == set(model.attributes) and sum(
        reply.probabilities["attitude"].values()
    ) == pytest.approx(1, abs=1e-4)
    assert reply.predicted["attitude"] == max(
        reply.probabilities["attitude"], key=reply.probabilities["attitude"].get
    )
    assert (
        0 <= reply.coherence <= 1
        and reply.energy < reply.energy_start
        and reply.seconds > 0
        and reply.finished
    )
    assert str(reply) == reply.text and reply.weights == {
        "languagestyle": 100.0,
        "attitude": 100.0,
    }  # the run's


def test_the_reply_is_the_run_s_own(model, tiny_run):
    """The same contexts, targets, seed and settings as in the run's generations give the same texts.

    Nearly all: the logits of a model after one epoch lie so close that rounding in another batch may turn one.
    """
    rows = [json.loads(line) for line in (tiny_run / "generations.jsonl").read_text().splitlines()]
    replies = model.replies(
        [row["context"] for row in rows], [row["target"] for row in rows], seeds=rows[0]["seed"]
    )
    same = [(reply, row) for reply, row in zip(replies, rows) if reply.text == row["response"]]
    assert len(same) >= 0.95 * len(rows) > 20
    for reply, row in same:
        assert reply.probabilities["attitude"]["optimistic"] == pytest.approx(
            row["probabilities"]["attitude"]["optimistic"], abs=1e-5
        )


def test_seeds_decide_and_alternatives_differ(model):
    options = {"decoding": "top_p", "temperature": 2.0, "max_new_tokens": 6}
    three = model.reply(QUESTION, "plain", n=3, seed=5, **options)
    assert [reply.seed for reply in three] == [5, 6, 7] and len({reply.text for reply in three}) > 1
    again = model.reply(QUESTION, "plain", n=1, seed=6, start="sample", **options)[0]
    assert (again.text, again.seed, again.weights) == (three[1].text, 6, three[1].weights)
    assert again.probabilities["attitude"] == pytest.approx(three[1].probabilities["attitude"], abs=1e-4)
    np.testing.assert_allclose(again.latent, three[1].latent, atol=1e-4)
    assert not np.allclose(three[0].latent, three[1].latent)


@pytest.mark.parametrize("algorithm", ["ode", "langevin"])
def test_seeds_of_a_batch_are_each_reply_s_own(model, algorithm):
    """Whatever else is written with it, a reply without a target too."""
    options = {"algorithm": algorithm, "decoding": "top_p", "start": "sample", "candidates": 2}
    options |= {"langevin_steps": 3, "max_new_tokens": 4}
    targets, seeds = ["plain", None, "plain", "lyrical"], [5, 6, 7, 5]
    together = model.replies([QUESTION] * 4, targets, seeds=seeds, **options)
    assert [reply.seed for reply in together] == seeds == [reply.control.seed for reply in together]
    assert together[1].control.algorithm == "none" and together[0].control.algorithm == algorithm
    assert not np.allclose(together[0].latent, together[2].latent)
    for reply, target, seed in zip(together, targets, seeds):
        (alone,) = model.reply(QUESTION, target, seed=seed, **options)
        assert alone.text == reply.text
        np.testing.assert_allclose(alone.latent, reply.latent, atol=1e-4)


def test_weights_pull_the_latent_harder(model):
    """One candidate: of several, which one is kept moves the latent as well."""
    energies = [
        model.reply(QUESTION, "optimistic", weights=weight, max_new_tokens=1, candidates=1)[0]
        for weight in (0.0, 1.0, {"attitude": 100.0})
    ]
    assert energies[0].energy == 0 and energies[1].energy < energies[1].energy_start
    distances = [np.linalg.norm(reply.latent - energies[0].latent) for reply in energies]
    assert distances[0] == 0 < distances[1] < distances[2]


def test_all_combinations_in_order(model):
    replies = model.all_combinations(QUESTION, max_new_tokens=4)
    assert [reply.target for reply in replies] == model.schema.combinations() and len(replies) == 8


def test_no_target_is_the_prior_as_it_is(model):
    free = model.reply(QUESTION, max_new_tokens=4)[0]
    assert free.target == {} and free.weights == {} and free.energy == free.energy_start == 0


def test_text_streams_and_can_be_stopped(model):
    seen = []
    reply = model.reply(
        QUESTION, "plain", max_new_tokens=12, on_text=lambda text: seen.append(text) or len(seen) < 4
    )[0]
    assert len(seen) == 4 and seen[-1].startswith(reply.text) and not reply.finished


def test_explain_follows_the_ode_from_the_start_to_the_reply(model):
    reply = model.reply(QUESTION, "optimistic,critical", max_new_tokens=2)[0]
    explained = model.explain(reply)
    assert (
        explained.time[0] == 0
        and explained.time[-1] == pytest.approx(5.025)
        and len(explained.time) == len(explained.energy) == len(explained.path)
    )
    assert explained.energy[0] == pytest.approx(reply.energy_start, rel=1e-4) and explained.energy[
        -1
    ] == pytest.approx(reply.energy, rel=0.05, abs=0.01)
    assert np.linalg.norm(explained.path[-1] - reply.latent) / np.linalg.norm(reply.latent) < 0.02
    rising = explained.probabilities["attitude"]["optimistic"]
    assert rising[-1] > rising[0] and sum(
        values[-1] for values in explained.probabilities["mindchar"].values()
    ) == pytest.approx(1)


def test_explain_starts_where_the_reply_started(model):
    """Alternatives start from samples of the prior, whatever the run's own settings are."""
    first, second = model.reply(QUESTION, "optimistic", weights=3, n=2, seed=8, max_new_tokens=1)
    for reply in (first, second):
        explained = model.explain(reply)
        assert explained.energy[0] == pytest.approx(reply.energy_start, rel=1e-4)
        assert np.linalg.norm(explained.path[-1] - reply.latent) / np.linalg.norm(reply.latent) < 0.02
    assert first.energy_start != pytest.approx(second.energy_start, rel=1e-4)


def test_the_cvae_folder_alone_is_enough(tiny_run, tmp_path):
    shutil.copytree(tiny_run / "cvae", tmp_path / "cvae")
    alone = Miracle.from_run(tmp_path / "cvae", "cpu")
    reply = alone.reply(QUESTION, "plain", weights=1, max_new_tokens=3)[0]
    assert reply.probabilities is None and reply.coherence is None and alone.scorer is None and reply.text


def test_threads_wait_for_one_another(model):
    expected = [model.reply(f"Question number {i}?", "plain", max_new_tokens=6)[0].text for i in range(6)]
    found = [None] * 6

    def ask(i):
        found[i] = model.reply(f"Question number {i}?", "plain", max_new_tokens=6)[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_different_calls_from_threads_do_not_disturb_one_another(model):
    """Single and many replies, explanations and priors at once: tokenizers and the decoder are shared."""
    reply = model.reply(QUESTION, "optimistic", max_new_tokens=4)[0]
    work = [
        lambda: model.reply("And now, my dog is ill?", "lyrical", max_new_tokens=4)[0].text,
        lambda: [other.text for other in model.all_combinations(QUESTION, max_new_tokens=3)],
        lambda: model.explain(reply).energy,
        lambda: model.prior(reply).mean.tolist(),
    ]
    expected, found = [one() for one in work], [[] for _ in work]

    def repeat(i):
        found[i] += [work[i]() for _ in range(4)]

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[one] * 4 for one in expected]


def test_the_prior_is_the_one_that_the_reply_started_from(model):
    reply = model.reply(QUESTION, "optimistic", weights=0, max_new_tokens=1, candidates=1)[0]
    prior = model.prior(reply)
    assert prior.mean.shape == prior.logvar.shape == reply.latent.shape
    assert np.allclose(
        prior.mean.cpu().numpy(), reply.latent, atol=1e-5
    )  # weight 0, from the mean: the latent stays there


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("", "plain"), {}, "the context is empty"),
        ((["a", "b"], "plain"), {}, "an odd number is expected"),
        ((QUESTION, "happy"), {}, "unknown aspect 'happy'"),
        ((QUESTION, "plain,lyrical"), {}, "both of languagestyle"),
        ((QUESTION, {"attitude": "plain"}), {}, "unknown aspect 'plain'; attitude has"),
        ((QUESTION, ""), {}, "the target is ''; expected aspects, .* or None for no control"),
        ((QUESTION, []), {}, "the target is \\[\\]"),
        ((QUESTION, "plain"), {"weights": -1}, "must be from 0 to 100000"),
        ((QUESTION, "plain"), {"weights": {"mood": 1}}, "weights of \\['mood'\\]"),
        ((QUESTION, "plain"), {"n": 0}, "n must be 1 or more"),
        ((QUESTION, "plain"), {"temprature": 1}, "unknown option temprature"),
        (
            (QUESTION, "plain"),
            {"max_new_tokens": 110},
            "--max-new-tokens 110 leaves no room for the context; the decoder has 114 positions",
        ),
        ((QUESTION, "plain"), {"max_new_tokens": "5"}, "an option has a value of another kind"),
        ((QUESTION, "plain"), {"seed": "1"}, "a seed is a whole number, found '1'"),
        ((QUESTION, "plain"), {"n": "2"}, "n must be 1 or more, found '2'"),
        ((QUESTION, 5), {}, "the target is 5; expected aspects"),
        ((QUESTION, [1]), {}, r"the target is \[1\]; expected aspects"),
        ((None, "plain"), {}, "the context is a NoneType; expected a text, a list of turns, or messages"),
        ((["a", 3, "b"], "plain"), {}, "turn 2 of the context is a int; expected a text"),
        ((b"a", "plain"), {}, "the context is a bytes"),
        (("a \udcff b", "plain"), {}, "broken characters"),
        ((["a", " ", "b"], "plain"), {}, "turn 2 of the context is empty"),
        (
            ([{"role": "user"}], "plain"),
            {},
            r"messages\[0\]: 'content' must be a text that is not empty, found None",
        ),
        (
            ([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}], "plain"),
            {},
            r"messages\[1\]: role 'tool'; expected 'user' or 'assistant'",
        ),
        (
            ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "plain"),
            {},
            "must begin and end with the user's",
        ),
        (([{"content": "a"}], "plain"), {}, r"messages\[0\]: expected \{'role'"),
        (([{"role": "user", "content": [{"type": "image_url"}]}], "plain"), {}, r"messages\[0\]: 'content'"),
    ],
)
def test_mistakes_are_input_errors(model, arguments, options, message):
    with pytest.raises(InputError, match=message):
        model.reply(*arguments, **options)


def test_openai_style_messages_are_a_conversation():
    def message(role, content):
        return {"role": role, "content": content}

    assert (
        turns_of(message("user", "a"))
        == turns_of([message("user", [{"type": "text", "text": "a"}])])
        == ("a",)
    )
    assert turns_of(
        [message("user", "a\n"), message("assistant", "b"), message("user", "c"), message("user", "d")]
    ) == ("a", "b", "c d")
    with pytest.warns(UserWarning, match=r"messages\[0\]: a system message is not read"):
        assert turns_of([message("system", "Be kind."), message("user", "a")]) == ("a",)


def test_messages_and_turns_give_the_same_reply(model):
    turns = ["My bread is flat.", "Wait an hour.", "And then?"]
    messages = [{"role": role, "content": turn} for role, turn in zip(("user", "assistant", "user"), turns)]
    assert (
        model.reply(messages, "plain", max_new_tokens=6)[0].text
        == model.reply(turns, "plain", max_new_tokens=6)[0].text
    )


def test_a_long_prompt_takes_nothing_from_its_own_reply_or_its_neighbours(model, monkeypatch):
    """A prompt filled the decoder's positions: nine turns left two tokens for the reply, a pasted paragraph none, and
    the whole batch had as few."""
    from generation import writing

    seen, generate = [], writing.generate

    def noting(decoder, z, ids, mask, **options):
        seen.append((ids.shape[1], options["max_new_tokens"]))
        return generate(decoder, z, ids, mask, **options)

    monkeypatch.setattr(writing, "generate", noting)
    pasted, chatty = (
        "the neighbour came to complain about the noise " * 40,
        ["And what about the tomatoes on the balcony?"] * 17,
    )
    alone = model.reply(QUESTION, "plain", seed=3)[0]
    together = model.replies([pasted, QUESTION, chatty], ["plain"] * 3, seeds=3)
    assert (together[1].text, together[1].cut) == (alone.text, None)
    assert all(prompt + new <= 114 and new == model.decoding.max_new_tokens for prompt, new in seen)
    assert (
        together[0].cut.turns == 0
        and together[0].cut.tokens > 100
        and 0 < together[2].cut.turns < 17
        and not together[2].cut.tokens
    )
    assert [model.reply(context, "plain", seed=3)[0].text for context in (pasted, chatty)] == [
        together[0].text,
        together[2].text,
    ]


def test_the_terminal_says_what_was_cut_and_goes_on_after_an_empty_reply(model, monkeypatch):
    """Chat said "the context is empty" to every message after an empty reply, until /clear."""
    conversation, said, _ = talk(model, "And what about the tomatoes on the balcony? " * 40)
    assert said[0].startswith("  (the first ") and "so that the reply has room" in said[0]
    asked, reply = [], model.reply

    def empty(context, *args, **options):
        asked.append(list(context))
        return [
            dataclasses.replace(
                reply(context, *args, max_new_tokens=2)[0], text="" if len(asked) == 1 else "Yes."
            )
        ]

    monkeypatch.setattr(model, "reply", empty)
    _, said, _ = talk(model, "Hello?", "Are you there?", "/again", "And now?", "/all")
    assert asked[:4] == [
        ["Hello?"],
        ["Are you there?"],
        ["Are you there?"],
        ["Are you there?", "Yes.", "And now?"],
    ]
    assert asked[4:] == [["Are you there?", "Yes.", "And now?"]] * 8
    assert "an empty reply" in said[0] and not [line for line in said if line.startswith("!")]


def test_long_texts_markup_and_other_scripts_are_only_text(model):
    for text in (
        "word " * 2000,
        "<script>alert(1)</script> [SEP] <|endoftext|> <user>",
        "שלום, מה שלומך?",
        "\u202eabc\u0000",
    ):
        assert isinstance(model.reply(text, "plain", max_new_tokens=3)[0].text, str)


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=f"no such folder: {tmp_path / 'nothing'}; bash pipeline.sh"):
        chat.main([str(tmp_path / "nothing")])
    (tmp_path / "begun" / "cvae").mkdir(parents=True)
    with pytest.raises(
        InputError,
        match=f"no trained CVAE in .*; train it first: RUN=begun bash train_cvae.sh --outs {tmp_path}$",
    ):
        Miracle.from_run(tmp_path / "begun")


def test_help_reads_well():
    import pydoc

    text = pydoc.render_doc(Miracle, renderer=pydoc.plaintext)
    for word in ("from_run", "reply(", "explain(", "all_combinations(", "Args:", "safe"):
        assert word in text


def examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/python.md", "docs/how-to/share.md"])
def test_the_python_of_the_pages_runs(tiny_run, tmp_path, monkeypatch, page):
    assert examples(page)
    (tmp_path / "outs").mkdir()
    (tmp_path / "release").mkdir()
    for place in ("outs/demo", "release/chat"):  # the released model needs its bases
        (tmp_path / place).symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in examples(page):
        exec(compile(example, page, "exec"), names)


# --- the terminal ----------------------------------------------------------------------------------------------------


def talk(model, *lines):
    said = []
    conversation = chat.Chat(model, said.append)
    going = [conversation.handle(line) for line in lines]
    return conversation, said, going


def test_a_conversation_need_not_say_again_what_it_has_said(model):
    """Every reply is the library's with that option; the command asks for it."""
    conversation = chat.Chat(model, [].append, block=1)
    for line in ("/lyrical", "Shall we bake bread?", "And then?"):
        conversation.handle(line)
    asked = ["Shall we bake bread?", conversation.turns[1], "And then?"]
    expected = model.reply(asked, "lyrical", context_block_ngram=1)[0]
    assert conversation.turns[3] == expected.text != model.reply(asked, "lyrical")[0].text
    assert chat.parser().parse_args([]).context_block_ngram == chat.BLOCK


def test_commands_change_what_is_asked_for(model):
    conversation, said, _ = talk(model, "/lyrical", "/optimistic 0.5", "/plain", "/no attitude")
    assert said == [
        "asked for: lyrical (weight 100)", "asked for: lyrical (weight 100), optimistic (weight 50)",
        "asked for: plain (weight 100), optimistic (weight 50)", "asked for: plain (weight 100)",
    ]  # fmt: skip
    assert conversation.target == {"languagestyle": "plain"}


def test_a_conversation_is_kept_shown_under_all_combinations_and_saved(model, tmp_path):
    path = tmp_path / "talk.json"
    conversation, said, going = talk(
        model, "/plain", "Hello there.", "And again?", "/all", f"/save {path}", "", "/quit"
    )
    assert going == [True] * 6 + [False]
    saved = json.loads(path.read_text())
    assert (
        saved["turns"][0] == "Hello there."
        and saved["turns"][2] == "And again?"
        and len(saved["replies"]) == 2
    )
    assert (
        saved["replies"][1]["target"] == {"languagestyle": "plain"}
        and saved["turns"][3] == saved["replies"][1]["text"]
    )
    assert sum(line.split("   ")[0].count("+") == 2 for line in said) == 8
    talk(model, "/clear")


def test_the_terminal_s_mistakes_are_lines(model, tmp_path):
    odd = [
        "/seed ²",
        "/seed ٣",
        "/seed " + "9" * 5000,
        "/seed -1",
        "/plain ²",
        "/plain nan",
        "/plain 1e20",
        "/save a\0b",
        "/save ~nobody-here/x",
        "/²",
    ]
    _, said, going = talk(
        model, "/frob", "/plain x", "/no attitude", "/seed x", "/all", "/save", f"/save {tmp_path}", *odd
    )
    assert (
        all(line.startswith("! ") and "\n" not in line for line in said)
        and len(said) == 7 + len(odd)
        and all(going)
    )
    assert "/help lists the commands" in said[0] and "a strength is a number" in said[1]


@pytest.mark.parametrize(
    "line", ["/lyrical, /optimistic 0.5", "/lyrical optimistic 0.5", "/lyrical,optimistic*0.5", "/lyrical 1 /optimistic, 0.5"]
)  # fmt: skip
def test_several_aspects_on_a_line(model, line):
    conversation, said, _ = talk(model, line)
    assert said == ["asked for: lyrical (weight 100), optimistic (weight 50)"]
    assert conversation.factors == {"languagestyle": 1.0, "attitude": 0.5}


def test_a_line_with_a_mistake_changes_nothing(model):
    lines = ("/lyrical, /frob", "/lyrical frob", "/lyrical plain", "/lyrical 1 2", "/lyrical, /all")
    conversation, said, _ = talk(model, *lines)
    assert conversation.target == {} and len(said) == 5 and all(line.startswith("! ") for line in said)
    assert "unknown aspect '/frob'; aspects are plain, lyrical" in said[0]
    assert "'frob' is no aspect and no strength" in said[1] and "one aspect per attribute" in said[2]


def test_combinations_are_shown_as_they_end_and_are_those_of_one_batch(model, monkeypatch):
    reply, events = model.reply, []

    def slow(context, target, *args, **options):
        events.append("asked")
        return reply(context, target, *args, **options)

    conversation = chat.Chat(model, lambda line: events.append("shown"))
    conversation.handle("Hello there.")
    events.clear()
    monkeypatch.setattr(model, "reply", slow)
    conversation.handle("/all")
    assert events == ["asked", "shown", "shown"] * 8
    _, said, _ = talk(model, "Hello there.", "/all")
    texts = [
        chat.wrapped(found.text or "(an empty reply)", "  ")
        for found in model.all_combinations("Hello there.")
    ]
    assert said[-15::2] == texts


def test_a_terminal_shows_the_text_under_way(model, capsys, monkeypatch):
    drafts, said = [], []
    conversation = chat.Chat(model, said.append, drafts.append)
    conversation.handle("Hello there.")
    assert len(drafts) > 2 and drafts[-1] == "" and drafts[-2] == conversation.replies[0].text
    monkeypatch.setenv("COLUMNS", "20")
    for text in ("Yes.", "word " * 9, ""):
        chat.draft_line(text)
    assert capsys.readouterr().out == "\r\x1b[K  Yes.\r\x1b[K  …word word word \r\x1b[K"


def test_a_piped_conversation_shows_what_was_typed_and_no_prompts(model, monkeypatch, capsys):
    monkeypatch.setattr(chat.Miracle, "from_run", lambda *_: model)
    monkeypatch.setattr(model.scorer, "audit", {"real": 0.8, "random": 0.1, "shuffled": 0.8})
    monkeypatch.setattr("sys.stdin", io.StringIO("/seed 3\n/lyrical\n"))
    assert chat.main(["r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == ["/seed 3", "seed 3", "/lyrical", "asked for: lyrical (weight 100)"]
    assert "try: /lyrical, then ask something" in lines
    doubts = [line for line in lines if line.startswith("what 'fits' says is in doubt: ")]
    assert len(doubts) == 1 and doubts[0].endswith(
        "the model is fooled by some degenerate replies (shuffled 0.80; real ones 0.80)"
    )


def test_broken_bytes_on_a_pipe_are_one_line_and_the_conversation_goes_on(model, monkeypatch, capsys):
    monkeypatch.setattr(chat.Miracle, "from_run", lambda *_: model)
    for encoding in ("utf-8", "ascii"):
        typed = (
            "\ufeff/seed 3\n".encode()
            + b"caf\xe9 \xff\n"
            + b"\xff\xfeH\0i\0\n"
            + b"/seed \xc2\xb2\n"
            + b"/seed 4\n"
        )
        monkeypatch.setattr(
            "sys.stdin",
            io.TextIOWrapper(io.BytesIO(typed if encoding == "utf-8" else typed[3:]), encoding=encoding),
        )
        assert chat.main(["r"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines.count("! this line is not UTF-8 text and was left out") == (
            2 if encoding == "utf-8" else 3
        )
        assert "seed 3" in lines and lines[-1] == "seed 4"


def test_ctrl_c_stops_a_reply_and_the_conversation_goes_on(model, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "reply", interrupted)
    conversation, said, going = talk(model, "Hello there.")
    assert going == [True] and said == ["! stopped; the message is not kept"] and conversation.turns == []


@pytest.mark.parametrize("ending", [b"\x04", b"\x03"])
def test_ctrl_d_and_ctrl_c_at_the_prompt_end_cleanly_in_a_real_terminal(tiny_run, ending):
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "chat.py", str(tiny_run)],
        cwd=ROOT,
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        preexec_fn=lambda: _own_terminal(child),
    )
    os.close(child)
    try:
        shown = read_until(
            parent, lambda text: b"Ctrl-D ends" in text and b"> " in text.split(b"Ctrl-D ends")[1]
        )
        time.sleep(0.5)  # the prompt is there before the line editor listens
        os.write(parent, ending)
        shown += read_until(parent, lambda text: process.poll() is not None)
        status = process.wait(20)
    finally:
        process.kill()
    assert status == 0 and b"Traceback" not in shown and b"\x1b[3" not in shown  # no colours


def read_until(descriptor, enough, seconds=60):
    """What a terminal shows until that is enough, or until it is closed."""
    shown, deadline = b"", time.monotonic() + seconds
    while not enough(shown):
        assert time.monotonic() < deadline, shown
        if select.select([descriptor], [], [], 0.2)[0]:
            try:
                shown += os.read(descriptor, 1000)
            except OSError:  # the terminal is closed
                break
    return shown


def _own_terminal(descriptor):
    """Make the pseudo-terminal the controlling one, so that Ctrl-C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_reply_without_a_target_is_not_chosen_among_several(model):
    """Choosing is control too: it is the reply that there is with one candidate."""
    free = model.reply(QUESTION, candidates=4, start="sample", fluency=1.0, max_new_tokens=6)[0]
    assert (
        free.candidate == 0
        and free.text == model.reply(QUESTION, candidates=1, start="sample", max_new_tokens=6)[0].text
    )
