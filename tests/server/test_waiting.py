"""Whose turn it is, and who is sent away."""

import pytest

from generation.options import ControlArguments, DecodingArguments
from server.errors import Refused
from server.jobs import Job, writings_of
from server.waiting import WaitingLine


def job(client: str, candidates: int = 1) -> Job:
    control = ControlArguments(candidates=candidates)
    return Job(client, ("Hi",), {}, {}, DecodingArguments(), writings_of(("Hi",), {}, control, 1), print)


def taken(line: WaitingLine, running=None, room=100) -> list[str]:
    return [job.client for job in line.take(dict(running or {}), room)]


def test_a_client_with_many_requests_does_not_keep_others_waiting():
    line = WaitingLine(100, 50)
    for client in "aaaaaabc":
        line.put(job(client))
    assert line.rows == len(line) == 8
    assert taken(line, room=4) == ["a", "b", "c", "a"]
    assert line.rows == len(line) == 4


def test_who_has_rows_at_work_comes_after_who_has_none():
    line = WaitingLine(100, 50)
    for client in "ab":
        line.put(job(client))
    assert taken(line, {"a": 4}) == ["b", "a"]


def test_a_large_request_is_not_overtaken():
    line = WaitingLine(100, 50)
    line.put(job("a", candidates=8))
    line.put(job("b"))
    assert line.take({"c": 1}, 4) == []
    assert taken(line, room=9) == ["a", "b"]


def test_no_more_are_taken_than_are_wanted():
    line, running = WaitingLine(100, 50), {}
    for client in "aabb":
        line.put(job(client))
    assert [job.client for job in line.take(running, 100, lambda job: job.client == "a")] == ["a", "b"]
    assert running == {"a": 1, "b": 1} and taken(line, running) == ["a", "b"]


def test_a_full_line_says_when_to_come_back():
    line = WaitingLine(3, 2)
    line.put(job("a"))
    line.put(job("a"))
    with pytest.raises(Refused, match="of this client") as refused:
        line.put(job("a"))
    assert refused.value.status == 429 and 1 <= int(refused.value.headers["Retry-After"]) <= 60
    line.put(job("b"))
    with pytest.raises(Refused, match="3 requests are waiting"):
        line.put(job("c"))


def test_cancelled_requests_free_their_place():
    line, gone = WaitingLine(10, 10), job("a")
    line.put(gone)
    line.put(job("b"))
    gone.cancelled = True
    assert taken(line) == ["b"] and line.rows == len(line) == 0


def test_a_full_line_makes_room_of_what_was_cancelled():
    line, gone = WaitingLine(2, 2), job("a")
    line.put(gone)
    line.put(job("b"))
    gone.cancelled = True
    line.put(job("c"))
    assert line.rows == len(line) == 2 and taken(line) == ["b", "c"]
