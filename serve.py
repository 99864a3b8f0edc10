"""An OpenAI-compatible server of a run: ``python serve.py outs/demo``, then any client at the address that it prints.

A model's name carries its dials, ``demo:lyrical,optimistic*0.5``; docs/serving.md has the rest.
"""

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from common.entry import Parser, prepare_libraries, run_main
from common.errors import InputError
from common.secrets import keep_secret

prepare_libraries()

KEY = "MIRACLE_API_KEY"
SHORTEST_KEY = 16  # characters
MOST_PROCESSES = 64
ROWS = {"cpu": 64, "mps": 64, "cuda": 1024}  # written together where --rows does not say


def parser() -> Parser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="a run's folder (default: the run trained last, else release/chat)",
    )
    options.add_argument("--run", help="the same by its name under outs/")
    options.add_argument("--name", help="the model's name for clients (default: the folder's)")
    options.add_argument("--device", help="cpu, cuda or mps; default: CUDA, MPS or CPU, in that order")
    options.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    options.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    options.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help=f"a key that clients must send, may be repeated; better in {KEY}, several with commas between, as a command line can be read by other users",
    )
    options.add_argument(
        "--no-key", action="store_true", help="serve another address than loopback without a key"
    )
    options.add_argument(
        "--candidates",
        type=int,
        help="replies to choose from where a request does not say (default: the run's)",
    )
    options.add_argument("--max-tokens", type=int, default=256, help="longest reply (default: %(default)s)")
    options.add_argument("--rows", type=int, help="candidates written together (default: 64, on a GPU 1024)")
    options.add_argument(
        "--join-within",
        type=int,
        metavar="STEPS",
        help="tokens of the replies under way after which a request that waits for others to begin with it begins anyway (default: 1, on a GPU 8)",
    )
    options.add_argument(
        "--http-processes",
        type=int,
        metavar="N",
        help="processes that speak HTTP beside the one that owns the model, for hundreds of clients; 0: that one does both (default: 0, on a GPU with eight cores or more beside it 4)",
    )
    options.add_argument(
        "--queue", type=int, default=256, help="requests that may wait (default: %(default)s)"
    )
    options.add_argument(
        "--queue-per-client", type=int, default=64, help="of one client (default: %(default)s)"
    )
    options.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        help="seconds for a request, waiting included (default: %(default)g)",
    )
    options.add_argument(
        "--max-body", type=int, default=256 * 1024, help="bytes of a request's body (default: %(default)s)"
    )
    options.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds that requests under way have after SIGTERM (default: %(default)g)",
    )
    options.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="append contexts and replies as JSON Lines; without it nothing typed is kept",
    )
    return options


def keys_of(given: argparse.Namespace) -> tuple[str, ...]:
    """The keys, of the command line and the environment.

    Raises:
        InputError: for an empty or short one, and where another address than loopback has none.
    """
    keys = [*(given.api_key or []), *filter(None, os.environ.get(KEY, "").split(","))]
    keys = [key.strip() for key in keys]
    for key in keys:
        keep_secret(key)
    if any(len(key) < SHORTEST_KEY or not key.isascii() for key in keys):
        raise InputError(f"a key needs at least {SHORTEST_KEY} characters, all of them ASCII")
    if given.api_key:
        print(
            f"note: other users of this machine can read --api-key; {KEY} is not shown to them",
            file=sys.stderr,
        )
    if not keys and not given.no_key and not is_loopback(given.host):
        raise InputError(
            f"--host {given.host} can be reached from elsewhere: set {KEY} (or --api-key), or say --no-key"
        )
    return tuple(keys)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check(given: argparse.Namespace) -> None:
    """Raises `InputError` for numbers that mean nothing."""
    for name in (
        "candidates",
        "max_tokens",
        "rows",
        "queue",
        "queue_per_client",
        "timeout",
        "max_body",
        "join_within",
    ):
        value = getattr(given, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} must be over 0, found {value}")
    if not 0 <= given.grace < float("inf"):
        raise InputError(f"--grace must be 0 or more, found {given.grace}")
    if given.http_processes is not None and not 0 <= given.http_processes <= MOST_PROCESSES:
        raise InputError(f"--http-processes must be from 0 to {MOST_PROCESSES}, found {given.http_processes}")
    if not 0 <= given.port < 2**16:
        raise InputError(f"--port must be from 0 to 65535, found {given.port}")
    if given.log is not None and not given.log.parent.is_dir():
        raise InputError(f"--log {given.log}: there is no folder {given.log.parent}")


def check_name(name: str) -> None:
    """Raises `InputError` for a model's name that a request cannot say: dials follow a colon."""
    if ":" in name or not name.isprintable():
        raise InputError(
            f"{name!r:.100} cannot be the model's name, which has no colon and no control characters; name another with --name"
        )


def http_processes(wanted: int | None, device: str) -> int:
    """How many processes speak HTTP: as many as are wanted, else what suits the device and the cores beside it."""
    if wanted is not None:
        return wanted
    return 4 if device == "cuda" and (os.cpu_count() or 1) >= 8 else 0


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal ends it; returns the exit status.

    Raises:
        InputError: without the packages, a trained run, a key where one is needed, or a free port.
    """
    given = parser().parse_args(argv)
    check(given)
    keys = keys_of(given)
    try:
        from server.app import Served
        from server.run import serve
        from server.supervisor import serve_in_processes
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client"):
            raise
        raise InputError(
            "the server needs more packages: python -m pip install fastapi uvicorn prometheus_client"
        ) from None
    from generation.sharing import named_run
    from miracle import Miracle
    from playground.session import Log
    from server.guards import LOOPBACK_NAMES, Bounds
    from server.scheduler import Capacity

    folder = named_run(given.folder, given.run, "serve.sh")
    log = Log(given.log)
    check_name(given.name or "")
    model = Miracle.from_run(folder, given.device)
    name = given.name or folder.resolve().name
    check_name(name)
    rows = given.rows or ROWS.get(model.generator.device.type, ROWS["cpu"])
    candidates = given.candidates or model.control.candidates
    if candidates > rows:
        raise InputError(f"--rows {rows} has no room for {candidates} candidates")
    model.warm_up()
    service = Served(
        model,
        name,
        Capacity(rows, given.queue, given.queue_per_client, given.join_within),
        given.candidates,
        given.max_tokens,
        Bounds(body=given.max_body, request_seconds=given.timeout),
        keys,
        (*LOOPBACK_NAMES, given.host) if is_loopback(given.host) and not keys else None,
        log,
    )
    if processes := http_processes(given.http_processes, model.generator.device.type):
        serve_in_processes(service, given.host, given.port, given.grace, processes)
    else:
        serve(service, given.host, given.port, given.grace)
    return 0


if __name__ == "__main__":
    run_main(main)
