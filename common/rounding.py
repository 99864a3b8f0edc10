"""Sizes rounded up, so that tensors have few different shapes: what is recorded for a shape then serves many batches."""

LARGE = 64  # rows: up to here a power of two, then a multiple


def round_up(length: int, multiple: int) -> int:
    """The next multiple of `multiple`."""
    return -(-length // multiple) * multiple


def rounded_rows(count: int) -> int:
    """The next power of two up to `LARGE`, then the next multiple of it."""
    return 1 << (count - 1).bit_length() if count <= LARGE else round_up(count, LARGE)
