"""Floor 3: the key store of one link at one end: distilled blocks, cut into keys with an ID, each used once.

Both ends hold the same blocks. Of each block one half is Alice's to reserve from and the other Bob's, so that both can
reserve at once without asking each other. `docs/keystore.md` says what each end counts, and how the two stay agreed.
"""

from qhybridd.keystore.account import Account, Mark
from qhybridd.keystore.block import UNIT_BITS
from qhybridd.keystore.listing import ListedBlock, StoreListing
from qhybridd.keystore.store import KeyStore

__all__ = ["UNIT_BITS", "Account", "KeyStore", "ListedBlock", "Mark", "StoreListing"]
