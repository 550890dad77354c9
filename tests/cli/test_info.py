"""`usbferry info`: the tree a person reads, and the JSON a program reads."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.served import served
from usbferry.cli.info import SCHEMA, command
from usbferry.usb.decode import decode


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_tree_names_every_endpoint_in_every_setting():
    text = run("virtual:zero")
    assert "0525:a4a0  usbferry Gadget Zero" in text
    assert "Configuration 1  (100 mA, in force)" in text
    assert "Interface 0.1  ff/00/00 vendor specific" in text
    assert "Endpoint 83  isochronous in, 1024 bytes, every 0.125 ms, unsynchronised data" in text


def test_what_a_device_says_of_itself_does_not_steer_the_terminal():
    assert "\x1b" not in run("virtual:zero?serial=%1b[2J")


def test_at_super_speed_companions_and_the_real_packet_size_are_shown():
    text = run("virtual:zero?speed=super")
    assert "bMaxPacketSize0      512" in text
    assert "bMaxBurst 0" in text


def test_json_has_a_versioned_schema_and_the_same_facts():
    report = json.loads(run("virtual:zero", "--json"))
    assert report["schema"] == SCHEMA == "usbferry.info/2"
    assert report["product"] == "Gadget Zero"
    endpoints = report["configurations"][0]["interfaces"][1]["endpoints"]
    assert [e["bEndpointAddress"] for e in endpoints] == [0x81, 0x01, 0x82, 0x02, 0x83, 0x84, 0x03, 0x04]


def test_json_has_numbers_and_not_what_is_printed_of_them():
    report = json.loads(run("virtual:serial", "--json"))
    about = report["descriptor"]
    assert (about["idVendor"], about["bcdUSB"]) == (int(report["vendor_id"], 16), 0x0200)
    assert all(isinstance(value, int) for key, value in about.items() if key != "class_name")
    [configuration] = report["configurations"]
    for interface in configuration["interfaces"]:
        assert [interface[f"bInterface{part}"] for part in ("Class", "SubClass", "Protocol")] in ([2, 2, 0], [10, 0, 0])
        assert interface["class_name"]
        for endpoint in interface["endpoints"]:
            assert endpoint["direction"] == ("in" if endpoint["bEndpointAddress"] & 0x80 else "out")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("nowhere:", "no kind of address 'nowhere'"),
        ("zero", "write it as virtual:zero"),
        ("virtual:nothing", "no virtual device 'nothing'"),
        ("usbip://127.0.0.1:1/1-1", "no connection to 127.0.0.1:1"),
        ("usb:zz", "'zz' is no term of a selector; there are: VID:PID, serial="),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_status_2(address, text):
    result = CliRunner().invoke(command, [address])
    assert result.exit_code == 2
    assert text in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("place", "raw", "expected"),
    [
        ((3, 1), "09 21 11 01 00 01 22 3f 00", ("HID", {"bcdHID": 0x0111, "wDescriptorLength": 63})),
        ((2, 2), "04 24 02 06", ("CDC ACM", {"bmCapabilities": 6})),
        ((2, 2), "05 24 06 00 01", ("CDC Union", {"bControlInterface": 0, "bSubordinateInterface0": 1})),
        ((0xFE, 1), "09 21 0b ff 00 00 10 1a 01", ("DFU Functional", {"wTransferSize": 4096})),
        ((8, 6), "04 24 01 00", ("UAS Pipe Usage", {"bPipeID": 1})),
    ],
)
def test_class_specific_descriptors_are_read_field_by_field(place, raw, expected):
    name, fields = decode(*place, bytes.fromhex(raw))
    assert name == expected[0]
    assert expected[1].items() <= fields.items()


def test_a_descriptor_cut_short_is_read_as_far_as_it_goes():
    assert decode(3, 1, bytes.fromhex("04 21 11 01")) == ("HID", {"bcdHID": 0x0111})
    assert decode(3, 1, b"\x01") is None
    assert decode(0xFF, 0, bytes.fromhex("04 24 01 00")) is None


@pytest.mark.slow
def test_a_device_that_is_brought_is_waited_for(tmp_path: Path):
    """Both commands as a user gives them, the one that listens first or last."""
    file = tmp_path / "sock"
    with served("virtual:zero", "--to", f"usbredir://{file}", runtime=tmp_path):
        assert "0525:a4a0  usbferry Gadget Zero" in run(f"usbredir://{file}?listen").splitlines()  # the name is its ids
        assert "0525:a4a0  usbferry Gadget Zero" in run(f"usbredir://{file}?listen")  # it connects again
