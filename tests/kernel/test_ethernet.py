"""The kernel's cdc_ether and cdc_ncm drive our network adapters, and its TCP goes through them.

guest: namespace one -- usb0, ECM -- vhci -- server on the host -- TCP -- vhci -- usb1, NCM -- namespace two
guest: namespace three -- usb0, NCM -- vhci -- server in the guest -- ferry0, TAP
"""

import os
import sys

import pytest

from tests.kernel.guest import CHECKOUT, Guest
from tests.kernel.steps import attach, detach, importing, unexpected

USBFERRY = f"{sys.executable} -m usbferry"
MIB = 64 if os.environ.get("USBFERRY_SOAK") else 8

ADDRESS = """
adapter() { # adapter DEVICE: the name of its network interface
    until set -- /sys/bus/usb/devices/$1/$1:1.0/net/* && [ -e "$1" ]; do sleep 0.02; done
    echo ${1##*/}
}
move() { # move INTERFACE NAMESPACE ADDRESS
    ip netns add $2 && ip link set $1 netns $2 && ip -n $2 address add $3/24 dev $1 && ip -n $2 link set $1 up
}
"""
TAKE = """
import hashlib, socket
server, seen = socket.create_server(("", 5000)), hashlib.sha256()
peer = server.accept()[0]
while data := peer.recv(1 << 16):
    seen.update(data)
print(seen.hexdigest())
"""
GIVE = f"""
import hashlib, os, socket
peer, sent = socket.create_connection(("10.7.0.2", 5000)), hashlib.sha256()
for _ in range({MIB}):
    data = os.urandom(1 << 20)
    sent.update(data)
    peer.sendall(data)
print(sent.hexdigest())
"""
SEND = f"""
    ip netns exec two python3 -c '{TAKE}' >/run/got &
    until ip netns exec two busybox netstat -ltn | grep -q ":5000 "; do sleep 0.05; done
    ip netns exec one python3 -c '{GIVE}' >/run/sent
    wait
    cat /run/sent /run/got
"""


@pytest.fixture(scope="module")
def guest(guest: Guest) -> Guest:
    guest.run("modprobe -a vhci-hcd cdc_ether cdc_ncm tun").ok()
    return guest


def test_two_adapters_and_a_file_between_them(guest: Guest, serve) -> None:
    first = serve("virtual:ethernet?to=listen://127.0.0.1:0&mac=02:00:00:00:00:01")
    far = first.log().split("listen://127.0.0.1:")[1].split()[0].rstrip(":")
    second = serve(f"virtual:ethernet?mode=ncm&to=tcp://127.0.0.1:{far}&mac=02:00:00:00:00:02&speed=super")
    guest.mark()
    with importing(guest, first.port, "1-1") as ecm, importing(guest, second.port, "1-1") as ncm:
        seen = guest.run(f"""{ADDRESS}
            set -e
            one=$(adapter {ecm.device}); two=$(adapter {ncm.device})
            cat /sys/class/net/$one/address /sys/class/net/$two/address
            for name in $one $two; do basename $(readlink /sys/class/net/$name/device/driver); done
            move $one one 10.7.0.1; move $two two 10.7.0.2
            until ip -n one link show $one | grep -q LOWER_UP && ip -n two link show $two | grep -q LOWER_UP; do
                sleep 0.1
            done
            ip netns exec one busybox ping -c 3 -s 1400 10.7.0.2
        """, 60).ok()  # fmt: skip
        assert seen.split()[:4] == ["02:00:00:00:00:01", "02:00:00:00:00:02", "cdc_ether", "cdc_ncm"]
        assert "3 packets received" in seen
        sent, got = guest.run(SEND, 300 if MIB > 8 else 90).ok().split()
        assert sent == got
        guest.run("ip netns del one; ip netns del two").ok()
    assert unexpected(guest) == []


def test_a_tap_interface_is_the_other_end(guest: Guest) -> None:
    guest.mark()
    serving = f"{USBFERRY} serve 'virtual:ethernet?mode=ncm&to=tap:ferry0' --listen 127.0.0.1:3300"
    server = guest.start(f"echo $$ >/run/tap.pid; export PYTHONPATH={CHECKOUT / 'src'}; exec {serving}", 120)
    guest.run("until busybox netstat -ltn | grep -q :3300; do sleep 0.1; done", 60).ok()
    attached = attach(guest, 3300, "1-1", host="127.0.0.1")
    seen = guest.run(f"""{ADDRESS}
        set -e
        name=$(adapter {attached.device})
        ip address add 10.7.0.9/24 dev ferry0 && ip link set ferry0 up
        move $name three 10.7.0.1
        ip netns exec three busybox ping -c 3 -s 1400 10.7.0.9
        ip netns del three
    """, 60).ok()  # fmt: skip
    assert "3 packets received" in seen
    detach(guest, attached)
    guest.run("kill -TERM $(cat /run/tap.pid)").ok()
    assert server.wait().rc == 0, server.output()
    assert unexpected(guest) == []
