"""How many replies a server writes when many clients ask at once, and how long each waits. ``python -m scripts.bench_server release/chat``

Starts the server on loopback, once, and for each number of clients lets that many ask questions under all combinations of
aspects, each the next one as soon as it has its reply, for some seconds; what is under way then is finished and counted.
The load comes from locust where it is installed (``pip install locust``), else from httpx. Tokens are counted by the server.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np

from common.entry import Parser, run_main
from common.errors import InputError
from common.options import ROOT

PARTS = (
    "beginning",
    "writing",
    "choosing and scoring",
    "answering",
)  # of the server's work, as its /metrics names them
CLIENTS_AT_ONCE = 32  # of one process of the load by httpx, which takes a large part of a processor
START_SECONDS, FINISH_SECONDS = 300, 300
QUESTIONS = (
    "My bread did not rise this morning. What shall I do?",
    "Should I take the night train or wait until the morning?",
    "My neighbour wants his ladder back, and I can't find it.",
    "Is it worth climbing the two hundred steps of the lighthouse with my father tomorrow?",
    "I have to give a talk on Friday and my voice is gone.",
)
ASPECTS = (("plain", "lyrical"), ("pessimistic", "optimistic"), ("emotional", "critical"))


def request_body(number: int, client: str, candidates: int) -> dict:
    """The `number`-th request: questions, targets and seeds change from one to the next."""
    target = [pair[number >> bit & 1] for bit, pair in enumerate(ASPECTS)]
    messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
    return {"messages": messages, "target": target, "seed": number, "candidates": candidates, "user": client}


@contextmanager
def server(run: Path, device: str | None, options: list[str]) -> Iterator[str]:
    """The address of a server of its own process; it ends with the context.

    Raises:
        InputError: where it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "serve.py"), str(run), "--port", str(port), *options]
    process = subprocess.Popen(
        [*command, *(["--device", device] if device else [])], stdout=subprocess.DEVNULL
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                httpx.get(f"{address}/health", timeout=5)
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise InputError(f"the server of {run} did not start") from None
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def counted(address: str) -> dict[str, float]:
    """What the server has counted: tokens by kind, and the seconds of each part of its work."""
    counts = {}
    for line in httpx.get(f"{address}/metrics", timeout=30).text.splitlines():
        if line.startswith(("miracle_tokens_total", "miracle_part_seconds_total")):
            counts[line.split('"')[1]] = float(line.split()[-1])
    return counts


Load = tuple[
    list[float], int, float
]  # seconds of every answered request, how many failed, and of all together


def with_locust(address: str, clients: int, seconds: float, candidates: int) -> Load:
    """A load of so many clients, its start included."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "locust", "-f", str(ROOT / "scripts" / "server_load.py"), "--headless", "--only-summary",
            "--host", address, "-u", str(clients), "-r", str(clients), "-t", f"{seconds:g}s", "--stop-timeout", str(FINISH_SECONDS),
            "--json-file", str(Path(folder) / "stats"), "--exit-code-on-error", "0",
        ]  # fmt: skip
        environment = os.environ | {"BENCH_CANDIDATES": str(candidates), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        record = Path(folder) / "stats.json"  # the ending is locust's own
        if not record.is_file():
            raise InputError(f"locust failed: {done.stderr.strip()[-300:]}")
        stats = json.loads(record.read_text())
    latencies: list[float] = []
    for entry in stats:
        for milliseconds, count in entry["response_times"].items():
            latencies += [float(milliseconds) / 1000] * count
    failures = sum(entry["num_failures"] for entry in stats)
    return latencies, failures, time.monotonic() - began


def with_httpx(address: str, clients: int, seconds: float, candidates: int) -> Load:
    """A load of so many clients, from a process for every `CLIENTS_AT_ONCE` of them but at most one for two processors."""
    count = min(-(-clients // CLIENTS_AT_ONCE), max(1, (os.cpu_count() or 1) // 2))
    names = [range(first, clients, count) for first in range(count)]
    load = partial(_httpx_load, address, clients, seconds, candidates)
    if count == 1:
        began = time.monotonic()
        return *load(names[0]), time.monotonic() - began
    latencies: list[float] = []
    failures = 0
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.5] * count))  # all have started before the time counts
        began = time.monotonic()
        for waits, failed in pool.map(load, names):
            latencies += waits
            failures += failed
        return latencies, failures, time.monotonic() - began


def _httpx_load(
    address: str, clients: int, seconds: float, candidates: int, names: range
) -> tuple[list[float], int]:
    """What some of the clients see, each with a connection of its own."""
    latencies: list[float] = []
    failures = 0

    async def one(client: httpx.AsyncClient, name: int, ends: float) -> None:
        nonlocal failures
        number = name
        while time.monotonic() < ends:
            began, body = time.monotonic(), request_body(number, f"client {name}", candidates)
            number += clients
            try:
                answer = await client.post(f"{address}/v1/chat/completions", json=body)
                said = answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]
            except httpx.HTTPError:
                said = False
            failures += not said
            if said:
                latencies.append(time.monotonic() - began)

    async def all_of_them() -> None:
        async with AsyncExitStack() as stack:
            # a connection each: httpx looks through all of a client's connections at every request
            own = [
                await stack.enter_async_context(httpx.AsyncClient(timeout=600, verify=False)) for _ in names
            ]
            ends = time.monotonic() + seconds
            await asyncio.gather(*(one(client, name, ends) for client, name in zip(own, names)))

    asyncio.run(all_of_them())
    return latencies, failures


TOOLS = {"locust": with_locust, "httpx": with_httpx}


def measure(address: str, clients: int, seconds: float, candidates: int, tool: str) -> dict:
    """Let clients ask for some seconds.

    Returns:
        Counts, replies and tokens per second, percentiles of the seconds from a request to its reply, and what share of the
        time the server's model spends on each part of its work.
    """
    before = counted(address)
    latencies, failures, whole = TOOLS[tool](address, clients, seconds, candidates)
    after = counted(address)
    grown = {kind: after[kind] - before.get(kind, 0.0) for kind in after}
    waits = np.array(latencies) if latencies else np.array([float("nan")])
    return {
        "clients": clients, "candidates": candidates, "tool": tool, "answered": len(latencies), "failed": failures,
        "seconds": round(whole, 1), "replies_per_second": round(len(latencies) / whole, 3),
        "reply_tokens_per_second": round(grown.get("reply", 0) / whole, 1),
        "written_tokens_per_second": round(grown.get("written", 0) / whole, 1),
        "p50": round(float(np.percentile(waits, 50)), 2), "p99": round(float(np.percentile(waits, 99)), 2),
        "parts": {name: round(grown.get(name, 0.0) / whole, 3) for name in PARTS},
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """The numbers as a table, with the throughput beside that of the first line."""
    lines = [
        "| clients | answered | failed | replies/s | against the first | reply tokens/s | tokens/s of all candidates | p50 s | p99 s | beginning / writing / scoring / answering |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row["replies_per_second"] / (rows[0]["replies_per_second"] or float("nan"))
        cells = [row["clients"], row["answered"], row["failed"], row["replies_per_second"], f"{ratio:.2f}"]
        cells += [row["reply_tokens_per_second"], row["written_tokens_per_second"], row["p50"], row["p99"]]
        cells.append(" / ".join(f"{share:.0%}" for share in row["parts"].values()))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "run", nargs="?", type=Path, default=ROOT / "release" / "chat", help="default: release/chat"
    )
    options.add_argument(
        "--clients", default="1,32", help="numbers of clients, one after another (default: %(default)s)"
    )
    options.add_argument(
        "--seconds", type=float, default=180.0, help="of load, for each (default: %(default)g)"
    )
    options.add_argument(
        "--warm-up",
        type=float,
        default=0.0,
        help="seconds of the same load before them; on a GPU steps are recorded then (default: %(default)g)",
    )
    options.add_argument("--candidates", type=int, default=1, help="of every request (default: %(default)s)")
    options.add_argument("--device", help="of the server: cpu, cuda or mps")
    options.add_argument(
        "--tool", choices=list(TOOLS), help="default: locust where it is installed, else httpx"
    )
    options.add_argument("--rows", type=int, help="of the server, see serve.py")
    options.add_argument("--http-processes", type=int, help="of the server, see serve.py")
    options.add_argument("--join-within", type=int, help="of the server, see serve.py")
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def numbers_of(text: str) -> list[int]:
    """Numbers of clients; raises `InputError`."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--clients is numbers such as 1,32; found {text!r:.60}")
    return [int(part) for part in parts]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns 1 where a request got no reply."""
    given = parser().parse_args(argv)
    clients, tool = numbers_of(given.clients), given.tool or ("locust" if find_spec("locust") else "httpx")
    if given.candidates < 1 or not 0 < given.seconds < float("inf"):
        raise InputError("--candidates must be 1 or more and --seconds over 0")
    options = ["--queue", str(2 * max(clients))]
    for name in ("rows", "http_processes", "join_within"):
        if getattr(given, name) is not None:
            options += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with server(given.run, given.device, options) as address:
        rows = []
        for count in clients:
            if given.warm_up > 0:
                TOOLS[tool](address, count, given.warm_up, given.candidates)
            rows.append(measure(address, count, given.seconds, given.candidates, tool))
    record = {"load_before": load, "cores": os.cpu_count(), "found": rows}
    print(json.dumps(record, indent=2) if given.json else table(rows))
    return 0 if all(row["failed"] == 0 for row in rows) else 1


if __name__ == "__main__":
    run_main(main)
