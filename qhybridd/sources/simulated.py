"""QKD keys of a simulated link, out of its key store: they say that they are simulated wherever they go."""

from collections.abc import Callable

from qhybridd.clock import boottime
from qhybridd.errors import HostError, PeerError
from qhybridd.keystore import KeyStore
from qhybridd.protocol.actions import QkdKey
from qhybridd.protocol.messages import QkdRef
from qhybridd.sources.base import KeySource, Supply
from qhybridd.sources.shares import Shares


class LinkSource(KeySource):
    """One tunnel's way to the store of a link. No verb waits for anything."""

    def __init__(self, link: str, tunnel: str, store: KeyStore, shares: Shares, changed: Callable[[], None]) -> None:
        """`changed` is called whenever a key left the store, so that every tunnel of the link hears of its supply."""
        self._name = f"sim:{link}"
        self._tunnel, self._store, self._shares, self._changed = tunnel, store, shares, changed

    async def reserve(self, bits: int) -> QkdKey:
        """Take `bits` of fresh key. Raises `HostError` (source.empty) also when what there is belongs to others."""
        now = boottime()
        self._store.tick(now)
        if self._store.available_bits() >= bits and not self._shares.ready(self._tunnel, now):
            raise HostError("source.empty", "the keys in store are kept for tunnels whose turn it is")
        key_ids, secret = self._store.reserve(bits, now)
        self._shares.served(self._tunnel, now)
        self._changed()
        return QkdKey(QkdRef(self._name, (), (), key_ids, bits), secret)

    async def fetch(self, ref: QkdRef) -> QkdKey:
        """The key that the peer reserved. Raises `PeerError` (tunnel.mismatch) for a reference to another source."""
        self._check(ref)
        try:
            return QkdKey(ref, self._store.fetch(ref.key_ids, ref.bits, boottime()))
        finally:
            self._changed()

    async def burn(self, ref: QkdRef) -> None:
        """Throw away a reserved key that no rotation will use."""
        self._check(ref)
        self._store.burn(ref.key_ids, boottime())
        self._changed()

    def supply(self) -> Supply:
        """What this tunnel may reserve: nothing while the keys in store are kept for others."""
        available = self._store.available_bits() if self._shares.ready(self._tunnel, boottime()) else 0
        return Supply(available, simulated=True)

    def _check(self, ref: QkdRef) -> None:
        if ref.source != self._name:
            raise PeerError("tunnel.mismatch", f"the peer takes its QKD keys from {ref.source}, not from {self._name}")
