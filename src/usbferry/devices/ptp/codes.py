"""The numbers of PTP and MTP.

Source: Media Transfer Protocol 1.1, where the appendices named here are.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Kind(IntEnum):
    """Of a container, appendix H.2.1."""

    COMMAND = 1
    DATA = 2
    RESPONSE = 3
    EVENT = 4


class Operation(IntEnum):
    """Appendix D."""

    GET_DEVICE_INFO = 0x1001
    OPEN_SESSION = 0x1002
    CLOSE_SESSION = 0x1003
    GET_STORAGE_IDS = 0x1004
    GET_STORAGE_INFO = 0x1005
    GET_NUM_OBJECTS = 0x1006
    GET_OBJECT_HANDLES = 0x1007
    GET_OBJECT_INFO = 0x1008
    GET_OBJECT = 0x1009
    DELETE_OBJECT = 0x100B
    SEND_OBJECT_INFO = 0x100C
    SEND_OBJECT = 0x100D
    GET_DEVICE_PROP_DESC = 0x1014
    GET_DEVICE_PROP_VALUE = 0x1015
    GET_PARTIAL_OBJECT = 0x101B
    GET_OBJECT_PROPS_SUPPORTED = 0x9801
    GET_OBJECT_PROP_DESC = 0x9802
    GET_OBJECT_PROP_VALUE = 0x9803
    SET_OBJECT_PROP_VALUE = 0x9804
    GET_OBJECT_PROP_LIST = 0x9805
    GET_OBJECT_REFERENCES = 0x9810


TAKES_DATA: Final = (Operation.SEND_OBJECT_INFO, Operation.SEND_OBJECT, Operation.SET_OBJECT_PROP_VALUE)
WRITES: Final = (*TAKES_DATA, Operation.DELETE_OBJECT)


class Response(IntEnum):
    """Appendix F."""

    OK = 0x2001
    GENERAL_ERROR = 0x2002
    SESSION_NOT_OPEN = 0x2003
    INVALID_TRANSACTION = 0x2004
    NOT_SUPPORTED = 0x2005
    INCOMPLETE = 0x2007
    INVALID_STORAGE = 0x2008
    INVALID_HANDLE = 0x2009
    DEVICE_PROP_NOT_SUPPORTED = 0x200A
    INVALID_FORMAT = 0x200B
    STORE_FULL = 0x200C
    STORE_READ_ONLY = 0x200E
    ACCESS_DENIED = 0x200F
    BY_FORMAT_UNSUPPORTED = 0x2014
    NO_VALID_OBJECT_INFO = 0x2015
    BUSY = 0x2019
    INVALID_PARENT = 0x201A
    INVALID_PARAMETER = 0x201D
    SESSION_OPEN = 0x201E
    INVALID_PROP_CODE = 0xA801
    INVALID_PROP_VALUE = 0xA803
    INVALID_DATASET = 0xA806
    BY_GROUP_UNSUPPORTED = 0xA807
    BY_DEPTH_UNSUPPORTED = 0xA808


class Event(IntEnum):
    """Appendix G."""

    OBJECT_ADDED = 0x4002
    OBJECT_REMOVED = 0x4003


class Format(IntEnum):
    """Appendix A."""

    UNDEFINED = 0x3000
    FOLDER = 0x3001
    TEXT = 0x3004
    HTML = 0x3005
    WAV = 0x3008
    MP3 = 0x3009
    AVI = 0x300A
    MPEG = 0x300B
    JPEG = 0x3801
    BMP = 0x3804
    GIF = 0x3807
    PNG = 0x380B
    TIFF = 0x380D
    OGG = 0xB902
    MP4 = 0xB982
    FLAC = 0xB906


FORMATS: Final = {
    ".txt": Format.TEXT,
    ".html": Format.HTML,
    ".wav": Format.WAV,
    ".mp3": Format.MP3,
    ".avi": Format.AVI,
    ".mpg": Format.MPEG,
    ".jpg": Format.JPEG,
    ".jpeg": Format.JPEG,
    ".bmp": Format.BMP,
    ".gif": Format.GIF,
    ".png": Format.PNG,
    ".tif": Format.TIFF,
    ".ogg": Format.OGG,
    ".mp4": Format.MP4,
    ".flac": Format.FLAC,
}


class Property(IntEnum):
    """Of objects, appendix B."""

    STORAGE = 0xDC01
    FORMAT = 0xDC02
    PROTECTION = 0xDC03
    SIZE = 0xDC04
    FILE_NAME = 0xDC07
    MODIFIED = 0xDC09
    PARENT = 0xDC0B
    UNIQUE_ID = 0xDC41
    NAME = 0xDC44


FRIENDLY_NAME: Final = 0xD402  # of the device, appendix C.2


class Type(IntEnum):
    """Appendix 5.3."""

    U16 = 0x0004
    U32 = 0x0006
    U64 = 0x0008
    U128 = 0x000A
    TEXT = 0xFFFF


ROOT: Final = 0xFFFF_FFFF  # as a parent: the storage itself; elsewhere: all
STORAGE_ID: Final = 0x0001_0001
