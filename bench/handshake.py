"""Handshakes of the control channel: both ends in memory, each end's own time counted apart."""

import statistics
import time
from typing import Final

from bench.figures import Figure
from qhybridd.crypto.ephemeral import OsEphemeral
from qhybridd.crypto.identity import Identity
from qhybridd.protocol.connection import Connection
from qhybridd.protocol.handshake import PeerPin
from qhybridd.protocol.handshake_messages import Suite

ROUNDS: Final = 9
HANDSHAKES: Final = 40


def measure() -> list[Figure]:
    """Handshakes a second on one core, for the dialling and the dialled end."""
    alice, bob = Identity.generate(), Identity.generate()
    pin_a, pin_b = PeerPin(alice.public, "alice"), PeerPin(bob.public, "bob")
    suites = (Suite.X25519_MLKEM768,)
    spent: dict[str, list[float]] = {"dialling": [], "dialled": []}
    for _ in range(ROUNDS):
        dialling = dialled = 0.0
        for _ in range(HANDSHAKES):
            t0 = time.process_time()
            i = Connection.dial(alice, pin_b, suites, suites[0], ephemeral=OsEphemeral(), now=0.0)
            hello = i.data_to_send()
            t1 = time.process_time()
            r = Connection.accept(bob, {pin_a.public.fingerprint: pin_a}, suites, ephemeral=OsEphemeral(), now=0.0)
            r.receive(hello, 0.0)
            reply = r.data_to_send()
            t2 = time.process_time()
            i.receive(reply, 0.0)
            finish = i.data_to_send()
            t3 = time.process_time()
            assert r.receive(finish, 0.0), "the handshake failed"
            up = r.data_to_send()
            t4 = time.process_time()
            assert i.receive(up, 0.0), "the handshake failed"
            t5 = time.process_time()
            dialling += t1 - t0 + t3 - t2 + t5 - t4
            dialled += t2 - t1 + t4 - t3
        spent["dialling"].append(HANDSHAKES / dialling)
        spent["dialled"].append(HANDSHAKES / dialled)
    return [
        Figure(
            f"handshakes per second per core, {end} end",
            f"{statistics.median(rates):.0f}",
            f"X25519 and ML-KEM-768, Ed25519 and ML-DSA-65; median of {ROUNDS} runs of {HANDSHAKES}, in memory",
        )
        for end, rates in spent.items()
    ]


if __name__ == "__main__":
    for figure in measure():
        print(figure)
