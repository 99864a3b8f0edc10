"""Two starts of one command at once: one of them works, the other ends in one line, and what comes out is whole."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from common.jsonl import write_jsonl
from common.locks import exclusive

pytestmark = pytest.mark.slow  # whole commands

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ["--schema", str(ROOT / "schema.py")]
HOLDER = "import sys; from pathlib import Path; from common.locks import exclusive\nwith exclusive(Path(sys.argv[1]), 'x'):\n    print('held', flush=True); sys.stdin.read()"


@contextlib.contextmanager
def held_by_another(place: Path):
    """Another process is at work on a place."""
    words = [sys.executable, "-c", HOLDER, str(place)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == "held\n"
    try:
        yield
    finally:
        other.communicate()


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def _stage(kind: str):
    def main(words: list[str]) -> None:
        from common.options import parse_arguments
        from training import classifier, coherence, cvae

        module = {"classifier": classifier, "nli": coherence, "cvae": cvae}[kind]
        module.train(*parse_arguments(module.OPTIONS, kind, words, ""))

    return main


def _generate(words: list[str]) -> None:
    from common.options import parse_arguments
    from generation import run

    run.generate(*parse_arguments(run.OPTIONS, "generation", words, ""))


def _main(module: str):
    def main(words: list[str]) -> None:
        import importlib

        importlib.import_module(module).main(words)

    return main


RUN = ["--outs", "{0}", "--run", "r", *SCHEMA]
COMMANDS = {  # what runs, its words, and the place that only one process works on; {0}: an empty folder
    "train_classifier": (_stage("classifier"), [*RUN, "--attribute", "attitude"], "r/classifier/attitude"),
    "train_nli": (_stage("nli"), RUN, "r/nli"),
    "train_cvae": (_stage("cvae"), RUN, "r/cvae"),
    "pipeline": (_main("scripts.pipeline"), [*RUN, "--limit", "6"], "r/classifier/languagestyle"),
    "gen_cvae": (_generate, RUN, "r/generations/control"),
    "score a run": (_main("scoring.score"), ["{0}/r", *SCHEMA], "r/generations/none"),
    "score a file": (
        _main("scoring.score"),
        ["{0}/r/generations/none.jsonl", "--run", "{0}/r", "--name", "again", *SCHEMA],
        "r/generations/again",
    ),
    "experiment": (
        _main("experiments.__main__"),
        [str(ROOT / "experiments/demo.yaml"), "--outs", "{0}"],
        "experiments/demo",
    ),
    "share": (_main("scripts.share"), ["{0}/r", "--folder", "{0}/shared"], "shared"),
    "merge": (_main("scripts.merge"), ["{0}/r", "{0}/merged"], "merged"),
    "clean_data": (_main("scripts.clean_data"), ["--output-dir", "{0}/clean", *SCHEMA], "clean"),
    "import_data": (
        _main("scripts.import_data"),
        ["{0}/r/generations/none.jsonl", "--output", "{0}/mine.jsonl", *SCHEMA],
        "mine.jsonl",
    ),
    "pretraining an encoder": (
        _main("pretraining.encoder"),
        ["--text", "{0}", "--teacher", "{0}", "--out", "{0}/encoder"],
        "encoder",
    ),
    "pretraining a decoder": (
        _main("pretraining.decoder"),
        ["--text", "{0}", "--out", "{0}/decoder"],
        "decoder",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_start_ends_in_one_line_and_touches_nothing(command, tmp_path):
    main, words, place = COMMANDS[command]
    (tmp_path / "r" / "generations").mkdir(parents=True)
    row = {"context": ["How are you?"], "target": {"attitude": "optimistic"}, "response": "Well."}
    write_jsonl(tmp_path / "r" / "generations" / "none.jsonl", [row])
    before = files_in(tmp_path)
    with held_by_another(tmp_path / place):
        with pytest.raises(InputError, match="another process is at work on") as caught:
            main([word.replace("{0}", str(tmp_path)) for word in words])
        assert "\n" not in str(caught.value) and str(tmp_path / place) in str(caught.value)
    assert files_in(tmp_path) == before
    with exclusive(tmp_path / place, "x"):  # the lock went with its process
        pass


CHEAP = {
    "import_data": ("scripts/import_data.py", ["{1}/rows.jsonl", "--output", "{0}/mine.jsonl", *SCHEMA]),
    "clean_data": ("scripts/clean_data.py", ["--output-dir", "{0}/clean", "--schema", "{1}/schema.py"]),
    "score": ("scoring/score.py", ["{0}/replies.jsonl", "--no-evaluators", *SCHEMA]),
}


@pytest.mark.parametrize("command", CHEAP)
def test_two_starts_leave_what_one_leaves(command, tmp_path):
    """The same file was written through one and the same work file by both."""
    script, words = CHEAP[command]
    data = tmp_path / "data"
    rows = [
        {"input": [f"How is thing {n}, and the one before it?"], "output": [f"Thing {n} is well {'so ' * (n % 7)}today."], "tag": ["plain", "lyrical"][n % 2]}
        for n in range(300)
    ]  # fmt: skip
    write_jsonl(data / "rows.jsonl", rows)
    attributes = [{"name": "style", "aspects": ["plain", "lyrical"], "dialogues": "rows.jsonl"}]  # fmt: skip
    (data / "schema.py").write_text(f"ATTRIBUTES = {json.dumps(attributes)}\n", encoding="utf-8")
    replies = [{"context": row["input"], "target": {"languagestyle": row["tag"]}, "response": row["output"][0]} for row in rows]  # fmt: skip

    def start(folder: Path) -> subprocess.Popen:
        module = script.removesuffix(".py").replace("/", ".")
        filled = [word.replace("{0}", str(folder)).replace("{1}", str(data)) for word in words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", module, *filled], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)  # fmt: skip

    left = {}
    for kind, number in (("alone", 1), ("together", 2)):
        write_jsonl(tmp_path / kind / "replies.jsonl", replies)
        processes = [start(tmp_path / kind) for _ in range(number)]
        said = [process.communicate() for process in processes]
        states = sorted(process.returncode for process in processes)
        assert states[0] == 0 and set(states) <= {0, 2}, said
        assert "Traceback" not in "".join(error for _, error in said), said
        left[kind] = files_in(tmp_path / kind)
    for name in ("replies.results.json",) if command == "score" else ():
        for content in left.values():
            content[name] = json.dumps(json.loads(content[name])["overall"]).encode()
    assert left["alone"] == left["together"]
