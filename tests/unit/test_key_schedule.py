"""The key schedule against an independent, slow computation with plain hmac and hashlib, and its published vectors.

`python tests/unit/test_key_schedule.py` writes the vectors anew, from the slow computation.
"""

import hashlib
import hmac
import json
from pathlib import Path

import pytest

from qhybridd.crypto.ephemeral import SharedSecrets
from qhybridd.crypto.kdf import Label
from qhybridd.errors import ProgramError
from qhybridd.protocol.key_schedule import KeySchedule
from qhybridd.secret import Secret

VECTORS = Path(__file__).parents[1] / "vectors" / "handshake.json"

# ---- the slow computation: no code of the program


def lp(*items: bytes) -> bytes:
    return b"".join(len(item).to_bytes(4, "big") + item for item in items)


def label(name: str) -> bytes:
    return lp(b"qhybridd 1", name.encode())


def prf(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha384).digest()


def slow(given: dict[str, str]) -> dict[str, str]:
    """All values of one handshake, in hexadecimal, from its items and secrets, in hexadecimal."""
    item = {name: bytes.fromhex(value) for name, value in given.items()}

    def transcript(*names: str) -> bytes:
        return hashlib.sha384(label("handshake/transcript") + b"".join(lp(item[name]) for name in names)).digest()

    def expand(key: bytes, name: str, context: bytes, size: int) -> bytes:
        return prf(key, label(name) + lp(context) + b"\x01")[:size]

    names = ["hello", "reply"]
    at_shares = transcript(*names)
    s1 = prf(bytes(48), label("handshake/x25519 secret") + lp(b"", item["x25519"]) + at_shares)
    s2 = prf(s1, label("handshake/kem secret") + lp(item["kem code"], item["kem"]) + at_shares)
    out = {"reply key": expand(s2, "handshake/reply key", at_shares, 32)}
    out["responder signs"] = transcript(*(names := [*names, "responder"]))
    at_finished = transcript(*(names := [*names, "responder signature"]))
    item["responder finished"] = prf(s2, label("handshake/responder finished") + lp(at_finished))
    out["responder finished"] = item["responder finished"]
    at_reply = transcript(*(names := [*names, "responder finished"]))
    out["finish key"] = expand(s2, "handshake/finish key", at_reply, 32)
    item["flag"] = bytes(["psk" in item])
    out["initiator signs"] = transcript(*(names := [*names, "flag", "initiator"]))
    at_finished = transcript(*(names := [*names, "initiator signature"]))
    s3 = s2
    if "psk" in item:
        s3 = prf(s2, label("handshake/bootstrap psk") + lp(b"", item["psk"]) + at_finished)
    item["initiator finished"] = prf(s3, label("handshake/initiator finished") + lp(at_finished))
    out["initiator finished"] = item["initiator finished"]
    at_end = transcript(*names, "initiator finished")
    session = hashlib.sha384(label("session/hash") + lp(at_end)).digest()
    out["session hash"] = session
    out["initiator traffic"] = expand(s3, "session/initiator traffic", session, 32)
    out["responder traffic"] = expand(s3, "session/responder traffic", session, 32)
    out["exporter"] = expand(s3, "session/exporter", session, 48)
    return {name: value.hex() for name, value in out.items()}


def _given(code: str, psk: bool) -> dict[str, str]:
    names = ["hello", "reply", "responder", "responder signature", "initiator", "initiator signature", "x25519", "kem"]
    given = {name: hashlib.sha384(f"{name} {code}".encode()).hexdigest() for name in names}
    given |= {"kem code": code, "x25519": given["x25519"][:64], "kem": given["kem"][:64]}
    return given | ({"psk": hashlib.sha256(b"psk").hexdigest()} if psk else {})


# ---- the program's own


def hexed(secret: Secret) -> str:
    with secret.expose() as view:
        return bytes(view).hex()


def fast(given: dict[str, str]) -> dict[str, str]:
    item = {name: bytes.fromhex(value) for name, value in given.items()}
    schedule = KeySchedule()
    schedule.add(item["hello"], item["reply"])
    schedule.mix_shares(
        int.from_bytes(item["kem code"], "big"),
        SharedSecrets(Secret.adopt(item["x25519"]), Secret.adopt(item["kem"])),
    )
    out = {"reply key": hexed(schedule.sealing_key(Label.REPLY_KEY))}
    schedule.add(item["responder"])
    out["responder signs"] = schedule.transcript.hex()
    schedule.add(item["responder signature"])
    finished = schedule.finished(Label.RESPONDER_FINISHED)
    out["responder finished"] = finished.hex()
    schedule.add(finished)
    out["finish key"] = hexed(schedule.sealing_key(Label.FINISH_KEY))
    schedule.add(bytes(["psk" in item]), item["initiator"])
    out["initiator signs"] = schedule.transcript.hex()
    schedule.add(item["initiator signature"])
    if "psk" in item:
        schedule.mix_psk(Secret.adopt(item["psk"]))
    finished = schedule.finished(Label.INITIATOR_FINISHED)
    out["initiator finished"] = finished.hex()
    schedule.add(finished)
    result = schedule.finish()
    return out | {
        "session hash": result.hash.hex(),
        "initiator traffic": hexed(result.initiator_traffic),
        "responder traffic": hexed(result.responder_traffic),
        "exporter": hexed(result.exporter),
    }


CASES = json.loads(VECTORS.read_text()) if VECTORS.exists() else []


def test_the_vectors_are_there() -> None:
    assert [case["name"] for case in CASES] == ["x25519-mlkem768", "x25519-mlkem1024", "x25519-mlkem768 with a PSK"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_vector(case: dict[str, dict[str, str]]) -> None:
    assert slow(case["given"]) == case["derived"]
    assert fast(case["given"]) == case["derived"]


def test_each_input_moves_each_later_output() -> None:
    """A secret that did not enter, or an item that was not hashed, would leave an output as it was."""
    given = CASES[2]["given"]
    before = fast(given)
    for name in given:
        value = bytearray.fromhex(given[name])
        value[-1] ^= 1
        after = fast(given | {name: value.hex()})
        assert after["session hash"] != before["session hash"]
        assert after["initiator traffic"] != before["initiator traffic"]
        assert after["responder traffic"] != before["responder traffic"]
        assert after["exporter"] != before["exporter"]


def test_no_two_outputs_are_the_same() -> None:
    for case in CASES:
        derived = [value[:64] for value in case["derived"].values()]
        assert len(set(derived)) == len(derived)


def test_secrets_are_wiped_and_wiped_ones_refused() -> None:
    schedule, secrets = KeySchedule(), SharedSecrets(Secret.adopt(b"\x01" * 32), Secret.adopt(b"\x02" * 32))
    schedule.mix_shares(0x0201, secrets)
    assert secrets.x25519.is_zero
    assert secrets.kem.is_zero
    with pytest.raises(ProgramError):
        schedule.mix_shares(0x0201, secrets)
    with pytest.raises(ProgramError):
        schedule.mix_psk(Secret(32))


if __name__ == "__main__":
    cases = {
        "x25519-mlkem768": _given("0201", psk=False),
        "x25519-mlkem1024": _given("0202", psk=False),
        "x25519-mlkem768 with a PSK": _given("0201", psk=True),
    }
    vectors = [{"name": name, "given": given, "derived": slow(given)} for name, given in cases.items()]
    VECTORS.write_text(json.dumps(vectors, indent=1) + "\n")
