"""Which device is chosen, and that nothing of a reply needs what Apple's MPS has not: float64."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from common.devices import choose_device
from common.errors import InputError
from common.provenance import command_line, device_name
from miracle import Miracle


@pytest.fixture
def machine(monkeypatch):
    """A machine with the accelerators named."""

    def make(*kinds):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)

    return make


@pytest.mark.parametrize(
    ("kinds", "best"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")]
)
def test_the_best_device_is_chosen_unless_another_is_named(machine, kinds, best):
    machine(*kinds)
    assert choose_device() == choose_device("") == torch.device(best)
    assert choose_device("cpu") == torch.device("cpu")
    if kinds:
        assert choose_device(torch.device(best, 0)) == torch.device(best, 0)


def test_attention_that_plans_for_every_shape_is_off_on_cuda(machine, monkeypatch):
    machine("cuda")
    wanted = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", wanted.append)
    choose_device("cpu")
    assert wanted == []
    choose_device()
    assert wanted == [False]


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "gpu", "meta"])
def test_a_device_that_is_not_there_is_named(machine, name):
    machine("mps")
    with pytest.raises(InputError, match=f"device '{name}' cannot be used; this machine has mps, cpu"):
        choose_device(name)


def test_every_entry_point_takes_a_device(machine, tiny_run):
    import chat
    import gen_cvae
    from scoring import score

    spec = importlib.util.spec_from_file_location(
        "playground_script", Path(chat.__file__).with_name("playground.py")
    )  # a package has the name
    spec.loader.exec_module(playground := importlib.util.module_from_spec(spec))

    machine()
    run = ["--outs", str(tiny_run.parent), "--run", tiny_run.name, "--limit", "1"]
    commands = [
        (chat.main, [str(tiny_run)]),
        (score.main, [str(tiny_run)]),
        (gen_cvae.main, [*run, "--name", "x"]),
    ]
    if importlib.util.find_spec("gradio"):
        commands.append((playground.main, [str(tiny_run)]))
    for main, words in commands:
        with pytest.raises(InputError, match="device 'cuda' cannot be used; this machine has cpu"):
            main([*words, "--device", "cuda"])


class NoFloat64(TorchDispatchMode):
    """Refuses what MPS refuses."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **kwargs or {})
        for value in found if isinstance(found, (tuple, list)) else (found,):
            assert not (isinstance(value, torch.Tensor) and value.dtype == torch.float64), (
                f"{operation} makes float64"
            )
        return found


@pytest.mark.parametrize(
    "options", [{}, {"decoding": "top_p", "start": "sample"}, {"algorithm": "langevin", "langevin_steps": 2}]
)
def test_a_reply_makes_no_float64(tiny_run, options):
    model = Miracle.from_run(tiny_run, "cpu")
    with NoFloat64():
        reply = model.reply("Is it far?", "optimistic", max_new_tokens=3, **options)[0]
        model.explain(reply)
        model.prior(reply)
    assert sum(reply.probabilities["attitude"].values()) == pytest.approx(1, abs=2e-6)
    with pytest.raises(AssertionError, match="makes float64"), NoFloat64():
        torch.ones(1).double()


def test_records_name_the_device_and_no_machine_s_paths(machine, monkeypatch):
    machine("mps")
    assert device_name() == "mps" and device_name(torch.device("cpu")).startswith("cpu (")
    monkeypatch.setattr(
        "sys.argv",
        ["/home/me/x/gen_cvae.py", "--outs=/home/me/outs", "--base", "/home/me/bases", "--target", "a/b"],
    )
    assert command_line() == "python gen_cvae.py --outs=outs --base bases --target a/b"


@pytest.mark.parametrize("threads, said", [(1, "cpu (1 thread)"), (2, "cpu (2 threads)")])
def test_threads_are_counted_in_words_that_fit(monkeypatch, threads, said):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert device_name(torch.device("cpu")) == said
