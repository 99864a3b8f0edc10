"""Measure the code itself: sizes by folder, imports against the order of the floors, names that two classes share.

python -m scripts.measure_code            # a table; exit status 1 where a rule is broken
"""

import argparse
import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from common.entry import Parser

ROOT = Path(__file__).resolve().parent.parent
# From the ground up. A module imports from its own floor and from those below; names without a folder are files of the root.
FLOORS = (
    ("common", "schema", "schema_paper"),
    ("model", "dataset"),
    ("scoring",),
    ("generation",),
    ("training",),
    ("miracle", "baselines"),
    ("experiments", "playground", "pretraining", "server"),
    (
        "scripts",
        "train_cvae",
        "train_classifier",
        "train_nli",
        "gen_cvae",
        "make_data_chatgpt",
        "chat",
        "serve",
    ),
)
ALONE = {"model", "dataset"}  # of one floor, and yet neither imports the other


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Our modules by their dotted names, without tests."""
    rooms = {room for floor in FLOORS for room in floor}
    paths = [
        path for room in sorted(rooms) for path in ([*(root / room).rglob("*.py")] or [root / f"{room}.py"])
    ]
    paths += [root / "playground.py"]
    by_name = {}
    for path in paths:
        if path.is_file() and path.stat().st_size:
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            by_name["playground.py" if parts == ("playground",) else name] = path
    return by_name


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name


def floor_of(name: str) -> int | None:
    """The floor that a module lies on; None for one that is not ours."""
    room = name.split(".")[0]
    return next((number for number, floor in enumerate(FLOORS) if room in floor), None)


def against_the_order(root: Path = ROOT) -> list[str]:
    """Every import from a higher floor, or from the neighbour of a room that stands alone: ``file:line imports module``."""
    violations = []
    for name, path in modules(root).items():
        floor = len(FLOORS) - 1 if name == "playground.py" else floor_of(name)
        for line, target in imports(path):
            other, room = floor_of(target), target.split(".")[0]
            if other is None or floor is None:
                continue
            neighbours = {name.split(".")[0], room} == ALONE
            if other > floor or neighbours:
                violations.append(f"{path.relative_to(root)}:{line} imports {target}")
    return violations


def shared_names(root: Path = ROOT) -> dict[str, list[str]]:
    """Names of classes that are defined in more than one module, with the modules."""
    by_class: dict[str, list[str]] = {}
    for name, path in modules(root).items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                by_class.setdefault(node.name, []).append(name)
    return {name: places for name, places in sorted(by_class.items()) if len(places) > 1}


def sizes(root: Path = ROOT) -> list[tuple]:
    """By room: files, lines, median and longest file, functions, median and longest function, all in lines."""
    rooms: dict[str, list[Path]] = {}
    for path in modules(root).values():
        parts = path.relative_to(root).parts
        rooms.setdefault(parts[0] if len(parts) > 1 else ".", []).append(path)
    rows = []
    for room, paths in sorted(rooms.items()):
        files, functions = {}, {}
        for path in paths:
            text = path.read_text(encoding="utf-8")
            files[str(path.relative_to(root))] = len(text.splitlines())
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    functions[f"{path.stem}.{node.name}"] = node.end_lineno - node.lineno + 1
        longest, function = max(files, key=files.get), max(functions, key=functions.get, default="-")
        lengths = list(functions.values()) or [0]
        middle = int(statistics.median(files.values())), int(statistics.median(lengths))
        rows.append(
            (
                room,
                len(files),
                sum(files.values()),
                middle[0],
                f"{files[longest]} ({Path(longest).name})",
                len(functions),
                middle[1],
                f"{max(lengths)} ({function})",
            )
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns 1 where a rule is broken."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--root", type=Path, default=ROOT, help="the repository to measure (default: this one)"
    )
    root = options.parse_args(argv).root.resolve()
    print("| folder | files | lines | median file | longest file | functions | median | longest function |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sizes(root):
        print(f"| {' | '.join(map(str, row))} |")
    broken, shared = against_the_order(root), shared_names(root)
    print(f"\nimports against the order of the floors: {len(broken)}")
    for line in broken:
        print(f"  {line}")
    print(f"class names defined twice: {len(shared)}")
    for name, places in shared.items():
        print(f"  {name}: {', '.join(places)}")
    return 1 if broken or shared else 0


if __name__ == "__main__":
    sys.exit(main())
