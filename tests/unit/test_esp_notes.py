"""What XFRM tunnels remember over a restart: whole or not at all, of this boot only."""

import os
from pathlib import Path

import pytest

from qhybridd import statefile
from qhybridd.errors import HostError
from qhybridd.targets.esp_notes import MAX_USED, Notes, PairNote, PassNote, TunnelNote

PAIR = PairNote(1, "11" * 16, 0x100, 0xFFFFFFFF, "22" * 16, "33" * 16)


def pair(epoch: int) -> PairNote:
    return PairNote(epoch, f"{epoch:032x}", 0x1000, 0x2000, f"{2 * epoch:032x}", f"{2 * epoch + 1:032x}")


def test_a_note_comes_back(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "xfrm")
    note = notes.read("x")
    assert (note.pairs, note.used) == ((), ())
    notes.write("x", note.adding(PAIR))
    again = Notes(tmp_path / "xfrm").read("x")
    assert again.pairs == (PAIR,)
    assert again.used == (PAIR.key_in, PAIR.key_out)
    assert again.pair(PAIR.tag) == PAIR and again.pair("44" * 16) is None
    assert notes.read("y").pairs == ()
    assert (tmp_path / "xfrm" / "x.json").stat().st_mode & 0o777 == 0o600


def test_used_keys_are_kept_when_their_associations_are_not(tmp_path: Path) -> None:
    note = Notes(tmp_path).read("x")
    for epoch in range(1, MAX_USED):
        note = TunnelNote(note.boot_id, (), note.adding(pair(epoch)).used)
    assert len(note.used) == MAX_USED
    assert note.used[-2:] == (pair(MAX_USED - 1).key_in, pair(MAX_USED - 1).key_out)
    Notes(tmp_path).write("x", note)
    assert Notes(tmp_path).read("x") == note


def test_a_boot_voids_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(tmp_path)
    notes.write("x", notes.read("x").adding(PAIR))
    notes.write_passes(frozenset((PassNote(1, "::/0", "::/0", 58, 135, 0, 0x5101, 0),)))
    other = tmp_path / "boot_id"
    other.write_text("another boot\n")
    monkeypatch.setattr(statefile, "BOOT_ID", other)
    later = Notes(tmp_path)
    assert later.read("x") == TunnelNote("another boot")
    assert later.read_passes() == frozenset()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"boot_id": "x", "pairs": 1}', b'{"boot_id": "x", "more": 1}']
)
def test_a_damaged_note_is_no_empty_one(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.json").write_bytes(damage)
    with pytest.raises(HostError) as caught:
        Notes(tmp_path).read("x")
    assert caught.value.code == "host.state"


def test_a_note_that_does_not_fit_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(tmp_path)
    notes.write("x", notes.read("x").adding(PAIR))
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(HostError) as caught:
        notes.write("x", TunnelNote(notes.read("x").boot_id))
    assert caught.value.code == "host.state"
    monkeypatch.undo()
    assert notes.read("x").pairs == (PAIR,)


def test_no_place_for_notes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        Notes(tmp_path / "file" / "xfrm")
    assert caught.value.code == "host.state"


def test_a_tunnel_may_be_called_like_the_list_of_passes(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.write("passes", notes.read("passes").adding(PAIR))
    passes = frozenset((PassNote(1, "10.1.0.0/16", "10.2.0.0/16", 0, 0, 0, 0x5210, 0),))
    notes.write_passes(passes)
    assert notes.read_passes() == passes
    assert notes.read("passes").pairs == (PAIR,)
