"""Training an embedded model from nothing: Muon for its matrices, AdamW for embeddings and norms.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) orthogonalises each update; at a few hundred steps of a
model this small it reaches what AdamW needs several times as long for.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tinsmith_server.models.embedded.catalogue import EmbeddedModel
from tinsmith_server.models.embedded.conversations import batches
from tinsmith_server.models.embedded.examples import Batch, Renderer, padded_groups

MUON_RATE, MUON_MOMENTUM = 0.02, 0.9
ADAM_RATE, ADAM_BETAS = 6e-3, (0.9, 0.95)
RISING_STEPS = 20
GRADIENT_NORM = 1.0
INITIAL_DEVIATION = 0.02


def warm_up(
    shape: EmbeddedModel, tokenizer: PreTrainedTokenizerFast, progress: Callable[[int, int], None] | None = None
) -> Qwen3ForCausalLM:
    """A trained model. A function of `shape` and `tokenizer` alone when torch runs on one thread."""
    model = _fresh_model(shape, tokenizer)
    optimizers = _optimizers(model)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    renderer = Renderer(tokenizer)
    for step, conversations in enumerate(islice(batches(shape.seed), shape.warm_up_steps)):
        _accumulate(model, padded_groups(renderer.examples(conversations)))
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * _schedule(step, shape.warm_up_steps)
            optimizer.step()
            optimizer.zero_grad()
        if progress:
            progress(step + 1, shape.warm_up_steps)
    return model


def _fresh_model(shape: EmbeddedModel, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Random weights from a generator of their own, whatever the process's generator has been used for."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        model: Qwen3ForCausalLM = Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(shape.seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=INITIAL_DEVIATION, generator=generator)
    return model


def _optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    embedding = model.model.embed_tokens.weight
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2 and parameter is not embedding]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=MUON_MOMENTUM, weight_decay=0),
        torch.optim.AdamW([embedding, *vectors], lr=ADAM_RATE, betas=ADAM_BETAS, weight_decay=0, fused=True),
    ]


def _schedule(step: int, steps: int) -> float:
    """A short linear rise, then a linear fall to nothing."""
    return min(1.0, (step + 1) / RISING_STEPS) * (1 - step / steps)


def _accumulate(model: Qwen3ForCausalLM, groups: Sequence[Batch]) -> None:
    """Adds the gradient of the weighted mean of all tokens' cross entropy."""
    total = sum(float(batch.weights_BT[:, 1:].sum()) for batch in groups)
    for batch in groups:
        logits_BTV = model(input_ids=batch.tokens_BT[:, :-1], use_cache=False).logits
        losses_N = cross_entropy(logits_BTV.flatten(0, 1), batch.tokens_BT[:, 1:].flatten(), reduction="none")
        loss = (losses_N * batch.weights_BT[:, 1:].flatten()).sum() / total
        torch.autograd.backward(loss)
