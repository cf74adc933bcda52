"""What the accelerator itself allows: figures of ours as a fraction of what it was seen to reach in this run."""

import time
from collections.abc import Callable

import torch
from transformers import AutoConfig

from tests.benchmarks.examples import Examples
from tests.benchmarks.report import Row, row_of
from tests.benchmarks.setup import Setup

ROUNDS = 5


def training_floor(setup: Setup, examples: Examples, seconds: Callable[[Examples], float]) -> Row:
    """Matrix arithmetic of a training step a second, beside that of one large product.

    With a frozen base a token costs 2 operations a parameter forward and 2 backward; attention and the adapters'
    own products are not counted.
    """
    operations = 4 * _parameters(setup) * examples.tokens / 1e12
    pairs = [(operations / seconds(examples), _product_teraflops(setup)) for _ in range(ROUNDS)]
    figure = setup.named("training: arithmetic reached, uniform batch")
    return row_of(figure, "TFLOP/s", pairs, peer="a matrix product of 8192 x 8192 in bf16", target=None)


def decoding_floor(setup: Setup, *, steps: int, rows: int, context: int, seconds: Callable[[], float]) -> Row:
    """Bytes that decoding must read a second, beside those that a copy moves.

    Each step reads every parameter once, and keys and values of `context` tokens (the mean) of each row.
    """
    config = AutoConfig.from_pretrained(setup.directory)
    width = config.num_key_value_heads * config.head_dim * config.num_hidden_layers
    element = setup.size.dtype.itemsize
    gigabytes = steps * element * (_parameters(setup) + 2 * width * context * rows) / 1e9
    pairs = [(gigabytes / seconds(), _copy_gigabytes(setup)) for _ in range(ROUNDS)]
    figure = setup.named(f"decoding: memory bandwidth reached, {rows} rows")
    return row_of(figure, "GB/s", pairs, peer="a copy on the device", target=None)


def _parameters(setup: Setup) -> int:
    """Each is used once a token: embeddings and head are one matrix, and looking a row up costs nothing."""
    return sum(value.numel() for value in setup.load().parameters())


def _product_teraflops(setup: Setup) -> float:
    size = 8192
    left, right = (torch.randn(size, size, device=setup.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / 1e12 / _device_seconds(lambda: left @ right)


def _copy_gigabytes(setup: Setup) -> float:
    source = torch.zeros(1 << 30, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e9 / _device_seconds(lambda: target.copy_(source))


def _device_seconds(work: Callable[[], object], repeats: int = 20) -> float:
    """Of one repeat, after one to warm up."""
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats
