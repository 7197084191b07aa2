"""The combiner against published vectors, against an independent slow computation, and its refusals."""

import dataclasses
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhybridd.crypto.combiner import Combined, Inputs, KemTranscript, QkdTranscript, Transcript, combine
from qhybridd.crypto.kdf import Label, chain_tag, lp
from qhybridd.crypto.levels import Level
from qhybridd.errors import HostError, ProgramError
from qhybridd.secret import Secret

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "combiner.json").read_text())

# ---- the oracle: docs/combiner.md written down again with nothing but hmac and hashlib


def _lp(*items: bytes) -> bytes:
    return b"".join(len(i).to_bytes(4, "big") + i for i in items)


def _u64(n: int) -> bytes:
    return n.to_bytes(8, "big")


def _label(name: bytes) -> bytes:
    return _lp(b"qhybridd 1", name)


def oracle(case: dict[str, Any]) -> dict[str, str]:
    b = bytes.fromhex
    t = case["transcript"]
    qkd = b""
    if t["qkd"]:
        q = t["qkd"]
        qkd = _lp(
            q["source"].encode(),
            _lp(*(x.encode() for x in q["kme_ids"])),
            _lp(*(x.encode() for x in q["sae_ids"])),
            _lp(*(b(x) for x in q["key_ids"])),
            _u64(q["bits"]),
        )
    chain = b(case["inputs"]["chain"])
    tag = hmac.new(chain, _label(b"tag/chain key") + _lp(b""), "sha384").digest()[:16]
    digest = hashlib.sha384(
        _label(b"rotation")
        + _lp(
            _lp(b(t["session"]), t["tunnel"].encode(), tag),
            _lp(_u64(t["level"]), *(_u64(x) for x in t["policy"]), _u64(t["reset"])),
            _u64(t["epoch"]),
            _lp(*(b(x) for x in t["nonces"])),
            _lp(*(b(x) for x in t["identities"])),
            _lp(*(_lp(_u64(k["code"]), b(k["ek"]), b(k["ct"])) for k in t["kems"])),
            _lp(*(b(x) for x in t["x25519"])),
            qkd,
            _lp(*(b(x) for x in t["offers"])),
        )
    ).digest()
    state = chain
    steps = [(_label(b"rotation/input/x25519"), b(case["inputs"]["x25519"]))]
    for kem, secret in zip(t["kems"], case["inputs"]["kems"], strict=True):
        steps.append((_label(b"rotation/input/kem") + _lp(_u64(kem["code"])), b(secret)))
    if case["inputs"]["qkd"]:
        steps.append((_label(b"rotation/input/qkd"), b(case["inputs"]["qkd"])))
    for label, secret in steps:
        state = hmac.new(state, label + _lp(secret) + digest, "sha384").digest()

    def out(name: bytes, size: int = 48) -> str:
        return hmac.new(state, _label(name) + _lp(digest) + b"\x01", "sha384").digest()[:size].hex()

    return {
        "transcript": digest.hex(),
        "chain": out(b"rotation/output/chain key"),
        "confirm_proposer": out(b"rotation/output/confirm proposer"),
        "confirm_answerer": out(b"rotation/output/confirm answerer"),
        "psk": out(b"rotation/output/wireguard psk", 32),
        "esp_forward": out(b"rotation/output/esp proposer to answerer", 36),
        "esp_backward": out(b"rotation/output/esp answerer to proposer", 36),
    }


# ---- the code


def secret(text: str | bytes) -> Secret:
    return Secret.adopt(bytes.fromhex(text) if isinstance(text, str) else text)


def build(case: dict[str, Any]) -> tuple[Transcript, Inputs]:
    b, t, i = bytes.fromhex, case["transcript"], case["inputs"]
    qkd = t["qkd"]
    transcript = Transcript(
        session=b(t["session"]),
        tunnel=t["tunnel"],
        chain=chain_tag(secret(i["chain"])),
        level=Level(t["level"]),
        policy=tuple(t["policy"]),
        reset=bool(t["reset"]),
        epoch=t["epoch"],
        nonces=(b(t["nonces"][0]), b(t["nonces"][1])),
        identities=(b(t["identities"][0]), b(t["identities"][1])),
        kems=tuple(KemTranscript(k["code"], b(k["ek"]), b(k["ct"])) for k in t["kems"]),
        x25519=(b(t["x25519"][0]), b(t["x25519"][1])),
        qkd=QkdTranscript(
            qkd["source"],
            tuple(qkd["kme_ids"]),
            tuple(qkd["sae_ids"]),
            tuple(b(x) for x in qkd["key_ids"]),
            qkd["bits"],
        )
        if qkd
        else None,
        offers=(b(t["offers"][0]), b(t["offers"][1])),
    )
    inputs = Inputs(
        secret(i["chain"]),
        secret(i["x25519"]),
        tuple(secret(k) for k in i["kems"]),
        secret(i["qkd"]) if i["qkd"] else None,
    )
    return transcript, inputs


def outputs(transcript: Transcript, combined: Combined) -> dict[str, str]:
    result = {"transcript": transcript.digest().hex()}
    for field in dataclasses.fields(Combined):
        with getattr(combined, field.name).expose() as view:
            result[field.name] = bytes(view).hex()
    return result


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_vectors(case: dict[str, Any]) -> None:
    transcript, inputs = build(case)
    assert outputs(transcript, combine(transcript, inputs)) == case["outputs"] == oracle(case)


def test_every_field_of_the_transcript_and_every_input_changes_every_output() -> None:
    base = next(case for case in VECTORS if case["name"] == "hybrid")
    before = outputs(*(lambda t, i: (t, combine(t, i)))(*build(base)))

    def flip(text: str) -> str:
        return ("1" if text[0] != "1" else "2") + text[1:]

    changes: list[dict[str, Any]] = []
    for path in _leaves({"transcript": base["transcript"], "inputs": base["inputs"]}):
        case = json.loads(json.dumps(base))
        place = case
        for step in path[:-1]:
            place = place[step]
        old = place[path[-1]]
        if path == ("transcript", "level"):
            continue  # the level fixes which inputs there are: see the refusals
        place[path[-1]] = old + 1 if isinstance(old, int) else flip(old) if _is_hex(old) else old + "x"
        changes.append(case)
    assert len(changes) > 20
    for case in changes:
        transcript, inputs = build(case)
        after = outputs(transcript, combine(transcript, inputs))
        if case["transcript"] == base["transcript"] and case["inputs"]["chain"] == base["inputs"]["chain"]:
            assert after.pop("transcript") == before["transcript"]
        assert all(after[name] != before[name] for name in after)


def _is_hex(text: str) -> bool:
    return len(text) > 8 and all(c in "0123456789abcdef" for c in text)


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(tree, list):
        return [leaf for at, value in enumerate(tree) for leaf in _leaves(value, (*path, at))]
    return [path] if tree is not None else []


def test_what_does_not_belong_to_the_level_is_refused() -> None:
    cases = {case["name"]: case for case in VECTORS}
    for name, level in (
        ("hybrid", Level.PQC),
        ("hybrid", Level.CLASSICAL),
        ("pqc", Level.HYBRID),
        ("pqc", Level.CLASSICAL),
        ("classical", Level.PQC),
        ("classical", Level.HYBRID),
    ):
        transcript, inputs = build(cases[name])
        with pytest.raises(ProgramError):
            combine(dataclasses.replace(transcript, level=level), inputs)
    transcript, inputs = build(cases["hybrid"])
    with pytest.raises(ProgramError):
        combine(dataclasses.replace(transcript, qkd=None), inputs)
    with pytest.raises(ProgramError):
        combine(transcript, dataclasses.replace(inputs, kems=inputs.kems * 2))
    with pytest.raises(ProgramError, match="another chain key"):
        combine(transcript, dataclasses.replace(inputs, chain=secret(b"c" * 48)))


@pytest.mark.parametrize("which", ["chain", "x25519", "kems", "qkd"])
def test_an_all_zero_input_is_refused(which: str) -> None:
    transcript, inputs = build(next(case for case in VECTORS if case["name"] == "hybrid"))
    zero = Secret(48) if which == "chain" else Secret(32)
    replaced = dataclasses.replace(inputs, **{which: (zero, *inputs.kems[1:]) if which == "kems" else zero})
    if which == "chain":
        transcript = dataclasses.replace(transcript, chain=chain_tag(zero))
    with pytest.raises(HostError) as caught:
        combine(transcript, replaced)
    assert caught.value.code == "tunnel.input"


def test_wipe_overwrites_every_output() -> None:
    transcript, inputs = build(VECTORS[0])
    combined = combine(transcript, inputs)
    combined.wipe()
    assert all(getattr(combined, field.name).is_zero for field in dataclasses.fields(Combined))


@given(st.lists(st.binary(max_size=8), max_size=6), st.lists(st.binary(max_size=8), max_size=6))
def test_length_prefixes_are_injective(one: list[bytes], other: list[bytes]) -> None:
    assert (lp(*one) == lp(*other)) == (one == other)


def test_no_label_is_a_prefix_of_another() -> None:
    encoded = [label.encoded for label in Label]
    assert len(set(encoded)) == len(encoded)
    assert not any(a is not b and b.startswith(a) for a in encoded for b in encoded)
