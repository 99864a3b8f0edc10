"""A reply under way: written by a thread, read by the page, ended by Stop."""

import json
import logging
import queue
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from miracle import Miracle, Reply
from playground.settings import Settings

logger = logging.getLogger(__name__)


class Ticket:
    """One visitor's reply under way.

    Attributes:
        stopped: set to end it after the next token.
        cleared: the conversation was cleared meanwhile; nothing is to be shown.
    """

    def __init__(self):
        self.stopped, self.cleared = threading.Event(), False


class Tickets:
    """The ticket of every visitor, by the session's hash; at most one each."""

    def __init__(self):
        self._tickets: dict[str, Ticket] = {}

    def new(self, session: str) -> None:
        """A fresh ticket in place of the one before."""
        self._tickets[session] = Ticket()

    def of(self, session: str) -> Ticket:
        """The present ticket; a fresh one where there is none."""
        return self._tickets.setdefault(session, Ticket())

    def stop(self, session: str, cleared: bool = False) -> None:
        """End the visitor's reply."""
        ticket = self.of(session)
        ticket.cleared = ticket.cleared or cleared
        ticket.stopped.set()

    def leave(self, session: str) -> None:
        """The visitor is gone: end the reply, forget the ticket."""
        self.stop(session)
        del self._tickets[session]


def written(model: Miracle, context: list[str], settings: Settings, ticket: Ticket) -> Iterator[str | Reply]:
    """The text so far again and again, then the `Reply`; the thread behind it ends when the iterator is closed.

    Raises:
        InputError: as `Miracle.reply`.
    """
    found: queue.Queue[str | Reply | Exception] = queue.Queue()

    def told(text: str) -> bool:
        found.put(text)
        return not ticket.stopped.is_set()

    def work() -> None:
        try:
            found.put(model.reply(context, settings.target, on_text=told, **settings.options(model))[0])
        except Exception as error:  # raised again below, in the thread that asked
            found.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            latest = found.get()
            while isinstance(latest, str) and not found.empty():
                latest = found.get()
            if isinstance(latest, Exception):
                raise latest
            yield latest
            if isinstance(latest, Reply):
                return
    finally:
        ticket.stopped.set()


def context_of(turns: list[dict], remember: bool) -> list[str]:
    """The turns that the last question is answered in: those before it that have a reply, and itself."""
    before = [
        (turn["question"], turn["result"].text)
        for turn in turns[:-1]
        if turn["result"] is not None and turn["result"].text
    ]
    return [text for pair in (before if remember else []) for text in pair] + [turns[-1]["question"]]


class Log:
    """Questions and replies as JSON Lines, where a file was asked for; one that cannot be written is said once."""

    def __init__(self, path: Path | None):
        """Raises `OSError` for a file that cannot be written."""
        if path is not None:
            path.open("a", encoding="utf-8").close()
        self._path, self._lock, self._failed = path, threading.Lock(), False

    def __call__(self, tab: str, run: str, replies: list[Reply]) -> None:
        """Append; does nothing without a file."""
        if self._path is None:
            return
        now = datetime.now().isoformat(timespec="seconds")
        rows = [
            {
                "time": now,
                "tab": tab,
                "run": run,
                "context": r.context,
                "target": r.target,
                "weights": r.weights,
                "seed": r.seed,
                "response": r.text,
            }
            for r in replies
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(text)
            self._failed = False
        except OSError as error:  # a reply that is written is not lost for want of a log
            if not self._failed:
                logger.error("replies are not logged: %s: %s", self._path, error.strerror)
            self._failed = True
