"""The requests that wait: how many may, and whose turn it is."""

import heapq
from collections import deque
from collections.abc import Callable

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
        self._turn = self._count = self._rows = 0
        self.seconds_per_job = 1.0  # between two jobs that leave, a moving average

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> int:
        """Rows that the jobs need."""
        return self._rows

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
        self._counted(job, 1)

    def _counted(self, job: Job, sign: int) -> None:
        self._count += sign
        self._rows += sign * job.size

    def _full(self, message: str) -> Refused:
        seconds = max(1, min(LONGEST_WAIT, round(self.seconds_per_job)))  # when the next place is free
        return Refused(f"{message}; try again later", 429, code="queue_full", retry_after=seconds)

    def take(
        self, running: dict[str, int], room: int, more: Callable[[Job], bool] = lambda job: True
    ) -> list[Job]:
        """The jobs whose turn it is, in that order; none behind one that does not fit, so that nobody overtakes a large one.

        Args:
            running: client -> rows at work; those of the jobs are added.
            room: rows that can join; a job larger than that waits, unless nothing runs.
            more: asked about every job that is taken: whether another one may be.
        """
        turns = [
            (running.get(client, 0), self._served.get(client, 0), number, client)
            for number, client in enumerate(self._jobs)
        ]
        heapq.heapify(turns)
        found: list[Job] = []
        while turns and room > 0:
            rows, served, number, client = turns[0]
            job = self._jobs[client][0]
            if not job.cancelled and job.size > room and running:
                break
            self._jobs[client].popleft()
            self._counted(job, -1)
            if not job.cancelled:
                found.append(job)
                room -= job.size
                self._turn += 1
                rows = running[client] = rows + job.size
                served = self._served[client] = self._turn
            if self._jobs[client]:
                heapq.heapreplace(turns, (rows, served, number, client))
            else:
                del self._jobs[client]
                heapq.heappop(turns)
            if found and found[-1] is job and not more(job):
                break
        self._forget_served()
        return found

    def all(self) -> list[Job]:
        """Take all of them out."""
        found = [job for jobs in self._jobs.values() for job in jobs]
        self._jobs.clear()
        self._count = self._rows = 0
        return found

    def _drop_cancelled(self) -> None:
        left = [job for jobs in self._jobs.values() for job in jobs if not job.cancelled]
        self._jobs, self._count, self._rows = {}, 0, 0
        for job in left:
            self._jobs.setdefault(job.client, deque()).append(job)
            self._counted(job, 1)

    def _forget_served(self) -> None:
        if len(self._served) > 4 * self.limit:  # clients that are gone
            self._served = {client: self._served.get(client, 0) for client in self._jobs}
