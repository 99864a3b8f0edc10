"""The server as a process: how it ends, comes back, and refuses to start; and other programs that talk to it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import serve
from common.errors import InputError
from server.app import Served
from server.run import listen

ROOT = Path(__file__).resolve().parents[2]
SLOWLY = """
import sys, time
from server.slots import RowBatch
step = RowBatch.step
RowBatch.step = lambda batch: (time.sleep(0.3), step(batch))[1]
import serve
from common.entry import run_main
run_main(serve.main)
"""
BODY = {
    "messages": [{"role": "user", "content": "My bread did not rise."}],
    "model": "r:lyrical",
    "candidates": 1,
    "max_tokens": 12,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A server of its own process, whose steps take 0.3 s."""

    def __init__(self, run: Path, port: int, *options: str):
        self.port, self.root = port, f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", SLOWLY, str(run), "--port", str(port), "--device", "cpu", *options]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not self.healthy():
            assert self.process.poll() is None and time.monotonic() < deadline, "it did not start"
            time.sleep(0.1)

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.root}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self) -> httpx.Response:
        return httpx.post(f"{self.root}/v1/chat/completions", json=BODY, timeout=120)

    def asking(self) -> tuple[threading.Thread, list]:
        """A request under way."""
        found: list = []

        def work() -> None:
            try:
                found.append(self.ask().status_code)
            except httpx.HTTPError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 60
        while httpx.get(f"{self.root}/health", timeout=30).json()["rows"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return thread, found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
def test_sigterm_finishes_what_is_under_way_and_a_kill_leaves_nothing_behind(tiny_run):
    port = free_port()
    first = Process(tiny_run, port, "--name", "r")
    try:
        thread, found = first.asking()
        first.process.send_signal(signal.SIGTERM)
        refused, deadline = 0, time.monotonic() + 30
        while not refused and not found and time.monotonic() < deadline:
            refused = first.ask().status_code
        thread.join()
        assert found == [200] and refused == 503
        _, printed = first.process.communicate(timeout=60)
        assert first.process.returncode == 143 and "Traceback" not in printed
    finally:
        first.end()
    second = Process(tiny_run, port, "--name", "r")
    try:
        expected = second.ask().json()["choices"][0]["message"]["content"]
        thread, found = second.asking()
        second.process.kill()
        thread.join()
        assert isinstance(found[0], httpx.HTTPError)
    finally:
        second.end()
    third = Process(tiny_run, port, "--name", "r")
    try:
        assert third.ask().json()["choices"][0]["message"]["content"] == expected
    finally:
        third.end()


@pytest.mark.slow
def test_chat_py_talks_to_a_server(live):
    found = subprocess.run(
        [sys.executable, str(ROOT / "chat.py"), "--server", live.root], input="/lyrical\nMy bread did not rise.\n", text=True,
        capture_output=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert found.returncode == 0 and live.model.reply("My bread did not rise.", "lyrical")[
        0
    ].text in " ".join(found.stdout.split())


@pytest.mark.slow
def test_a_chat_front_end_from_the_package_index(live, tmp_path):
    """Simon Willison's ``llm``, which knows nothing of this server but an address and a model's name."""
    beside = Path(sys.executable).with_name("llm")
    if not (program := str(beside) if beside.exists() else shutil.which("llm")):
        pytest.skip("no llm: pip install llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: r:lyrical\n  api_base: {live.url}\n"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    for options in ([], ["--no-stream"]):
        found = subprocess.run(
            [program, "-m", "mine", *options, "My bread did not rise."],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert found.stdout.strip() == live.model.reply("My bread did not rise.", "lyrical")[0].text, (
            found.stderr
        )


@pytest.mark.slow
def test_gradio_s_chat_of_any_server(live):
    """``gr.load_chat`` speaks to it as to any address of OpenAI's kind."""
    gradio = pytest.importorskip("gradio")
    page = gradio.load_chat(live.url, model="r:lyrical", token="none", streaming=False)
    text = page.fn("My bread did not rise.", [])
    assert live.model.reply("My bread did not rise.", "lyrical")[0].text in (
        text if isinstance(text, str) else json.dumps(text)
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--host", "0.0.0.0"], "MIRACLE_API_KEY"), (["--api-key", "short"], "at least 16"), (["--rows", "0"], "--rows"),
        (["--port", "70000"], "--port"), (["--log", "/nowhere/at/all.jsonl"], "no folder"), (["--timeout", "nan"], "--timeout"),
        (["--host", "example.org"], "MIRACLE_API_KEY"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_said_in_a_line(words, reason, monkeypatch):
    monkeypatch.delenv(serve.KEY, raising=False)
    with pytest.raises(InputError, match=reason):
        serve.main(words)


def test_keys_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(serve.KEY, "first-key-of-sixteen, second-key-of-sixteen")
    given = serve.parser().parse_args(["--host", "0.0.0.0"])
    assert serve.keys_of(given) == ("first-key-of-sixteen", "second-key-of-sixteen")
    monkeypatch.delenv(serve.KEY)
    assert serve.keys_of(serve.parser().parse_args(["--host", "0.0.0.0", "--no-key"])) == ()
    assert serve.is_loopback("::1") and serve.is_loopback("localhost") and not serve.is_loopback("192.0.2.1")


def test_a_port_that_is_taken_is_named(served_model):
    from server.run import serve as serve_it
    from server.scheduler import Capacity

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be used"):
            serve_it(Served(served_model, "r", Capacity(1)), "127.0.0.1", taken.getsockname()[1], 1.0)


@pytest.mark.parametrize("name", ["a:b", "a\n", "a\udcff"])
def test_a_name_that_no_request_can_say_is_refused(name):
    with pytest.raises(InputError, match="cannot be the model's name"):
        serve.check_name(name)


def test_a_host_that_is_no_name_is_said_in_a_line():
    with pytest.raises(InputError, match="cannot be used"):
        listen("a..b", 0)


@pytest.mark.parametrize(
    "answer",
    [b"<html>", b"null", b'{"choices": null}', b'{"choices": [5]}', b"data: {oops\n\n", b"data: [1]\n\n"],
)
def test_a_server_s_nonsense_is_one_line(answer, three, monkeypatch):
    from openai import OpenAI
    from openai._base_client import SyncHttpxClientWrapper

    from server.client import RemoteMiracle

    streams = answer.startswith(b"data")
    kind = "text/event-stream" if streams else "application/json"
    remote = RemoteMiracle.__new__(RemoteMiracle)
    remote.schema, remote.weights, remote.name = three, {}, "r"
    remote._client = OpenAI(base_url="http://127.0.0.1:1/v1", api_key="none", max_retries=0)

    def send(client, request, **_):
        import importlib

        library = importlib.import_module(type(request).__module__.partition(".")[0])
        return library.Response(200, content=answer, headers={"Content-Type": kind}, request=request)

    monkeypatch.setattr(SyncHttpxClientWrapper, "send", send)
    with pytest.raises(InputError, match="the server"):
        remote.reply("Hello.", on_text=(lambda text: True) if streams else None)


def test_a_wrong_address_is_said_in_a_line():
    from server.client import RemoteMiracle

    for url in ("http://a..b:1", "http://[::1"):
        with pytest.raises(InputError, match="this is no address"):
            RemoteMiracle(url)
    with pytest.raises(InputError, match="beyond ASCII"):
        RemoteMiracle("http://127.0.0.1:1", key="ключ")

    with pytest.raises(InputError, match="bash serve.sh"):
        RemoteMiracle(f"http://127.0.0.1:{free_port()}", timeout=5)
