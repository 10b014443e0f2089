"""Which numeric addresses are of the public internet.

The list is our own: what the interpreter's ipaddress module knows changes with its version. It is
that of IANA's registries of special-purpose addresses, without those that anybody may reach.
"""

from __future__ import annotations

import ipaddress
from typing import Final

IPv4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared, behind a provider's translation
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a cloud's own services for its machines
            "169.254.0.0/16",  # link-local, and most clouds' services
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4, given up
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
IPv6_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that is public is of this block; loopback, private, local and multicast are not."""
IPv6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments, with Teredo, benchmarking and ORCHID
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet.

    Loopback, private, link-local, shared (CGNAT), multicast, reserved and unspecified addresses
    are not, nor are IPv6 addresses that stand for such an IPv4 address.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in block for block in IPv4)
    inner = _inner_ipv4(ip)
    if inner is not None:
        return is_public(str(inner))
    return ip in IPv6_UNICAST and not any(ip in block for block in IPv6)


def _inner_ipv4(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, 6to4 or NAT64 address leads to."""
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour
