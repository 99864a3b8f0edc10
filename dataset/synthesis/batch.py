"""The provider's Batch API: all requests in one file, collected within a day at a lower price."""

import hashlib
import io
import json
import sys
import time
from typing import Final

import openai
from tqdm import tqdm

from common.errors import InputError
from common.jsonl import json_value
from common.network import reason_of
from common.secrets import redacted
from dataset.synthesis.journal import Answer
from dataset.synthesis.outcome import ATTEMPTS, Outcome, outcome_of
from dataset.synthesis.runner import Run
from dataset.synthesis.service import (
    ABOUT_FORMAT,
    FILTERED,
    FORMAT_REFUSALS,
    FORMATS,
    QUICK_RETRIES,
    NotACompletion,
    OutOfService,
    answer_of,
    message_of,
    messages_for,
)
from dataset.synthesis.tasks import Task

ENDPOINT: Final = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def request_id(key: str, attempt: int) -> str:
    """The ``custom_id`` of a request, from which an answer finds its task again."""
    return hashlib.sha256(f"{key}#{attempt}".encode()).hexdigest()[:32]


def settle_by_batch(run: Run, client: openai.OpenAI, tasks: list[Task], poll_seconds: float) -> None:
    """Submit the open tasks as a batch, wait, collect; then once more for what has to be repaired.

    A batch is journalled with its requests. A process killed in between finds it again: by the journal, or, if it died
    between submission and journal entry, by the mark that the batch carries.

    Raises:
        OutOfService: the service refuses the batch.
    """
    try:
        collect_pending(run, client, tasks, poll_seconds)
        while open_tasks := affordable(run, tasks):
            submit(run, client, open_tasks)
            collect_pending(run, client, tasks, poll_seconds)
    except KeyboardInterrupt:
        run.stop("interrupted; the batch goes on at the provider, and the same command collects it")
    except openai.APIConnectionError as error:
        raise OutOfService(
            f"the server cannot be reached at {run.service.address}: {redacted(reason_of(error))[:200]}"
        ) from error
    except openai.APIError as error:
        raise OutOfService(
            f"the batch cannot be run ({type(error).__name__}): {message_of(error)}{run.service.advice(error) if isinstance(error, openai.APIStatusError) else ''}"
        ) from error
    except (
        ValueError,
        AttributeError,
        TypeError,
    ) as error:  # the client's types hold whatever came with status 200
        if isinstance(error, InputError):
            raise
        raise OutOfService(
            f"the batch cannot be run: the server does not answer as a Batch API does ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from error


def affordable(run: Run, tasks: list[Task]) -> list[Outcome]:
    """The open tasks that have not failed in this run, as many as the cost limit allows."""
    outcomes, expected = [], run.meter.dollars
    for task in tasks:
        outcome = outcome_of(task, run.journal)
        if outcome.next_attempt is None or request_id(task.key, outcome.next_attempt) in run.unanswered:
            continue
        expected += run.meter.expected_dollars(task, batch=True)
        if run.max_cost is not None and expected > run.max_cost:
            run.stop(f"the next request could lead beyond ${run.max_cost:g}")
            break
        outcomes.append(outcome)
    return outcomes


def submit(run: Run, client: openai.OpenAI, outcomes: list[Outcome]) -> None:
    """Upload the requests and start a batch; journalled before and after, so that it is never submitted twice."""
    lines = []
    for outcome in outcomes:
        assert outcome.next_attempt is not None  # it is open
        messages = messages_for(outcome.task, outcome.next_attempt, outcome.last, outcome.reason)
        body = run.service.body(outcome.task, messages)
        lines.append(
            {
                "custom_id": request_id(outcome.task.key, outcome.next_attempt),
                "method": "POST",
                "url": ENDPOINT,
                "body": body,
            }
        )
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    mark = hashlib.sha256(content).hexdigest()[:32]
    ids = [line["custom_id"] for line in lines]
    run.journal.remember("submission", {"mark": mark, "requests": ids, "batch": None})
    client = client.with_options(
        max_retries=min(QUICK_RETRIES, client.max_retries)
    )  # nothing is lost where this fails
    uploaded = client.files.create(file=("requests.jsonl", io.BytesIO(content)), purpose="batch")
    batch = client.batches.create(
        input_file_id=uploaded.id, endpoint=ENDPOINT, completion_window="24h", metadata={"miracle": mark}
    )
    run.journal.remember("submission", {"mark": mark, "requests": ids, "batch": batch.id})
    tqdm.write(
        f"batch {batch.id}: {len(lines)} requests submitted; this may be interrupted, the same command goes on"
    )


def collect_pending(run: Run, client: openai.OpenAI, tasks: list[Task], poll_seconds: float) -> None:
    """Wait for the batch that the journal knows of, if any, and journal its answers."""
    submission = run.journal.memory.get("submission")
    if not submission:
        return
    batch_id = submission["batch"] or next(
        (
            batch.id
            for batch in client.batches.list(limit=100)
            if (batch.metadata or {}).get("miracle") == submission["mark"]
        ),
        None,
    )
    if batch_id is None:  # it died before the batch was there
        run.journal.remember("submission", None)
        return
    try:
        batch = client.batches.retrieve(batch_id)
    except openai.NotFoundError:  # the provider keeps batches for a while only
        tqdm.write(f"batch {batch_id} is no longer at the provider; its requests are open again")
        run.journal.remember("submission", None)
        return
    with tqdm(
        total=len(submission["requests"]),
        desc=f"batch {batch.status}",
        unit="",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 60,
    ) as bar:
        while batch.status not in ENDED:
            time.sleep(poll_seconds)
            batch = client.batches.retrieve(batch_id)
            bar.set_description(f"batch {batch.status}", refresh=False)
            if batch.request_counts:
                bar.n = batch.request_counts.completed + batch.request_counts.failed
            bar.refresh()
    asked = {request_id(task.key, attempt): (task, attempt) for task in tasks for attempt in range(ATTEMPTS)}
    unanswered = set(submission["requests"])
    refusals: list[tuple[str, int | None, str]] = []
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        for line in client.files.content(file_id).content.split(
            b"\n"
        ):  # a line separator inside a text is no end of a line
            name, status, body = _result(line)
            if name not in asked:
                continue
            task, attempt = asked[name]
            outcome = outcome_of(task, run.journal)
            if status == 200:
                try:
                    answer = answer_of(
                        body,
                        task.key,
                        attempt,
                        messages_for(task, attempt, outcome.last, outcome.reason),
                        batch=True,
                    )
                except NotACompletion as error:
                    refusals.append((name, status, str(error)))
                    continue
            elif status in (400, 403, 422, 451) and FILTERED.search(json.dumps(body)):
                answer = Answer(task.key, attempt, "", refusal=f"content filter, status {status}", batch=True)
            else:
                refusals.append((name, status, json.dumps(body, ensure_ascii=False, default=str)))
                continue
            unanswered.discard(name)
            if (task.key, attempt) not in run.journal.answers:
                run.journal.write_answer(answer)
                run.meter.add(answer)
    if (
        refusals
        and len(refusals) == len(submission["requests"])
        and _plainer(run, [text for _, _, text in refusals], [status for _, status, _ in refusals])
    ):
        unanswered = set()  # they are asked again, in plainer form
    if unanswered:
        what = redacted(refusals[0][2])[:120] if refusals else "no answer"
        run.failures[f"batch {batch.status}: {what}"] += len(unanswered)
        run.unanswered |= unanswered
    run.journal.remember("submission", None)


def _result(line: bytes) -> tuple[str | None, int | None, object]:
    """``custom_id``, status and body of a line of a batch's files; (None, None, None) for a line that holds none."""
    try:
        row = json_value(line, strict=False)
        response = row.get("response") or {}
        return str(row["custom_id"]), response.get("status_code"), response.get("body") or row.get("error")
    except (ValueError, KeyError, AttributeError):
        return None, None, None


def _plainer(run: Run, refusals: list[str], statuses: list[int | None]) -> bool:
    """Whether a batch of which every request was refused for its answer format may be made again in a plainer one."""
    service = run.service
    weaker = FORMATS[FORMATS.index(service.format) + 1 :]
    about_format = all(
        status in FORMAT_REFUSALS and ABOUT_FORMAT.search(text) for text, status in zip(refusals, statuses)
    )
    if not service.auto or service.format_known or not weaker or not about_format:
        return False
    service.format = weaker[0]
    tqdm.write(f"the server refuses the answer format; asking again for {service.format}")
    return True
