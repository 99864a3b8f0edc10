"""Replies as OpenAI's completions and chunks, with what is ours in a field ``miracle`` of every choice."""

import json
import time
import uuid
from dataclasses import dataclass, field

from miracle import Reply
from server.jobs import Finished
from server.protocol import finite


def extra_of(reply: Reply) -> dict:
    """What the service says of a reply beyond its text."""
    return {
        "target": reply.target,
        "weights": {name: finite(weight) for name, weight in reply.weights.items()},
        "seed": reply.seed,
        "predicted": reply.predicted,
        "probabilities": reply.probabilities,
        "coherence": reply.coherence,
        "energy_start": finite(reply.energy_start),
        "energy": finite(reply.energy),
        "candidate": reply.candidate,
        "cut": None if reply.cut is None else str(reply.cut),
        "seconds": round(reply.seconds, 4),
    }


def data(content: dict | str) -> bytes:
    """A server-sent event."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


@dataclass
class Completion:
    """One request's completion, whole or in chunks.

    Attributes:
        extra: give every choice its field ``miracle``.
    """

    model: str
    extra: bool = True
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, finished: list[Finished]) -> dict:
        """The completion."""
        choices = [
            self._choice(f, "message", {"role": "assistant", "content": f.reply.text, "refusal": None})
            for f in sorted(finished, key=lambda f: f.index)
        ]
        return self._head("chat.completion", choices) | {"usage": usage(finished)}

    def chunk(self, index: int, delta: dict) -> dict:
        """A chunk of one choice."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._head("chat.completion.chunk", [choice])

    def last_chunk(self, finished: Finished) -> dict:
        """The chunk that ends a choice."""
        return self._head("chat.completion.chunk", [self._choice(finished, "delta", {})])

    def usage_chunk(self, finished: list[Finished]) -> dict:
        """The chunk behind all choices."""
        return self._head("chat.completion.chunk", []) | {"usage": usage(finished)}

    def _choice(self, finished: Finished, name: str, content: dict) -> dict:
        choice = {"index": finished.index, name: content, "logprobs": None, "finish_reason": finished.reason}
        return choice | ({"miracle": extra_of(finished.reply)} if self.extra else {})

    def _head(self, kind: str, choices: list[dict]) -> dict:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices}


def usage(finished: list[Finished]) -> dict:
    """Tokens: of the prompt as the decoder read it, and of the replies that were kept."""
    prompt, completion = finished[0].prompt, sum(f.tokens for f in finished)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
