"""Base models from the Hugging Face hub, or a mirror of it (HF_ENDPOINT), in the hub's own cache (HF_HOME)."""

from pathlib import Path

from tinsmith_server.models.storing import storing
from tinsmith_server.serving.errors import NotFound

_TEXT = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("*.safetensors",)
_OLD_WEIGHTS = ("pytorch_model*.bin",)


def download(hub_id: str, *, name: str, weights: bool = True) -> Path:
    """The directory of a hub model's snapshot, downloaded where it is not there yet. Blocks.

    Only weights, if wanted, and text are fetched, never code. NotFound BASE_MODEL_NOT_FOUND, whose message says what to
    do, when the hub has no such model, may not show it, or can't be reached; `name` is the model as requests name it. A
    full disk is told as in `storing`.
    """
    from huggingface_hub import snapshot_download  # slow to import, and only this needs it
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with storing(name, Path(HF_HUB_CACHE), setting="HF_HOME"):
            patterns = [*_TEXT, *(_WEIGHTS if weights else ())]
            directory = Path(snapshot_download(hub_id, allow_patterns=patterns))
            if weights and not any(directory.glob("*.safetensors")):
                snapshot_download(hub_id, allow_patterns=[*_TEXT, *_OLD_WEIGHTS])
    except HFValidationError as error:
        raise _not_found(name, f"{hub_id!r} is neither an embedded model nor a directory nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise _not_found(
            name, f"{hub_id!r} is not in the hub's cache, and the hub is offline or unreachable"
        ) from error
    except HfHubHTTPError as error:
        raise _not_found(name, f"the hub has no {hub_id!r}, or does not show it without HF_TOKEN") from error
    return directory


def _not_found(name: str, why: str) -> NotFound:
    return NotFound(
        f"base model {name!r}: {why}; set base_models to tinsmith-tiny (needs no download) or to a local directory, "
        "or unset HF_HUB_OFFLINE, or set HF_ENDPOINT to a mirror",
        reason="BASE_MODEL_NOT_FOUND",
        metadata={"base_model": name},
    )
