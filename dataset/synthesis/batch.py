"""The provider's Batch API: all requests in one file, collected within a day at a lower price."""

import hashlib
import io
import json
import sys
import time

import openai
from openai.types.chat import ChatCompletion
from tqdm import tqdm

from dataset.synthesis.outcome import Outcome, outcome_of
from dataset.synthesis.runner import Run
from dataset.synthesis.service import OutOfService, answer_of, message_of, messages_for
from dataset.synthesis.tasks import Task

ENDPOINT = "/v1/chat/completions"
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
    except openai.APIError as error:
        raise OutOfService(f"the batch cannot be run ({type(error).__name__}): {message_of(error)}") from error


def affordable(run: Run, tasks: list[Task]) -> list[Outcome]:
    """The open tasks that have not failed in this run, as many as the cost limit allows."""
    chosen, expected = [], run.meter.dollars
    for task in tasks:
        outcome = outcome_of(task, run.journal)
        if outcome.next_attempt is None or request_id(task.key, outcome.next_attempt) in run.unanswered:
            continue
        expected += run.meter.expected_dollars(task, batch=True)
        if run.max_cost is not None and expected > run.max_cost:
            run.stop(f"the next request could lead beyond ${run.max_cost:g}")
            break
        chosen.append(outcome)
    return chosen


def submit(run: Run, client: openai.OpenAI, outcomes: list[Outcome]) -> None:
    """Upload the requests and start a batch; journalled before and after, so that it is never submitted twice."""
    lines = []
    for outcome in outcomes:
        messages = messages_for(outcome.task, outcome.next_attempt, outcome.last, outcome.reason)
        body = run.service.settings.body(outcome.task, messages, run.service.format)
        lines.append({"custom_id": request_id(outcome.task.key, outcome.next_attempt), "method": "POST", "url": ENDPOINT, "body": body})
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    mark = hashlib.sha256(content).hexdigest()[:32]
    ids = [line["custom_id"] for line in lines]
    run.journal.remember("submission", {"mark": mark, "requests": ids, "batch": None})
    uploaded = client.files.create(file=("requests.jsonl", io.BytesIO(content)), purpose="batch")
    batch = client.batches.create(input_file_id=uploaded.id, endpoint=ENDPOINT, completion_window="24h", metadata={"miracle": mark})
    run.journal.remember("submission", {"mark": mark, "requests": ids, "batch": batch.id})
    tqdm.write(f"batch {batch.id}: {len(lines)} requests submitted; this may be interrupted, the same command goes on")


def collect_pending(run: Run, client: openai.OpenAI, tasks: list[Task], poll_seconds: float) -> None:
    """Wait for the batch that the journal knows of, if any, and journal its answers."""
    submission = run.journal.memory.get("submission")
    if not submission:
        return
    batch_id = submission["batch"] or next(
        (batch.id for batch in client.batches.list(limit=100) if (batch.metadata or {}).get("miracle") == submission["mark"]), None
    )
    if batch_id is None:  # it died before the batch was there
        run.journal.remember("submission", None)
        return
    batch = client.batches.retrieve(batch_id)
    with tqdm(total=len(submission["requests"]), desc=f"batch {batch.status}", unit="", dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 60) as bar:
        while batch.status not in ENDED:
            time.sleep(poll_seconds)
            batch = client.batches.retrieve(batch_id)
            bar.set_description(f"batch {batch.status}", refresh=False)
            if batch.request_counts:
                bar.n = batch.request_counts.completed + batch.request_counts.failed
            bar.refresh()
    asked = {request_id(task.key, attempt): (task, attempt) for task in tasks for attempt in range(2)}
    unanswered = set(submission["requests"])
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        for line in client.files.content(file_id).text.splitlines():
            row = json.loads(line)
            response = row.get("response") or {}
            if row["custom_id"] not in asked or response.get("status_code") != 200:
                continue
            task, attempt = asked[row["custom_id"]]
            unanswered.discard(row["custom_id"])
            if (task.key, attempt) not in run.journal.answers:
                answer = answer_of(ChatCompletion.construct(**response["body"]), task.key, attempt, batch=True)
                run.journal.write_answer(answer)
                run.meter.add(answer)
    if unanswered:
        run.failures[f"batch {batch.status}: no answer"] += len(unanswered)
        run.unanswered |= unanswered
    run.journal.remember("submission", None)
