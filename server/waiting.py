"""The requests that wait: how many may, and whose turn it is."""

from collections import deque

from server.errors import Refused
from server.jobs import Job

LONGEST_WAIT = 60  # seconds that a client is told to wait at most


class WaitingLine:
    """Jobs by client. The next one is of the client that has the fewest rows at work, of equal ones the one served longest ago.

    Not safe in several threads by itself.

    Args:
        limit: jobs in all; per_client: jobs of one client.
    """

    def __init__(self, limit: int, per_client: int):
        self.limit, self.per_client = limit, per_client
        self._jobs: dict[str, deque[Job]] = {}
        self._served: dict[str, int] = {}  # client -> the turn at which it was served last
        self._turn = 0
        self.seconds_per_job = 1.0  # between two jobs that leave, a moving average

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    @property
    def rows(self) -> int:
        """Rows that the jobs need."""
        return sum(job.size for jobs in self._jobs.values() for job in jobs)

    def put(self, job: Job) -> None:
        """Take a job in; raises `Refused` (429) where there is no room."""
        if len(self) >= self.limit or len(self._jobs.get(job.client, ())) >= self.per_client:
            self._drop_cancelled()
        own = len(self._jobs.get(job.client, ()))
        if len(self) >= self.limit:
            raise self._full(f"{len(self)} requests are waiting already")
        if own >= self.per_client:
            raise self._full(f"{own} requests of this client are waiting already")
        self._jobs.setdefault(job.client, deque()).append(job)

    def _full(self, message: str) -> Refused:
        seconds = max(1, min(LONGEST_WAIT, round(self.seconds_per_job)))  # when the next place is free
        return Refused(f"{message}; try again later", 429, code="queue_full", retry_after=seconds)

    def take(self, running: dict[str, int], room: int) -> Job | None:
        """The job whose turn it is; None where there is none, or it does not fit, so that nobody overtakes a large one.

        Args:
            running: client -> rows at work.
            room: rows that can join; a job larger than that waits, unless nothing runs.
        """
        while self._jobs:
            client = min(self._jobs, key=lambda name: (running.get(name, 0), self._served.get(name, 0)))
            job = self._jobs[client][0]
            if not job.cancelled and job.size > room and running:
                return None
            self._jobs[client].popleft()
            if not self._jobs[client]:
                del self._jobs[client]
            if not job.cancelled:
                self._turn += 1
                self._served[client] = self._turn
                self._forget_served()
                return job
        return None

    def all(self) -> list[Job]:
        """Take all of them out."""
        found = [job for jobs in self._jobs.values() for job in jobs]
        self._jobs.clear()
        return found

    def _drop_cancelled(self) -> None:
        for client, jobs in self._jobs.items():
            if any(job.cancelled for job in jobs):
                self._jobs[client] = deque(job for job in jobs if not job.cancelled)
        self._jobs = {client: jobs for client, jobs in self._jobs.items() if jobs}

    def _forget_served(self) -> None:
        if len(self._served) > 4 * self.limit:  # clients that are gone
            self._served = {client: self._served.get(client, 0) for client in self._jobs}
