"""Owns micros in pieces: the same draws for some clips of a batch. In: what has a first side B. Out: its rows."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from cinelora.contracts.flow import Batch, Noised


def runs_of(count: int, num: int) -> Iterator[slice]:
    """`num` runs of `count` clips, as even as can be."""
    edges = [count * k // num for k in range(num + 1)]
    yield from (slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False) if stop > start)


def rows_of_batch(batch: Batch, rows: slice) -> Batch:
    """Some clips of a batch; those that are in it several times have several rows."""
    count = len(batch.latents)
    return replace(
        batch,
        latents=batch.latents[rows],
        conditions=rows_of_table(batch.conditions, rows, count),
        names=batch.names[rows],
        weights=None if batch.weights is None else batch.weights[rows],
        loss_mask=None if batch.loss_mask is None else _rows(batch.loss_mask, rows, count),
    )


def rows_of_noised(noised: Noised, rows: slice) -> Noised:
    """Some clips of a noised batch."""
    count = len(noised.x)
    return Noised(**{name: _rows(tensor, rows, count) for name, tensor in vars(noised).items()})


def rows_of_table(table: Mapping[str, Tensor], rows: slice, count: int) -> dict[str, Tensor]:
    """Some clips of conditions B ...; what all clips share stays whole."""
    return {name: _rows(tensor, rows, count) for name, tensor in table.items()}


def _rows(tensor: Tensor, rows: slice, count: int) -> Tensor:
    return tensor[rows] if tensor.ndim and len(tensor) == count else tensor
