"""Tensors on their way are those that were sent, whatever comes after."""

import pytest
import torch

from model.transfers import Arriving, pinned, to_device

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=gpu)])
def test_there_and_back(name):
    device = torch.device(name)
    source = torch.arange(12).view(3, 4)
    there = to_device(source, device)
    assert there.device.type == name and torch.equal(there.cpu(), source)
    arriving = Arriving(there * 2)
    del there
    assert arriving.wait().device.type == "cpu" and torch.equal(arriving.wait(), source * 2)


def test_only_what_goes_to_a_gpu_is_pinned():
    values = torch.ones(2)
    assert pinned(values, torch.device("cpu")) is values


@gpu
def test_what_is_sent_and_fetched_is_of_its_time():
    """The memory that a copy goes through is used again only when the copy is done."""
    device, busy = torch.device("cuda"), torch.randn(4096, 4096, device="cuda")
    sent, fetched = [], []
    for number in range(200):
        busy = busy @ busy
        busy /= busy.norm()  # work that is still to be done
        sent.append(to_device(torch.full((1000,), number), device))
        fetched.append(Arriving(sent[-1] + 1))
    for number, (one, other) in enumerate(zip(sent, fetched)):
        assert (one == number).all() and (other.wait() == number + 1).all()
