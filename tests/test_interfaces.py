"""Which of a machine's addresses lead to the LAN."""

from __future__ import annotations

import psutil
import pytest

from swarm.errors import BadInput
from swarm.interfaces import Interface, announced, lan_addresses, reachable


def up(name: str, *addresses: str) -> Interface:
    return Interface(name, True, addresses)


LOOPBACK = up("lo", "127.0.0.1")


def test_a_laptop_with_everything_on_it() -> None:
    laptop = [
        LOOPBACK,
        up("wlan0", "192.168.1.20"),
        up("docker0", "172.17.0.1"),
        up("br-5f3c2a", "172.18.0.1"),
        up("veth12ab", "169.254.7.7"),
        up("virbr0", "192.168.122.1"),
        up("tun0", "10.8.0.2"),
        up("wg0", "10.9.0.2"),
        up("tailscale0", "100.100.1.2"),
        up("zt5u4", "10.147.17.3"),
        Interface("eth1", False, ("10.1.1.1",)),
    ]
    assert reachable(laptop) == ["192.168.1.20"]


def test_windows_and_macos_names() -> None:
    windows = [
        up("Ethernet", "10.0.0.5"),
        up("vEthernet (WSL)", "172.30.0.1"),
        LOOPBACK,
    ]
    assert reachable(windows) == ["10.0.0.5"]
    macos = [
        up("en0", "10.0.0.6"),
        up("utun3", "10.8.0.3"),
        up("bridge100", "192.168.64.1"),
        up("awdl0", "169.254.1.1"),
    ]
    assert reachable(macos) == ["10.0.0.6"]


def test_a_bridge_that_is_the_lan_counts() -> None:
    assert reachable([up("br0", "192.168.1.2"), LOOPBACK]) == ["192.168.1.2"]


def test_wired_before_wireless_and_each_address_once() -> None:
    assert reachable([up("wlan0", "10.0.0.2"), up("eth0", "10.0.0.1", "10.0.0.1")]) == ["10.0.0.1", "10.0.0.2"]


def test_self_assigned_addresses_only_when_nothing_else() -> None:
    assert reachable([LOOPBACK, up("eth0", "169.254.10.1"), up("eth1", "10.0.0.1")]) == ["10.0.0.1"]
    assert reachable([LOOPBACK, up("eth0", "169.254.10.1")]) == ["169.254.10.1"]


def test_loopback_only_when_nothing_else() -> None:
    assert reachable([LOOPBACK, up("docker0", "172.17.0.1")]) == ["127.0.0.1"]
    assert reachable([]) == ["127.0.0.1"]


def test_this_machine_has_some_of_its_own() -> None:
    mine = {a.address for addresses in psutil.net_if_addrs().values() for a in addresses}
    assert lan_addresses()
    assert set(lan_addresses()) <= mine | {"127.0.0.1"}


def test_what_the_user_chose_is_announced_and_nothing_else() -> None:
    assert announced(["127.0.0.1"]) == ["127.0.0.1"]
    assert announced(["127.0.0.1", "127.0.0.1"]) == ["127.0.0.1"]
    assert announced([]) == lan_addresses()


@pytest.mark.parametrize("wrong", ["203.0.113.77", "not an address", "::1"])
def test_an_address_of_another_machine_is_refused(wrong: str) -> None:
    with pytest.raises(BadInput, match="this machine"):
        announced([wrong])
