"""nf_tables over netlink: batches committed as one transaction, and what stands in the kernel read back."""

import errno
import struct
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from qhybridd.errors import HostError
from qhybridd.netlink.attributes import NLM_F_ACK, NLM_F_REQUEST, message, text
from qhybridd.netlink.nft_dumps import (
    SetElement,
    TableState,
    parse_chains,
    parse_counters,
    parse_elements,
    parse_generation,
    parse_names,
    parse_rules,
    parse_tables,
)
from qhybridd.netlink.nft_steps import (
    GETCHAIN,
    GETGEN,
    GETOBJ,
    GETRULE,
    GETSET,
    GETSETELEM,
    GETTABLE,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    Operation,
)
from qhybridd.netlink.socket import Dump, NetlinkError, NetlinkSocket

Parsed = TypeVar("Parsed")

NETLINK_NETFILTER: Final = 12
NFNL_MSG_BATCH_BEGIN: Final = 16
NFNL_MSG_BATCH_END: Final = 17


class NftSocket:
    """nf_tables of one network namespace. Blocking; called from one thread."""

    def __init__(self) -> None:
        """Raises `HostError` where the kernel has no netfilter netlink."""
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def commit(self, operations: Sequence[Operation]) -> None:
        """Carry out all steps as one transaction, or none: raises `NetlinkError` (host.guard) and nothing changed."""
        what = "changing nftables"
        begin = self._netlink.next_sequence()
        parts = [message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, begin, _header(0, NFNL_SUBSYS_NFTABLES))]
        sequence = begin
        for step, operation in enumerate(operations, 1):
            sequence = self._netlink.next_sequence()
            # The last step's acknowledgement is the positive proof that the kernel read the whole batch.
            flags = NLM_F_REQUEST | operation.flags | (NLM_F_ACK if step == len(operations) else 0)
            parts.append(message(operation.kind, flags, sequence, _header(operation.family) + operation.body))
        end = self._netlink.next_sequence()
        parts.append(message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, end, _header(0, NFNL_SUBSYS_NFTABLES)))
        self._netlink.collect_errors(what)
        self._netlink.send(b"".join(parts), what)
        answers = self._netlink.collect_errors(what)
        for error in answers.values():
            if error is not None:
                raise NetlinkError(error.errno, what, error.explanation, code="host.guard")
        if sequence not in answers:
            raise HostError("host.guard", f"{what}: the kernel did not acknowledge")

    @property
    def port(self) -> int:
        """Its netlink port, by which the kernel names the owner of a table."""
        return self._netlink.port

    def table(self, table: str, family: int = NFPROTO_INET) -> TableState | None:
        """A table; None where it is not there."""
        tables = self._read(GETTABLE, family, b"", parse_tables)
        return next((found for found in tables if found.name == table), None)

    def chains(self, table: str, family: int = NFPROTO_INET) -> list[str]:
        """The names of the table's chains; none where the table is not there."""
        return [name for owner, name in self._read(GETCHAIN, family, b"", parse_chains) if owner == table]

    def sets(self, table: str, family: int = NFPROTO_INET) -> list[str]:
        """The names of the table's sets and maps; none where the table is not there."""
        return self._read(GETSET, family, text(1, table), parse_names)

    def elements(self, table: str, name: str, family: int = NFPROTO_INET) -> list[SetElement]:
        """The elements of a set, without expired ones; none where the set is not there."""
        return self._read(GETSETELEM, family, text(1, table) + text(2, name), parse_elements)

    def rules(self, table: str, family: int = NFPROTO_INET) -> list[tuple[str, str]]:
        """Chain and comment of every rule; none where the table is not there."""
        return self._read(GETRULE, family, text(1, table), parse_rules)

    def counters(self, table: str, family: int = NFPROTO_INET) -> dict[str, int]:
        """Packets by named counter."""
        return self._read(GETOBJ, family, text(1, table), parse_counters)

    def generation(self) -> int:
        """Counts the transactions of everybody in this network namespace (NFTA_GEN_ID)."""
        with self._netlink.dump(GETGEN, _header(0), "reading nftables", flags=0) as dump:
            return parse_generation(dump)

    def _read(self, kind: int, family: int, body: bytes, parse: Callable[[Dump], Parsed]) -> Parsed:
        try:
            with self._netlink.dump(kind, _header(family) + body, "reading nftables") as dump:
                return parse(dump)
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # the table or the set is not there
                return parse(Dump(memoryview(b""), []))
            raise


def _header(family: int, resource: int = 0) -> bytes:
    """struct nfgenmsg: family, version 0, resource (big-endian)."""
    return struct.pack(">BBH", family, 0, resource)
