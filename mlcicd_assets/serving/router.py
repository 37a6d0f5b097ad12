"""A stable address: carries each TCP connection to the server that is live when it is opened."""

import asyncio
import time
from contextlib import suppress
from typing import Final

CONNECT_SECONDS: Final = 15.0  # a server that crashed is back by then
CHUNK: Final = 65_536
Address = tuple[str, int]


class Router:
    """Listens for one model; `target`, set from any thread, decides for new connections."""

    def __init__(self, target: Address) -> None:
        self.target = target

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Begin to listen; OSError if the port is taken."""
        return await asyncio.start_server(self._carry, host, port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back = await self._connect()
        try:
            if back is not None:
                from_server, to_server = back
                asking = asyncio.create_task(_pipe(reader, to_server))
                # When the server has said all, nothing that the caller still sends is answered.
                await _pipe(from_server, writer)
                asking.cancel()
                to_server.close()
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the target; one that is starting again is waited for."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                return await asyncio.open_connection(*self.target)
            await asyncio.sleep(0.05)
        return None


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
