"""Several processes of `quiet.py` that share what they import: the launcher imports it and forks. ``python forked.py 2 cvae --limit 7``

Everything else is as `common.launch` has it; that it begins commands of their own is tested in `test_launch.py`.
"""

import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import quiet  # noqa: F401  what is shared

from common import launch
from common.entry import run_main


class Forked:
    """``python <program> <words>`` in a copy of this process, where it is another's in all that `launch` asks for."""

    def __init__(self, command, env, pass_fds, process_group, stdin=None, stdout=None, stderr=None):
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setpgid(0, process_group)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if stdin == subprocess.DEVNULL:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if stdout is not None:
                os.dup2(stdout.fileno(), 1)
            if stderr == subprocess.STDOUT:
                os.dup2(1, 2)
            for name in os.listdir(
                "/proc/self/fd"
            ):  # as exec closes what is not passed on: the lifeline's other end
                if int(name) > 2 and int(name) not in pass_fds:
                    try:
                        os.close(int(name))
                    except OSError:  # that of the listing
                        pass
            os.environ.clear()
            os.environ.update(env)
            sys.argv = command[1:]
            runpy.run_path(command[1], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        else:
            code = 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def poll(self) -> int | None:
        """Its status where it has ended, as `subprocess.Popen` has it."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


def main(argv: list[str] | None = None) -> int:
    """As `common.launch`, of `quiet.py`."""
    number, *words = sys.argv[1:]
    launch.subprocess = SimpleNamespace(Popen=Forked, STDOUT=subprocess.STDOUT, DEVNULL=subprocess.DEVNULL)
    return launch.launch(int(number), [str(Path(__file__).with_name("quiet.py")), *words])


if __name__ == "__main__":
    run_main(main)
