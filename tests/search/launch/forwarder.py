"""``forwarder.py LOCAL REMOTE``: what ssh does for `ray dashboard`, on loopback."""

import asyncio
import sys

LOCAL, REMOTE = map(int, sys.argv[1:])


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there = await asyncio.open_connection("127.0.0.1", REMOTE)
    except OSError:
        writer.close()  # as ssh does where nothing listens at the other end
        return
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer), return_exceptions=True)


async def main() -> None:
    async with await asyncio.start_server(forward, "127.0.0.1", LOCAL) as server:
        await server.serve_forever()


asyncio.run(main())
