"""Pictures cut into payloads, as UVC §2.4.3 says that drivers put them together again."""

from tests.devices.host import isochronous, read
from tests.devices.video_host import Driver
from usbferry.devices.video.payloads import Payloads

MICROFRAME = 125e-6


class Counted:
    """Pictures 0, 1, 2, ... of some length."""

    def __init__(self, length: int) -> None:
        self.length, self.number, self.there = length, 0, True

    def picture(self, number: int) -> bytes:
        return (number.to_bytes(4, "big") * (self.length // 4 + 1))[: self.length]

    def __call__(self) -> bytes | None:
        if not self.there:
            return None
        self.number += 1
        return self.picture(self.number - 1)


def packets_of(payloads: Payloads, driver: Driver, transfers: int, size: int = 100, count: int = 32) -> None:
    for number in range(1, transfers + 1):
        now = number * count * MICROFRAME
        driver.transfer(payloads.isochronous(isochronous(0x81, [size] * count), now, MICROFRAME, size))


def test_isochronous_pictures_are_put_together_again_each_at_its_time():
    source, driver = Counted(1000), Driver()
    payloads = Payloads(source)
    payloads.start(0, 0.01, 3072)
    packets_of(payloads, driver, 25)  # 100 ms
    assert driver.pictures == [source.picture(n) for n in range(10)]
    assert driver.ids == [0, 1] * 5
    assert all(abs(time - n * 10_000) <= 250 for n, time in enumerate(driver.times)), driver.times


def test_a_picture_is_not_left_out_when_packets_are_too_small_for_the_rate():
    source, driver = Counted(10_000), Driver()
    payloads = Payloads(source)
    payloads.start(0, 0.001, 3072)
    packets_of(payloads, driver, 25)
    assert driver.pictures == [source.picture(n) for n in range(len(driver.pictures))]
    assert len(driver.pictures) == 25 * 32 * 94 // 10_000


def test_after_a_pause_pictures_come_at_their_rate_again_and_not_in_a_crowd():
    source, driver = Counted(50), Driver()
    payloads = Payloads(source)
    payloads.start(0, 0.01, 3072)
    driver.transfer(payloads.isochronous(isochronous(0x81, [100] * 32), 1.0, MICROFRAME, 100))
    driver.transfer(payloads.isochronous(isochronous(0x81, [100] * 120), 1.015, MICROFRAME, 100))
    assert len(driver.pictures) == 1 + 1


def test_packets_smaller_than_a_header_stay_empty():
    payloads = Payloads(Counted(50))
    payloads.start(0, 0.01, 3072)
    answer = payloads.isochronous(isochronous(0x81, [6, 3, 0, 7]), 0.01, MICROFRAME, 100)
    assert [packet.actual for packet in answer.packets] == [0, 0, 0, 7]


def test_a_packet_is_no_longer_than_the_endpoint_even_if_there_is_room():
    payloads = Payloads(Counted(500))
    payloads.start(0, 0.01, 3072)
    answer = payloads.isochronous(isochronous(0x81, [3072] * 2), 0.01, MICROFRAME, 192)
    assert [packet.actual for packet in answer.packets] == [192, 192]


# -- bulk -----------------------------------------------------------------------------------------------------------


def bulk(payloads: Payloads, length: int, now: float, most: int) -> bytes | None:
    """One payload, as a driver takes it: until a transfer is short, or there can be no more."""
    whole = b""
    while True:
        answer = payloads.bulk(read(0x81, length), now)
        if answer is None:
            assert not whole
            return None
        whole += bytes(answer.data)
        if len(answer.data) < length or len(whole) >= most:
            return whole


def test_a_bulk_picture_is_one_payload_over_transfers_of_any_length():
    source = Counted(1000)
    for length in (6, 7, 100, 503, 512, 1006, 1007, 16384):
        payloads, driver = Payloads(source), Driver()
        source.number = 0
        payloads.start(0, 0.01, 4000)
        for number in range(4):
            driver.payload(bulk(payloads, length, number * 0.01, 4000))
        assert driver.pictures == [source.picture(n) for n in range(4)]
        assert driver.ids == [0, 1, 0, 1]


def test_a_payload_that_fills_its_last_transfer_ends_with_an_empty_one_unless_it_is_as_long_as_can_be():
    for most, ends in ((4000, [503, 503, 0]), (1006, [503, 503])):
        payloads = Payloads(Counted(1000))
        payloads.start(0, 0.01, most)
        got = []
        while (answer := payloads.bulk(read(0x81, 503), 0)) is not None:
            got.append(answer.actual)
        assert got == ends


def test_between_pictures_a_bulk_endpoint_has_nothing():
    source = Counted(10)
    payloads = Payloads(source)
    payloads.start(5, 0.01, 100)
    assert payloads.bulk(read(0x81, 512), 4.9) is None
    assert payloads.bulk(read(0x81, 512), 5).actual == 16
    assert payloads.bulk(read(0x81, 512), 5.009) is None
    assert payloads.due == 5.01
    source.there = False
    assert payloads.bulk(read(0x81, 512), 5.02) is None
    source.there = True
    assert payloads.bulk(read(0x81, 512), 5.025).actual == 16


def test_each_start_is_a_new_beginning():
    source, driver = Counted(1000), Driver()
    payloads = Payloads(source)
    payloads.start(0, 0.01, 3072)
    payloads.isochronous(isochronous(0x81, [100]), 0.001, MICROFRAME, 100)
    payloads.start(0, 0.01, 3072)
    packets_of(payloads, driver, 1)
    assert driver.pictures == [source.picture(1)]
    assert driver.ids == [0]
