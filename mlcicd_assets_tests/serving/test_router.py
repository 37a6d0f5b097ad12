"""The stable address: whole answers from the server that is live, and patience with a new one."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mlcicd_assets.serving import router as routing
from mlcicd_assets.serving.router import Address, Router

BIG = b"x" * 3_000_000
OPENED: list[asyncio.StreamWriter | asyncio.Server] = []


async def _backend(name: bytes) -> asyncio.Server:
    """Answers each line with its name; `big` with 3 MB, `bye` by hanging up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()) and line != b"bye\n":
            writer.write(BIG + b"\n" if line == b"big\n" else name + b" " + line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    OPENED.append(server)
    return server


def _address(server: asyncio.Server) -> Address:
    return server.sockets[0].getsockname()


async def _open(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    opened = await asyncio.open_connection(*address, limit=2**23)
    OPENED.append(opened[1])
    return opened


def _routed(act: Callable[[Router, Address], Awaitable[None]]) -> None:
    async def main() -> None:
        router = Router(("", 0))
        listening = await router.listen("127.0.0.1", 0)
        try:
            await act(router, _address(listening))
        finally:
            listening.close()
            while OPENED:
                OPENED.pop().close()
            await asyncio.sleep(0.1)  # the other ends close, too

    asyncio.run(main())


async def _ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], line: bytes) -> bytes:
    reader, writer = connection
    writer.write(line + b"\n")
    return (await reader.readline()).rstrip()


def test_a_new_connection_goes_to_the_new_target_and_an_old_one_stays() -> None:
    async def act(router: Router, address: Address) -> None:
        blue, green = await _backend(b"blue"), await _backend(b"green")
        router.target = _address(blue)
        old = await _open(address)
        assert await _ask(old, b"1") == b"blue 1"
        router.target = _address(green)
        assert await _ask(old, b"2") == b"blue 2"
        new = await _open(address)
        assert await _ask(new, b"3") == b"green 3"

    _routed(act)


def test_large_answers_come_whole_and_a_hang_up_is_passed_on() -> None:
    async def act(router: Router, address: Address) -> None:
        router.target = _address(await _backend(b"blue"))
        reader, writer = await _open(address)
        assert await _ask((reader, writer), b"big") == BIG
        writer.write(b"bye\n")
        assert await reader.read() == b""

    _routed(act)


def test_a_caller_that_has_said_all_still_gets_its_answer() -> None:
    async def act(router: Router, address: Address) -> None:
        router.target = _address(await _backend(b"blue"))
        reader, writer = await _open(address)
        writer.write(b"1\n")
        writer.write_eof()
        assert await reader.read() == b"blue 1\n"

    _routed(act)


def test_a_server_that_is_starting_is_waited_for() -> None:
    async def act(router: Router, address: Address) -> None:
        closed = await _backend(b"gone")
        router.target = _address(closed)
        closed.close()
        await closed.wait_closed()
        asking = asyncio.create_task(
            _ask(await _open(address), b"1"),
        )
        await asyncio.sleep(0.2)
        assert not asking.done()
        router.target = _address(await _backend(b"back"))
        assert await asking == b"back 1"

    _routed(act)


def test_a_server_that_never_comes_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "CONNECT_SECONDS", 0.2)

    async def act(router: Router, address: Address) -> None:
        router.target = ("127.0.0.1", 1)
        reader, _ = await _open(address)
        assert await reader.read() == b""

    _routed(act)
