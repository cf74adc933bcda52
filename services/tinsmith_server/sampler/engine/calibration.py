"""Finds out at load whether this machine's products keep rows apart, on the model's own matrices, type and threads.

What is tried, best first: all rows of a batch in one product, row numbers padded; products of a fixed number of rows;
requests one after the other. Everything is compared bit for bit: rows alone and among others, at other places, keys and
ranks padded, and at last a few sequences through the whole model, alone and together.
"""

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tinsmith_server.sampler.engine.adapter_rows import IN_PLACE_INNER, LEAST_TILE
from tinsmith_server.sampler.engine.attention import LEAST_QUERIES, PAGE, add_values, scores
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.engine.linear import Linear
from tinsmith_server.sampler.engine.low_rank import LEAST_INNER
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.engine.prefill import Prefill, Unread
from tinsmith_server.sampler.engine.rack import SizeClass
from tinsmith_server.sampler.engine.racks import Racks
from tinsmith_server.sampler.engine.row_products import TILE_ROWS, RowProducts

_log = logging.getLogger(__name__)
_ROWS = (16, 24, 40, 64, 136, 256, 512, 1000, 2048)
_MOST_MULTIPLICATIONS = 1 << 31
"""Of one trial product: some 20 to 100 ms of a CPU core."""
_PROBES = ((3, 1), (PAGE + 6, LEAST_QUERIES + 1), (2 * PAGE, 1))
"""Prompt length and answers of the sequences that go through the whole model."""
_PROBE_STEPS = 3


def calibrated(model: LlamaFamilyModel, limits: EngineLimits) -> EngineLimits:
    """Sets how the model's rows meet its matrices; returns `limits`, or those of requests one after the other."""
    for products in (RowProducts(), RowProducts(tile=TILE_ROWS)):
        model.products = products
        if _products_agree(model) and _attention_agrees(model) and _low_rank_agrees(model) and _sequences_agree(model):
            _log.info("%s: rows are computed %s", model.name, _in_words(products))
            return limits
    _log.warning("%s: rows change with their neighbours on this machine, so requests run one by one", model.name)
    model.products = RowProducts()
    return replace(limits, jobs=1, cache_bytes=0)


def _in_words(products: RowProducts) -> str:
    return "together" if products.tile is None else f"in products of {products.tile} rows"


def _products_agree(model: LlamaFamilyModel) -> bool:
    layer = model.weights.layers[0]
    linears = (layer.qkv, layer.out, layer.gate_up, layer.down, model.weights.head)
    return all(_rows_agree(model, linear) for linear in linears)


def _rows_agree(model: LlamaFamilyModel, linear: Linear) -> bool:
    most = max(_ROWS[1], _MOST_MULTIPLICATIONS // linear.weight_OI.numel())
    sizes = [model.products.padded(rows) for rows in _ROWS if rows <= most]
    x = _noise(model, sizes[-1], linear.weight_OI.shape[1])
    whole = model.products(linear, x)
    return all(
        torch.equal(model.products(linear, x[:rows]), whole[:rows])
        and torch.equal(model.products(linear, x[-rows:]), whole[-rows:])
        for rows in sizes
    )


def _attention_agrees(model: LlamaFamilyModel) -> bool:
    """Queries of an item, items, keys behind the last, and pages before the first do not matter."""
    size = model.weights.shape.head_size
    query, keys, values = _noise(model, 3, PAGE, size), _noise(model, 3, 4 * PAGE, size), _noise(model, 3, PAGE, size)
    whole = scores(query, keys)
    weights = whole[..., :PAGE].softmax(-1)
    summed = add_values(None, weights, values)
    for queries in (LEAST_QUERIES, LEAST_QUERIES + 1, max(LEAST_QUERIES, model.repeats), 24, PAGE):
        for length in (16, 48, PAGE, 2 * PAGE + 16):
            if not torch.equal(scores(query[1:2, :queries], keys[1:2, :length]), whole[1:2, :queries, :length]):
                return False
        if not torch.equal(add_values(None, weights[:1, :queries], values[:1]), summed[:1, :queries]):
            return False
    cut = whole.clone()
    cut[..., 32:] = float("-inf")
    padded = torch.cat([torch.full_like(cut, float("-inf")), cut], dim=-1).softmax(-1)
    short = cut[..., :32].softmax(-1)
    return torch.equal(padded[..., 4 * PAGE : 4 * PAGE + 32], short) and torch.equal(
        add_values(None, padded[..., 4 * PAGE : 5 * PAGE].contiguous(), values), add_values(None, short, values[:, :32])
    )


def _low_rank_agrees(model: LlamaFamilyModel) -> bool:
    """Tiles of rows equal single rows' products, padded ranks equal unpadded ones, adding in place equals adding."""
    width = model.weights.norm.shape[0]
    x, a, b = _noise(model, TILE_ROWS, width), _noise(model, width, LEAST_INNER), _noise(model, LEAST_INNER, width)
    y = _noise(model, TILE_ROWS, width)
    inner = x @ a
    term = inner @ b
    wide_a = torch.nn.functional.pad(a, (0, IN_PLACE_INNER - LEAST_INNER))
    wide_b = torch.nn.functional.pad(b, (0, 0, 0, IN_PLACE_INNER - LEAST_INNER))
    tiles = x.view(-1, LEAST_TILE, width)
    tiled = torch.bmm(torch.bmm(tiles, wide_a.expand(len(tiles), -1, -1)), wide_b.expand(len(tiles), -1, -1))
    return torch.equal(tiled.view_as(term), term) and torch.equal(y.clone().addmm_(inner, b), y + term)


def _sequences_agree(model: LlamaFamilyModel) -> bool:
    rng = np.random.default_rng(0)
    probes = [(rng.integers(0, model.vocabulary, length).astype(np.int32), rows) for length, rows in _PROBES]
    probes = [(tokens[: model.context - _PROBE_STEPS - 1], rows) for tokens, rows in probes]
    together = _decoded(model, probes, piece=4 * PAGE)
    alone = [next(iter(_decoded(model, [(tokens, 1)], piece=PAGE))) for tokens, _ in probes]
    firsts = np.cumsum([0, *(rows for _, rows in probes[:-1])])
    return all(torch.equal(together[first], own) for first, own in zip(firsts.tolist(), alone, strict=True))


def _decoded(model: LlamaFamilyModel, probes: list[tuple["np.ndarray", int]], *, piece: int) -> list[Tensor]:
    """The logits of each row after its prompt and after some more tokens, [steps + 1, V] each."""
    prefill = Prefill(model, [Unread(tokens=tokens, adapter=None) for tokens, _ in probes])
    while prefill.tokens_left:
        prefill.read(piece)
    sequence_B = np.repeat(np.arange(len(probes)), [rows for _, rows in probes])
    racks, logits, base = Racks(model), prefill.logits(), model.rows_of([None], np.zeros(len(sequence_B), np.int64))
    for number, (tokens, rows) in enumerate(probes):
        size = SizeClass.of(rows=rows, prompt=len(tokens), new_tokens=_PROBE_STEPS + 1)
        ids = np.flatnonzero(sequence_B == number)
        racks.add(prefill, sequence_B[ids], ids, size)
    steps = [logits[model.on_device(sequence_B)]]
    for _ in range(_PROBE_STEPS):
        found = torch.empty_like(steps[0])
        found[model.on_device(racks.ids)] = racks.step(steps[-1].argmax(-1).cpu().numpy()[racks.ids], base)
        steps.append(found)
    return list(torch.stack(steps, dim=1))


def _noise(model: LlamaFamilyModel, *sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sizes, generator=generator).to(model.weights.norm)
