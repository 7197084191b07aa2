"""Floor 4: netlink codecs for WireGuard and nftables."""
