"""What is refused and what is ignored, as tables of the specification say, which are read here: §5.1, §5.2, §5.4."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from docs import specification
from tests.protocols.ferry.reader import CALLS, OF_TRANSPORT
from tests.protocols.ferry.wire import (
    INFO,
    TOKEN,
    T,
    Talk,
    bulk,
    call,
    claim,
    claimed,
    control,
    device,
    interrupt,
    iso,
    open_,
    reply,
    resume,
    u32,
    unlink,
    version,
    version_reply,
)
from usbferry.protocols.errors import ProtocolError
from usbferry.protocols.events import Claimed, Refused
from usbferry.protocols.ferry.importer import Importer
from usbferry.protocols.ferry.messages import Capability, Code
from usbferry.protocols.ferry.states import Target

TEXT = specification.PATH.read_text("utf-8")


def table(section: str) -> list[tuple[str, ...]]:
    """The rows of the first table that a section has by itself."""
    body = re.search(rf"^### {re.escape(section)} .*?$(.*?)^#+ ", TEXT, re.MULTILINE | re.DOTALL)
    assert body is not None
    lines = re.sub(r"<!-- generated.*?<!-- end -->", "", body[1], flags=re.DOTALL)
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines.splitlines() if line[:1] == "|"
    ]
    return rows[2:]


# -- versions (§5.1) ----------------------------------------------------------------------------------------------

VERSIONS = table("5.1")
OURS = "1"  # what this implementation speaks


def numbers(cell: str) -> list[int]:
    return [int(number) for number in cell.split(", ")]


def test_the_table_of_versions_is_there():
    assert len(VERSIONS) == 5
    sides = [(controller, target) for controller, target, _ in VERSIONS]
    assert [pair for pair in sides if OURS not in pair] == [("1, 2", "1, 2")]  # for who speaks two


@pytest.mark.parametrize(("controller", "target", "result"), [row for row in VERSIONS if row[1] == OURS])
def test_a_target_answers_as_the_table_says(controller: str, target: str, result: str):
    talk = Talk().says(version(versions=numbers(controller)))
    if result == OURS:
        talk.hears(version_reply())
        assert not talk.exporter.done
    else:
        assert result.startswith("NO_COMMON_VERSION with what the target speaks, and it closes")
        talk.hears(reply(T, Code.NO_COMMON_VERSION, u32(1, *numbers(target))))
        assert talk.exporter.done


@pytest.mark.parametrize(("controller", "target", "result"), [row for row in VERSIONS if row[0] == OURS])
def test_a_controller_goes_by_what_it_is_answered(controller: str, target: str, result: str):
    """It lists what it accepts; of a target that speaks it too the answer is that, of another it is a refusal."""
    answers = [version_reply() + reply(T + 1, 0, TOKEN + device(INFO))]
    if target != controller:
        assert result.startswith("the target answers 1 if it speaks it too; else NO_COMMON_VERSION, and closes")
        answers.append(reply(T, Code.NO_COMMON_VERSION, u32(1, *numbers(target))))
    kinds = [type(told(answer)[0]) for answer in answers]
    assert kinds == [Claimed, Refused][: len(answers)]


def told(answer: bytes) -> list[object]:
    importer = Importer()
    importer.claim("1-1")
    assert b"".join(importer.outgoing) == version() + claim()
    importer.receive(memoryview(answer), 0.0)
    return list(importer.events())


# -- capabilities (§5.2) ------------------------------------------------------------------------------------------

CAPABILITIES = table("5.2")


def test_the_table_of_capabilities_is_that_of_the_code():
    assert [(int(bit), name) for bit, name, _ in CAPABILITIES] == [
        (int(one).bit_length() - 1, one.name) for one in Capability
    ]
    named = {word for _, _, calls in CAPABILITIES for word in re.findall(r"[A-Z_]{4,}", calls)}
    assert named - {"STREAM"} <= set(CALLS.values())


@pytest.mark.parametrize("bits", [0, *(1 << bit for bit in range(32)), 0xFFFFFFFF])
def test_unknown_capabilities_are_ignored_both_ways(bits: int):
    Talk().says(version(capabilities=bits)).hears(version_reply())
    answer = bytearray(version_reply())
    answer[16:20] = u32(bits)
    [claimed] = told(bytes(answer) + reply(T + 1, 0, TOKEN + device(INFO)))
    assert isinstance(claimed, Claimed)


def test_what_a_later_version_appends_is_ignored():
    whole = version_reply()
    longer = reply(T, 0, whole[12:] + b"what comes later")
    [claimed] = told(longer + reply(T + 1, 0, TOKEN + device(INFO) + b"and here"))
    assert isinstance(claimed, Claimed)


@pytest.mark.parametrize("number", [0, *range(len(CALLS) + 1, 255)])
def test_unknown_calls_are_answered_and_the_transport_stays(number: int):
    talk = claimed().says(call(1, number, b"what"), call(T + 7, number, b"ever"))
    talk.hears(reply(1, Code.UNKNOWN_CALL), reply(T + 7, Code.UNKNOWN_CALL))
    talk.says(bulk(2, 0x81, 8)).asks("submit #2 in 81 8")


# -- states (§5.4) ------------------------------------------------------------------------------------------------

STATES = {name: row[1:] for row in table("5.4") for name in row[0].split(", ")}

# A call of each name that is well formed, with the identifier N of its kind.
SENT: dict[str, Callable[[int], bytes]] = {
    "VERSION": version, "LIST": lambda n: call(n, 2), "CLAIM": lambda n: claim(n, b"1-2"),
    "WATCH": lambda n: call(n, 19, u32(0)), "RESUME": lambda n: resume(n), "HEARTBEAT": lambda n: call(n, 21),
    "HOLD": lambda n: call(n, 22), "RELEASE": lambda n: call(n, 4),
    "CONTROL": lambda n: control(n, "8006000100001200"), "BULK": lambda n: bulk(n, 0x81, 8),
    "ISOCHRONOUS": lambda n: iso(n, 0x84, (8,)), "INTERRUPT": lambda n: interrupt(n, 0x83, 8, 1),
    "UNLINK": lambda n: unlink(n, n), "RESET": lambda n: call(n, 10), "SET_CONFIGURATION": lambda n: call(n, 11, b"\1"),
    "SET_INTERFACE": lambda n: call(n, 12, b"\0\1"), "CLEAR_HALT": lambda n: call(n, 13, b"\x81"),
    "SUSPEND": lambda n: call(n, 14), "WAKE": lambda n: call(n, 15),
    "ALLOC_STREAMS": lambda n: call(n, 16, u32(4) + b"\x81"), "FREE_STREAMS": lambda n: call(n, 17, b"\x81"),
    "DESCRIBE": lambda n: call(n, 18),
}  # fmt: skip


def claiming() -> Talk:
    return open_().says(claim()).asks("claim 1-1")


def releasing() -> Talk:
    return claimed().says(call(1, 4)).asks("release")


def detached() -> Talk:
    """Its transport is lost, and there is another, on which VERSION was said."""
    talk = claimed()
    assert talk.loses_transport()
    talk.exporter.connected(talk.now)
    return talk


MAKERS = {
    "new": Talk, "open": open_, "claiming": claiming, "releasing": releasing, "claimed": claimed, "detached": detached,
}  # fmt: skip


def test_every_state_and_every_call_is_in_the_tables():
    assert {*STATES} == {*MAKERS} == {one.value for one in Target} - {"over"}
    assert {*SENT} == {*CALLS.values()}


def expected(state: str, name: str) -> str:
    """What a row says of a call: a status, "taken", or "ends"."""
    text = STATES[state][0 if name in OF_TRANSPORT else 1]
    first, _, rest = text.partition("; ")
    if "end the transport" in text:
        return "ends"
    if "any other ends the transport" in rest:
        return "taken" if name in re.findall(r"[A-Z]+", first) else "ends"
    exceptions = dict(re.findall(r"(\w+) is (\w+)", rest))
    return exceptions.get(name) or ("taken" if first == "all" else first)


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("state", MAKERS)
def test_a_call_in_a_state(state: str, name: str):
    talk = MAKERS[state]()
    assert talk.exporter.state.value == state
    number = T + 40 if name in OF_TRANSPORT else 1
    what = expected(state, name)
    if what == "ends":
        with pytest.raises(ProtocolError):
            talk.says(SENT[name](number))
        return
    talk.says(SENT[name](number))
    heard = talk.takes()
    if what == "taken":
        refused = {int(Code.NOT_CLAIMED), int(Code.MALFORMED), int(Code.UNKNOWN_CALL)}
        assert not heard or int.from_bytes(heard[8:12], "big") not in refused
    else:
        assert heard == reply(number, Code[what])
