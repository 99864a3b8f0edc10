"""Key/value caches that begin with the prefix which z becomes: one for training, one for writing replies."""

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class PrefixLayer(DynamicLayer):
    """A layer's cache that holds the prefix and stores nothing more.

    `transformers` drops a cache under gradient checkpointing, because recomputing a layer would append its keys twice.
    This one has nothing to append to, so a layer can be recomputed and still see the prefix.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prefix and new states together; the cache stays as it is."""
        keys = torch.cat([self.keys.to(key_states.dtype), key_states], dim=-2)
        return keys, torch.cat([self.values.to(value_states.dtype), value_states], dim=-2)


class RoomLayer(DynamicLayer):
    """A layer's cache with room for a whole reply, filled in place.

    A cache that grows copies all that it has at every token, and never lies where it lay before, so a step cannot be
    recorded as a graph.

    Args:
        keys, values: of the prefix, [B, heads, n_prefix, head size].
        room: columns in all.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int):
        super().__init__()
        # as `lazy_initialization`, whose empty tensors come from the CPU, which no recording may ask for
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        shape = (*keys.shape[:2], room, keys.shape[3])
        self.keys, self.values = keys.new_zeros(shape), values.new_zeros(shape)
        self.keys[:, :, : keys.shape[2]], self.values[:, :, : keys.shape[2]] = keys, values
        self.columns: torch.Tensor | None = None
        self.visible = room

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New states go into `columns`; what is returned are the first `visible` columns."""
        assert self.columns is not None, "set_columns comes before every step"
        self.keys.index_copy_(2, self.columns, key_states)
        self.values.index_copy_(2, self.columns, value_states)
        return self.keys[:, :, : self.visible], self.values[:, :, : self.visible]


class StaticPrefixCache(Cache):
    """The `RoomLayer`s of a decoder.

    Args:
        prefix: keys and values per layer, which may have no columns.
        room: columns behind it, at least.

    Attributes:
        room: columns in all; a multiple of 16, as attention kernels want the rows of their masks.
    """

    def __init__(self, prefix: list[tuple[torch.Tensor, torch.Tensor]], room: int):
        self.room = -(-(prefix[0][0].shape[2] + room) // 16) * 16
        super().__init__(layers=[RoomLayer(keys, values, self.room) for keys, values in prefix])

    def set_columns(self, columns: torch.Tensor, visible: int) -> None:
        """The next states go into these columns (a tensor, so that a recorded step can move on), and `visible` are read."""
        for layer in self.layers:
            layer.columns, layer.visible = columns, visible

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows of the batch go on."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
