"""Checkpoints that the storage tests write."""

from typing import Any

from tinsmith_server.storage import CheckpointDraft, CheckpointUri, LoraShape

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000}


def draft(name: str = "000001", *, model: str = "model", kind: str = "training", **fields: Any) -> CheckpointDraft:
    uri = CheckpointUri(model_id=model, kind=kind, name=name)
    return CheckpointDraft(
        **{"uri": uri, "step": 1, "base_model": "tiny", "lora": LoraShape(rank=8, alpha=16.0), **fields}
    )
