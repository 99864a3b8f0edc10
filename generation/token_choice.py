"""Which token comes next: penalties on what the reply already says, then the largest logit or a draw from the nucleus."""

import math

import torch

UNWRITTEN = -1  # in a reply's tokens: nothing there (yet)
UNDECIDED = -1  # of a choice: the tokens that were looked at are too few
FEW = (32, 256)  # tokens that are tried before all are sorted
SMALLEST = 1e-30  # temperature and top_p that count; in 32 bits a smaller one becomes 0
IMPLAUSIBLE = 1e4  # taken from logits; their order stays, for where everything plausible is banned


def nucleus_choice(
    logits: torch.Tensor, uniforms: torch.Tensor, top_p: float, temperature: float
) -> torch.Tensor:
    """One token per row from the smallest set of tokens whose probability reaches `top_p` (Holtzman et al., 2020).

    Args:
        logits: [B, V].
        uniforms: [B] in [0, 1), the randomness.
        top_p: in (0, 1].
        temperature: over 0; divides the logits.

    Returns:
        Token ids, [B].
    """
    top_p = max(top_p, SMALLEST)
    return _drawn(*_largest(_probabilities(logits, temperature), top_p), uniforms, top_p)


def likely_choice(
    logits: torch.Tensor, uniforms: torch.Tensor, top_p: float, temperature: float
) -> torch.Tensor:
    """As `nucleus_choice`, without asking the device anything, which would wait for it.

    Returns:
        Token ids, [B]; `UNDECIDED` where the few tokens that are looked at have not the mass.
    """
    few = FEW[0]
    if top_p >= 1 or few >= logits.shape[-1]:  # all are sorted
        return nucleus_choice(logits, uniforms, top_p, temperature)
    top_p = max(top_p, SMALLEST)
    largest, order = _probabilities(logits, temperature).topk(few, dim=-1)
    tokens = _drawn(largest, order, uniforms, top_p)
    return torch.where(largest.cumsum(-1)[:, -1] >= top_p, tokens, UNDECIDED)


def _probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.softmax(logits.float() / max(temperature, SMALLEST), dim=-1)


def _drawn(
    probabilities: torch.Tensor, order: torch.Tensor, uniforms: torch.Tensor, top_p: float
) -> torch.Tensor:
    """A token per row, [B], of those in falling order of probability, both [B, K]."""
    cumulative = probabilities.cumsum(-1)
    kept = torch.where(
        cumulative - probabilities < top_p, probabilities, torch.zeros_like(probabilities)
    ).cumsum(-1)
    position = torch.searchsorted(kept, (uniforms.to(kept) * kept[:, -1]).unsqueeze(1), right=True)
    return order.gather(1, position.clamp_max(order.shape[1] - 1)).squeeze(1)


def _largest(probabilities: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest probabilities of every row in falling order, at least as many as have that mass together, and their tokens.

    Sorting a vocabulary takes longer than a small model's step, and a few tokens nearly always have the mass; in a step that
    is recorded as a graph nothing may be read back.
    """
    recorded = probabilities.is_cuda and torch.cuda.is_current_stream_capturing()
    for few in () if recorded or mass >= 1 else FEW:
        if few < probabilities.shape[-1]:
            largest, order = probabilities.topk(few, dim=-1)
            if bool((largest.cumsum(-1)[:, -1] >= mass).all()):
                return largest, order
    return probabilities.sort(dim=-1, descending=True)


def guide(logits: torch.Tensor, plain: torch.Tensor, guidance: float, plausibility: float) -> torch.Tensor:
    """Logits in which what the latent changes is exaggerated (classifier-free guidance: Ho and Salimans, 2022; for language
    models Sanchez et al., 2023).

    Args:
        logits, plain: behind the latent and behind the reference, [B, V].
        guidance: how many times the difference is added to `plain`; 1 gives `logits`.
        plausibility: only tokens whose probability behind the latent is at least this share of the likeliest one's, so
            that no token wins by being unlikely without the latent (Li et al., ACL 2023); 0 admits all.
    """
    guided = plain + guidance * (logits - plain)
    if plausibility > 0:
        guided = torch.where(
            logits < logits.amax(-1, keepdim=True) + math.log(plausibility), guided - IMPLAUSIBLE, guided
        )
    return guided


def ban_repeated_ngrams(
    logits: torch.Tensor, written: torch.Tensor, step: torch.Tensor, size: int
) -> torch.Tensor:
    """Logits with -inf for every token that would complete an n-gram which the reply has already.

    The same rule as `transformers`' ``NoRepeatNGramLogitsProcessor``, which loops over rows and tokens in Python.

    Args:
        logits: [B, V].
        written: [B, N] tokens so far, `UNWRITTEN` behind them.
        step: [1], how many tokens each reply has.
        size: of the n-gram, at least 1.
    """
    return _ban_ngrams(logits, written, written, step, size)


def ban_said_ngrams(
    logits: torch.Tensor,
    said: torch.Tensor,
    written: torch.Tensor,
    step: torch.Tensor,
    size: int,
    eos_token_id: int,
) -> torch.Tensor:
    """Logits with -inf for every token that would complete an n-gram of the conversation so far (context blocking: Roller et
    al., EACL 2021), of whose tokens all but the last are the reply's own.

    A reply may always end.

    Args:
        said: [B, T] tokens of the prompts, `UNWRITTEN` in front of them.
        others: as for `ban_repeated_ngrams`.
    """
    return _ban_ngrams(logits, torch.where(said == eos_token_id, UNWRITTEN, said), written, step, size)


def _ban_ngrams(
    logits: torch.Tensor, source: torch.Tensor, written: torch.Tensor, step: torch.Tensor, size: int
) -> torch.Tensor:
    """Logits with -inf for every token that completes an n-gram of the source [B, M] behind what is written."""
    if source.shape[1] < size or written.shape[1] < size - 1:
        return logits
    ngrams = source.unfold(1, size, 1)  # [B, M - size + 1, size]
    last = (step - (size - 1) + torch.arange(size - 1, device=step.device)).clamp_min(
        0
    )  # columns of the tokens that an n-gram would begin with
    begun = (
        (ngrams[..., :-1] == written[:, last].unsqueeze(1)).all(-1)
        & (ngrams != UNWRITTEN).all(-1)
        & (step >= size - 1)
    )
    ban = torch.where(begun, -torch.inf, 0.0).to(logits.dtype)
    return logits.scatter_add(1, ngrams[..., -1].clamp_min(0), ban)


def penalise_repetition(logits: torch.Tensor, used: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits of tokens that the reply has, divided by the penalty where positive and multiplied where negative (Keskar et al., 2019).

    Args:
        logits: [B, V].
        used: [B, V], True for tokens that the reply has.
        penalty: over 1.
    """
    return torch.where(used, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
