"""How commands of CTAP2 end, and their parameters: a map with numbers or texts as keys.

Source: Client to Authenticator Protocol 2.0 §6.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypeVar

T = TypeVar("T")


class Code(IntEnum):
    """§6.3"""

    OK = 0x00
    INVALID_COMMAND = 0x01
    INVALID_PARAMETER = 0x02
    INVALID_LENGTH = 0x03
    CBOR_UNEXPECTED_TYPE = 0x11
    INVALID_CBOR = 0x12
    MISSING_PARAMETER = 0x14
    CREDENTIAL_EXCLUDED = 0x19
    UNSUPPORTED_ALGORITHM = 0x26
    OPERATION_DENIED = 0x27
    KEY_STORE_FULL = 0x28
    UNSUPPORTED_OPTION = 0x2B
    INVALID_OPTION = 0x2C
    KEEPALIVE_CANCEL = 0x2D
    NO_CREDENTIALS = 0x2E
    USER_ACTION_TIMEOUT = 0x2F
    NOT_ALLOWED = 0x30
    PIN_INVALID = 0x31
    PIN_BLOCKED = 0x32
    PIN_AUTH_INVALID = 0x33
    PIN_AUTH_BLOCKED = 0x34
    PIN_NOT_SET = 0x35
    PIN_REQUIRED = 0x36
    PIN_POLICY_VIOLATION = 0x37


class Refused(Exception):
    """A command that ends with an error."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


def get(where: Mapping[Any, object], key: object, kind: type[T]) -> T | None:
    """A parameter, or None where it is left out. Raises Refused for one of another type."""
    found = where.get(key)
    if found is not None and not isinstance(found, kind):
        raise Refused(Code.CBOR_UNEXPECTED_TYPE)
    return found


def need(where: Mapping[Any, object], key: object, kind: type[T]) -> T:
    """A parameter that has to be there."""
    found = get(where, key, kind)
    if found is None:
        raise Refused(Code.MISSING_PARAMETER)
    return found
