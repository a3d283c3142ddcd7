"""Who may look: by default whoever is on this machine, and comes from nowhere else.

A request that a proxy has passed on is no such one, although its peer is: the client behind the proxy may be anybody.
So one with a header that proxies add is refused; who forges that is refused too. And a name in Host that is not this
machine's is that of a page elsewhere, whose name was made to lead here (DNS rebinding).
"""

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from postresponse.core.log import logger
from postresponse.core.settings import check_callback
from postresponse.exceptions import ConfigurationError

__all__ = ["Allowed", "Network", "allowed_by"]

Network = IPv4Network | IPv6Network
Allowed = Callable[[Any], bool]

_BY_PROXIES: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
_HERE: Final = re.compile(r"(?:[\w-]+\.)*localhost\.?|127(?:\.\d{1,3}){3}|\[::1\]", re.IGNORECASE)


def allowed_by(given: Callable[[Any], bool] | Iterable[str | Network] | None) -> Allowed:
    """Return what tells of a scope or environ whether its client may look.

    Args:
        given: None for this machine; networks, as "10.0.0.0/8"; or a function, which then decides alone.

    Raises:
        ConfigurationError: It is none of these.
    """
    if given is None:
        return is_from_here
    if callable(given):
        check_callback("allow", given, is_async=False)
        return _asking(given)
    networks = _networks(given)
    return lambda scope: not _is_passed_on(scope) and _is_in(networks, peer_of(scope))


def _networks(given: Any) -> tuple[Network, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f"allow: expected a list of networks, or a function, found {given!r}")
    try:
        return tuple(ip_network(each) for each in given)
    except ValueError as error:
        raise ConfigurationError(f"allow: {error}; give networks, as ['10.0.0.0/8', '127.0.0.1']") from error


def _asking(given: Callable[[Any], bool]) -> Allowed:
    def ask(scope: Any) -> bool:
        try:
            return bool(given(scope))
        except Exception as error:
            logger.error("allow= of the inspector failed, and nobody is shown anything", exc_info=error)
            return False

    return ask


def is_from_here(scope: Any) -> bool:
    """Whether the client is on this machine, and nobody has passed its request on."""
    host = header_of(scope, "host").rpartition("]")
    name = f"{host[0]}]" if host[1] else host[2].partition(":")[0]
    loopback = (ip_network("127.0.0.0/8"), ip_network("::1"))
    return _is_in(loopback, peer_of(scope)) and not _is_passed_on(scope) and (not name or bool(_HERE.fullmatch(name)))


def _is_passed_on(scope: Any) -> bool:
    return any(header_of(scope, name) for name in _BY_PROXIES)


def _is_in(networks: Iterable[Network], peer: str) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:  # the name of a socket in the file system, behind which anybody may be
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in networks)


def peer_of(scope: Any) -> str:
    """Return the address of the client as the server tells it, or an empty string."""
    if "REQUEST_METHOD" in scope:
        return str(scope.get("REMOTE_ADDR") or "")
    return str((scope.get("client") or ("",))[0])


def header_of(scope: Any, name: str) -> str:
    """Return the first header of that *name*, in small letters, of a scope or environ; or an empty string."""
    if "REQUEST_METHOD" in scope:
        return str(scope.get(f"HTTP_{name.upper().replace('-', '_')}", ""))
    wanted = name.encode()
    return next((bytes(value).decode("latin-1") for key, value in scope["headers"] if key == wanted), "")
