"""A language model behind any OpenAI-compatible server as judge. ``python -m scoring.llm_judge outs/demo/generations.jsonl --model m``

PATH is a generations file, or the folder of a sheet (`python -m scoring.sheet export`), whose replies are judged and compared with
people's answers (--answers). Every answer is journalled as it comes, so that a run that ends in any way is gone on with by the same
command, and nothing is paid for twice. The folder <file>.judge/ gets judged.jsonl and judge.json.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
import asyncio  # noqa: E402
import csv  # noqa: E402
import re  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import openai  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.jsonl import write_json, write_jsonl  # noqa: E402
from common.schema import Schema, load_schema  # noqa: E402
from common.secrets import redacted  # noqa: E402
from dataset.dialogues import every_nth  # noqa: E402
from dataset.synthesis.connection import KEY_VARIABLE, address_of, key_of  # noqa: E402
from dataset.synthesis.costs import Meter, estimated_tokens, price_of  # noqa: E402
from dataset.synthesis.journal import Journal  # noqa: E402
from dataset.synthesis.runner import Run  # noqa: E402
from dataset.synthesis.service import OutOfService, Service  # noqa: E402
from scoring.generations import checked, read_generations  # noqa: E402
from scoring.judge_answers import JudgeRating, rating_of  # noqa: E402
from scoring.judge_questions import FIT, Question, questions_of, reply_ids  # noqa: E402
from scoring.judge_summary import (  # noqa: E402
    Judged,
    first_option,
    judged,
    scores,
    with_classifiers,
    with_people,
)
from scoring.sheet import FORMULA, SENT, number, read_answers, read_key  # noqa: E402

FORMAT = 1
TOP_LOGPROBS, FEWER_LOGPROBS = (
    20,
    5,
)  # alternatives asked for at each token, and where a server gives not so many
TOKENS_OUT = 3  # of an answer, before one has come


@dataclass(frozen=True)
class JudgeSettings:
    """What every request says besides its messages; None leaves a field to the server."""

    model: str
    temperature: float | None = 0.0
    max_tokens: int | None = 16
    seed: int | None = None

    def body(self, question: Question, messages: list[dict], form: str) -> dict:
        """A chat completion's parameters."""
        given = {key: value for key, value in self.__dict__.items() if value is not None}
        if self.seed is not None:
            given["seed"] = self.seed + question.number
        return {"messages": messages, **given}


class JudgeService(Service):
    """Asks for the answer tokens' probabilities as well, for fewer or none of them where the server refuses."""

    top: int | None = TOP_LOGPROBS

    def body(self, task, messages: list[dict], form: str | None = None) -> dict:
        """A request's parameters, as this server takes them."""
        asked = {} if self.top is None else {"logprobs": True, "top_logprobs": self.top}
        return super().body(task, messages, form) | asked

    def replaces(self, status: int, message: str) -> bool:
        """Whether a request was refused for a parameter that can do without; from then on it does."""
        if status in (400, 422) and re.search(r"logprobs", message) and self.top is not None:
            self.top = FEWER_LOGPROBS if self.top > FEWER_LOGPROBS else None
            what = f"{self.top} alternatives are asked for" if self.top else "sampled answers are taken"
            tqdm.write(f"the server refuses token probabilities as asked for ({message:.80}); {what}")
            return True
        return super().replaces(status, message)


class JudgeMeter(Meter):
    """Tokens and dollars of judging, where an answer is a letter."""

    def expected_tokens(self, task) -> tuple[float, float]:
        """Tokens in and out of one more question: of this prompt's length, and the mean answer so far."""
        prompt = estimated_tokens("".join(message["content"] for message in task.messages()))
        if self.answers and self.tokens_out:
            return self.tokens_in / self.answers, self.tokens_out / self.answers
        return prompt, TOKENS_OUT


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        rows: checked generations.
        key: of a sheet; None: a generations file.
        folder: where journal and results go.
    """

    rows: list[dict]
    key: dict | None
    folder: Path


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("path", type=Path, help="a generations file, or the folder of a sheet")
    options.add_argument("--schema", help="schema file, with descriptions (default: the repository's)")
    options.add_argument("--limit", type=int, help="judge at most so many replies, evenly spread")
    options.add_argument(
        "--answers",
        type=Path,
        nargs="+",
        default=[],
        help="of a sheet: people's filled sheets, to compare with",
    )
    options.add_argument(
        "--output-dir", type=Path, help="default: <file>.judge, or judge/ in the sheet's folder"
    )
    asked = options.add_argument_group("what is asked")
    asked.add_argument("--no-fit", action="store_true", help="leave out the fit to the conversation")
    asked.add_argument(
        "--orders",
        type=int,
        default=1,
        help="ask each question in so many orders of its options (default: 1)",
    )
    asked.add_argument(
        "--seed", type=int, default=0, help="of order and wording, and for the server (default: 0)"
    )
    service = options.add_argument_group("the service")
    service.add_argument("--model", required=True, help="the judge, as the server calls it")
    service.add_argument(
        "--base-url",
        help="of any compatible server, http://localhost:8000/v1; default: OpenAI's, or OPENAI_BASE_URL",
    )
    service.add_argument("--key", help=f"the service's key; better in {KEY_VARIABLE}")
    service.add_argument("--concurrency", type=int, default=8, help="requests at once (default: 8)")
    service.add_argument("--timeout", type=float, default=120.0, help="seconds for an answer (default: 120)")
    service.add_argument("--max-retries", type=int, default=8, help="per request, with backoff (default: 8)")
    service.add_argument("--temperature", type=float, default=0.0, help="(default: 0)")
    service.add_argument(
        "--max-tokens",
        type=int,
        default=16,
        help="longest answer; a model that reasons needs thousands (default: 16)",
    )
    money = options.add_argument_group("cost")
    money.add_argument(
        "--dry-run", action="store_true", help="show three questions and the estimate; ask nothing"
    )
    money.add_argument("--max-cost", type=float, help="dollars that no request may lead beyond")
    money.add_argument(
        "--prices", type=Path, help="YAML file `model: {input: dollars per million tokens, output: ...}`"
    )
    return options


def subject_of(options: argparse.Namespace, schema: Schema) -> Subject:
    """What the path names; raises `InputError` for what cannot be judged."""
    path: Path = options.path
    if path.is_dir():
        key = read_key(path)
        rows = sheet_rows(path, key, schema)
        return Subject(every_nth(rows, options.limit), key, options.output_dir or path / "judge")
    if options.answers:
        raise InputError(
            f"--answers are people's on a sheet; {path} is none (name the folder that export wrote)"
        )
    rows = every_nth(list(read_generations(path, schema)), options.limit)
    return Subject(rows, None, options.output_dir or path.with_name(f"{path.stem}.judge"))


def sheet_rows(folder: Path, key: dict, schema: Schema) -> list[dict]:
    """Both replies of every item of a sheet as generations, ``<item>/A`` and ``<item>/B``; the systems' names are not in them.

    Raises:
        InputError: where the sheet that was sent is missing, or its items are not the key's.
    """
    path = folder / SENT / "sheet.csv"
    if not path.is_file():
        raise InputError(f"file not found: {path}; the sheet as it was exported")
    with open(path, encoding="utf-8-sig", newline="") as file:
        items = {row.get("item"): row for row in csv.DictReader(file)}
    rows = []
    for name, item in key["items"].items():
        if name not in items or items[name].get("reply_A") is None or items[name].get("reply_B") is None:
            raise InputError(f"{path}: no item {name!r:.40}, which {folder / 'key.json'} has")
        for side in "AB":
            row = {"id": f"{name}/{side}", "context": item["context"], "target": item["target"]}
            row["response"] = unguarded(items[name][f"reply_{side}"])
            rows.append(checked(row, schema, f"{path}: item {name}", len(rows)))
    return rows


def unguarded(cell: str) -> str:
    """A cell without the mark that keeps spreadsheets from running it."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in FORMULA else cell


def checked_options(options: argparse.Namespace) -> argparse.Namespace:
    """The options, where they can be used; raises `InputError`."""
    for name, low in (("orders", 1), ("concurrency", 1), ("max_retries", 0), ("limit", 1), ("max_tokens", 1)):
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} must be {low} or more, found {value}")
    return options


def estimate(questions: Sequence[Question], meter: Meter) -> str:
    """What the questions will cost at most, if each is answered at once."""
    tokens = [meter.expected_tokens(question) for question in questions]
    tokens_in, tokens_out = (sum(column) for column in zip(*tokens)) if tokens else (0, 0)
    cost = (
        f"${meter.price.of(tokens_in, tokens_out):.2f}"
        if meter.price
        else "cost unknown: no price for this model, see --prices"
    )
    return f"{len(questions)} questions, about {tokens_in:,.0f} tokens in and {tokens_out:,.0f} out: {cost} (an estimate)"


def ask(options: argparse.Namespace, questions: list[Question], journal: Journal, meter: Meter) -> Run:
    """Ask every open question; what ends the run is in its ``error`` and ``stopped``."""
    base_url, shown = address_of(options.base_url)
    connection = {
        "api_key": key_of(options.key),
        "base_url": base_url,
        "timeout": options.timeout,
        "max_retries": options.max_retries,
    }
    settings = JudgeSettings(options.model, options.temperature, options.max_tokens, options.seed)

    async def ask_all() -> Run:
        async with openai.AsyncOpenAI(**connection) as client:
            service = JudgeService(client, settings, journal, "text", shown)
            run = Run(
                journal,
                service,
                meter,
                options.concurrency,
                options.max_cost,
                outcome_of=rating_of,
                unit="questions",
            )
            try:
                await run.settle_all(questions)
            except OutOfService as error:
                run.error = error
            return run

    return asyncio.run(ask_all())


def summary_of(
    options: argparse.Namespace,
    subject: Subject,
    replies: list[Judged],
    ratings: list[JudgeRating],
    schema: Schema,
) -> dict:
    """The whole of ``judge.json`` but the cost."""
    answered = [rating for rating in ratings if rating.probabilities is not None]
    found = {
        "format": FORMAT,
        "model": options.model,
        "seed": options.seed,
        "orders": options.orders,
        "replies": len(replies),
        "questions": len(ratings),
        "answered": len(answered),
        "by_token_probabilities": sum(rating.by_tokens for rating in answered),
        "unreadable": sum(r.probabilities is None and r.next_attempt is None for r in ratings),
        "open": sum(r.next_attempt is not None for r in ratings),
        "scores": scores(replies, schema),
        "first_option": first_option(ratings),
        "classifiers": with_classifiers(replies, schema),
    }
    if subject.key is not None and options.answers:
        found["people"] = with_people(replies, read_answers(options.answers, subject.key))
    return found


def table(summary: dict) -> str:
    """The summary for people."""
    lines = [
        f"{summary['replies']} replies by {summary['model']}: {summary['answered']} of {summary['questions']} questions answered, "
        f"{summary['by_token_probabilities']} by token probabilities, {summary['unreadable']} unreadable, {summary['open']} open"
    ]
    for name, one in summary["scores"].items():
        if one["n"]:
            interval = "" if one["ci95"] is None else " [{:.3f}, {:.3f}]".format(*one["ci95"])
            lines.append(f"  {name} {number(one['value'])}{interval}, n {one['n']}")
    for name, one in summary["classifiers"].items():
        if one["n"]:
            kinds = " ".join(
                f"{key} {number(one[key])}"
                for key in ("same", "kappa", "correlation", "spearman")
                if key in one
            )
            lines.append(
                f"  with the evaluator of {'coherence' if name == FIT else name}: {kinds}, n {one['n']}"
            )
    for name, one in summary.get("people", {}).items():
        kinds = " ".join(f"{key} {number(one[key])}" for key in ("same", "kappa", "decided"))
        lines.append(f"  with people on {name}: {kinds}, n {one['n']}, decided {one['n_decided']}")
    for name, one in summary["first_option"].items():
        lines.append(
            f"  {name}: the option shown first got {one['share']:.3f}, {one['even']:.3f} without a liking for places"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Judge; returns the exit status: 1 where questions are still open."""
    options = checked_options(parser().parse_args(argv))
    schema = load_schema(options.schema)
    subject = subject_of(options, schema)
    settings = {"model": options.model, "temperature": options.temperature}
    questions = questions_of(subject.rows, schema, options.seed, options.orders, settings, not options.no_fit)
    meter = JudgeMeter(price_of(options.model, options.prices))
    if options.max_cost is not None and meter.price is None:
        raise InputError(f"--max-cost needs the price of {options.model!r}; give it with --prices")
    if options.dry_run:
        for question in questions[:3]:
            print("\n".join(f"[{m['role']}]\n{m['content']}" for m in question.messages()) + "\n---")
        print(estimate(questions, meter))
        return 0
    journal = Journal(subject.folder / "journal.jsonl")
    error, stopped, failures = None, None, Counter[str]()
    try:
        for answer in journal.answers.values():
            meter.add(answer)
        missing = [
            question for question in questions if rating_of(question, journal).next_attempt is not None
        ]
        print(
            f"{len(questions) - len(missing)} questions were answered before; {estimate(missing, meter)}",
            flush=True,
        )
        if missing:
            run = ask(options, missing, journal, meter)
            error, stopped, failures = run.error, run.stopped, run.failures
        ratings = [rating_of(question, journal) for question in questions]
    finally:
        journal.close()
    replies = judged(subject.rows, reply_ids(subject.rows), ratings, schema)
    summary = summary_of(options, subject, replies, ratings, schema)
    summary["cost"] = {"tokens_in": meter.tokens_in, "tokens_out": meter.tokens_out}
    summary["cost"]["dollars"] = meter.dollars if meter.price else None
    write_jsonl(subject.folder / "judged.jsonl", [reply.record() for reply in replies])
    write_json(subject.folder / "judge.json", summary)
    print(table(summary))
    for reason, count in failures.most_common(8):
        print(f"  no answer: {count} x {redacted(reason)}")
    print(f"{meter} (all runs)\n-> {subject.folder / 'judge.json'}", flush=True)
    if stopped:
        print(f"stopped: {redacted(stopped)}")
    if error is not None:
        raise InputError(redacted(str(error)))
    if summary["open"]:
        print("the same command goes on with the questions that are open")
    return int(summary["open"] > 0)


if __name__ == "__main__":
    run_main(main)
