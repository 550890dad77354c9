"""SCPI without a bus: headers, parameters, paths, status, errors; and the oscilloscope's commands."""

from __future__ import annotations

import pytest

from usbferry.devices.oscilloscope import Oscilloscope
from usbferry.devices.scpi import MAX_UNITS, Event, Instrument, ScpiError, StatusByte, block, decimal, number, scpi


class Meter(Instrument):
    identity = "ACME,Meter,1,1.0"
    triggered = 0

    def reset(self) -> None:
        self.ranges = {1: 1.0, 2: 1.0}

    def trigger(self) -> None:
        self.triggered += 1

    @scpi("RANGe<n>:UPPer")
    def _set_range(self, channel: int, value: str) -> None:
        if channel not in self.ranges:
            raise ScpiError(-113)
        self.ranges[channel] = decimal(value, 0, 10)

    @scpi("RANGe<n>:UPPer?")
    def _range(self, channel: int) -> str:
        return f"{self.ranges[channel]:g}"

    @scpi("RANGe<n>:BOTH?")
    def _both(self, channel: int, low: str, high: str) -> str:
        return f"{channel} {low} {high}"


def ask(instrument: Instrument, text: str) -> str:
    """The answer to a message, without its end; empty when there is none."""
    instrument.message(text.encode())
    answer = instrument.take(1 << 20).decode("latin-1")
    assert answer.endswith("\n") or not answer
    return answer.removesuffix("\n")


def errors(instrument: Instrument) -> list[int]:
    found = []
    while (text := ask(instrument, "SYST:ERR?")) != '0,"No error"':
        found.append(int(text.partition(",")[0]))
    return found


@pytest.mark.parametrize("header", ["RANG2:UPP", "range2:upper", ":RANGe2:UPPer", "RANG2:UPPER", "Rang2:Upp"])
def test_headers_are_long_or_short_in_any_case(header):
    meter = Meter()
    meter.message(f"{header} 3".encode())
    assert (meter.ranges, errors(meter)) == ({1: 1.0, 2: 3.0}, [])


@pytest.mark.parametrize("header", ["RAN2:UPP", "RANGE2", "RANG2:UPPE", "RANG2:UPP:X", "UPP", "RANG3:UPP"])
def test_what_is_no_header_is_an_error(header):
    meter = Meter()
    meter.message(f"{header} 3".encode())
    assert errors(meter) == [-113]


def test_a_number_that_is_left_out_is_1():
    assert ask(Meter(), "RANG:UPP?") == "1"


def test_units_answer_together_and_go_on_where_the_last_was():
    assert ask(Meter(), "RANG2:UPP 5;UPP?;*IDN?;UPP?;:RANG1:UPP?") == "5;ACME,Meter,1,1.0;5;1"
    assert ask(Meter(), "RANG2:BOTH? 1 , 2") == "2 1 2"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("RANG:UPP", -109),
        ("RANG:UPP 1,2", -108),
        ("RANG:UPP 11", -222),
        ("RANG:UPP x", -224),
        ("*IDN? 1", -108),
        ("*SRE 256", -222),
    ],
)
def test_parameters_that_make_no_sense(message, code):
    meter = Meter()
    assert ask(meter, message) == ""
    assert errors(meter) == [code]


def test_one_unit_that_fails_stops_no_other():
    meter = Meter()
    assert ask(meter, "FOO;*OPC?") == "1"
    assert errors(meter) == [-113]


def test_too_many_errors_are_an_error():
    meter = Meter()
    meter.message(b"FOO;" * 40)
    found = errors(meter)
    assert (len(found), found[-2:]) == (30, [-113, -350])


def test_status_and_its_enabling():
    meter = Meter()
    assert ask(meter, "*ESR?") == str(int(Event.POWER_ON))
    assert ask(meter, "*ESR?") == "0"
    meter.message(b"*ESE 32;*SRE 32;FOO")
    assert meter.status_byte == StatusByte.ERROR_QUEUE | StatusByte.EVENT | StatusByte.REQUEST_SERVICE
    assert ask(meter, "*ESE?;*SRE?;*STB?") == "32;32;100"
    meter.message(b"*CLS;*OPC")
    assert ask(meter, "*ESR?") == "1"
    meter.message(b"*IDN?")
    assert meter.status_byte == StatusByte.MESSAGE_AVAILABLE
    meter.clear()
    assert meter.status_byte == 0


def test_the_rest_of_488_2():
    meter = Meter()
    assert ask(meter, "*TST?;*OPC?;*WAI;SYST:VERS?") == "0;1;1999.0"
    meter.message(b"RANG:UPP 5;*TRG;*RST")
    assert (meter.triggered, meter.ranges) == (1, {1: 1.0, 2: 1.0})


def test_an_answer_that_nobody_fetched_gives_way_to_the_next_question():
    meter = Meter()
    meter.message(b"*IDN?")
    assert ask(meter, "*OPC?") == "1"
    assert errors(meter) == [-410]


def test_an_answer_is_fetched_in_parts():
    meter = Meter()
    meter.message(b"*IDN?")
    assert [meter.take(6), meter.take(100, ord(",")), meter.take(100)] == [b"ACME,M", b"eter,", b"1,1.0\n"]


def test_blocks_and_numbers():
    assert block(b"x" * 12) == b"#212" + b"x" * 12
    assert block(b"") == b"#10"
    assert number("2.6", 0, 5) == 3
    with pytest.raises(ScpiError):
        decimal("nan", 0, 1)


# -- the oscilloscope --------------------------------------------------------------------------------------------------


def test_its_waveform_is_a_sine():
    scope = Oscilloscope("x")
    assert ask(scope, "WAV:POIN 1000;POIN?;SOUR?") == "1000;CHAN1"
    samples = scope.samples(1)  # ten periods of 100 points
    assert (samples[0], samples[25], samples[75], samples[100]) == (128, 153, 103, 128)
    scope.message(b"WAV:DATA?")
    assert scope.take(5000) == b"#41000" + samples + b"\n"
    scope.message(b"CHAN1:SCAL 0.1;:CURV?")
    assert set(scope.take(5000)[6:-1]) >= {0, 255}, "what leaves the screen is cut"


def test_its_other_channel_is_a_square_wave():
    scope = Oscilloscope("x")
    scope.message(b"WAV:SOUR CHANnel2")
    assert set(scope.samples(2)) == {128 + 12, 128 - 12}
    assert ask(scope, "MEAS:FREQ?;VPP?") == "5.000000E+02;1.000000E+00"


def test_its_settings():
    scope = Oscilloscope("x")
    scope.message(b"CHAN2:DISP ON;SCAL 0.5;:TIM:SCAL 2E-3;:STOP")
    assert ask(scope, "CHAN2:DISP?;SCAL?;:TIM:SCAL?") == "1;5.000000E-01;2.000000E-03"
    assert ask(scope, "WAV:PRE?").startswith("0,0,1000,1,2.000000E-05,")
    assert not scope.running
    scope.message(b"RUN")
    assert scope.running
    scope.message(b"SING;*TRG")
    assert (scope.running, scope.acquisitions) == (False, 2)
    scope.message(b"CHAN3:SCAL 1;CHAN1:DISP maybe;:WAV:POIN 1000000")
    assert errors(scope) == [-113, -224, -222]


def test_a_message_asks_for_so_much_and_no_more():
    """What one importer sends must not keep the devices of the others waiting."""
    scope = Oscilloscope("x")
    assert ask(scope, ";".join(["*TST?"] * (MAX_UNITS + 1))) == ";".join(["0"] * MAX_UNITS)
    assert errors(scope) == [-223]
    scope.message(b"CHAN" + b"1" * 5000 + b":SCAL 1")
    assert errors(scope) == [-113], "no number is that long"


def test_answers_are_bounded(monkeypatch):
    monkeypatch.setattr("usbferry.devices.scpi.MAX_OUTPUT", 1000)
    scope = Oscilloscope("x")
    scope.message(b";".join([b":WAV:DATA?"] * 5))
    assert len(scope.take(1 << 20)) < 3 * 1010
    assert errors(scope) == [-225]
