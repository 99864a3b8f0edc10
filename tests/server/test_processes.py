"""HTTP and the model in processes of their own: the same answers, and neither outlives the other."""

import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import serve
from common.errors import InputError
from generation.options import ControlArguments, DecodingArguments
from server.channel import Channel
from server.errors import Refused
from server.jobs import Job, job_of, order_of, writings_of
from server.supervisor import listening_sockets
from tests.live_server import running
from tests.server.test_process import BODY, Process, free_port


@pytest.fixture
def linked(served_model):
    """A server whose application and scheduler know each other by a channel alone, in this process."""
    from server.app import Served
    from server.scheduler import Capacity

    with running(
        Served(served_model, "r", Capacity(32, waiting=4, waiting_per_client=2)), linked=True
    ) as found:
        yield found


def test_messages_arrive_in_order_and_the_end_is_told():
    ends, received, gone = socket.socketpair(), [], threading.Event()
    one = Channel(ends[0], received.extend, lambda: None)
    other = Channel(ends[1], received.extend, gone.set)
    for channel in (one, other):
        channel.start()
    for number in range(2000):
        one.send("number", number, "x" * (number % 300))
    one.close()
    assert gone.wait(10)
    assert [message[1] for message in received] == list(range(2000))
    other.send("nobody listens")  # and nothing is raised


def test_a_job_is_made_again_in_another_process():
    control = ControlArguments(candidates=3, seed=7)
    writings = writings_of(("Hi", "there", "you"), {"a": "b"}, control, 2)
    job = Job("c", ("Hi", "there", "you"), {"a": "b"}, {"a": 2.0}, DecodingArguments(), writings, print, ("x",), True, False, 4)  # fmt: skip
    made = job_of(order_of(job), repr)
    for name in ("client", "turns", "target", "weights", "decoding", "writings", "stops", "stream", "scored", "dropped", "came", "size"):  # fmt: skip
        ours, theirs = getattr(job, name), getattr(made, name)
        assert repr(ours) == repr(theirs), name
    assert made.listener is repr and [w.control.seed for w in made.writings] == [7, 8]


def test_a_refusal_crosses_as_it_is():
    import pickle

    found = pickle.loads(pickle.dumps(Refused("no", 429, "messages[0]", "queue_full", 3)))
    assert (str(found), found.status, found.param, found.code, found.retry_after) == ("no", 429, "messages[0]", "queue_full", 3)  # fmt: skip
    assert found.headers["Retry-After"] == "3"


def test_replies_streams_cards_and_numbers_cross(linked):
    plain = linked.model.reply("My bread did not rise.", "lyrical")[0].text
    answer = linked.ask("My bread did not rise.", target="lyrical").json()
    assert answer["choices"][0]["message"]["content"] == plain
    assert answer["choices"][0]["miracle"]["predicted"] and answer["usage"]["prompt_tokens"] > 2
    streamed = linked.post(messages=BODY["messages"], model="r:lyrical", stream=True).text
    assert streamed.count("data: ") > 3 and streamed.rstrip().endswith("data: [DONE]")
    found = linked.post("/cards", data={"name": "Mira", "description": "She is glad."}, spec="chara_card_v2")
    assert found.status_code == 200 and found.json()["name"] == "Mira"
    assert linked.post("/cards", spec="other").status_code == 400
    models = httpx.get(f"{linked.url}/models").json()["data"]
    assert (
        models[0]["miracle"]["evaluators"] and models[0]["miracle"]["attributes"] == linked.model.attributes
    )
    linked.wait_until(lambda: linked.numbers()["miracle_request_seconds_count"] == 2)
    assert linked.numbers()['miracle_requests_total{path="/v1/cards",status="400"}'] == 1
    health = httpx.get(f"{linked.root}/health").json()
    assert health == {"status": "ok", "model": "r", "waiting": 0, "rows": 0}


def test_a_full_queue_and_an_impossible_request_are_refused_across(linked, gate):
    assert linked.ask(candidates=64).status_code == 400
    assert linked.ask(model="other").status_code == 404
    with gate.closed(), ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(linked.ask, candidates=32, target="lyrical", user="a") for _ in range(8)]
        linked.wait_until(lambda: sum(one.done() for one in asked) >= 5)
        gate._open.set()
        found = [one.result() for one in asked]
    assert {answer.status_code for answer in found} == {200, 429}
    assert all("Retry-After" in answer.headers for answer in found if answer.status_code == 429)


def test_a_client_that_leaves_frees_its_rows_across(linked, gate):
    with gate.closed():
        with pytest.raises(httpx.ReadTimeout):
            linked.post(messages=BODY["messages"], model="r:lyrical", timeout=1.0)
        linked.wait_until(lambda: linked.guards.under_way == 0)
    linked.wait_until(lambda: httpx.get(f"{linked.root}/health").json()["rows"] == 0)
    linked.wait_until(lambda: linked.numbers()["miracle_cancelled_total"] == 1)


def test_several_sockets_share_an_address_that_nobody_else_gets():
    made = listening_sockets("127.0.0.1", 0, 3)
    try:
        port = made[0].getsockname()[1]
        assert {one.getsockname()[1] for one in made} == {port}
        for one in made:
            one.listen()
        with pytest.raises(InputError, match="cannot be used"):
            listening_sockets("127.0.0.1", port, 2)
    finally:
        for one in made:
            one.close()


@pytest.mark.parametrize("words", [["--http-processes", "-1"], ["--http-processes", "1000"]])
def test_impossible_numbers_of_processes_are_refused(words):
    with pytest.raises(InputError, match="--http-processes must be from 0 to 64, found"):
        serve.main(words)


@pytest.mark.parametrize(
    ("wanted", "device", "cores", "expected"),
    [(None, "cuda", 16, 4), (None, "cuda", 4, 0), (None, "cpu", 16, 0), (0, "cuda", 16, 0), (7, "cpu", 2, 7)],
)
def test_a_gpu_with_cores_beside_it_gets_processes_for_http(wanted, device, cores, expected, monkeypatch):
    monkeypatch.setattr(serve.os, "cpu_count", lambda: cores)
    assert serve.http_processes(wanted, device) == expected


def children(of: int) -> list[int]:
    """Processes that this one started."""
    found = subprocess.run(["ps", "--ppid", str(of), "-o", "pid="], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


def alive(number: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(true, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@pytest.fixture
def server(tiny_run):
    """A server of three processes, all of which work."""
    found = Process(tiny_run, free_port(), "--name", "r", "--http-processes", "2")
    try:
        assert "http://127.0.0.1" in found.process.stdout.readline()  # said when the last of them listens
        yield found
    finally:
        found.end()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.slow
def test_sigterm_finishes_what_is_under_way_in_all_processes(server):
    others = children(server.process.pid)
    assert len(others) == 2
    thread, found = server.asking()
    server.process.send_signal(signal.SIGTERM)
    thread.join()
    assert found == [200]
    _, printed = server.process.communicate(timeout=60)
    assert server.process.returncode == 143 and "Traceback" not in printed, printed
    assert not any(map(alive, others))


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("which", ["the model's", "one that speaks HTTP"])
def test_a_killed_process_takes_the_others_with_it(server, which):
    others = children(server.process.pid)
    thread, found = server.asking()
    os.kill(server.process.pid if which == "the model's" else others[0], signal.SIGKILL)
    thread.join(30)
    assert not thread.is_alive() and found[0] != 200
    wait_for(lambda: not any(map(alive, [server.process.pid, *others])))
    _, printed = server.process.communicate(timeout=60)
    if which != "the model's":
        assert server.process.returncode == 1
        assert "error: a process that speaks HTTP ended by itself (signal 9)" in printed


@needs_proc
@pytest.mark.slow
def test_a_second_signal_ends_replies_under_way_with_an_error(server):
    others = children(server.process.pid)
    thread, found = server.asking()
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    server.process.send_signal(signal.SIGINT)
    thread.join(30)
    assert found == [503]
    server.process.communicate(timeout=60)
    assert server.process.returncode == 130 and not any(map(alive, others))
