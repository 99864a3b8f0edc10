"""Run a notebook from its first cell to its last, and keep what comes out in it. python -m scripts.run_notebook docs/tour.ipynb"""

import argparse
from pathlib import Path

from common.entry import Parser, run_main
from common.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("notebook", type=Path, help="the .ipynb file")
    options.add_argument("--output", type=Path, help="write it there instead of into the file itself")
    return options


def run_notebook(path: Path, output: Path) -> None:
    """Execute a notebook in a kernel of this Python, in the folder that it lies in.

    Raises:
        InputError: without the packages, for a file that is no notebook, and for a cell that fails, with its last line.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ModuleNotFoundError as error:
        raise InputError(
            f"running notebooks needs {error.name}: python -m pip install -e '.[docs]'"
        ) from error
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise InputError(
            f"{path}: expected a notebook, found {' '.join(str(error).split())[:160]}"
        ) from error
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise InputError(f"{path}: a cell failed: {error.ename}: {error.evalue}") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of day
    nbformat.write(notebook, output)


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    options = parser().parse_args(argv)
    run_notebook(options.notebook, options.output or options.notebook)
    print(f"{options.notebook}: all cells ran")
    return 0


if __name__ == "__main__":
    run_main(main)
