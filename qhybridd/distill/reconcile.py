"""Reconciliation: Alice tells syndromes, Bob corrects his key to hers; frames that fail are told more, at last all.

One way, and rate-adaptive by puncturing and shortening (Elkouss, Martinez-Mateo, Martin, Quantum Inf. Comput. 11, 226
(2011)), with the blind steps of Martinez-Mateo, Elkouss, Martin, Quantum Inf. Comput. 12, 791 (2012), for what fails.
What a frame discloses of the key: m − p bits by its syndrome (the random bits cover p of them), one more by each random
bit that is revealed, and never more than it holds. Words are put together a few frames at a time in locked scratch, so
that a block of 10^8 bits needs no second copy.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from qhybridd.bits import Bits, packed_bytes
from qhybridd.distill import codes, rates
from qhybridd.distill.rates import Framing
from qhybridd.errors import PeerError, ProgramError
from qhybridd.secret import Secret, locked_memory

BATCH: Final = 16
"""Frames that are put together at a time."""
ITERATIONS: Final = 100
"""After so many a frame is given up for now: more hardly ever help, and the codes were measured with as many."""
WHOLE: Final = len(rates.REVEAL_STEPS)
"""The step after which nothing of a frame is left to disclose."""

Share = tuple[int, int, int]
"""A frame, and which of its punctured bits: from the first, up to the last."""


class _Block:
    """What both ends do alike: words of the frames, and the account of what was disclosed."""

    def __init__(self, framing: Framing, key: Bits) -> None:
        if key.length != framing.key_bits:
            raise ProgramError("program.argument", f"a key of {key.length} bits in frames for {framing.key_bits}")
        rates.check_framing(framing)
        self.framing, self.key = framing, key
        self.code = codes.load(framing.code)
        self.word_bytes = packed_bytes(self.code.bits)
        self.syndrome_bytes = packed_bytes(framing.syndrome_bits)
        self.hidden_at = self.code.bits - framing.punctured
        """The first punctured bit of a word; the bytes of their first word begin at `tail_at`."""
        self.tail_at = self.hidden_at // 64 * 8
        self.tail_bytes = self.word_bytes - self.tail_at
        self.steps = [0] * framing.frames
        """How often each frame was told more."""
        self._scratch: Secret | None = None

    @property
    def disclosed(self) -> int:
        """Bits about the key, all so far."""
        return sum(map(self._disclosed_of, range(self.framing.frames)))

    def _disclosed_of(self, frame: int) -> int:
        most = self.framing.bits_of(frame)
        if self.steps[frame] == WHOLE:
            return most
        told = self.framing.syndrome_bits - self.framing.punctured + self.revealed(self.steps[frame])
        return min(most, told)

    def revealed(self, step: int) -> int:
        """Punctured bits that are known after so many steps."""
        return rates.revealed(self.framing.punctured, step - 1) if step else 0

    def check_frames(self, frames: Sequence[int]) -> None:
        """Hold a list of frames to what may be asked for: ascending, not yet disclosed whole."""
        known = self.framing.frames
        ascending = all(before < after for before, after in pairwise(frames))
        if not frames or not ascending or frames[0] < 0 or frames[-1] >= known:
            raise PeerError("link.malformed", f"a list of {len(frames)} frames that is none of {known}")
        if any(self.steps[frame] == WHOLE for frame in frames):
            raise PeerError("link.malformed", "a frame that is known whole")

    def batches(self, frames: Iterable[int]) -> Iterator[list[int]]:
        """The frames in their order, a few at a time and of one length each."""
        batch: list[int] = []
        for frame in frames:
            if batch and (len(batch) == BATCH or self.framing.bits_of(frame) != self.framing.bits_of(batch[0])):
                yield batch
                batch = []
            batch.append(frame)
        if batch:
            yield batch

    def part(self, frame: int) -> slice:
        """Where a frame is in the bytes of the key."""
        start = frame * self.framing.frame_bits // 8
        return slice(start, start + (self.framing.bits_of(frame) + 7) // 8)

    def scratch(self, frames: int) -> memoryview:
        """Zeroed words of so many frames, valid until the next call."""
        if self._scratch is None:
            self._scratch = Secret(min(BATCH, self.framing.frames) * self.word_bytes)
        self._scratch.wipe()
        return self._scratch.expose()[: frames * self.word_bytes]

    def fill(self, word: memoryview, frame: int, tail: bytes | memoryview) -> None:
        """Put a word together from the key and the 64-bit words of the punctured bits, which hold none of the key."""
        part = self.part(frame)
        with self.key.expose() as key:
            word[: part.stop - part.start] = key[part]
        word[self.tail_at :] = tail

    def wipe(self) -> None:
        """Forget the scratch; the key is its owner's."""
        if self._scratch is not None:
            self._scratch.wipe()


class Sender:
    """Alice's end."""

    def __init__(self, framing: Framing, key: Bits, random: Callable[[int], bytes]) -> None:
        """For a key of `framing.key_bits` bits, which stays its owner's; `random` gives so many secret random bytes."""
        self._block = block = _Block(framing, key)
        tails = framing.frames * block.tail_bytes
        self._tails = Secret(max(8, tails))
        # Whole words of random bits, those before the first punctured one cleared.
        spare = block.hidden_at % 64
        with self._tails.expose() as view:
            for at in range(0, tails, block.tail_bytes or 1):
                tail = random(block.tail_bytes)
                first = int.from_bytes(tail[:8], "little") >> spare << spare
                view[at : at + block.tail_bytes] = tail
                view[at : at + 8] = first.to_bytes(8, "little")

    @property
    def disclosed(self) -> int:
        """Bits about the key that were disclosed, all so far; a frame counts no more than it holds."""
        return self._block.disclosed

    def syndromes(self) -> bytes:
        """The syndromes of all frames, each on a word boundary."""
        block, data = self._block, bytearray()
        for batch in block.batches(range(block.framing.frames)):
            out = bytearray(len(batch) * block.syndrome_bytes)
            with block.scratch(len(batch)) as words, self._tails.expose() as tails:
                for place, frame in enumerate(batch):
                    tail = tails[frame * block.tail_bytes :][: block.tail_bytes]
                    block.fill(words[place * block.word_bytes :][: block.word_bytes], frame, tail)
                with locked_memory():
                    block.code.syndromes(words, out, len(batch))
            data += out
        block.wipe()
        return bytes(data)

    def more(self, frames: Sequence[int]) -> bytes:
        """The next step for frames that failed: of each its next share of punctured bits, in whole bytes, or all of it.

        Raises `PeerError` (link.malformed) for a list that is not ascending, or a frame that was disclosed whole.
        """
        block, data = self._block, bytearray()
        block.check_frames(frames)
        for frame in frames:
            step = block.steps[frame] + 1
            if step == WHOLE:
                data += self._whole(frame)
            else:
                data += self._share(frame, block.revealed(step - 1), block.revealed(step))
            block.steps[frame] = step
        return bytes(data)

    def whole(self, frames: Sequence[int]) -> bytes:
        """The key's bits of these frames in clear, each in whole bytes. Raises as `more`."""
        self._block.check_frames(frames)
        data = b"".join(map(self._whole, frames))
        for frame in frames:
            self._block.steps[frame] = WHOLE
        return data

    def _whole(self, frame: int) -> bytes:
        with self._block.key.expose() as key:
            return bytes(key[self._block.part(frame)])

    def _share(self, frame: int, start: int, stop: int) -> bytes:
        block = self._block
        low = block.hidden_at % 64 + start
        high = low + stop - start
        at = frame * block.tail_bytes
        with self._tails.expose() as tails:
            number = int.from_bytes(tails[at + low // 8 : at + (high + 7) // 8], "little") >> low % 8
        return (number & (1 << (stop - start)) - 1).to_bytes((stop - start + 7) // 8, "little")

    def wipe(self) -> None:
        """Forget the punctured bits; the key is its owner's."""
        self._block.wipe()
        self._tails.wipe()


class Receiver:
    """Bob's end."""

    def __init__(self, framing: Framing, key: Bits, qber: float) -> None:
        """For Bob's key, which is corrected in place as frames decode, and the error rate expected of it (0 to 0.5)."""
        if not 0 < qber < 0.5:
            raise ProgramError("program.argument", f"an error rate of {qber}")
        self._block = _Block(framing, key)
        self._qber = qber
        self._waiting: dict[int, bytes] = {}
        """The syndromes of frames that failed."""
        self._hidden: dict[int, int] = {}
        """Their punctured bits, as far as they were revealed."""
        self._taken = False

    @property
    def disclosed(self) -> int:
        """Bits about Alice's key that were disclosed, all so far; a frame counts no more than it holds."""
        return self._block.disclosed

    def take(self, syndromes: bytes) -> tuple[int, ...]:
        """Correct all frames by their syndromes, once; gives those that failed, ascending.

        Raises `PeerError` (link.malformed) for another size than the framing's.
        """
        block, size = self._block, self._block.syndrome_bytes
        if self._taken:
            raise ProgramError("program.state", "the syndromes were taken")
        if len(syndromes) != block.framing.frames * size:
            raise PeerError("link.malformed", f"{len(syndromes)} bytes of syndromes for {block.framing}")
        self._taken = True
        failed: list[int] = []
        for batch in block.batches(range(block.framing.frames)):
            part = syndromes[batch[0] * size : (batch[-1] + 1) * size]
            for frame in self._decode(batch, part):
                at = (frame - batch[0]) * size
                self._waiting[frame] = part[at : at + size]
                failed.append(frame)
        block.wipe()
        return tuple(failed)

    def take_more(self, frames: Sequence[int], data: bytes) -> tuple[int, ...]:
        """Go on with failed frames by the next step for each; gives those that still fail, ascending.

        Raises `PeerError` (link.malformed) for data of another size, or bits behind the end of a share.
        """
        block = self._block
        block.check_frames(frames)
        if not set(frames) <= self._waiting.keys():
            raise ProgramError("program.state", "frames that did not fail")
        whole = [frame for frame in frames if block.steps[frame] + 1 == WHOLE]
        again = [frame for frame in frames if block.steps[frame] + 1 != WHOLE]
        shares = []
        for frame in frames:
            step = block.steps[frame] + 1
            shares.append(
                block.framing.bits_of(frame) if step == WHOLE else block.revealed(step) - block.revealed(step - 1)
            )
        parts = dict(zip(frames, _cut(data, shares), strict=True))
        for frame in whole:
            self._replace(frame, parts[frame])
        for frame in again:
            start = block.revealed(block.steps[frame])
            self._hidden[frame] = self._hidden.get(frame, 0) | int.from_bytes(parts[frame], "little") << start
            block.steps[frame] += 1
        failed: list[int] = []
        for batch in block.batches(again):
            failed += self._decode(batch, b"".join(self._waiting[frame] for frame in batch))
        for frame in set(again) - set(failed):
            self._forget(frame)
        block.wipe()
        return tuple(failed)

    def take_whole(self, frames: Sequence[int], data: bytes) -> None:
        """Replace frames by what Alice disclosed. Raises `PeerError` (link.malformed) as `take_more`."""
        self._block.check_frames(frames)
        for frame, part in zip(frames, _cut(data, map(self._block.framing.bits_of, frames)), strict=True):
            self._replace(frame, part)

    def _replace(self, frame: int, part: bytes) -> None:
        with self._block.key.expose() as key:
            key[self._block.part(frame)] = part
        self._block.steps[frame] = WHOLE
        self._forget(frame)

    def _forget(self, frame: int) -> None:
        self._waiting.pop(frame, None)
        self._hidden.pop(frame, None)

    def _decode(self, batch: list[int], syndromes: bytes) -> list[int]:
        """Correct frames of one length; gives those that failed."""
        block = self._block
        noisy = block.framing.bits_of(batch[0])
        known = [block.hidden_at + block.revealed(block.steps[frame]) for frame in batch]
        with block.scratch(len(batch)) as words:
            for place, frame in enumerate(batch):
                hidden = self._hidden.get(frame, 0) << block.hidden_at % 64
                word = words[place * block.word_bytes :][: block.word_bytes]
                block.fill(word, frame, hidden.to_bytes(block.tail_bytes, "little"))
            certain = struct.pack(f"<{len(batch)}I", *known)
            with locked_memory():
                used = block.code.decode(words, syndromes, len(batch), noisy, certain, self._qber, ITERATIONS)
            with block.key.expose() as key:
                for place, frame in enumerate(batch):
                    if used[place]:
                        part, word = block.part(frame), words[place * block.word_bytes :][: block.word_bytes]
                        key[part] = word[: part.stop - part.start]  # behind a part of a byte come shortened zeros
        return [frame for place, frame in enumerate(batch) if not used[place]]

    def wipe(self) -> None:
        """Forget the scratch; the key is its owner's."""
        self._block.wipe()
        self._waiting.clear()
        self._hidden.clear()


def _cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Cut foreign bytes into strings of so many bits, each in whole bytes. Raises `PeerError` (link.malformed)."""
    parts, at = [], 0
    for bits in sizes:
        part = data[at : at + (bits + 7) // 8]
        at += (bits + 7) // 8
        if at > len(data) or (bits % 8 and part[-1] >> bits % 8):
            raise PeerError("link.malformed", f"{len(data)} bytes that are not what was asked for")
        parts.append(part)
    if at != len(data):
        raise PeerError("link.malformed", f"{len(data)} bytes that are not what was asked for")
    return parts
