"""How long visitors of the playground wait when many ask at once, and whether any reply is lost. ``python -m scripts.bench_playground outs/demo``

Starts the playground on loopback and plays visitors who talk to it as the page does: each sends a message, waits for its reply
with the evaluators' numbers, and sends the next one at once.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.entry import Parser, run_main
from common.errors import InputError
from common.options import ROOT

PERCENTILES = (50, 90, 99)
START_SECONDS = 180


@contextmanager
def playground(run: Path, device: str | None) -> Iterator[str]:
    """The address of a playground of its own process; it ends with the context.

    Raises:
        InputError: where it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        str(ROOT / "playground.py"),
        str(run),
        "--port",
        str(port),
        *(["--device", device] if device else []),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise InputError(f"the playground of {run} did not start") from None
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


class Visitor(threading.Thread):
    """One user, with a session and a conversation of their own.

    Attributes:
        seconds: from sending to the reply with its numbers, one per message that was answered.
        failures: what the server or the connection said, one text per message that ended in an error.
        lost: messages that ended without an error and without a reply.
    """

    def __init__(self, address: str, number: int, messages: int, start: threading.Barrier):
        super().__init__()
        self.address, self.number, self.messages, self.start_together = address, number, messages, start
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.lost = 0

    def run(self) -> None:
        """Send all messages, one after the other."""
        from gradio_client import Client

        try:
            client = Client(self.address, verbose=False, analytics_enabled=False)
            settings = settings_of(client)
        except Exception as error:  # counted: a visitor who cannot come in loses all messages
            self.failures += [f"visitor {self.number} cannot connect: {error}"] * self.messages
            client = None
        self.start_together.wait()
        for message in range(self.messages if client else 0):
            text = f"This is visitor {self.number}, message {message}."
            begun = time.monotonic()
            try:
                client.predict(text, api_name="/ask")
                shown = client.predict(*settings, api_name="/answer")
            except Exception as error:  # counted: whatever the server answered, this message got no reply
                self.failures.append(f"{text} {type(error).__name__}: {error}")
                continue
            if text in shown and shown.count('class="facts"') == len(self.seconds) + 1:
                self.seconds.append(time.monotonic() - begun)
            else:
                self.lost += 1


def settings_of(client) -> list:
    """The page's settings as they are at first, but with an aspect of every attribute, so that the ODE is solved."""
    parameters = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/answer"][
        "parameters"
    ]
    return [p["type"]["enum"][-1] if "enum" in p["type"] else p["parameter_default"] for p in parameters]


def measure(address: str, users: int, messages: int) -> dict:
    """Play all visitors at once.

    Returns:
        Counts, seconds per reply (percentiles, mean, slowest), replies per second, and the first failures.
    """
    together = threading.Barrier(users + 1)
    visitors = [Visitor(address, number, messages, together) for number in range(users)]
    for visitor in visitors:
        visitor.start()
    together.wait()
    begun = time.monotonic()
    for visitor in visitors:
        visitor.join()
    whole = time.monotonic() - begun
    seconds = np.array([second for visitor in visitors for second in visitor.seconds])
    failures = [failure for visitor in visitors for failure in visitor.failures]
    statistics = (
        {f"p{p}": np.percentile(seconds, p) for p in PERCENTILES}
        | {"mean": seconds.mean(), "max": seconds.max()}
        if len(seconds)
        else {}
    )
    return {
        "users": users, "messages_each": messages, "sent": users * messages,
        "answered": len(seconds), "failed": len(failures), "lost": sum(visitor.lost for visitor in visitors),
        "seconds": {name: round(float(value), 3) for name, value in statistics.items()},
        "replies_per_second": round(len(seconds) / whole, 2), "seconds_in_all": round(whole, 1), "failures": failures[:5],
    }  # fmt: skip


def table(numbers: dict) -> str:
    """The numbers for people."""
    lines = [
        f"{numbers['users']} users at once, {numbers['messages_each']} messages each: {numbers['answered']} of {numbers['sent']} answered, {numbers['failed']} failed, {numbers['lost']} lost"
    ]
    lines += (
        [f"load average before: {numbers['load']:.2f} on {numbers['cores']} cores"]
        if numbers["load"] is not None
        else []
    )
    lines += ["", "seconds from sending to the reply with its numbers"]
    lines += [f"{name:>6}  {value:8.3f}" for name, value in numbers["seconds"].items()]
    lines += [
        "",
        f"{numbers['replies_per_second']} replies per second, {numbers['seconds_in_all']} s in all",
        *(f"failed: {failure}" for failure in numbers["failures"]),
    ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "run", nargs="?", type=Path, default=Path("outs/demo"), help="the run's folder (default: outs/demo)"
    )
    options.add_argument("--users", type=int, default=20, help="visitors at once (default: 20)")
    options.add_argument(
        "--messages", type=int, default=10, help="of each, one after the other (default: 10)"
    )
    options.add_argument(
        "--device", help="of the playground: cpu, cuda or mps (default: CUDA, MPS or CPU, in that order)"
    )
    options.add_argument("--json", action="store_true", help="print JSON")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns 1 where a message got no reply."""
    options = parser().parse_args(argv)
    if options.users < 1 or options.messages < 1:
        raise InputError(
            f"--users and --messages must be 1 or more, found {options.users} and {options.messages}"
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with playground(options.run, options.device) as address:
        numbers = measure(address, options.users, options.messages) | {"load": load, "cores": os.cpu_count()}
    print(json.dumps(numbers, indent=2) if options.json else table(numbers))
    return 0 if numbers["answered"] == numbers["sent"] else 1


if __name__ == "__main__":
    run_main(main)
