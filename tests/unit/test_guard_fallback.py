"""What blocks a gateway where the guard cannot be loaded."""

from qhybridd.guard import GuardedTunnel, build_fallback


def test_it_names_what_is_protected_without_the_exceptions() -> None:
    tunnels = [
        GuardedTunnel("a", "wg0", ("10.2.0.0/16", "fd00::/8"), ("10.2.0.0/17",)),
        GuardedTunnel("b", "", ("192.0.2.7",)),
    ]
    text = build_fallback(tunnels)
    assert "elements = { 10.2.128.0/17, 192.0.2.7/32 };" in text
    assert "elements = { fd00::/8 };" in text
    assert 'elements = { "wg0" };' in text


def test_without_tunnels_it_blocks_nothing() -> None:
    assert "elements" not in build_fallback([])
