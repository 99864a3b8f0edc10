"""The browser playground: ``python playground.py outs/demo``, then open the address that it prints. Needs ``pip install gradio``."""

import argparse
import os
from pathlib import Path

from common.entry import Parser, prepare_libraries, run_main
from common.errors import InputError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
prepare_libraries()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; raises `InputError`."""
    parser = Parser(description="Try a run in the browser. Serves this machine only.")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="the run's folder (default: the run trained last, else release/chat)",
    )
    parser.add_argument("--run", help="the same by its name under outs/")
    parser.add_argument("--compare", type=Path, metavar="FOLDER", help="another run, for the tab with both")
    parser.add_argument(
        "--server",
        metavar="URL",
        help="show what a server of serve.sh has loaded, instead of loading a run (its key: MIRACLE_API_KEY)",
    )
    parser.add_argument("--device", help="cpu, cuda or mps; default: CUDA, MPS or CPU, in that order")
    parser.add_argument("--port", type=int, default=7860, help="where to listen on 127.0.0.1 (%(default)s)")
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="append questions and replies as JSON Lines; without it nothing typed is kept",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C; returns the exit status.

    Raises:
        InputError: without gradio, without a trained run, or where the port is taken.
    """
    given = arguments(argv)
    try:
        from playground.page import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError("the playground needs gradio: python -m pip install gradio") from None
    from generation.sharing import named_run
    from miracle import Miracle

    if given.server:
        from server.client import RemoteMiracle

        if given.folder or given.run or given.compare or given.device:
            raise InputError("--server shows what is loaded there; leave runs, --compare and --device out")
        remote = RemoteMiracle(given.server)
        serve([(remote.name, remote)], Path(given.server), given.port, given.log)
        return 0
    folders = [
        named_run(given.folder, given.run, "playground.sh"),
        *([given.compare] if given.compare else []),
    ]
    runs = [(folder.resolve().name, Miracle.from_run(folder, given.device)) for folder in folders]
    for _, model in runs:
        model.warm_up()
    serve(runs, folders[0], given.port, given.log)
    return 0


if __name__ == "__main__":
    run_main(main)
