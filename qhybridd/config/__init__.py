"""Floor 4: the configuration file. Strict: what is not understood is refused, with file, line and the way out."""

from qhybridd.config.changes import Changes, Difference, changes, difference
from qhybridd.config.load import load_config, load_gateway, parse_config
from qhybridd.config.records import (
    DEFAULT_CONFIG,
    Config,
    ConfigError,
    Endpoint,
    GatewayConfig,
    LinkConfig,
    PeerConfig,
    Prefix,
    Renew,
    TunnelConfig,
    WireGuardConfig,
    XfrmConfig,
)

__all__ = [
    "DEFAULT_CONFIG",
    "Changes",
    "Config",
    "ConfigError",
    "Difference",
    "Endpoint",
    "GatewayConfig",
    "LinkConfig",
    "PeerConfig",
    "Prefix",
    "Renew",
    "TunnelConfig",
    "WireGuardConfig",
    "XfrmConfig",
    "changes",
    "difference",
    "load_config",
    "load_gateway",
    "parse_config",
]
