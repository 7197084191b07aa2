"""Which gateway a command is about: its configuration file and its control socket."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from qhybridd.errors import OperatorError, QhybriddError

if TYPE_CHECKING:
    from qhybridd.config import GatewayConfig


@dataclass(frozen=True, slots=True)
class Site:
    """The options before the command."""

    config: Path | None
    """As given; None: the default."""
    socket: Path | None
    debug: bool

    @property
    def config_path(self) -> Path:
        """The configuration file."""
        from qhybridd.config import DEFAULT_CONFIG

        return self.config or DEFAULT_CONFIG

    def gateway(self) -> "GatewayConfig":
        """The `[gateway]` table, or its defaults where no file was named and none is there yet.

        Raises `OperatorError`.
        """
        from qhybridd.config import GatewayConfig, load_gateway

        try:
            return load_gateway(self.config_path)
        except OperatorError as error:
            if error.code == "file.missing" and self.config is None:
                return GatewayConfig()
            raise

    def socket_path(self) -> Path:
        """The control socket. A configuration that is broken or may not be read is no reason not to ask the daemon."""
        from qhybridd.config import GatewayConfig

        if self.socket is not None:
            return self.socket
        try:
            return self.gateway().socket
        except QhybriddError as error:
            if self.config is not None and error.code == "file.missing":
                raise
            return GatewayConfig().socket


def site_of(ctx: click.Context) -> Site:
    """The site that the options before the command name."""
    return cast("Site", ctx.find_object(Site))
