"""Names of checkpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.storage import CheckpointUri


def test_a_uri_is_read_and_written_alike() -> None:
    text = "tinsmith://run-7:policy/sampler/000012"
    uri = CheckpointUri.parse(text)
    assert (uri.model_id, uri.kind, uri.name) == ("run-7:policy", "sampler", "000012")
    assert str(uri) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tinsmith://",
        "tinsmith://m/sampler",
        "tinsmith://m/sampler/a/b",
        "tinsmith://m/weights/a",
        "tinsmith://../training/a",
        "tinsmith://m/training/..",
        "tinsmith://m/training/.hidden",
        "tinsmith://m/training/a\n",
        "tinsmith://m/training/a\0",
        "tinsmith://m/training/a:b",
        "tinsmith:///training/a",
        "tinker://m/training/a",
        "/etc/training/passwd",
        f"tinsmith://m/training/{'a' * 129}",
        "tinsmith://m/training/ä",
    ],
)
def test_what_is_no_uri_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        CheckpointUri.parse(text)
    assert refused.value.reason == "BAD_CHECKPOINT_URI"


@given(st.text(max_size=40) | st.from_regex(r"tinsmith://[^/]*/(training|sampler)/[^/]*", fullmatch=True))
def test_no_accepted_uri_leaves_its_folder(text: str) -> None:
    try:
        uri = CheckpointUri.parse(text)
    except InvalidArgument:
        return
    for part in (uri.model_id, uri.name):
        assert "/" not in part
        assert "\0" not in part
        assert not part.startswith(".")
    assert str(uri) == text
