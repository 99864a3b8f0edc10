"""Measure every cell of a grid and set the models side by side. ``bash experiment.sh experiments/demo.yaml``

A grid is a YAML file, see docs/experiments.md. Everything lies in outs/experiments/<name>/: a row per cell in results.csv,
the comparison in table.md and frontier.png. A second start measures what is missing and nothing else.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.locks import exclusive  # noqa: E402
from common.options import CommonArguments, parse_arguments  # noqa: E402
from common.schema import load_schema  # noqa: E402
from experiments.frontier import write_frontier  # noqa: E402
from experiments.grid import read_grid  # noqa: E402
from experiments.jobs import EXECUTORS, JobSettings, read_options  # noqa: E402
from experiments.plan import Plan, plan  # noqa: E402
from experiments.rows import read_rows  # noqa: E402
from experiments.runner import Runner, results_of  # noqa: E402
from experiments.summary import summaries  # noqa: E402
from experiments.table import write_table  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The options; those that the grid has too stand before its own."""
    options = Parser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("grid", type=Path, help="the grid: a YAML file")
    options.add_argument("--preset", help="demo, small, paper, or a YAML file")
    options.add_argument("--run", dest="name", help="name of the experiment's folder (default: the grid's)")
    options.add_argument("--outs", help="where experiments/<name> lies (default: outs)")
    options.add_argument("--schema", help="schema file")
    options.add_argument("--base", help="folder with plain checkpoints encoder/ and decoder/")
    options.add_argument(
        "--workers",
        type=int,
        help="processes that share the work: several on one GPU where the models are small, one or more per GPU where there are several (default: 1); with --executor: jobs at once (default: all)",
    )
    options.add_argument(
        "--executor",
        choices=EXECUTORS,
        help="let jobs do the work, one per model, through submitit: slurm, or local, this machine's processes; needs a folder that all nodes see",
    )
    options.add_argument(
        "--job-options",
        help="of every job, by submitit's names: slurm_partition=gpu,gpus_per_node=1,cpus_per_task=8,mem_gb=64,timeout_min=600",
    )
    options.add_argument(
        "--dry-run", action="store_true", help="list the cells and which are measured; train nothing"
    )
    options.add_argument(
        "--report",
        action="store_true",
        help="write table.md and frontier.png from the rows that are there; train nothing",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, list or report; returns the exit status: 1 where a cell failed."""
    options = vars(parser().parse_args(argv))
    dry_run, report, path, workers = (options.pop(name) for name in ("dry_run", "report", "grid", "workers"))
    if workers is not None and workers < 1:
        raise InputError(f"--workers: expected a number of processes, found {workers}")
    executor, given = options.pop("executor"), read_options(options.pop("job_options"))
    if given and executor is None:
        raise InputError("--job-options without --executor; expected --executor slurm")
    jobs = JobSettings(executor, given, workers or 0) if executor else None
    grid = read_grid(path, **options)
    (common,) = parse_arguments((CommonArguments,), "none", grid.words(Path(grid.outs), grid.name), "")
    work = plan(grid, load_schema(common.schema))
    if dry_run:
        listing(work, read_rows(grid.folder / "results.csv")[-1])
        return 0
    failed = 0
    if report:
        results = results_of(work)
    else:
        with exclusive(grid.folder, grid.name, "copy the grid under another name"):
            results = results_of(work)  # nobody adds rows to it now
            runner = Runner(work, results, workers or 1, jobs)
            print(
                f"{grid.name}: {len(work.cells)} cells, {len(work.cells) - len(runner.missing)} of them measured already",
                flush=True,
            )
            failed = runner.run()
    known = summaries(work, results.rows)
    if not {row["key"] for row in results.rows} & {cell.key for cell in work.cells}:
        raise InputError(f"no cell of {path} is measured yet; there is nothing to report in {grid.folder}")
    print(f"-> {results.path}\n-> {write_table(work, known, results.rows)}", flush=True)
    if known:
        print(f"-> {write_frontier(work, known)}", flush=True)
    if failed:
        print(f"{failed} cells failed -> {grid.folder / 'failures.csv'}", flush=True)
    return 1 if failed else 0


def listing(work: Plan, rows: list[dict[str, str]]) -> None:
    """Print every cell with its state."""
    done = {row["key"] for row in rows}
    for cell in work.cells:
        print(
            f"{'measured' if cell.key in done else 'missing '}  {cell.key}  {cell.model.kind:<12} {cell.label}"
        )
    missing = [cell for cell in work.cells if cell.key not in done]
    trained = len({(cell.model.name) for cell in missing if cell.model.kind != "human"})
    print(
        f"{len(work.cells)} cells, {len(missing)} missing, {trained} models to load or train, {len(work.requests)} replies a cell"
    )


if __name__ == "__main__":
    run_main(main)
