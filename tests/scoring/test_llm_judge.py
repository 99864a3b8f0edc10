"""The language model as judge against a real HTTP server on loopback: every question once, orders undone, no key anywhere."""

import http.server
import json
import math
import re
import threading

import pytest

from common.errors import InputError
from common.jsonl import read_json
from common.schema import load_schema
from dataset.synthesis.journal import Answer, Journal
from scoring import llm_judge
from scoring.judge_answers import Unreadable, rating_of, read_answer, sampled
from scoring.judge_questions import FIT, LEVELS, questions_of, reply_ids
from scoring.judge_summary import correlation
from scoring.sheet import export

KEY = "sk-test-0123456789abcdefghij"


class Server(http.server.ThreadingHTTPServer):
    """A judge that finds the aspects whose names a reply holds, and a reply the better the more ``good`` it says.

    Args:
        sure: probability of its option, the others share the rest; where the token probabilities are not asked for it says its option.
        answer: (option's letter, number of the request) -> the text that comes instead.
        refuses: words that a request is refused with where it asks for token probabilities.
        failing: every so many requests are answered with status 500.
    """

    daemon_threads = True

    def __init__(self, sure=0.9, answer=None, refuses=None, failing=0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sure, self.answer, self.refuses, self.failing = sure, answer, refuses, failing
        self.bodies, self.answered, self.lock = [], 0, threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def choice(self, prompt):
        options = dict(re.findall(r"^([A-Z])\) (.*)$", prompt, re.MULTILINE))
        reply = re.search(r"The reply to be judged: (.*)", prompt)[1]
        if any(text in options.values() for text in LEVELS.values()):
            level = str(min(4, reply.split().count("good")))
            return next(k for k, text in options.items() if text == LEVELS[level]), list(options)
        return next(k for k, text in options.items() if text.split(":")[0] in reply.split()), list(options)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Nothing on the terminal."""

    def send(self, content, status=200):
        raw = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(raw),
            "Retry-After-Ms": "5",
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(raw)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            number = len(server.bodies)
        if server.refuses and "logprobs" in body:
            return self.send({"error": {"message": server.refuses}}, 400)
        if server.failing and number % server.failing == 0:
            return self.send({"error": {"message": "oops"}}, 500)
        letter, letters = server.choice(body["messages"][1]["content"])
        text = letter if server.answer is None else server.answer(letter, number)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        if "logprobs" in body:
            rest = (1 - server.sure) / (len(letters) - 1)
            top = [
                {"token": f" {one}", "logprob": math.log(server.sure if one == letter else rest)}
                for one in letters
            ]
            sampled_token = {"token": f" {letter}", "logprob": math.log(server.sure), "top_logprobs": top}
            choice["logprobs"] = {"content": [sampled_token]}
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        with server.lock:
            server.answered += 1
        return self.send(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        )


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = []

    def start(**options):
        started.append(Server(**options))
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


TARGETS = [
    {"languagestyle": "lyrical", "attitude": "optimistic", "mindchar": "critical"},
    {"languagestyle": "plain", "attitude": "optimistic", "mindchar": "emotional"},
]


def reply(i, words, target, **scores):
    return {"id": str(i), "context": [f"question {i}?"], "target": target, "response": words} | scores


ROWS = [
    reply(0, "lyrical optimistic critical good good good good", TARGETS[0]),
    reply(1, "plain optimistic critical", TARGETS[0]),
    reply(2, "plain optimistic emotional good good", TARGETS[1]),
    reply(3, "plain pessimistic emotional good", TARGETS[1]),
]


def words(server, path, *options):
    return [str(path), "--model", "m", "--base-url", server.url, "--concurrency", "3", *options]


def test_judging_gives_accuracy_and_fit(server, write_rows, capsys):
    judge = server(sure=0.9)
    path = write_rows(*ROWS, name="replies.jsonl")
    assert llm_judge.main(words(judge, path)) == 0
    out = capsys.readouterr().out
    found = read_json(path.parent / "replies.judge" / "judge.json")
    assert found["answered"] == found["by_token_probabilities"] == found["questions"] == 16
    scores = found["scores"]
    assert scores["accuracy_joint"]["value"] == 0.5 and scores["accuracy_joint"]["n"] == 4
    assert scores["accuracy.languagestyle"]["value"] == 0.75 and scores["accuracy.mindchar"]["value"] == 1.0
    assert scores["probability_mean"]["value"] == pytest.approx((10 * 0.9 + 2 * 0.1) / 12)
    # levels 4, 0, 2, 1 with probability 0.9, and 0.025 for each of the others
    expected = [(0.9 * level + 0.025 * (10 - level)) / 4 for level in (4, 0, 2, 1)]
    rows = [
        json.loads(line) for line in (path.parent / "replies.judge" / "judged.jsonl").read_text().splitlines()
    ]
    assert [row["judge_fit"] for row in rows] == pytest.approx(expected)
    assert rows[0]["judge"]["languagestyle"] == pytest.approx({"plain": 0.1, "lyrical": 0.9})
    assert "accuracy_joint 0.500" in out and "16 questions, about" in out and "cost unknown" in out
    # a second start asks for nothing
    before = len(judge.bodies)
    assert llm_judge.main(words(judge, path)) == 0 and len(judge.bodies) == before
    assert not any(KEY in file.read_text() for file in (path.parent / "replies.judge").iterdir())
    assert all(body["top_logprobs"] == 20 and body["temperature"] == 0.0 for body in judge.bodies)
    prompt = judge.bodies[0]["messages"][1]["content"]
    assert "optimistic:" not in prompt.split("The reply to be judged")[0]  # what was asked for is not said


def test_orders_differ_by_reply_and_are_balanced_by_rotation():
    rows = [reply(i, "x", TARGETS[0]) for i in range(60)]
    schema = load_schema()
    questions = questions_of(rows, schema, 0, 2, {})
    first = [q.options[0] for q in questions if q.subject == "attitude" and q.order == 0]
    assert 15 < first.count("optimistic") < 45
    for q, other in zip(questions[::2], questions[1::2]):
        assert (
            q.options == other.options[::-1] and q.wording != other.wording
        )  # of two options a rotation is the reverse
    assert {q.options for q in questions if q.subject == FIT} == {tuple("43210"), tuple("01234")}
    assert questions_of(rows, schema, 0, 2, {}) == questions
    assert questions_of(rows, schema, 1, 2, {}) != questions
    assert len({q.key for q in questions}) == len(questions)


def test_a_liking_for_the_first_place_shows_and_averages_out(server, write_rows):
    judge = server(answer=lambda letter, number: "A", refuses="logprobs is not supported")
    path = write_rows(*ROWS, name="replies.jsonl")
    assert llm_judge.main(words(judge, path, "--orders", "2", "--no-fit")) == 0
    found = read_json(path.parent / "replies.judge" / "judge.json")
    assert found["by_token_probabilities"] == 0 and found["answered"] == 24
    assert all(one == {"share": 1.0, "even": 0.5} for one in found["first_option"].values())
    assert found["scores"]["probability_mean"]["value"] == pytest.approx(0.5)
    refused = [body for body in judge.bodies if "logprobs" in body]
    assert [body["top_logprobs"] for body in refused] == [20, 5]  # asked for twice, then never again


def test_an_unreadable_answer_is_asked_about_once_more(server, write_rows):
    judge = server(answer=lambda letter, number: "I cannot tell" if number % 2 else letter)
    path = write_rows(ROWS[0], name="replies.jsonl")
    assert llm_judge.main(words(judge, path, "--concurrency", "1")) == 0
    assert (
        len(judge.bodies) == 8 and read_json(path.parent / "replies.judge" / "judge.json")["unreadable"] == 0
    )
    assert "names none of A, B" in judge.bodies[1]["messages"][3]["content"]
    mute = server(answer=lambda letter, number: "hm")
    assert llm_judge.main(words(mute, path, "--output-dir", str(path.parent / "mute"))) == 0
    found = read_json(path.parent / "mute" / "judge.json")
    assert found["unreadable"] == 4 and found["scores"]["accuracy_joint"] == {
        "value": None,
        "ci95": None,
        "n": 0,
    }


def test_faults_and_a_limit_of_cost_leave_questions_open_for_the_next_run(server, write_rows, tmp_path):
    judge = server(failing=3)
    path = write_rows(*ROWS, name="replies.jsonl")
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 10000, output: 0}\n")  # a dollar a question
    limited = [*words(judge, path), "--prices", str(prices), "--max-cost", "5.5", "--concurrency", "1"]
    assert llm_judge.main(limited) == 1
    found = read_json(path.parent / "replies.judge" / "judge.json")
    assert found["answered"] == 5 and found["open"] == 11 and found["cost"]["dollars"] == pytest.approx(5.0)
    assert llm_judge.main(words(judge, path)) == 0 and judge.answered == 16  # none asked twice
    with pytest.raises(InputError, match="--max-cost needs the price of 'm'"):
        llm_judge.main([*words(judge, path), "--max-cost", "1"])


def test_a_dry_run_asks_nothing_and_says_what_it_would_cost(server, write_rows, capsys, tmp_path):
    judge = server()
    path = write_rows(*ROWS, name="replies.jsonl")
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 1000, output: 1000}\n")
    assert llm_judge.main([*words(judge, path), "--dry-run", "--prices", str(prices)]) == 0
    out = capsys.readouterr().out
    assert (
        not judge.bodies
        and "[user]" in out
        and re.search(r"16 questions, .*: \$\d+\.\d\d \(an estimate\)", out)
    )
    assert not (path.parent / "replies.judge").exists()


def test_agreement_with_the_evaluators(server, write_rows):
    """The evaluators call the third reply pessimistic and agree otherwise: 3 of 4, kappa 0.5 over two of each."""
    attitudes = ["optimistic", "optimistic", "pessimistic", "pessimistic"]
    rows = []
    for i, attitude in enumerate(attitudes):
        style, mind = ROWS[i]["response"].split()[0], ROWS[i]["response"].split()[2]
        predicted = {"languagestyle": style, "attitude": attitude, "mindchar": mind}
        chances = {
            a.name: {x: float(predicted[a.name] == x) for x in a.aspects} for a in load_schema().attributes
        }
        rows.append(
            ROWS[i] | {"predicted": predicted, "probabilities": chances, "nli": (0.9, 0.1, 0.5, 0.3)[i]}
        )
    path = write_rows(*rows, name="replies.jsonl")
    assert llm_judge.main(words(server(), path)) == 0
    found = read_json(path.parent / "replies.judge" / "judge.json")["classifiers"]
    assert (found["attitude"]["same"], found["attitude"]["kappa"]) == (0.75, pytest.approx(0.5))
    assert found["mindchar"]["same"] == 1.0 and found["mindchar"]["kappa"] == 1.0
    assert found["fit"]["spearman"] == pytest.approx(1.0) and found["fit"]["n"] == 4
    assert correlation([(1, 2), (1, 3), (1, 4)]) is None


def test_agreement_with_people_on_a_sheet(server, write_rows, tmp_path):
    target = TARGETS[0]
    good = [reply(i, "lyrical optimistic critical good good good good", target) for i in range(4)]
    bad = [reply(i, "plain pessimistic emotional", target) for i in range(4)]
    systems = [
        str(write_rows(*rows, name=f"{name}.jsonl")) for name, rows in (("ours", good), ("other", bad))
    ]
    sheet = tmp_path / "sheet"
    export(systems, 4, 0, sheet)
    key = read_json(sheet / "key.json")
    lines = ["item,personality,coherence,fluency"]
    for i, (name, item) in enumerate(key["items"].items()):
        better = "A" if item["A"] == "ours" else "B"
        worse = "AB".replace(better, "")
        lines.append(f"{name},{better if i else worse},{better if i < 3 else '='},")
    answers = tmp_path / "answers.csv"
    answers.write_text("\n".join(lines) + "\n")
    assert llm_judge.main(words(server(), sheet, "--answers", str(answers))) == 0
    found = read_json(sheet / "judge" / "judge.json")["people"]
    assert found["personality"]["decided"] == 0.75 and found["personality"]["same"] == 0.75
    assert found["coherence"]["decided"] == 1.0 and found["coherence"]["same"] == 0.75
    assert found["coherence"]["n_decided"] == 3


ATTITUDE = next(
    q for q in questions_of([reply(0, "x", TARGETS[0])], load_schema(), 0, 1, {}) if q.subject == "attitude"
)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", 0),
        (" b)", 1),
        ("B is nearest to it.", 1),
        ("The answer is (B).", 1),
        ("A reply such as this is B", 1),
        ("**A**", 0),
    ],
)
def test_letters_are_read_from_what_is_said(text, letter):
    assert sampled(text, ATTITUDE) == letter


def test_what_cannot_be_read():
    assert ATTITUDE.options[sampled(f"It is {ATTITUDE.options[1]}.", ATTITUDE)] == ATTITUDE.options[1]
    for text, reason in (
        ("", "empty"),
        ("A or B", "several options"),
        ("A reply like this", "none of A, B"),
        ("C", "none of A, B"),
    ):
        with pytest.raises(Unreadable, match=reason):
            sampled(text, ATTITUDE)


def test_token_probabilities_count_where_the_answer_is(tmp_path):
    def answer(text, logprobs):
        return Answer("k", 0, text, logprobs=logprobs)

    first, second = ATTITUDE.options
    spread = [
        {" The": -0.1},
        {" B": math.log(0.6), "B": math.log(0.1), "A": math.log(0.2), " x": math.log(0.1)},
    ]
    shares, by_tokens = read_answer(answer("The B", spread), ATTITUDE)
    assert by_tokens and shares == pytest.approx({first: 0.2 / 0.9, second: 0.7 / 0.9})
    thin = [{"B": math.log(0.2), "x": math.log(0.7)}]
    assert read_answer(answer("B", thin), ATTITUDE) == ({first: 0.0, second: 1.0}, False)
    thought = answer("<think>A? no</think>B", [{"A": -0.01}, {"B": -0.01}])
    assert read_answer(thought, ATTITUDE) == ({first: 0.0, second: 1.0}, False)
    journal = Journal(tmp_path / "journal.jsonl")
    assert rating_of(ATTITUDE, journal).next_attempt == 0
    journal.write_answer(Answer(ATTITUDE.key, 0, "The B", logprobs=spread))
    journal.close()
    again = Journal(tmp_path / "journal.jsonl")  # what was journalled is what is read
    assert rating_of(ATTITUDE, again).probabilities == pytest.approx(shares)
    again.close()


def test_mistakes_are_one_line(write_rows, tmp_path, monkeypatch):
    path = write_rows(*ROWS, name="replies.jsonl")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for options, message in (
        (["--answers", "a.csv"], "are people's on a sheet"),
        (["--orders", "0"], "--orders must be 1 or more, found 0"),
        ([], "no key: set OPENAI_API_KEY"),
    ):
        with pytest.raises(InputError, match=message):
            llm_judge.main([str(path), "--model", "m", *options])
    assert reply_ids([ROWS[0], ROWS[0]]) == [
        "0/lyrical+optimistic+critical",
        "0/lyrical+optimistic+critical#2",
    ]
