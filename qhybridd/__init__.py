"""qhybridd keeps VPN tunnels between gateways keyed against quantum computers."""

__version__ = "0.1.0"
