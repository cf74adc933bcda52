"""Ports of a suite."""

import pytest

from tinsmith_server.cli import ports
from tinsmith_server.cli.ports import UserSettings, choose_addresses, choose_http_address


def test_the_gateways_http_port_is_none_that_a_room_is_about_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room that loads torch binds seconds after the gateway does, which would have its port by then."""
    monkeypatch.setattr(ports, "free_ports", lambda: iter(range(20000, 20010)))
    addresses = choose_addresses(["trainer", "gateway"], "auto", UserSettings())
    assert sorted(addresses.values()) == ["127.0.0.1:20000", "127.0.0.1:20001"]
    assert choose_http_address("auto", UserSettings(), addresses.values()) == "127.0.0.1:20002"
