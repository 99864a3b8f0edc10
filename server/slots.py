"""Decoding that rows join and leave between steps (iteration-level batching: Yu et al., OSDI 2022, call it Orca's).

`generation.decoding.generate` writes a batch from its first token to its last. Here every row has a slot of one large
key/value cache and its own length, so that a step writes the next token of all rows whatever their prompts, rules and
ages are. A row's latent, noise and rules are those that `generate` would use, and nothing of it depends on the others
but rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from common.rounding import round_up, rounded_rows
from dataset.batching import pad
from generation.decoding import Decoder, Rules
from model.cache import StaticPrefixCache
from model.decoder import causal_mask, positions_of
from model.graphs import Recordings, recorded
from model.transfers import to_device
from server.next_tokens import NextTokens

ROOM_STEP = 64  # columns that the cache grows by
FEWEST = 8  # slots
PROMPT_STEP = 16  # tokens that prompts are rounded up to a multiple of where reading them is recorded
MOST_GRAPHS = 64  # recorded steps that are kept


@dataclass(eq=False)
class DecodingRow:
    """One reply being written.

    Attributes:
        prompt: token ids.
        z: its latent, [D]; reference: the latent without control, [D], where guidance is measured against it, else None.
        rules: how its tokens are chosen.
        longest: tokens that it may have.
        uniforms: randomness in [0, 1), `longest` numbers; None where nothing is sampled.
        written: its tokens so far, without the end-of-sequence token.
        ended: "stop" behind that token, "length" at `longest`; "" while it is under way.
        owner: whom it is written for.
    """

    prompt: list[int]
    z: torch.Tensor
    rules: Rules
    longest: int
    reference: torch.Tensor | None = None
    uniforms: list[float] | None = None
    written: list[int] = field(default_factory=list)
    ended: str = ""
    owner: object = None

    @property
    def readings(self) -> list[torch.Tensor]:
        """The latents that it is read behind."""
        return [self.z] if self.reference is None else [self.z, self.reference]

    def take(self, token: int) -> None:
        """The next token."""
        if token == self.rules.eos_token_id:
            self.ended = "stop"
            return
        self.written.append(token)
        if len(self.written) == self.longest:
            self.ended = "length"


class SlotLayer(DynamicLayer):
    """A layer's keys and values for all slots, [slots, heads, room, head size]; a step writes one column of each."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.columns: torch.Tensor | None = None
        self.visible = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The states of the next token, [rows, heads, 1, head size], go into each row's own column."""
        assert self.columns is not None, "set_columns comes before every step"
        rows = key_states.shape[0]
        column = self.columns.view(-1, 1, 1, 1).expand(key_states.shape)
        self.keys[:rows].scatter_(2, column, key_states)
        self.values[:rows].scatter_(2, column, value_states)
        return self.keys[:rows, :, : self.visible], self.values[:rows, :, : self.visible]


class SlotCache(Cache):
    """The `SlotLayer`s of a decoder, parts of one tensor, so that slots move in all layers at once.

    Args:
        like: a cache of the same decoder, for shapes and types.
    """

    def __init__(self, like: StaticPrefixCache):
        _, heads, _, size = like.layers[0].keys.shape
        self._states = like.layers[0].keys.new_zeros(2 * len(like.layers), 0, heads, 0, size)
        super().__init__(layers=[SlotLayer(*pair) for pair in zip(self._states[::2], self._states[1::2])])
        self.slots = self.room = 0

    def reserve(self, slots: int, room: int) -> None:
        """Room for at least so many slots and columns; what is there stays."""
        if slots > self.slots or room > self.room:
            self.slots = max(self.slots, slots if slots <= FEWEST else max(slots, 2 * self.slots))
            self.room = max(self.room, round_up(room, ROOM_STEP))
            before = self._states
            number, had, heads, columns, size = before.shape
            self._states = before.new_zeros(number, self.slots, heads, self.room, size)
            self._states[:, :had, :, :columns] = before
            for layer, keys, values in zip(self.layers, self._states[::2], self._states[1::2]):
                layer.keys, layer.values = keys, values

    def set_columns(self, columns: torch.Tensor, visible: int) -> None:
        """The next states of every row go into its column, [rows], and the first `visible` columns are read."""
        for layer in self.layers:
            layer.columns, layer.visible = columns, visible

    def take(self, prompts: StaticPrefixCache, slots: torch.Tensor, columns: torch.Tensor) -> None:
        """Put what prompts left in their own cache into slots [rows], its columns [rows, n] side by side."""
        rows, filled = columns.shape
        for layer, read in zip(self.layers, prompts.layers):
            index = columns.view(rows, 1, filled, 1).expand(-1, read.keys.shape[1], -1, read.keys.shape[3])
            layer.keys[:, :, :filled].index_copy_(0, slots, read.keys.gather(2, index))
            layer.values[:, :, :filled].index_copy_(0, slots, read.values.gather(2, index))

    def move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """The content of slots into other slots, of which none is a source."""
        self._states[:, targets] = self._states[:, sources]


def wider(
    inputs: dict[str, torch.Tensor], rows: int, width: int, pad_token_id: int
) -> dict[str, torch.Tensor]:
    """What `RowBatch` reads prompts from, up to so many rows, the last one again, and columns, padding in front."""
    fill, found = {"ids": pad_token_id, "mask": 0}, {}
    for name, value in inputs.items():
        if name in fill:
            value = F.pad(value, (width - value.shape[1], 0), value=fill[name])
        found[name] = torch.cat([value, value[-1:].expand(rows - len(value), *value.shape[1:])])
    return found


class StepGraph:
    """A step of so many slots and columns as a CUDA graph, with the tensors that it reads and writes.

    Args:
        slots: that it is recorded for; those behind the rows write into columns that nobody reads.
    """

    def __init__(self, slots: int, device: torch.device):
        self._tokens = torch.zeros(slots, 1, dtype=torch.long, device=device)
        self._columns = torch.zeros(slots, dtype=torch.long, device=device)
        self._logits: torch.Tensor | None = None
        self._replay: Callable[[], None] | None = None

    def run(
        self,
        tokens: torch.Tensor,
        columns: torch.Tensor,
        read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        record: Callable[[Callable[[], object]], Callable[[], None] | None] = recorded,
    ) -> tuple[torch.Tensor, bool]:
        """Logits of all slots, and whether the work is recorded; the first call computes them and records it."""
        self._tokens[: len(tokens)], self._columns[: len(columns)] = tokens, columns
        self._columns[len(columns) :] = 0
        if self._replay is not None and self._logits is not None:
            self._replay()
            return self._logits, True
        logits = self._logits = read(self._tokens, self._columns)
        self._replay = record(lambda: logits.copy_(read(self._tokens, self._columns)))
        return logits, self._replay is not None


class RowBatch:
    """All replies being written, one step at a time.

    The rows' readings fill the slots from 0 on without gaps: where one leaves, the last takes its slot, so that a step
    reads one block of the cache. A row's columns are its prefix, its prompt and its tokens, without padding.

    Args:
        meanwhile: called in every step while the device computes; it reads nothing from there, and leaves the rows alone.

    Attributes:
        rows: under way, in no particular order.
    """

    def __init__(
        self,
        decoder: Decoder,
        pad_token_id: int,
        device: torch.device,
        meanwhile: Callable[[], object] = lambda: None,
    ):
        self.decoder, self.pad_token_id, self.device = decoder, pad_token_id, device
        self.meanwhile = meanwhile
        self.rows: list[DecodingRow] = []
        self.clear()

    def clear(self) -> None:
        """Forget all rows, and the memory that they took."""
        self.rows.clear()
        self._owners: list[tuple[DecodingRow, int]] = []  # of each slot: the row, and which of its readings
        self._filled: list[int] = []  # columns of each slot
        self._cache: SlotCache | None = None
        self._offset: torch.Tensor | None = None  # [slots, ...]
        self._lexical: torch.Tensor | None = None  # [slots, V]
        self._graphs: dict[tuple[int, int], StepGraph] = {}  # by slots and columns
        self._graphs_wanted = self.device.type == "cuda"
        self._reads = Recordings(self._read_prompts, self.device)

    @torch.no_grad()
    def join(self, rows: list[DecodingRow]) -> None:
        """Read the prompts of new rows and write their first tokens."""
        owners = [(row, reading) for row in rows for reading in range(len(row.readings))]
        lengths = [len(row.prompt) for row, _ in owners]
        prefix, first, width = self.decoder.n_prefix, len(self._owners), max(lengths)
        inputs = self._prompts(owners, first)
        if self._reads.wanted:
            width = round_up(width, PROMPT_STEP)
            inputs = wider(inputs, rounded_rows(len(owners)), width, self.pad_token_id)
        room = max(prefix + width, *(prefix + len(row.prompt) + row.longest for row, _ in owners))
        self._prepare(inputs["z"], first + len(owners), room)
        logits = self._reads(inputs)[: len(owners)]
        self._owners += owners
        self._filled += [prefix + length for length in lengths]
        self.rows += rows
        for choice in self._choices(rows, logits, owners):
            choice.take()

    def _prompts(self, owners: list[tuple[DecodingRow, int]], first: int) -> dict[str, torch.Tensor]:
        """What `_read_prompts` takes for rows that get the slots from `first` on."""
        prompts = [row.prompt for row, _ in owners]
        return {
            "ids": pad(prompts, self.pad_token_id, side="left"),
            "mask": pad([[1] * len(prompt) for prompt in prompts], 0, side="left"),
            "z": torch.stack([row.readings[reading] for row, reading in owners]),
            "slots": torch.arange(first, first + len(owners)),
        }

    def _read_prompts(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [rows, V] behind prompts, whose states go into the rows' slots.

        Args:
            inputs: ids and mask [rows, T], padded on the left; z [rows, D]; slots [rows].
        """
        assert self._cache is not None and self._offset is not None, "_prepare comes before"
        decoder, prefix = self.decoder, self.decoder.n_prefix
        ids, mask, z, slots = (inputs[name] for name in ("ids", "mask", "z", "slots"))
        width, offset = ids.shape[1], decoder.to_offset(z)
        cache = decoder.start_cache(z, width)
        cache.set_columns(torch.arange(prefix, prefix + width, device=ids.device), prefix + width)
        seen = torch.cat([decoder.prefix_mask(z), mask], dim=1)
        logits = decoder.call(
            decoder.embed(ids, offset), causal_mask(seen, width), positions_of(mask), cache, logits_to_keep=1
        )[:, -1]
        columns = torch.arange(prefix + width, device=ids.device).repeat(len(ids), 1)
        pads = (width - mask.sum(1)).unsqueeze(1)
        columns = torch.where(columns < prefix, columns, columns + pads).clamp_max(prefix + width - 1)
        self._cache.take(cache, slots, columns)
        self._offset.index_copy_(0, slots, offset)
        if self._lexical is None or decoder.to_logits is None:
            return logits
        lexical = decoder.to_logits(z)
        self._lexical.index_copy_(0, slots, lexical)
        return logits + lexical

    def _prepare(self, z: torch.Tensor, slots: int, room: int) -> None:
        """The tensors of all slots, with room for so many of so many columns."""
        if self._cache is None:
            one = z[:1]
            self._cache = SlotCache(self.decoder.start_cache(one, 0))
            self._offset = self.decoder.to_offset(one)[:0]
            self._lexical = None if self.decoder.to_logits is None else self.decoder.to_logits(one)[:0]
        self._reserve(slots, room)

    def _reserve(self, slots: int, room: int) -> None:
        """Room for so many slots and columns; what was recorded with less is of no use any more."""
        assert self._cache is not None
        before = self._cache.slots, self._cache.room
        self._cache.reserve(slots, room)
        if (self._cache.slots, self._cache.room) != before:
            self._graphs.clear()
            self._reads.clear()
            for name in ("_offset", "_lexical"):
                had = getattr(self, name)
                if had is not None:
                    larger = had.new_zeros(self._cache.slots, *had.shape[1:])
                    larger[: len(had)] = had
                    setattr(self, name, larger)

    @torch.no_grad()
    def step(self) -> None:
        """Write the next token of every row; those that end are to be taken out by `leave` before the next step."""
        slots = len(self._owners)
        last = [row.written[-1] for row, _ in self._owners]
        tokens, columns = to_device(torch.tensor([last, self._filled]), self.device)
        logits = self._forward(tokens.unsqueeze(1), columns, max(self._filled) + 1)
        choices = self._choices(self.rows, logits[:slots], self._owners)
        self._filled = [filled + 1 for filled in self._filled]
        self.meanwhile()
        for choice in choices:
            choice.take()

    def _forward(self, tokens: torch.Tensor, columns: torch.Tensor, visible: int) -> torch.Tensor:
        """Next-token logits of all slots, and on a GPU of some behind them: there the work is recorded as a CUDA graph for
        every rounded number of slots and columns, as it is a thousand small kernels."""
        if not self._graphs_wanted:
            return self._read(tokens, columns, visible)
        slots, visible = rounded_rows(len(tokens)), round_up(visible, ROOM_STEP)
        self._reserve(slots, visible)
        graph = self._graphs.setdefault((slots, visible), StepGraph(slots, self.device))
        logits, recorded_it = graph.run(tokens, columns, lambda t, c: self._read(t, c, visible))
        self._graphs_wanted = recorded_it
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.clear()
        return logits

    def _read(self, tokens: torch.Tensor, columns: torch.Tensor, visible: int) -> torch.Tensor:
        """Logits [slots, V] behind tokens [slots, 1], whose states go into the columns [slots]."""
        assert self._cache is not None and self._offset is not None, "rows have joined"
        slots = len(tokens)
        self._cache.set_columns(columns, visible)
        mask = torch.arange(visible, device=self.device) <= columns.unsqueeze(1)
        logits = self.decoder.call(
            self.decoder.embed(tokens, self._offset[:slots]),
            mask.view(slots, 1, 1, visible),
            (columns - self.decoder.n_prefix).clamp_min(0).unsqueeze(1),
            self._cache,
            logits_to_keep=1,
        )[:, -1]
        return logits if self._lexical is None else logits + self._lexical[:slots]

    def leave(self, rows: list[DecodingRow]) -> None:
        """Rows that have ended, or are no longer wanted, give up their slots."""
        gone = set(rows)
        if not gone:
            return
        self.rows = [row for row in self.rows if row not in gone]
        stays = [row not in gone for row, _ in self._owners]
        left = sum(stays)
        holes = [slot for slot in range(left) if not stays[slot]]
        if holes:
            self._move([slot for slot in range(left, len(stays)) if stays[slot]], holes)
        del self._owners[left:], self._filled[left:]

    def _move(self, sources: list[int], targets: list[int]) -> None:
        """The last slots into those that were left, all at once: a move is a kernel for every layer."""
        assert self._cache is not None and self._offset is not None
        there, here = to_device(torch.tensor([sources, targets]), self.device)
        self._cache.move(there, here)
        for whole in (self._offset, self._lexical):
            if whole is not None:
                whole[here] = whole[there]
        for source, target in zip(sources, targets):
            self._owners[target], self._filled[target] = self._owners[source], self._filled[source]

    def _choices(
        self, rows: list[DecodingRow], logits: torch.Tensor, owners: list[tuple[DecodingRow, int]]
    ) -> list[NextTokens]:
        """The next token of each row, by its own rules; rows of equal rules together."""
        if len(owners) == len(rows) and all(row.rules is rows[0].rules for row in rows):  # as nearly always
            return [NextTokens([logits], [row for row, _ in owners], rows[0].rules)]
        places: tuple[dict[int, int], dict[int, int]] = ({}, {})  # by reading
        for place, (row, reading) in enumerate(owners):
            places[reading][id(row)] = place
        groups: dict[Rules, list[DecodingRow]] = {}
        for row in rows:
            groups.setdefault(row.rules, []).append(row)
        choices = []
        for rules, group in groups.items():
            readings = [
                logits[to_device(torch.tensor([found[id(row)] for row in group]), logits.device)]
                for found in places[: len(group[0].readings)]
            ]
            choices.append(NextTokens(readings, group, rules))
        return choices
