"""How fast keys are compared and messages are authenticated."""

import os
from collections.abc import Iterator

from qhybridd.apps.bench.options import Options
from qhybridd.apps.bench.readings import Reading, fastest
from qhybridd.bits import Bits
from qhybridd.crypto.kdf import HASH_BYTES
from qhybridd.distill.authenticate import LinkKeys, Role
from qhybridd.distill.verify import SEED_BYTES, block_tag
from qhybridd.secret import Secret


def verification(options: Options) -> Iterator[Reading]:
    """The tag of a block's key."""
    bits = 1_000_000 if options.quick else 16_000_000
    key = Bits.adopt(os.urandom(bits // 8), bits)
    seed = os.urandom(SEED_BYTES)
    timed = fastest(lambda: block_tag(seed, key))
    rate, case = bits / timed.seconds / 1e6, f"tag of a key of {bits:.2g} bits"
    yield Reading("verification", case, rate, "Mb/s", cycles=timed.cycles(bits), seconds=timed.seconds)


def authentication(options: Options) -> Iterator[Reading]:
    """The tag of a message, its pad, and the derivation of a session's first pads."""
    size = 125_000 if options.quick else 2_000_000
    message = os.urandom(size)
    psk = Secret.adopt(os.urandom(32))

    def keys() -> LinkKeys:
        return LinkKeys(psk, os.urandom(HASH_BYTES), b"bench")

    authenticators = [keys().authenticator(Role.ALICE, 0)]

    def renew() -> None:
        authenticators[0] = keys().authenticator(Role.ALICE, 0)

    timed = fastest(lambda: authenticators[0].seal(message), prepare=renew)
    rate, case = 8 * size / timed.seconds / 1e6, f"tag of a message of {size:.2g} bytes"
    yield Reading("authentication", case, rate, "Mb/s", cycles=timed.cycles(8 * size), seconds=timed.seconds)
    timed = fastest(keys)
    yield Reading("authentication", "first pads of a session", timed.seconds * 1e6, "µs", seconds=timed.seconds)
