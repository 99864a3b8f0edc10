"""Make training dialogues with any OpenAI-compatible service. ``python make_data_chatgpt.py --aspect lyrical``

One aspect gives training and dev files for its attribute; several (``--aspect plain,optimistic,critical``) are one
persona, whose dialogues go into a test file with a list of tags. Every answer is journalled as it comes, so that a run
that ends in any way is gone on with by the same command, and nothing is paid for twice.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
import asyncio  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402

import openai  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.jsonl import write_jsonl  # noqa: E402
from common.schema import load_schema  # noqa: E402
from common.secrets import redacted  # noqa: E402
from dataset.synthesis.batch import settle_by_batch  # noqa: E402
from dataset.synthesis.connection import KEY_VARIABLE, address_of, key_of  # noqa: E402
from dataset.synthesis.costs import Meter, price_of  # noqa: E402
from dataset.synthesis.files import Output, rejects  # noqa: E402
from dataset.synthesis.journal import Journal  # noqa: E402
from dataset.synthesis.outcome import Outcome, outcome_of  # noqa: E402
from dataset.synthesis.runner import Run  # noqa: E402
from dataset.synthesis.service import FORMATS, OutOfService, RequestSettings, Service  # noqa: E402
from dataset.synthesis.tasks import Task, persona_of, read_topics  # noqa: E402

TOPICS = Path(__file__).resolve().parent / "dataset" / "sample_topics"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = options.add_argument_group("what to write")
    what.add_argument(
        "--aspect",
        required=True,
        help="an aspect of the schema, or several joined by commas: one persona with all of them",
    )
    what.add_argument(
        "--schema",
        help='schema file; its "descriptions" say what an aspect is like (default: the repository\'s schema.py)',
    )
    what.add_argument(
        "--topics",
        type=Path,
        default=TOPICS,
        help="text file, one topic a line (default: the repository's dataset/sample_topics)",
    )
    what.add_argument("--limit", type=int, help="only the first so many topics")
    what.add_argument("--per-topic", type=int, default=1, help="dialogues per topic (default: 1)")
    what.add_argument(
        "--n-turns",
        type=int,
        default=2,
        help="exchanges per dialogue, a user turn and a reply each (default: 2)",
    )
    service = options.add_argument_group("the service")
    service.add_argument("--model", default="gpt-4.1-mini", help="(default: gpt-4.1-mini)")
    service.add_argument(
        "--base-url",
        help="of any compatible server, http://localhost:8000/v1; default: OpenAI's, or OPENAI_BASE_URL",
    )
    service.add_argument(
        "--key",
        help=f"the service's key; better in {KEY_VARIABLE}, where other users of the machine do not see it",
    )
    service.add_argument("--concurrency", type=int, default=8, help="requests at once (default: 8)")
    service.add_argument("--timeout", type=float, default=120.0, help="seconds for an answer (default: 120)")
    service.add_argument(
        "--max-retries",
        type=int,
        default=8,
        help="per request, with backoff, or as the server says (default: 8)",
    )
    service.add_argument(
        "--format",
        choices=("auto", *FORMATS),
        default="auto",
        help="answer format; auto: the strictest the server takes (default)",
    )
    service.add_argument("--temperature", type=float, help="default: the server's")
    service.add_argument("--max-tokens", type=int, help="longest answer; default: the server's")
    service.add_argument("--seed", type=int, help="sent with every request, for servers that honour it")
    service.add_argument(
        "--batch", action="store_true", help="use the Batch API: cheaper, answers within a day"
    )
    service.add_argument(
        "--poll-seconds", type=float, default=60.0, help="how often a batch is looked at (default: 60)"
    )
    money = options.add_argument_group("cost")
    money.add_argument(
        "--dry-run",
        action="store_true",
        help="show three prompts and the estimate; no request, no key needed",
    )
    money.add_argument("--max-cost", type=float, help="dollars that no request may lead beyond")
    money.add_argument(
        "--prices", type=Path, help="YAML file `model: {input: dollars per million tokens, output: ...}`"
    )
    files = options.add_argument_group("files")
    files.add_argument(
        "--output-dir", type=Path, default=Path("data/collected"), help="(default: data/collected)"
    )
    files.add_argument(
        "--dev-share", type=float, default=0.1, help="share of the topics for the dev files (default: 0.1)"
    )
    files.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files in --output-dir that were not made by this command",
    )
    return options


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, where they can be used; raises `InputError`."""
    for name, low in (
        ("per_topic", 1),
        ("n_turns", 1),
        ("concurrency", 1),
        ("max_retries", 0),
        ("limit", 1),
        ("max_tokens", 1),
    ):
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} must be {low} or more, found {value}")
    if not 0 <= options.dev_share < 1:
        raise InputError(f"--dev-share must be 0 or more and less than 1, found {options.dev_share}")
    return options


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """Every dialogue to be written, topic by topic."""
    persona = persona_of(
        load_schema(options.schema), [aspect.strip() for aspect in options.aspect.split(",")]
    )
    settings = {"model": options.model, "temperature": options.temperature}
    topics = read_topics(options.topics, options.limit)
    return [
        Task(persona, topic, number, options.n_turns, settings)
        for topic in topics
        for number in range(options.per_topic)
    ]


def preview(tasks: list[Task], meter: Meter, batch: bool) -> None:
    """Three prompts, and what all of them may cost."""
    for task in tasks[:3]:
        for message in task.messages():
            print(f"[{message['role']}]\n{message['content']}")
        print("---")
    tokens = [meter.expected_tokens(task) for task in tasks]
    tokens_in, tokens_out = (sum(column) for column in zip(*tokens))
    cost = (
        f"${meter.price.of(tokens_in, tokens_out, batch):.2f}"
        if meter.price
        else "cost unknown: no price for this model, see --prices"
    )
    print(
        f"{len(tasks)} requests, about {tokens_in:,.0f} tokens in and {tokens_out:,.0f} out: {cost} (an estimate, without repairs and retries)"
    )


def summary(outcomes: list[Outcome], run: Run, written: list[str], folder: Path, started_with: int) -> None:
    """What was kept, what was not and why, and what it cost."""
    kept = sum(outcome.dialogue is not None for outcome in outcomes)
    still_open = sum(outcome.next_attempt is not None for outcome in outcomes)
    rejected = Counter(
        outcome.reason for outcome in outcomes if outcome.dialogue is None and outcome.next_attempt is None
    )
    print(
        f"{len(outcomes)} dialogues: {kept} kept, {rejected.total()} rejected, {still_open} still open ({started_with} were settled before)"
    )
    for reason, count in rejected.most_common(8):
        print(f"  rejected: {count} x {reason}")
    for reason, count in run.failures.most_common(8):
        print(f"  no answer: {count} x {reason}")
    print(f"{run.meter} (all runs)")
    for line in written:
        print(line)
    if rejected:
        print(f"{folder / 'rejects'}: why, and the answers")
    if run.stopped:
        print(f"stopped: {run.stopped}")
    if still_open:
        print("the same command goes on with those that are open")


def collect(
    options: argparse.Namespace, tasks: list[Task], key: str | None, journal: Journal, run_by: Meter
) -> Run:
    """Ask for every open task."""
    settings = RequestSettings(options.model, options.temperature, options.max_tokens, options.seed)
    given, address = address_of(options.base_url)
    connection = {
        "api_key": key,
        "base_url": given,
        "timeout": options.timeout,
        "max_retries": options.max_retries,
    }
    open_tasks = [task for task in tasks if outcome_of(task, journal).next_attempt is not None]

    async def ask_all() -> Run:
        async with openai.AsyncOpenAI(**connection) as client:
            run = Run(
                journal,
                Service(client, settings, journal, options.format, address),
                run_by,
                options.concurrency,
                options.max_cost,
            )
            try:
                await run.settle_all(open_tasks)
            except OutOfService as error:
                run.error = error
            return run

    if not options.batch:
        return asyncio.run(ask_all())
    run = Run(
        journal, Service(None, settings, journal, options.format, address), run_by, max_cost=options.max_cost
    )
    try:
        with openai.OpenAI(**connection) as client:
            settle_by_batch(run, client, tasks, options.poll_seconds)
    except OutOfService as error:
        run.error = error
    return run


def main(argv: list[str] | None = None) -> int:
    """Collect; returns 0 where every dialogue is kept or rejected, 1 where some are still open."""
    options = checked(parser().parse_args(argv))
    schema, tasks = load_schema(options.schema), tasks_of(options)
    meter = Meter(price_of(options.model, options.prices))
    if options.max_cost is not None and meter.price is None:
        raise InputError(f"--max-cost needs the price of {options.model!r}; give it with --prices")
    if options.dry_run:
        preview(tasks, meter, options.batch)
        return 0
    output = Output(options.output_dir, schema, options.dev_share, options.overwrite)
    persona = tasks[0].persona
    journal = Journal(options.output_dir / "journal" / f"{persona.name}.jsonl")
    try:
        for answer in journal.answers.values():
            meter.add(answer)
        settled = sum(outcome_of(task, journal).next_attempt is None for task in tasks)
        key = key_of(options.key) if settled < len(tasks) else None
        run = collect(options, tasks, key, journal, meter) if key else Run(journal, None, meter)
        outcomes = [outcome_of(task, journal) for task in tasks]
        written = output.write(persona, [outcome for outcome in outcomes if outcome.dialogue is not None])
        write_jsonl(options.output_dir / "rejects" / f"{persona.name}.jsonl", rejects(outcomes))
    finally:
        journal.close()
    summary(outcomes, run, written, options.output_dir, settled)
    if run.error is not None:
        raise InputError(redacted(str(run.error)))
    return int(any(outcome.next_attempt is not None for outcome in outcomes))


if __name__ == "__main__":
    run_main(main)
