"""Files of tenants for tests."""

import hashlib
from pathlib import Path


def write_tenants(folder: Path, **tenants: str) -> Path:
    """A file of tenants, each with the key that `key_of` names; the values are further lines of TOML."""
    path = folder / "tenants.toml"
    tables = [f'[tenants.{name}]\nkeys = ["{hashed(key_of(name))}"]\n{lines}\n' for name, lines in tenants.items()]
    path.write_text("\n".join(tables))
    return path


def key_of(tenant: str) -> str:
    return f"{tenant}-0123456789abcdef0123456789abcdef"


def hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
