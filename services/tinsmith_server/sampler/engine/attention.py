"""Attention whose bits depend on a token and what stands before it, not on how the keys were laid out.

Keys are used in pages of 64 by their position in the sequence. Scores and softmax see any number of whole 16s of keys,
those beyond a row's own masked: they add exact zeros. The values are summed page by page, in order, whatever the pages
belong to: a prompt that others share or the row itself. So a token computes the same in a prefill of any piece size, in
a decoding step, on pages from the cache, and beside any neighbour. `calibration.py` verifies it on the machine.

Letters: X batched items (rows or groups times KV heads), M queries of an item, T keys, D head size.
"""

import torch
from torch import Tensor

PAGE = 64
"""Keys whose values are summed in one product; also the grain of the prefix cache."""
KEY_QUANTUM = 16
LEAST_QUERIES = 4
"""Items with fewer queries are padded to this many: smaller products round differently."""


def whole_keys(keys: int) -> int:
    """`keys`, rounded up to what a product may have."""
    return -(-keys // KEY_QUANTUM) * KEY_QUANTUM


def scores(query_XMD: Tensor, keys_XTD: Tensor) -> Tensor:
    """[X, M, T]."""
    return torch.bmm(query_XMD, keys_XTD.transpose(1, 2))


def add_values(sum_XMD: Tensor | None, weights_XMT: Tensor, values_XTD: Tensor) -> Tensor:
    """Adds the weighted values to the sum of earlier pages, [X, M, D]. The keys begin at a page's first position."""
    for start in range(0, values_XTD.shape[1], PAGE):
        weights, values = weights_XMT[..., start : start + PAGE], values_XTD[:, start : start + PAGE]
        sum_XMD = torch.bmm(weights, values) if sum_XMD is None else sum_XMD.baddbmm_(weights, values)
    assert sum_XMD is not None
    return sum_XMD


def attend_each(query_BND: Tensor, keys_BHTD: Tensor, values_BHTD: Tensor, mask_B1T: Tensor) -> Tensor:
    """One query token a row against keys of its own: [B, N * D], N query heads.

    `keys` may be cut short in T; `mask` (0 or -infinity) hides what is not before the row's token.
    """
    rows, heads, length, _ = keys_BHTD.shape
    query_XMD = padded_queries(query_BND, heads)
    weights = scores(query_XMD, _items(keys_BHTD))
    weights.view(rows, -1, length).add_(mask_B1T)
    summed = add_values(None, weights.softmax(-1), _items(values_BHTD))
    return unpadded(summed, rows, query_BND.shape[1])


def padded_queries(query_BND: Tensor, heads: int) -> Tensor:
    """Scaled queries of one token a row as items: [B * H, M, D] with M at least LEAST_QUERIES."""
    rows, _, size = query_BND.shape
    query_BHRD = query_BND.reshape(rows, heads, -1, size)
    scale, repeats = float(size) ** -0.5, query_BHRD.shape[2]
    if repeats >= LEAST_QUERIES:
        return query_BHRD.mul(scale).view(rows * heads, repeats, size)
    padded = query_BND.new_zeros(rows, heads, LEAST_QUERIES, size)
    torch.mul(query_BHRD, scale, out=padded[:, :, :repeats])
    return padded.view(rows * heads, LEAST_QUERIES, size)


def unpadded(summed_XMD: Tensor, rows: int, query_heads: int) -> Tensor:
    """Items of one token a row as rows: [B, N * D]."""
    heads = len(summed_XMD) // rows
    own = summed_XMD.view(rows, heads, *summed_XMD.shape[1:])[:, :, : query_heads // heads]
    return own.reshape(rows, -1)


def _items(kv_BHTD: Tensor) -> Tensor:
    """[B, H, T, D] -> [B * H, T, D] without a copy, also where T is cut short."""
    return kv_BHTD.flatten(0, 1)
