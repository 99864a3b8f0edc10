"""Tokens that are chosen while something else happens are those of the library's own loop."""

import pytest
import torch

from generation.decoding import Rules
from generation.token_choice import UNDECIDED, nucleus_choice
from server import next_tokens
from server.next_tokens import NextTokens
from server.slots import DecodingRow

RULES = Rules(0, "top_p", 0.9, 1.0, 0, 1.0, 1.0, 0.0, 0)


def rows(count: int) -> list[DecodingRow]:
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(1)).tolist()
    return [DecodingRow([5], torch.zeros(2), RULES, 3, uniforms=[uniform] * 3) for uniform in uniforms]


@pytest.mark.parametrize("flat", [False, True], ids=["all likely", "one undecided"])
def test_the_tokens_are_those_of_the_nucleus(flat, monkeypatch):
    logits = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)) * 12
    if flat:
        logits[7] = 0
    own, asked = rows(20), []
    monkeypatch.setattr(
        next_tokens, "nucleus_choice", lambda *words: asked.append(words) or nucleus_choice(*words)
    )
    choice = NextTokens([logits], own, RULES)
    assert not any(row.written or row.ended for row in own), "nothing is known before it is taken"
    choice.take()
    uniforms = torch.tensor([row.uniforms[0] for row in own])
    expected = nucleus_choice(logits, uniforms, 0.9, 1.0).tolist()
    assert [row.written[0] if row.written else 0 for row in own] == expected
    assert len(asked) == flat and UNDECIDED not in expected
