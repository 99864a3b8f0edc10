"""Shell scripts: what macOS's bash 3.2 can run, line ends in every checkout, and whose folder a path is taken from."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("*.sh"), *(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"])
SEVERAL = ("environment.sh", "test.sh", "run", "pretrain_tiny.sh")  # no command of Python's, or many
COMMANDS = [path for path in SCRIPTS if path.name not in SEVERAL]

NEWER_THAN_3_2 = {  # what bash 3.2 lacks, or does otherwise, and how to find it
    'an empty array under set -u: write ${X[@]+"${X[@]}"}': r"(?<!\+)(?<!\+\")\"?\$\{\w+\[[@*]\]\}",
    "associative arrays, name references": r"\b(?:declare|local|typeset)\s+-\w*[Ang]",
    "reading lines into an array": r"\b(?:mapfile|readarray|coproc)\b",
    "changing case, ${x^^} ${x,,}": r"\$\{\w+(?:\[[^]]*\])?(?:\^|,|@[A-Za-z]\})",
    "|& and &>>": r"\|&|&>>",
    "falling through in case": r";;?&",
    "[[ -v x ]]": r"\[\[?\s+(?:!\s+)?-v\b",
    "negative positions": r"\$\{\w+\[-\d|\$\{\w+:\s*[^}]*:\s*-\d",
    "printf's dates": r"printf\s+(?:-v\s+\w+\s+)?['\"]?%\(",
    "shell options of bash 4": r"\bshopt\s+-s\s+(?:globstar|lastpipe|inherit_errexit|autocd)",
    "wait -n, read -i, read -N, exec {fd}>": r"\bwait\s+-n|\bread\s+-\w*[iN]|\bexec\s+\{\w+\}",
    "EPOCHSECONDS, BASHPID, SRANDOM": r"\$\{?(?:EPOCHSECONDS|EPOCHREALTIME|BASHPID|SRANDOM|BASH_ARGV0)\b",
    "{01..10}, {1..10..2}": r"\{0\d+\.\.|\{\d+\.\.\d+\.\.",
    "GNU's tools": r"\b(?:readlink\s+-f|realpath|sed\s+-i\s+[^'\"\s]|sed\s+-r|grep\s+-\w*P|date\s+-d|stat\s+-c|mktemp\s+--|cp\s+--|nproc)\b",
}


def complaints(script: str) -> list[str]:
    """What a script has that bash 3.2 would not run, as ``line: reason``; comments do not count."""
    found = []
    for number, line in enumerate(script.splitlines(), 1):
        code = re.sub(r"(?:^|\s)#.*", "", line)
        found += [
            f"{number}: {reason}" for reason, pattern in NEWER_THAN_3_2.items() if re.search(pattern, code)
        ]
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_keep_to_what_bash_3_2_has(path):
    text = path.read_bytes()
    assert b"\r" not in text and text.endswith(b"\n")
    assert complaints(text.decode()) == []
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
    assert "set -euo pipefail" in text.decode() or "/environment.sh" in text.decode()


@pytest.mark.parametrize(
    "line",
    [
        'exec x "${OPTIONS[@]}"', "exec x ${OPTIONS[*]}", 'for x in "${A[@]}"; do', "declare -A m", "local -n r=$1", "mapfile -t a < b", "echo ${x^^}",
        "echo ${x,,}", "echo ${x@Q}", "a |& b", "a &>> b", "x) y ;;&", "[[ -v x ]]", "[ -v x ]", "echo ${a[-1]}", "printf '%(%F)T'", "shopt -s globstar",
        "wait -n", "exec {fd}>x", "echo $EPOCHSECONDS", "echo {01..10}", 'readlink -f "$0"', "date -d now", "realpath .",
    ],
)  # fmt: skip
def test_the_rules_for_bash_3_2_can_fail(line):
    assert complaints(line)


@pytest.mark.parametrize(
    "line",
    [
        'exec x ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"',
        'OPTIONS+=(--a "$B")',
        "OPTIONS=()",
        "x=${BASH_SOURCE[0]}",
        "a && b > c 2>&1",
        "# mapfile",
        '${RUN:+"outs/$RUN"}',
    ],
)
def test_what_bash_3_2_has_is_allowed(line):
    assert complaints(line) == []


def test_a_windows_checkout_has_line_feeds(tmp_path):
    """With core.autocrlf=true, Git for Windows' default, every script ended in exit status 127: bash read "pipefail" with a carriage return."""
    if not shutil.which("git"):
        pytest.skip("no git")
    for name in (
        ".gitattributes",
        "pipeline.sh",
        "scripts/environment.sh",
        "dataset/sample_topics",
        "requirements.txt",
        ".ci/run",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def git(*words: str) -> None:
        subprocess.run(
            [
                "git",
                "-c",
                "core.autocrlf=true",
                "-c",
                "user.name=x",
                "-c",
                "user.email=x@example.org",
                *words,
            ],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init")
    git("add", "--all")
    git("commit", "--message", "files")
    for path in tmp_path.rglob("*.sh"):
        path.unlink()
    for name in ("dataset/sample_topics", "requirements.txt", ".ci/run"):
        (tmp_path / name).unlink()
    git("checkout", "--", ".")
    for name in (
        "pipeline.sh",
        "scripts/environment.sh",
        "dataset/sample_topics",
        "requirements.txt",
        ".ci/run",
    ):
        assert b"\r" not in (tmp_path / name).read_bytes()


@pytest.fixture
def told(tmp_path):
    """Runs a script from a user's folder with a stand-in for Python; returns what that was told: its folder, words and PYTHONPATH."""
    python = tmp_path / "py thon"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$PYTHONPATH" "${PYTHONSAFEPATH:-}" "$@"\n')
    python.chmod(0o755)
    here = tmp_path / "a user's folder"
    here.mkdir()

    def run(script: Path, *words: str, **variables: str) -> tuple[Path, str, list[str]]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PRESET", "RUN", "SCHEMA", "BASE", "ATTR", "PYTHONPATH", "CDPATH")
        }
        environment = clean | {"MIRACLE_ENV": "current", "PYTHON": str(python), "CDPATH": "/"} | variables
        done = subprocess.run(
            ["bash", str(script), *words], cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        folder, path, safe, *given = done.stdout.splitlines()
        assert safe == "1"  # a schema.py in the user's folder is not taken for ours
        return Path(folder), path, given

    run.folder = here
    return run


@pytest.mark.parametrize("script", COMMANDS, ids=lambda path: path.name)
def test_a_script_leaves_the_user_where_they_stand(told, script):
    folder, path, words = told(
        script, "--contexts", "mine.jsonl", "two words", SCHEMA="schema.py", RUN="r", PYTHONPATH="theirs"
    )
    assert folder == told.folder and path == f"{ROOT}:theirs"
    assert words[0] == "-m" or Path(words[0]) == ROOT / Path(words[0]).name and Path(words[0]).is_file()
    assert words[-3:] == ["--contexts", "mine.jsonl", "two words"]


@pytest.mark.parametrize(
    "name", ["pipeline.sh", "train_classifier.sh", "train_nli.sh", "train_cvae.sh", "gen_cvae.sh"]
)
def test_variables_become_options_and_none_are_needed(told, name):
    assert not [word for word in told(ROOT / name)[2][1:] if word.startswith("--")]
    words = told(ROOT / name, PRESET="small", RUN="r", SCHEMA="a b.py", BASE="~/x")[2]
    assert words[-8:] == ["--preset", "small", "--run", "r", "--schema", "a b.py", "--base", "~/x"]
    if name == "train_classifier.sh":
        assert told(ROOT / name, ATTR="attitude")[2][-2:] == ["--attribute", "attitude"]


@pytest.mark.parametrize("name", ["chat.sh", "playground.sh", "serve.sh"])
def test_a_run_s_name_is_the_option_that_says_so_to_them_all(told, name):
    assert told(ROOT / name, RUN="r")[2][1:] == ["--run", "r"]


@pytest.mark.parametrize("name", ["playground.sh", "serve.sh"])
def test_what_is_installed_is_said_and_not_for_help(tmp_path, name):
    """In a copy whose Python has none of the packages, and only writes down what it is told."""
    for path in (name, "scripts/environment.sh", "requirements.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "requirements.txt", tmp_path / ".venv" / "installed.txt")
    python.write_text('#!/bin/sh\n[ "$1" != -c ] || exit 1\necho "$1 $2"\n')
    python.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key not in ("MIRACLE_ENV", "RUN")}

    def lines(*words: str) -> list[str]:
        command = ["bash", str(tmp_path / name), *words]
        return subprocess.run(
            command, env=clean, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    first, pip, run = lines()
    assert re.fullmatch(r"installing (gradio|fastapi, uvicorn and prometheus_client) \(once\)", first)
    assert pip == "-m pip" and run.strip() == str(tmp_path / name).replace(".sh", ".py")
    for word in ("--help", "-h"):
        assert len(lines("--port", "1", word)) == 1


def test_a_script_works_from_another_folder_through_a_relative_path(told):
    link = told.folder / "elsewhere"
    link.symlink_to(ROOT)
    assert Path(told(Path("elsewhere/pipeline.sh"))[1]).resolve() == ROOT


def test_a_user_s_schema_is_the_one_in_the_user_s_folder(tmp_path):
    """``SCHEMA=schema.py bash /elsewhere/train_classifier.sh`` trained on the bundled corpus without a word."""
    rows = [
        {"input": [f"what of {i} {a}?"], "output": [f"{a} {a} thing {i}"], "tag": a}
        for i in range(4)
        for a in ("red", "green")
    ]
    for name in ("dialogue", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "schema.py").write_text(
        "ATTRIBUTES = [dict(name='colour', aspects=['red', 'green'], dialogues='dialogue.jsonl', dev_dialogues='dev.jsonl')]\n"
    )
    environment = os.environ | {"MIRACLE_ENV": "current", "PYTHON": sys.executable, "SCHEMA": "schema.py"}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "check_data.sh"), "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert list(json.loads(done.stdout)["attributes"]) == ["colour"]


def test_paths_are_the_user_s_and_defaults_the_repository_s(tmp_path, monkeypatch):
    import make_data_chatgpt
    from common.errors import InputError
    from common.options import CommonArguments, parse_arguments
    from common.schema import load_schema

    (tmp_path / "my.yaml").write_text("common: {schema: theirs.py}\n")
    (tmp_path / "theirs.py").write_text("")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def parsed(*words: str) -> CommonArguments:
        return parse_arguments((CommonArguments,), "none", list(words), "")[0]

    assert (
        Path(parsed().schema) == ROOT / "schema.py"
        and parsed().run_folder.resolve() == work / "outs" / "demo"
    )
    assert Path(parsed("--preset", "paper").schema) == ROOT / "schema_paper.py"
    assert Path(parsed("--schema", "schema.py").schema).resolve() == work / "schema.py"
    assert Path(parsed("--preset", "../my.yaml").schema) == tmp_path / "theirs.py"
    with pytest.raises(
        InputError,
        match=r"schema not found: .*work/schema\.py; a path is taken from where you stand, the repository's is .*schema\.py$",
    ):
        load_schema("schema.py")
    options = make_data_chatgpt.parser().parse_args(["--aspect", "lyrical"])
    assert (
        options.topics == ROOT / "dataset" / "sample_topics"
        and options.output_dir.resolve() == work / "data" / "collected"
    )
    assert make_data_chatgpt.tasks_of(options)
