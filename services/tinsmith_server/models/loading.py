"""A base model's directory into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from tinsmith_server.serving.errors import FailedPrecondition

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = ("float32", "bfloat16", "float16")
_LOADING = Lock()
"""transformers loads one model at a time: while it does, modules that any thread makes have no memory."""


def load_causal_lm(directory: Path, *, device: str = "cpu", dtype: str = "float32") -> "PreTrainedModel":
    """The model of a checkpoint directory, in evaluation mode, its parameters without gradients. Blocks.

    FailedPrecondition BASE_MODEL_UNUSABLE when the directory holds no complete causal language model that this
    version of `transformers` knows, when `dtype` is none of float32, bfloat16, float16, or when there is no `device`.
    Code that comes with a checkpoint is never run.
    """
    import torch  # imported here so that naming a model needs no torch
    from transformers import AutoModelForCausalLM

    if dtype not in _DTYPES:
        raise _unusable(directory, f"dtype {dtype!r} is none of {', '.join(_DTYPES)}")
    with _told(directory), _LOADING, _no_progress_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
        )
        model, facts = loaded
        model.to(device)
    if facts["missing_keys"]:  # transformers would go on with random numbers in their place
        lacking = sorted(facts["missing_keys"])
        raise _unusable(directory, f"its weights lack {len(lacking)} parameters, {lacking[0]} among them")
    ready: PreTrainedModel = model.eval().requires_grad_(False)
    return ready


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a checkpoint directory. Blocks; FailedPrecondition BASE_MODEL_UNUSABLE when there is none.

    A fast tokenizer may be used by one thread at a time. AutoTokenizer brings torch along (500 MB, several seconds), so
    it only sees directories whose tokenizer is not written out in one file.
    """
    loader: Any
    if (directory / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast as loader
    else:
        from transformers import AutoTokenizer as loader
    with _told(directory):
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(directory, local_files_only=True)
    return tokenizer


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Whatever a broken file or a missing device makes of itself, down to Rust's errors, is one reason."""
    try:
        yield
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _unusable(directory, why) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _unusable(directory: Path, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"can't use the base model in {directory}: {why}", reason="BASE_MODEL_UNUSABLE", metadata={"problem": why}
    )
