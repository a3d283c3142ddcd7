"""Units of work that do nothing, so that what is measured is what it costs to have one.

`Unit` and `AsyncUnit` are touched: all their methods are called. `Untouched` is lazy and nobody uses it: none is.
"""

__all__ = ["AsyncUnit", "Unit", "Untouched"]


class Unit:
    """A unit of work that was used, with nothing behind it."""

    __slots__ = ("active",)

    def __init__(self, exchange: object) -> None:
        self.active = True

    def begin(self) -> None:
        """Begin nothing."""

    def commit(self) -> None:
        """Commit nothing."""

    def rollback(self) -> None:
        """Roll nothing back."""

    def close(self) -> None:
        """Give nothing back."""


class AsyncUnit:
    """The awaited form of `Unit`."""

    __slots__ = ("active",)

    def __init__(self, exchange: object) -> None:
        self.active = True

    async def begin(self) -> None:
        """Begin nothing."""

    async def commit(self) -> None:
        """Commit nothing."""

    async def rollback(self) -> None:
        """Roll nothing back."""

    async def close(self) -> None:
        """Give nothing back."""


class Untouched(Unit):
    """A unit of work that opens on first use, in a request that does not use it."""

    __slots__ = ("changed", "touched")

    def __init__(self, exchange: object) -> None:
        super().__init__(exchange)
        self.touched = self.changed = False

    def invalidate(self) -> None:
        """Give up no connection."""


class AsyncUntouched(AsyncUnit):
    """The awaited form of `Untouched`."""

    __slots__ = ("changed", "touched")

    def __init__(self, exchange: object) -> None:
        super().__init__(exchange)
        self.touched = self.changed = False

    async def invalidate(self) -> None:
        """Give up no connection."""
