"""Whose the guard's tables are.

From kernel 6.9 on the process that guards owns them: nobody else can change them, and a flush of the ruleset
passes them by. When it ends they stay, open to all, and the next one takes them over.
"""

import errno
import time
from collections.abc import Iterable
from typing import Final

from qhybridd.errors import HostError
from qhybridd.guard.names import FALLBACK, TABLE
from qhybridd.netlink.nft_steps import (
    NFPROTO_INET,
    NFPROTO_NETDEV,
    TABLE_DORMANT,
    TABLE_OWNER,
    TABLE_PERSIST,
    Operation,
    delete_table,
    in_family,
    new_persistent_table,
    new_table,
)
from qhybridd.netlink.nftables import NftSocket
from qhybridd.netlink.socket import NetlinkError

HELD_ATTEMPTS: Final = 6
HELD_PAUSE_S: Final = 0.1
"""A `guard load` that is about to end gives the tables back within this."""
FAMILIES: Final = (NFPROTO_INET, NFPROTO_NETDEV)


def claim(nft: NftSocket, family: int) -> None:
    """Make the table of a family unless it is there, and own it where the kernel has that.

    A table that was made without an owner stays so: the kernel does not let it change. Raises `HostError` (host.guard)
    where another process goes on owning it, or the kernel does not have the family.
    """
    for _ in range(HELD_ATTEMPTS):
        found = nft.table(TABLE, family)
        if found is None or not found.flags & TABLE_OWNER or found.owner == nft.port:
            break
        time.sleep(HELD_PAUSE_S)
    if found is None or found.flags & TABLE_PERSIST:
        if found is not None and found.flags & TABLE_OWNER:
            if found.owner == nft.port:
                return
            raise _held()
        try:
            nft.commit(in_family(family, [new_persistent_table(TABLE)]))
        except NetlinkError as error:
            if error.errno == errno.EPERM and held(nft):
                raise _held() from None
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL) or found is not None:
                raise
        else:
            return
    nft.commit(in_family(family, [new_table(TABLE)]))


def held(nft: NftSocket) -> bool:
    """Whether another process owns the guard."""
    tables = [nft.table(TABLE, family) for family in FAMILIES]
    return any(found is not None and found.flags & TABLE_OWNER and found.owner != nft.port for found in tables)


def sleeps(nft: NftSocket, families: Iterable[int]) -> bool:
    """Whether a table is not there or dormant: its rules can be read and enforce nothing."""
    tables = [nft.table(TABLE, family) for family in families]
    return any(found is None or bool(found.flags & TABLE_DORMANT) for found in tables)


def build_removal(nft: NftSocket) -> list[Operation]:
    """Steps that delete what is there of both tables, and of the one that a boot had in their place."""
    return build_replacing(nft) + [
        step
        for family in FAMILIES
        if nft.table(TABLE, family) is not None
        for step in in_family(family, [delete_table(TABLE)])
    ]


def build_replacing(nft: NftSocket) -> list[Operation]:
    """Steps that take away what blocked everything because the guard could not be loaded."""
    return [] if nft.table(FALLBACK) is None else [delete_table(FALLBACK)]


def _held() -> HostError:
    return HostError(
        "host.guard",
        "another process owns the guard",
        hint="It is the running daemon's: ask it, or stop it first (`systemctl stop qhybridd`).",
    )
