"""make_data_chatgpt.py against a real HTTP server on loopback: nothing lost, nothing twice, no key anywhere."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import ChatServer

import make_data_chatgpt
from common.errors import InputError
from common.schema import load_schema
from dataset.synthesis.journal import Journal
from scripts import check_data

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-test-0123456789abcdefghij"


@pytest.fixture
def server():
    """A function that starts a server; all are shut down at the end."""
    started = []

    def start(**options):
        started.append(ChatServer(**options))
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.fixture
def topics(tmp_path):
    """A function that writes a topics file."""

    def write(number):
        path = tmp_path / "topics.txt"
        path.write_text("# topics\n" + "".join(f"thing {n}\n" for n in range(number)))
        return path

    return write


def words(server, tmp_path, topics_file, *options, aspect="lyrical"):
    return [
        "--aspect", aspect, "--topics", str(topics_file), "--base-url", server.url, "--output-dir", str(tmp_path / "out"), "--timeout", "1",
        "--n-turns", "1", "--schema", str(ROOT / "schema.py"), *options,
    ]  # fmt: skip


def start(arguments, key=KEY):
    environment = os.environ | {"OPENAI_API_KEY": key, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, str(ROOT / "make_data_chatgpt.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(arguments, key=KEY):
    process = start(arguments, key)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def lines(path):
    return [
        json.loads(line) for line in path.read_bytes().splitlines()
    ]  # a text's own line separators end no line


def journal_of(tmp_path, persona="lyrical"):
    rows = lines(tmp_path / "out" / "journal" / f"{persona}.jsonl")
    return [row for row in rows if row["kind"] == "answer"], [row for row in rows if row["kind"] == "sent"]


def outcome_of_run(tmp_path, persona="lyrical"):
    """Topics kept, and topics rejected."""
    kept = [row["topic"] for row in lines(tmp_path / "out" / "kept" / f"{persona}.jsonl")]
    return kept, [row["topic"] for row in lines(tmp_path / "out" / "rejects" / f"{persona}.jsonl")]


FAULTS = {"429": 0.10, "500": 0.05, "dropped": 0.05, "malformed": 0.05, "slow": 0.02}


def test_every_topic_ends_kept_or_rejected_whatever_goes_wrong(server, topics, tmp_path):
    chat = server(faults=FAULTS, slow=1.5)
    status, out, err = finish(words(chat, tmp_path, topics(500), "--concurrency", "16"))
    assert status == 0, err
    kept, rejected = outcome_of_run(tmp_path)
    assert sorted(kept + rejected) == sorted(f"thing {n}" for n in range(500))  # none twice, none lost
    assert (
        len(kept) > 480 and chat.most_active <= 17
    )  # one that the client has given up may still be sleeping
    faults = sum(chat.injected[kind] for kind in ("429", "500", "dropped", "slow"))
    assert chat.repairs >= 15 and sum(chat.requests.values()) <= 500 + faults + chat.repairs
    before = sum(chat.requests.values())
    content = (tmp_path / "out" / "dialogue_languagestyle.jsonl").read_bytes()
    status, out, _ = finish(words(chat, tmp_path, topics(500)))
    assert (
        status == 0 and sum(chat.requests.values()) == before and "500 were settled before" in out
    )  # a no-op
    assert (tmp_path / "out" / "dialogue_languagestyle.jsonl").read_bytes() == content


@pytest.mark.slow
def test_killed_at_random_moments_it_asks_for_nothing_twice(server, topics, tmp_path):
    chat = server(faults={"429": 0.10, "500": 0.05, "malformed": 0.05}, delay=0.1)
    arguments = words(chat, tmp_path, topics(500), "--concurrency", "16", "--timeout", "10")
    rng, answered = random.Random(1), set()
    journal = tmp_path / "out" / "journal" / "lyrical.jsonl"
    kills = 0
    for _ in range(10):
        before = sum(chat.requests.values())
        process = start(arguments)
        wanted = before + rng.randint(5, 60)  # killed when that many requests have come
        while process.poll() is None and sum(chat.requests.values()) < wanted:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        content = journal.read_text() if journal.exists() else ""
        complete = [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]
        now = {(row["key"], row["attempt"]) for row in complete if row["kind"] == "answer"}
        assert answered <= now
        answered = now
    assert kills == 10
    status, out, err = finish(arguments)
    assert status == 0, err
    answers, sent = journal_of(tmp_path)
    keys = [(row["key"], row["attempt"]) for row in answers]
    assert len(keys) == len(set(keys))  # no journalled answer was asked for again
    kept, rejected = outcome_of_run(tmp_path)
    assert sorted(kept + rejected) == sorted(f"thing {n}" for n in range(500))
    faults = chat.injected["429"] + chat.injected["500"]
    assert sum(chat.requests.values()) <= 500 + faults + chat.repairs + kills * 16
    assert len(sent) <= 500 + chat.repairs + kills * 16


def test_sixteen_at_once_are_sixteen_at_once(server, topics, tmp_path, monkeypatch):
    """As many requests are under way as were asked for, and never more."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for concurrency, number in ((1, 4), (16, 48)):
        chat = server(delay=0.2)
        arguments = words(
            chat, tmp_path / str(concurrency), topics(number), "--concurrency", str(concurrency)
        )
        assert make_data_chatgpt.main(arguments) == 0
        assert chat.most_active == concurrency


def test_files_pass_the_checker_and_train_a_classifier(server, topics, tmp_path, monkeypatch, capsys):
    """Two aspects, one after the other, into the same files; then straight into training."""
    import train_classifier

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endings = {
        "lyrical": "the rain is singing over {} tonight and the moon is listening",
        "plain": "put {} on the table and close the door behind you",
    }
    for aspect in ("lyrical", "plain"):
        chat = server(
            reply=lambda topic, a=aspect: json.dumps(
                {"dialogue": [{"user": f"What about {topic}, my friend?", "reply": endings[a].format(topic)}]}
            )
        )
        assert make_data_chatgpt.main(words(chat, tmp_path, topics(60), aspect=aspect)) == 0
    out = tmp_path / "out"
    rows = lines(out / "dialogue_languagestyle.jsonl") + lines(out / "dev_dialogue_languagestyle.jsonl")
    assert len(rows) == 120 and {row["tag"] for row in rows} == {"plain", "lyrical"}
    train, dev = (
        {row["topic"] for row in lines(out / f"{prefix}dialogue_languagestyle.jsonl")}
        for prefix in ("", "dev_")
    )
    assert not train & dev and 2 <= len(dev) <= 14
    assert lines(out / "text_languagestyle.jsonl")[0]["label"] in ("plain", "lyrical")
    capsys.readouterr()
    check_data.main(["--schema", str(out / "schema.py"), "--json", "--leakage", "1"])
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == [], report["errors"]
    arguments = [
        "--schema",
        str(out / "schema.py"),
        "--outs",
        str(tmp_path / "outs"),
        "--run",
        "r",
        "--num_train_epochs",
        "1",
        "--min_steps",
        "0",
    ]
    assert train_classifier.main(arguments) == 0
    assert (tmp_path / "outs" / "r" / "classifier" / "languagestyle" / "model.safetensors").is_file()


def test_several_aspects_make_a_test_file_with_tag_lists_only(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server()
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(3), aspect="optimistic,lyrical")) == 0
    out = tmp_path / "out"
    assert [row["tag"] for row in lines(out / "test.jsonl")] == [["lyrical", "optimistic", None]] * 3
    assert not list(out.glob("*dialogue*")) and not list(out.glob("*text*"))
    system = chat.bodies[0]["messages"][0]["content"]
    schema = load_schema(ROOT / "schema.py")
    for name, aspect in (("languagestyle", "lyrical"), ("attitude", "optimistic")):
        assert schema.attribute(name).descriptions[aspect] in system
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(2), aspect="plain,pessimistic,critical")) == 0
    assert len(lines(out / "test.jsonl")) == 5 and lines(out / "test.jsonl")[4]["tag"] in (
        ["lyrical", "optimistic", None],
        ["plain", "pessimistic", "critical"],
    )


@pytest.mark.parametrize(
    ("refused", "found", "sent"),
    [
        ((), "json_schema", 4),
        (("json_schema",), "json_object", 5),
        (("json_schema", "json_object"), "text", 6),
    ],
)
def test_the_strictest_answer_format_is_found_once(
    server, topics, tmp_path, monkeypatch, refused, found, sent
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(refuse_formats=refused)
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(4), "--concurrency", "4")) == 0
    assert sum(chat.requests.values()) == sent
    form = chat.bodies[-1].get("response_format", {"type": "text"})
    assert form["type"] == found
    if found == "json_schema":
        assert form["json_schema"]["schema"]["properties"]["dialogue"]["minItems"] == 1
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(6))) == 0
    assert sum(chat.requests.values()) == sent + 2  # two new topics; the format was remembered


def test_a_malformed_answer_is_repaired_once_and_a_refusal_is_not(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = {
        "thing 0": ["nonsense", "more nonsense"],
        "thing 1": ["As an AI, I cannot do that."],
        "thing 2": ["nonsense"],
    }
    good = json.dumps(
        {"dialogue": [{"user": "And the third thing?", "reply": "It is fine, leave it there."}]}
    )
    chat = server(reply=lambda topic: said[topic].pop(0) if said[topic] else good)
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(3), "--concurrency", "1")) == 0
    assert chat.requests == {"thing 0": 2, "thing 1": 1, "thing 2": 2}
    kept, _ = outcome_of_run(tmp_path)
    reasons = {row["topic"]: row["reason"] for row in lines(tmp_path / "out" / "rejects" / "lyrical.jsonl")}
    assert kept == ["thing 2"] and reasons == {
        "thing 0": "no JSON dialogue was found in the answer",
        "thing 1": "the model declined",
    }
    repair = [body["messages"] for body in chat.bodies if len(body["messages"]) > 2][0]
    assert (
        repair[2] == {"role": "assistant", "content": "nonsense"}
        and "no JSON dialogue" in repair[3]["content"]
    )


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (
            (401, "invalid_api_key", f"Incorrect API key provided: {KEY[:12]}******ghij"),
            "AuthenticationError",
        ),
        ((404, "model_not_found", "no such model"), "NotFoundError"),
        ((429, "insufficient_quota", "you exceeded your quota"), "quota"),
        ((400, "bad", "temperature is out of range"), "temperature is out of range"),
    ],
)
def test_a_service_that_will_never_answer_ends_the_run_in_one_line_without_the_key(
    server, topics, tmp_path, status, says
):
    chat = server(status=status)
    code, out, err = finish(words(chat, tmp_path, topics(50), "--concurrency", "4", "--max-retries", "0"))
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and says in last and "Traceback" not in err
    assert sum(chat.requests.values()) <= 7
    everything = (
        out + err + "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    )
    assert KEY[:12] not in everything


def test_the_key_is_sent_and_written_nowhere(server, topics, tmp_path):
    chat = server()
    code, out, err = finish(words(chat, tmp_path, topics(3), "--key", KEY), key="")
    assert code == 0 and "warning: a key on the command line" in err
    assert (
        chat.headers_seen[0].get("authorization", chat.headers_seen[0].get("Authorization"))
        == f"Bearer {KEY}"
    )
    files = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert KEY not in out + err + files
    code, out, err = finish(["--help"])
    assert code == 0 and KEY not in out + err
    code, out, err = finish(words(chat, tmp_path, topics(9)), key="")
    assert code == 2 and "no key: set OPENAI_API_KEY" in err


def test_ctrl_c_waits_for_what_is_under_way_and_goes_on_later(server, topics, tmp_path):
    chat = server(delay=0.3)
    process = start(words(chat, tmp_path, topics(100), "--concurrency", "4", "--timeout", "10"))
    while sum(chat.requests.values()) < 9:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    answers, sent = journal_of(tmp_path)
    assert (
        process.returncode == 1
        and "stopped: interrupted" in out
        and "the same command goes on" in out
        and "Traceback" not in err
    )
    assert len(answers) == len(sent) == sum(chat.requests.values()) < 30
    chat.delay = 0
    assert finish(words(chat, tmp_path, topics(100)))[0] == 0
    assert sum(chat.requests.values()) == 100


def test_the_cost_limit_is_never_passed(server, topics, tmp_path, capsys, monkeypatch):
    """Each answer has 100 tokens in and 50 out: at these prices 2 cents, so 5 of them make 10 cents."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "prices.yaml").write_text("gpt-4.1-mini: {input: 100, output: 200}\n")
    chat = server(delay=0.02)
    options = ["--prices", str(tmp_path / "prices.yaml"), "--concurrency", "4", "--max-cost"]
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(40), *options, "0.105")) == 1
    assert 0 < sum(chat.requests.values()) <= 5 and "could lead beyond $0.105" in capsys.readouterr().out
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(40), *options, "10")) == 0
    assert "$0.8000" in capsys.readouterr().out and sum(chat.requests.values()) == 40
    with pytest.raises(InputError, match="--max-cost needs the price"):
        make_data_chatgpt.main(words(chat, tmp_path, topics(40), "--model", "unknown", "--max-cost", "1"))


def test_an_edited_file_is_not_overwritten(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server()
    make_data_chatgpt.main(words(chat, tmp_path, topics(12)))
    path = tmp_path / "out" / "dialogue_languagestyle.jsonl"
    path.write_text(path.read_text() + "\n")
    before = sum(chat.requests.values())
    with pytest.raises(InputError, match="was edited since"):
        make_data_chatgpt.main(words(chat, tmp_path, topics(14)))
    assert sum(chat.requests.values()) == before  # refused before anything was paid for
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(14), "--overwrite")) == 0


def test_batch_is_collected_repaired_and_resumed(server, topics, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(faults={"malformed": 0.2, "500": 0.1}, seed=3)
    options = ["--batch", "--poll-seconds", "0.02"]
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(60), *options)) == 1  # some got no answer
    assert len(chat.batches) == 2 and not chat.requests  # the second one repairs
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(60), *options)) in (0, 1)
    chat.faults = {}
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(60), *options)) == 0
    kept, rejected = outcome_of_run(tmp_path)
    assert sorted(kept + rejected) == sorted(f"thing {n}" for n in range(60))
    answers, _ = journal_of(tmp_path)
    assert all(row["batch"] for row in answers)
    dollars = len(answers) * (100 * 0.40 + 50 * 1.60) / 1e6 / 2
    assert f"${dollars:.4f}" in capsys.readouterr().out


def test_a_batch_is_found_again_after_a_kill(server, topics, tmp_path, monkeypatch):
    """Once with its name in the journal, once with its mark alone, as after a kill right behind the submission."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    from dataset.synthesis import batch

    chat = server()
    options = ["--batch", "--poll-seconds", "0.02"]
    with monkeypatch.context() as patched:
        patched.setattr(
            batch,
            "collect_pending",
            lambda *args: None if not args[0].journal.memory.get("submission") else 1 / 0,
        )
        with pytest.raises(ZeroDivisionError):
            make_data_chatgpt.main(words(chat, tmp_path, topics(5), *options))
    path = tmp_path / "out" / "journal" / "lyrical.jsonl"
    content = path.read_text().splitlines(keepends=True)
    assert '"batch": "batch-0"' in content[-1]
    path.write_text("".join(content[:-1]))
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(5), *options)) == 0
    assert len(chat.batches) == 1 and len(outcome_of_run(tmp_path)[0]) == 5


# --- servers as people have them ---------------------------------------------------------------------------------


def content_of(completion, content, **message):
    """The completion with another content."""
    return 200, completion | {
        "choices": [
            completion["choices"][0] | {"message": {"role": "assistant", "content": content, **message}}
        ]
    }


def text_in(completion):
    return completion["choices"][0]["message"]["content"]


@pytest.mark.parametrize("batch", [[], ["--batch", "--poll-seconds", "0.02"]], ids=["chat", "batch"])
@pytest.mark.parametrize(
    "odd",
    [
        lambda body, good: content_of(good, [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": text_in(good)}]),
        lambda body, good: content_of(good, {"type": "output_text", "text": text_in(good)}),
        lambda body, good: content_of(good, f"<think>{text_in(good).replace('day', 'draft')}</think>{text_in(good)}"),
        lambda body, good: content_of(good, text_in(good), refusal="", reasoning_content="\u2028"),
        lambda body, good: (200, {"choices": good["choices"]}),
        lambda body, good: (200, {"choices": good["choices"], "usage": {"prompt_tokens": None, "completion_tokens": "many"}}),
        lambda body, good: content_of(good, text_in(good).replace("wait", "wait\u2028\u0085\r")),
    ],
    ids=["blocks", "block", "think", "extra", "no-usage", "odd-usage", "line-ends"],
)  # fmt: skip
def test_an_answer_counts_whatever_its_shape_and_every_later_run_reads_it(
    server, topics, tmp_path, monkeypatch, capsys, odd, batch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(odd=odd)
    for asked in (3, 4):
        assert make_data_chatgpt.main(words(chat, tmp_path, topics(asked), *batch)) == 0
        kept, rejected = outcome_of_run(tmp_path)
        assert len(kept) == asked and not rejected
    answers, _ = journal_of(tmp_path)
    assert len(answers) == 4 and all(
        isinstance(row["text"], str) and row["tokens_in"] > 50 and row["tokens_out"] > 20 for row in answers
    )
    assert "draft" not in (tmp_path / "out" / "kept" / "lyrical.jsonl").read_text()


def test_a_journal_with_a_list_of_blocks_is_read(tmp_path):
    """Such a line was journalled once, and then broke every later run."""
    path = tmp_path / "j.jsonl"
    path.write_text(
        json.dumps(
            {
                "kind": "answer",
                "key": "k",
                "attempt": 0,
                "text": [{"type": "text", "text": "a"}],
                "tokens_in": None,
                "newer": 1,
            }
        )
        + "\n"
    )
    assert Journal(path).answers["k", 0].text == "a"


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (
            b"<html><body>Sign in to continue</body></html>",
            "is not JSON but '<html><body>Sign in to continue",
        ),
        (
            {"error": {"message": "Unexpected endpoint or method."}},
            "is no chat completion but 'Unexpected endpoint",
        ),
        ({"choices": []}, "is no chat completion"),
        ({"choices": [{"message": {"content": 5}}]}, "is no chat completion"),
        ([1, 2], "is no chat completion"),
        (b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "is not JSON but 'data:"),
        (b'{"choices": "caf\xe9"}', "is not JSON"),
        (b"", "is not JSON but ''"),
    ],
)
def test_a_server_that_sends_something_else_is_found_out_within_a_few_requests(
    server, topics, tmp_path, monkeypatch, sent, says
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(odd=lambda body, good: (200, sent))
    with pytest.raises(InputError, match=re.escape(says)) as error:
        make_data_chatgpt.main(words(chat, tmp_path, topics(50)))
    assert (
        sum(chat.requests.values()) <= 5
        and "\n" not in str(error.value)
        and "is --base-url" in str(error.value)
    )
    assert journal_of(tmp_path)[0] == [] and outcome_of_run(tmp_path) == (
        [],
        [],
    )  # nothing is journalled, nothing rejected
    chat.odd = None
    assert (
        make_data_chatgpt.main(words(chat, tmp_path, topics(6))) == 0
        and len(outcome_of_run(tmp_path)[0]) == 6
    )


@pytest.mark.parametrize(
    ("status", "refused", "found"),
    [
        (500, ("json_schema",), "json_object"),
        (501, ("json_schema", "json_object"), "text"),
        (422, ("json_schema",), "json_object"),
    ],
)
def test_a_format_refused_as_the_server_s_own_error_is_asked_for_in_plainer_form(
    server, topics, tmp_path, monkeypatch, status, refused, found
):
    """500 and 501 were retried for ever."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def odd(body, good):
        form = body.get("response_format", {}).get("type", "text")
        return (
            (status, {"error": {"message": "response_format type is not implemented"}})
            if form in refused
            else None
        )

    chat = server(odd=odd)
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(4))) == 0
    assert (
        sum(chat.requests.values()) <= 4 + 2 * len(refused)
        and chat.bodies[-1].get("response_format", {"type": "text"})["type"] == found
    )


@pytest.mark.parametrize("batch", [[], ["--batch", "--poll-seconds", "0.02"]], ids=["chat", "batch"])
@pytest.mark.parametrize("first", [0, 2])
def test_one_prompt_that_a_filter_refuses_is_one_topic_s_affair(
    server, topics, tmp_path, monkeypatch, first, batch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    filtered = {
        "error": {
            "message": "The prompt was filtered by the content management policy.",
            "code": "content_filter",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }
    chat = server(
        odd=lambda body, good: (400, filtered) if f"thing {first}" in body["messages"][1]["content"] else None
    )
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(6), "--concurrency", "1", *batch)) == 0
    kept, rejected = outcome_of_run(tmp_path)
    assert len(kept) == 5 and rejected == [f"thing {first}"]
    before = sum(chat.requests.values()) + len(chat.batches)
    assert (
        make_data_chatgpt.main(words(chat, tmp_path, topics(6), *batch)) == 0
        and sum(chat.requests.values()) + len(chat.batches) == before
    )


def test_a_refusal_nobody_knows_leaves_its_topic_open_and_asks_for_the_rest(
    server, topics, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(
        odd=lambda body, good: (
            (400, {"error": {"message": "code 1301"}})
            if "thing 0" in body["messages"][1]["content"]
            else None
        )
    )
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(6))) == 1
    assert len(outcome_of_run(tmp_path)[0]) == 5 and outcome_of_run(tmp_path)[1] == []
    assert "no answer: 1 x the server refuses the request (status 400)" in capsys.readouterr().out
    assert (
        chat.bodies[-1]["response_format"]["type"] == "json_schema"
    )  # the one prompt says nothing of the format


def test_a_burst_of_the_server_s_own_errors_rejects_nothing(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(
        odd=lambda body, good: (
            (503, {"error": {"message": "loading"}}) if sum(chat.requests.values()) > 8 else None
        )
    )
    with pytest.raises(InputError, match=r"503.* \(10 times in a row\)"):
        make_data_chatgpt.main(words(chat, tmp_path, topics(60), "--max-retries", "0", "--concurrency", "2"))
    assert (
        sum(chat.requests.values()) <= 20
        and len(outcome_of_run(tmp_path)[0]) == 8
        and outcome_of_run(tmp_path)[1] == []
    )
    chat.odd = None
    assert (
        make_data_chatgpt.main(words(chat, tmp_path, topics(60))) == 0
        and len(outcome_of_run(tmp_path)[0]) == 60
    )


def test_a_format_that_met_the_server_s_own_error_is_tried_again_in_the_next_run(
    server, topics, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(
        odd=lambda body, good: (
            (500, {"error": {"message": "starting up"}}) if sum(chat.requests.values()) <= 2 else None
        )
    )
    assert (
        make_data_chatgpt.main(words(chat, tmp_path, topics(3))) == 0
        and chat.bodies[-1]["response_format"]["type"] == "json_object"
    )
    assert (
        make_data_chatgpt.main(words(chat, tmp_path, topics(4))) == 0
        and chat.bodies[-1]["response_format"]["type"] == "json_schema"
    )


def test_what_the_service_does_not_count_does_not_switch_the_cost_limit_off(
    server, topics, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "prices.yaml").write_text("gpt-4.1-mini: {input: 100, output: 200}\n")
    for odd in (
        lambda body, good: (200, {"choices": good["choices"]}),
        lambda body, good: (200, good | {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
    ):
        chat = server(odd=odd)
        arguments = words(
            chat, tmp_path, topics(40), "--prices", str(tmp_path / "prices.yaml"), "--max-cost", "0.2"
        )
        arguments[arguments.index(str(tmp_path / "out"))] = str(tmp_path / f"out-{chat.server_address[1]}")
        assert make_data_chatgpt.main(arguments) == 1
        assert 0 < sum(chat.requests.values()) < 12 and "could lead beyond $0.2" in capsys.readouterr().out


def test_a_parameter_that_a_model_does_not_take_is_renamed_or_left_out(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def odd(body, good):
        for name, hint in (
            ("max_tokens", "Use 'max_completion_tokens' instead."),
            ("temperature", "Only the default (1) value is supported."),
        ):
            if name in body:
                return 400, {
                    "error": {
                        "message": f"Unsupported parameter: '{name}' is not supported with this model. {hint}",
                        "param": name,
                        "code": "unsupported_parameter",
                    }
                }
        return None

    chat = server(odd=odd)
    arguments = words(chat, tmp_path, topics(4), "--max-tokens", "300", "--temperature", "0.7", "--seed", "3")
    assert make_data_chatgpt.main(arguments) == 0
    assert (
        sum(chat.requests.values()) == 6
        and chat.bodies[-1]["max_completion_tokens"] == 300
        and "temperature" not in chat.bodies[-1]
        and "seed" in chat.bodies[-1]
    )
    assert chat.bodies[-1]["response_format"]["type"] == "json_schema"


def test_a_batch_in_plainer_form_where_the_server_refuses_the_strictest(
    server, topics, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server(
        odd=lambda body, good: (
            (400, {"error": {"message": "response_format is not supported"}})
            if "response_format" in body
            else None
        )
    )
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(5), "--batch", "--poll-seconds", "0.02")) == 0
    assert len(chat.batches) == 3 and len(outcome_of_run(tmp_path)[0]) == 5


def test_a_batch_s_broken_lines_leave_their_topics_open(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    broken = {
        "thing 0": (200, b'{"custom_id": "x", "resp'),
        "thing 1": (200, b"[]"),
        "thing 2": (200, {"error": {"message": "oops"}}),
        "thing 3": (500, {"error": "oops"}),
    }
    chat = server(odd=lambda body, good: broken.get(re.search("thing .", body["messages"][1]["content"])[0]))
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(6), "--batch", "--poll-seconds", "0.02")) == 1
    assert len(outcome_of_run(tmp_path)[0]) == 2 and outcome_of_run(tmp_path)[1] == []
    chat.odd = None
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(6), "--batch", "--poll-seconds", "0.02")) == 0


def test_a_batch_that_the_provider_no_longer_has_is_asked_for_again(server, topics, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    import httpx2
    import openai

    from dataset.synthesis import batch

    class Client:
        class batches:
            @staticmethod
            def retrieve(name):
                raise openai.NotFoundError(
                    "gone",
                    response=httpx2.Response(404, request=httpx2.Request("GET", "http://x")),
                    body=None,
                )

    journal = Journal(tmp_path / "j.jsonl")
    journal.remember("submission", {"mark": "m", "requests": ["r"], "batch": "batch-9"})
    batch.collect_pending(make_data_chatgpt.Run(journal, None, None), Client, [], 0)
    assert journal.memory["submission"] is None


# --- addresses and the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("localhost:8000", "has no scheme; try http://localhost:8000/v1"),
        ("127.0.0.1:8000/v1", "has no scheme; try http://127.0.0.1:8000/v1"),
        ("api.example.org/v1/", "has no scheme; try https://api.example.org/v1"),
        ("htp://x/v1", "begins with htp://; expected http:// or https://"),
        ("http://", "is no address"),
        ("http://x:99999/v1", "is no address"),
        ("http://x:port/v1", "is no address"),
        ("http://[::1/v1", "is no address"),
        ("http://x y/v1", "is no address"),
    ],
)
def test_an_address_that_is_none_is_one_line_with_what_to_try(topics, tmp_path, monkeypatch, address, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    common = ["--aspect", "lyrical", "--topics", str(topics(2)), "--output-dir", str(tmp_path / "out")]
    for batch in ([], ["--batch"]):
        with pytest.raises(InputError, match=re.escape(says)):
            make_data_chatgpt.main([*common, "--base-url", address, *batch])
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        with pytest.raises(InputError, match=re.escape(f"OPENAI_BASE_URL '{address}' {says}")):
            make_data_chatgpt.main([*common, *batch])
        monkeypatch.delenv("OPENAI_BASE_URL")


@pytest.mark.parametrize("batch", [[], ["--batch"]], ids=["chat", "batch"])
def test_a_dead_port_is_one_line_at_once(server, topics, tmp_path, monkeypatch, batch):
    """Four topics at a dead port took 70 seconds."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    dead = server()
    dead.shutdown()
    dead.server_close()
    started = time.monotonic()
    with pytest.raises(
        InputError, match=r"the server cannot be reached at http://127\.0\.0\.1:\d+/v1: .*refused"
    ):
        make_data_chatgpt.main(words(dead, tmp_path, topics(4), *batch))
    assert time.monotonic() - started < 40


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "/v1$"),
        ("/v1/chat/completions", "try --base-url http://127.0.0.1:[0-9]+/v1$"),
        ("/v9", "is --base-url .*/v9 right[?]$"),
    ],
)
def test_a_server_with_nothing_at_an_address_says_what_to_try(
    server, topics, tmp_path, monkeypatch, path, says
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat = server()
    arguments = words(chat, tmp_path, topics(9))
    arguments[arguments.index(chat.url)] = chat.url.removesuffix("/v1") + path
    with pytest.raises(InputError, match=says):
        make_data_chatgpt.main(arguments)
    assert sum(chat.requests.values()) == 0


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "no certificates can be read from SSL_CERT_FILE=/nowhere.pem"),
        ({"SSL_CERT_FILE": __file__}, "no certificates can be read from SSL_CERT_FILE="),
        ({"ALL_PROXY": "ftp://user:secret@x"}, "the proxy that ALL_PROXY names cannot be used"),
        ({"HTTP_PROXY": "socks5://127.0.0.1:9"}, "the proxy that HTTP_PROXY names needs a package for SOCKS"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "requests go through the proxy that HTTP_PROXY names"),
        ({"OPENAI_API_KEY": "schlüssel"}, "the key in OPENAI_API_KEY holds characters that no key has"),
        ({"OPENAI_API_KEY": "a\nb"}, "the key in OPENAI_API_KEY holds characters"),
    ],
)
@pytest.mark.parametrize("batch", [[], ["--batch"]], ids=["chat", "batch"])
def test_the_environment_s_mistakes_are_one_line(
    topics, tmp_path, monkeypatch, capsys, variables, says, batch
):
    from common.entry import run_main

    for name in (
        "NO_PROXY",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "MIRACLE_DEBUG",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"OPENAI_API_KEY": KEY} | variables).items():
        monkeypatch.setenv(name, value)
    arguments = [
        "--aspect",
        "lyrical",
        "--topics",
        str(topics(2)),
        "--output-dir",
        str(tmp_path / "out"),
        "--base-url",
        "http://example.invalid/v1",
        *batch,
    ]
    with pytest.raises(SystemExit) as end:
        run_main(lambda _: make_data_chatgpt.main(arguments))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and last.startswith("error: ") and says in last and "secret" not in last


# --- the journal, the options ------------------------------------------------------------------------------------


def test_a_torn_last_line_is_dropped_and_a_broken_one_in_the_middle_is_named(tmp_path):
    from dataset.synthesis.journal import Answer

    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.write_answer(Answer("k", 0, "text", tokens_in=3))
    journal.remember("format", "text")
    with pytest.raises(InputError, match="in use by another process"):
        Journal(path)
    journal.close()
    with open(path, "ab") as out:
        out.write(b'{"kind": "answer", "key": "torn')
    journal = Journal(path)
    assert (
        journal.answers["k", 0].tokens_in == 3
        and len(journal.answers) == 1
        and journal.memory == {"format": "text"}
    )
    journal.write_sent("k", 1)
    journal.close()
    assert path.read_text().count("\n") == 3
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(InputError, match="j.jsonl:1: not a line of a journal"):
        Journal(path)


def test_dry_run_asks_nothing_and_needs_no_key(topics, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = [
        "--aspect",
        "lyrical",
        "--topics",
        str(topics(10)),
        "--dry-run",
        "--output-dir",
        str(tmp_path / "out"),
        "--schema",
        str(ROOT / "schema.py"),
    ]
    assert make_data_chatgpt.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("Topic: ") == 3 and re.search(
        r"10 requests, about [\d,]+ tokens in and [\d,]+ out: \$0\.\d\d", out
    )
    assert not (tmp_path / "out").exists()
    assert make_data_chatgpt.main([*arguments, "--model", "mine"]) == 0
    assert "cost unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--aspect", "gloomy"], "unknown aspect 'gloomy'"),
        (["--aspect", "plain,lyrical"], "both of languagestyle"),
        (["--aspect", "plain", "--n-turns", "0"], "--n-turns must be 1 or more"),
        (["--aspect", "plain", "--topics", "nowhere"], "topics not found"),
        (["--aspect", "plain", "--dev-share", "1.5"], "--dev-share"),
        (["--nonsense"], "see --help"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        make_data_chatgpt.main([*options, "--schema", str(ROOT / "schema.py")])


def test_an_aspect_without_a_description_is_named(tmp_path):
    (tmp_path / "s.py").write_text(
        'ATTRIBUTES = [{"name": "mood", "aspects": ["calm", "wild"], "descriptions": {"calm": "Calm."}}]'
    )
    with pytest.raises(InputError, match="mood does not describe 'wild'"):
        make_data_chatgpt.main(["--aspect", "wild", "--schema", str(tmp_path / "s.py")])
