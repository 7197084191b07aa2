"""What the running kernel has of what the tests need."""

import functools
import secrets
import subprocess


@functools.cache
def has_esp() -> bool:
    """ESP with AES-GCM: an association is made in a namespace of its own."""
    key = f"0x{secrets.token_hex(36)}"
    state = ["ip", "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "0x1000"]
    return _works([*state, "mode", "tunnel", "aead", "rfc4106(gcm(aes))", key, "128"])


@functools.cache
def has_netem() -> bool:
    """The network emulator."""
    return _works(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])


@functools.cache
def has_kernel_wireguard() -> bool:
    """WireGuard of the kernel's own, not wireguard-go."""
    return _works(["ip", "link", "add", "wg0", "type", "wireguard"])


def _works(command: list[str]) -> bool:
    return subprocess.run(["unshare", "--net", *command], capture_output=True, check=False).returncode == 0
