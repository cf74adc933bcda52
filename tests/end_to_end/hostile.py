"""Requests that nobody means well: any message of the contract, filled with what hostile or clumsy clients send."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_DEEPEST = 7
_INT32 = (1 << 31) - 1
_INT64 = (1 << 63) - 1

_WHOLE = (0, 1, 2, 3, 7, 64, -1, 4096, 65_536)
_REAL = (0.0, -0.0, 1.0, 0.5, -1.0, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "x",
    "\0",
    "a\0b",
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "tinsmith://../training/..",
    "tinsmith://model/training/step-1",
    "١٢٣",
    "²",
    "{}",
    "[" * 20_000,
    '{"a":' * 2_000,
    '{"\\ud800": "\\udfff"}',
    '["\\ud800"]',
    "NaN",
    "1e999999",
    "9" * 5_000,
    "\\boxed{" * 500,
    "((((" * 500 + "1",
    "row.x ** row.x ** row.x",
    "%s%n{0}{__class__}",
    "\u202e\ufeff\U0010ffff",
    "-- '; DROP TABLE runs",
    "x" * 100_000,
)
_SANE_TEXTS: Mapping[str, tuple[str, ...]] = {
    "name": ("arithmetic", "gsm8k", "a"),
    "model": ("tinsmith-tiny",),
    "base_model": ("tinsmith-tiny",),
    "renderer": ("", "chatml", "role_colon", "chat_template"),
    "role": ("user", "assistant", "system", "tool"),
    "recipe": ("math_rl",),
    "split": ("", "train", "test"),
    "expression": ("row.a > 1", "a == 'x'", "len(a) > 2 and not b"),
    "id": ("TicTacToe-v0",),
    "columns": ("a", "question", "messages"),
    "page_token": ("",),
    "request_id": ("",),
    "options_json": ("",),
    "fingerprint": ("",),
    "letters": ("AB",),
    "answer": ("2", "\\boxed{2}", "\\frac{1}{2}", "A"),
    "question_suffix": ("", "?"),
}
"""Of fields by name, texts without which they are refused."""
_SANE_KEYS: Mapping[str, tuple[str, ...]] = {
    "loss_inputs": ("target_tokens", "weights", "logprobs", "advantages"),
    "overrides": ("steps", "loss", "learning_rate", "problem_options", "labels", "group_size", "max_tokens"),
    "options": ("seed", "max_operand", "operators"),
    "columns": ("question", "answer", "messages", "prompt"),
    "fields": ("a", "question"),
}
_SERVED = frozenset(
    (
        *("batch", "ragged", "base_model", "cross_entropy", "importance_sampling", "ppo", "token_ids", "math_rl"),
        *("catalogue", "inline", "files", "conversation", "preference", "text", "problem", "text_arena"),
        *("math", "exact", "contains", "choice", "numeric", "composite"),
        *("select_columns", "map_fields", "filter", "shuffle", "take", "skip", "slice", "concat", "split", "dedupe"),
        *("sample", "canonicalize"),
    )
)
"""Members of oneofs that this release does something with."""
_ROWS = (
    b"{}",
    b'{"a": 1}',
    b'{"a": "\\ud800"}',
    b'{"\\udfff": 1}',
    b'{"a": NaN, "b": 1e999}',
    b'{"a": -1e999, "question": 1e999, "answer": 1e999}',
    b'{"a": 123456789012345678901234567890}',
    b'{"question": "1+1", "answer": "2"}',
    b'{"question": null, "answer": [1, {"b": []}]}',
    b'{"question": "\\ud83d", "answer": "\\ud800"}',
    b'{"messages": [{"role": "user", "content": "\\udc00"}]}',
    b'{"messages": [{"role": "user", "content": [1, null, {"text": 5}], "tool_calls": 7, "name": []}]}',
    b'{"messages": [{"from": 5}], "id": {"a": 1}, "a": [1, "x", null]}',
    b"[" * 20_000,
    b'{"a": ' + b"9" * 5_000 + b"}",
    b"null",
    b"\xff\xfe",
    b"",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostility:
    """Fills messages; alike for equal states of `random`."""

    random: Random
    care: float
    """How likely a value makes sense: a request that is wrong in one place comes further than one that is nonsense."""
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of fields by name, what the suite has: models, episodes."""

    def request(self, descriptor: Descriptor) -> Message:
        """A message of this type."""
        message: Message = GetMessageClass(descriptor)()
        self._fill(message, depth=0)
        return message

    def _fill(self, message: Any, *, depth: int) -> None:
        descriptor: Descriptor = message.DESCRIPTOR
        if descriptor.name == "RaggedTensor" and self._is_careful():
            self._fill_ragged(message)
            return
        chosen = {oneof.name: self._member(oneof) for oneof in descriptor.oneofs}
        for part in descriptor.fields:
            oneof = part.containing_oneof
            if part.message_type is not None and depth >= _DEEPEST:
                continue
            if chosen[oneof.name] is part if oneof else self.random.random() < 0.75:
                self._set(message, part, depth)

    def _member(self, oneof: OneofDescriptor) -> FieldDescriptor:
        served = [part for part in oneof.fields if part.name in _SERVED]
        return self.random.choice(served if served and self._is_careful() else oneof.fields)

    def _set(self, message: Any, part: FieldDescriptor, depth: int) -> None:
        if part.message_type is not None and part.message_type.GetOptions().map_entry:
            self._set_map(getattr(message, part.name), part, depth)
        elif part.is_repeated:
            for _ in range(self.random.choice((1, 1, 2) if self._is_careful() else (0, 5))):
                if part.message_type is not None:
                    self._fill(getattr(message, part.name).add(), depth=depth + 1)
                else:
                    getattr(message, part.name).append(self._scalar(part))
        elif part.message_type is not None:
            getattr(message, part.name).SetInParent()
            self._fill(getattr(message, part.name), depth=depth + 1)
        else:
            setattr(message, part.name, self._scalar(part))

    def _set_map(self, entries: Any, part: FieldDescriptor, depth: int) -> None:
        assert part.message_type is not None
        key, value = (part.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(self.random.choice((0, 1, 3))):
            is_sane = part.name in _SANE_KEYS and self._is_careful()
            name = self.random.choice(_SANE_KEYS[part.name]) if is_sane else self._scalar(key)
            if value.message_type is None:
                entries[name] = self._scalar(value)
            else:
                self._fill(entries[name], depth=depth + 1)

    def _scalar(self, part: FieldDescriptor) -> Any:
        sane = self._is_careful()
        choose = self.random.choice
        match part.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if part.type == FieldDescriptor.TYPE_BYTES:
                return choose(_ROWS) if self.random.random() < 0.7 else self.random.randbytes(choose((1, 4, 8, 64)))
            case FieldDescriptor.CPPTYPE_STRING:
                return choose((self.known.get(part.name) or _SANE_TEXTS.get(part.name) or ("x",)) if sane else _TEXTS)
            case FieldDescriptor.CPPTYPE_INT32:
                return choose((0, 1, 2, 8) if sane else (*_WHOLE, _INT32, -_INT32 - 1))
            case FieldDescriptor.CPPTYPE_INT64 if sane and part.name == "seq_id":
                return 0  # others wait for those before them
            case FieldDescriptor.CPPTYPE_INT64:
                return choose((0, 1, 2, 8) if sane else (*_WHOLE, _INT64, -_INT64 - 1, 1 << 53))
            case FieldDescriptor.CPPTYPE_ENUM:
                assert part.enum_type is not None
                return choose([value.number for value in part.enum_type.values] if sane else (0, 99, -1))
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.random.random() < 0.5
            case _:
                return choose((0.5, 1.0) if sane else _REAL)

    def _fill_ragged(self, message: Any) -> None:
        """Rows of numbers, whole in form: what may be wrong with them is in the values."""
        lengths = [3 if self._is_careful() else self.random.choice((0, 300)) for _ in range(2)]
        offsets = [sum(lengths[:row]) for row in range(len(lengths) + 1)]
        message.offsets = struct.pack(f"<{len(offsets)}q", *offsets)
        message.dtype = self.random.choice((1, 2, 2, 2, 3, 3))
        extreme = not self._is_careful()
        if message.dtype == 1:
            reals = [self.random.choice(_REAL[-3:] if extreme else (0.0, 1.0)) for _ in range(offsets[-1])]
            message.data = struct.pack(f"<{len(reals)}f", *reals)
        else:
            ids = [
                self.random.choice((-1, _INT32)) if extreme else self.random.randrange(90) for _ in range(offsets[-1])
            ]
            message.data = struct.pack(f"<{len(ids)}{'i' if message.dtype == 2 else 'q'}", *ids)

    def _is_careful(self) -> bool:
        return self.random.random() < self.care
