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

import make_data_chatgpt
from chat_server import ChatServer
from dataset.synthesis.journal import Journal
from schema import InputError, load_schema
from scripts import check_data

ROOT = Path(__file__).resolve().parent.parent
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
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(arguments, key=KEY):
    process = start(arguments, key)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    assert len(kept) > 480 and chat.most_active <= 17  # one that the client has given up may still be sleeping
    faults = sum(chat.injected[kind] for kind in ("429", "500", "dropped", "slow"))
    assert chat.repairs >= 15 and sum(chat.requests.values()) <= 500 + faults + chat.repairs
    before = sum(chat.requests.values())
    content = (tmp_path / "out" / "dialogue_languagestyle.jsonl").read_bytes()
    status, out, _ = finish(words(chat, tmp_path, topics(500)))
    assert status == 0 and sum(chat.requests.values()) == before and "500 were settled before" in out  # a no-op
    assert (tmp_path / "out" / "dialogue_languagestyle.jsonl").read_bytes() == content


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


def test_sixteen_at_once_are_ten_times_as_fast(server, topics, tmp_path):
    """A property of the concurrency, not of the machine: the server sleeps 200 ms for every answer."""

    def seconds(concurrency, number, folder):
        chat = server(delay=0.2)
        arguments = words(chat, tmp_path / folder, topics(number), "--concurrency", str(concurrency))
        started = time.monotonic()
        os.environ["OPENAI_API_KEY"] = KEY
        assert make_data_chatgpt.main(arguments) == 0
        return (time.monotonic() - started) / number

    one, sixteen = seconds(1, 15, "one"), seconds(16, 240, "sixteen")
    assert one / sixteen >= 10, (one, sixteen)


def test_files_pass_the_checker_and_train_a_classifier(server, topics, tmp_path, monkeypatch, capsys):
    """Two aspects, one after the other, into the same files; then straight into training."""
    import train_classifier

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endings = {"lyrical": "the rain is singing over {} tonight and the moon is listening", "plain": "put {} on the table and close the door behind you"}
    for aspect in ("lyrical", "plain"):
        chat = server(reply=lambda topic, a=aspect: json.dumps({"dialogue": [{"user": f"What about {topic}, my friend?", "reply": endings[a].format(topic)}]}))
        assert make_data_chatgpt.main(words(chat, tmp_path, topics(60), aspect=aspect)) == 0
    out = tmp_path / "out"
    rows = lines(out / "dialogue_languagestyle.jsonl") + lines(out / "dev_dialogue_languagestyle.jsonl")
    assert len(rows) == 120 and {row["tag"] for row in rows} == {"plain", "lyrical"}
    train, dev = ({row["topic"] for row in lines(out / f"{prefix}dialogue_languagestyle.jsonl")} for prefix in ("", "dev_"))
    assert not train & dev and 2 <= len(dev) <= 14
    assert lines(out / "text_languagestyle.jsonl")[0]["label"] in ("plain", "lyrical")
    capsys.readouterr()
    check_data.main(["--schema", str(out / "schema.py"), "--json", "--leakage", "1"])
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == [], report["errors"]
    arguments = ["--schema", str(out / "schema.py"), "--outs", str(tmp_path / "outs"), "--run", "r", "--num_train_epochs", "1"]
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
    assert len(lines(out / "test.jsonl")) == 5 and lines(out / "test.jsonl")[4]["tag"] in (["lyrical", "optimistic", None], ["plain", "pessimistic", "critical"])


@pytest.mark.parametrize(("refused", "found", "sent"), [((), "json_schema", 4), (("json_schema",), "json_object", 5), (("json_schema", "json_object"), "text", 6)])
def test_the_strictest_answer_format_is_found_once(server, topics, tmp_path, monkeypatch, refused, found, sent):
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
    said = {"thing 0": ["nonsense", "more nonsense"], "thing 1": ["As an AI, I cannot do that."], "thing 2": ["nonsense"]}
    good = json.dumps({"dialogue": [{"user": "And the third thing?", "reply": "It is fine, leave it there."}]})
    chat = server(reply=lambda topic: said[topic].pop(0) if said[topic] else good)
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(3), "--concurrency", "1")) == 0
    assert chat.requests == {"thing 0": 2, "thing 1": 1, "thing 2": 2}
    kept, _ = outcome_of_run(tmp_path)
    reasons = {row["topic"]: row["reason"] for row in lines(tmp_path / "out" / "rejects" / "lyrical.jsonl")}
    assert kept == ["thing 2"] and reasons == {"thing 0": "no JSON dialogue was found in the answer", "thing 1": "the model declined"}
    repair = [body["messages"] for body in chat.bodies if len(body["messages"]) > 2][0]
    assert repair[2] == {"role": "assistant", "content": "nonsense"} and "no JSON dialogue" in repair[3]["content"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ((401, "invalid_api_key", f"Incorrect API key provided: {KEY[:12]}******ghij"), "AuthenticationError"),
        ((404, "model_not_found", "no such model"), "NotFoundError"),
        ((429, "insufficient_quota", "you exceeded your quota"), "quota"),
        ((400, "bad", "temperature is out of range"), "temperature is out of range"),
    ],
)
def test_a_service_that_will_never_answer_ends_the_run_in_one_line_without_the_key(server, topics, tmp_path, status, says):
    chat = server(status=status)
    code, out, err = finish(words(chat, tmp_path, topics(50), "--concurrency", "4", "--max-retries", "0"))
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and says in last and "Traceback" not in err
    assert sum(chat.requests.values()) <= 7
    everything = out + err + "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert KEY[:12] not in everything


def test_the_key_is_sent_and_written_nowhere(server, topics, tmp_path):
    chat = server()
    code, out, err = finish(words(chat, tmp_path, topics(3), "--key", KEY), key="")
    assert code == 0 and "warning: a key on the command line" in err
    assert chat.headers_seen[0].get("authorization", chat.headers_seen[0].get("Authorization")) == f"Bearer {KEY}"
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
    out, err = process.communicate(timeout=30)
    answers, sent = journal_of(tmp_path)
    assert process.returncode == 1 and "stopped: interrupted" in out and "the same command goes on" in out and "Traceback" not in err
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
        patched.setattr(batch, "collect_pending", lambda *args: None if not args[0].journal.memory.get("submission") else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_data_chatgpt.main(words(chat, tmp_path, topics(5), *options))
    path = tmp_path / "out" / "journal" / "lyrical.jsonl"
    content = path.read_text().splitlines(keepends=True)
    assert '"batch": "batch-0"' in content[-1]
    path.write_text("".join(content[:-1]))
    assert make_data_chatgpt.main(words(chat, tmp_path, topics(5), *options)) == 0
    assert len(chat.batches) == 1 and len(outcome_of_run(tmp_path)[0]) == 5


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
    assert journal.answers["k", 0].tokens_in == 3 and len(journal.answers) == 1 and journal.memory == {"format": "text"}
    journal.write_sent("k", 1)
    journal.close()
    assert path.read_text().count("\n") == 3
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(InputError, match="j.jsonl:1: not a line of a journal"):
        Journal(path)


def test_dry_run_asks_nothing_and_needs_no_key(topics, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = ["--aspect", "lyrical", "--topics", str(topics(10)), "--dry-run", "--output-dir", str(tmp_path / "out"), "--schema", str(ROOT / "schema.py")]
    assert make_data_chatgpt.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("Topic: ") == 3 and re.search(r"10 requests, about [\d,]+ tokens in and [\d,]+ out: \$0\.\d\d", out)
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
    (tmp_path / "s.py").write_text('ATTRIBUTES = [{"name": "mood", "aspects": ["calm", "wild"], "descriptions": {"calm": "Calm."}}]')
    with pytest.raises(InputError, match="mood does not describe 'wild'"):
        make_data_chatgpt.main(["--aspect", "wild", "--schema", str(tmp_path / "s.py")])
