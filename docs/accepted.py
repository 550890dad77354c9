"""Who took each virtual device for the real thing: drivers and programs that we did not write, and the tests of it.

Each of them bound to the device or found it by itself, moved data, and the bytes were compared.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Accepted(NamedTuple):
    """A driver or program, and the test: a file under tests/, "::", a function."""

    by: str
    test: str
    of: str = ""  # the device in that test, where it is another with this one in it


_CLASSES: Final = "kernel/test_classes.py"
_HID: Final = "kernel/test_hid.py"
_MEDIA: Final = "kernel/test_media.py"
_PROGRAMS: Final = "interop/test_pyusb_programs.py"
_SOUND: Final = f"{_MEDIA}::test_each_frame_is_recorded_and_played_once_and_in_order"

# name in DEVICES -> who accepted it. What is of the kernel is its Linux driver.
ACCEPTED: Final[dict[str, tuple[Accepted, ...]]] = {
    "broken": (Accepted("Linux, which mends or refuses it", f"{_CLASSES}::test_what_the_kernel_says_of_each_mistake"),),
    "camera": (Accepted("uvcvideo", f"{_MEDIA}::test_each_picture_is_captured_once_and_in_order"),),
    "composite": (
        Accepted(
            "usbhid, cdc_acm, usb-storage and snd-usb-audio at once",
            f"{_CLASSES}::test_four_functions_of_one_device_are_busy_at_once",
        ),
    ),
    "dfu": (
        Accepted("dfu-util", f"{_CLASSES}::test_dfu_util_writes_a_firmware_and_reads_it_back"),
        Accepted("pyfu-usb", f"{_PROGRAMS}::test_pyfu_usb_flashes_a_device_that_re_enumerates"),
    ),
    "disk": (Accepted("usb-storage", "kernel/test_disk.py::test_a_file_system_and_32_mib_of_random_data_survive"),),
    "ethernet": (
        Accepted("cdc_ether and cdc_ncm", "kernel/test_ethernet.py::test_two_adapters_and_a_file_between_them"),
    ),
    "ftdi": (
        Accepted("ftdi_sio", f"{_CLASSES}::test_an_ftdi_adapter_echoes"),
        Accepted("pyftdi", f"{_PROGRAMS}::test_pyftdi_talks_to_a_far_side"),
    ),
    "gamepad": (Accepted("usbhid", f"{_HID}::test_a_gamepad_is_where_games_look_for_it"),),
    "headset": (Accepted("snd-usb-audio", _SOUND),),
    "keyboard": (Accepted("usbhid", f"{_HID}::test_every_character_arrives"),),
    "many-configurations": (
        Accepted("Linux, by sysfs and usbfs", f"{_CLASSES}::test_each_configuration_is_taken_in_its_turn"),
    ),
    "many-endpoints": (Accepted("Linux, by usbfs", f"{_CLASSES}::test_thirty_endpoints_move_data"),),
    "microphone": (
        Accepted("snd-usb-audio", f"{_CLASSES}::test_four_functions_of_one_device_are_busy_at_once"),
        Accepted("the same, its mixer", f"{_MEDIA}::test_volume_and_mute_act_on_what_is_heard"),
    ),
    "midi": (Accepted("snd-usb-audio", "kernel/test_midi.py::test_both_ways_byte_for_byte"),),
    "mouse": (Accepted("usbhid", f"{_HID}::test_movements_buttons_and_wheels_arrive"),),
    "mtp": (Accepted("libmtp", "kernel/test_programs.py::test_a_folder_is_listed_copied_and_written_by_libmtp"),),
    "printer": (
        Accepted("usblp", f"{_CLASSES}::test_a_printer_prints_and_answers"),
        Accepted("python-escpos", f"{_PROGRAMS}::test_python_escpos_prints"),
    ),
    "security-key": (Accepted("libfido2", "kernel/test_programs.py::test_a_security_key_registers_and_authenticates"),),
    "serial": (Accepted("cdc_acm", "kernel/test_serial.py::test_a_mebibyte_both_ways_at_once_through_an_echo"),),
    "smartcard": (Accepted("pcscd", "kernel/test_programs.py::test_a_card_is_read_and_written_by_way_of_pcscd"),),
    "speaker": (Accepted("snd-usb-audio, as half of a headset", _SOUND, "headset"),),
    "tablet": (Accepted("usbhid", f"{_HID}::test_a_pen_draws_and_erases"),),
    "touch": (Accepted("hid-multitouch", f"{_HID}::test_fingers_arrive_each_in_its_slot"),),
    "uas": (Accepted("uas", "kernel/redir/test_streams.py::test_the_uas_driver_reads_and_writes_by_streams"),),
    "usbtmc": (
        Accepted("usbtmc", f"{_CLASSES}::test_an_oscilloscope_is_asked_through_the_kernels_driver"),
        Accepted("python-usbtmc", f"{_PROGRAMS}::test_python_usbtmc_reads_a_waveform"),
        Accepted("PyVISA", f"{_PROGRAMS}::test_pyvisa_reads_a_waveform"),
    ),
    "zero": (Accepted("usbtest", "kernel/test_usbtest.py::test_all_30_cases_pass"),),
}
