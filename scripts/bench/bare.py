"""What bounds any worker: asyncio, aiohttp and a semaphore, asking an engine for one answer over and over.

`python scripts/bench/bare.py URL SLOTS SECONDS`, with a vLLM at URL.
"""

import asyncio
import sys
import time

import aiohttp

BODY = {"model": "sim", "messages": [{"role": "user", "content": "How long is a river?"}], "max_tokens": 64}


async def main(url: str, slots: int, seconds: float) -> None:
    """Keep `slots` calls in flight for so long."""
    semaphore = asyncio.Semaphore(slots)
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:

        async def ask() -> None:
            try:
                async with session.post("/v1/chat/completions", json=BODY) as answer:
                    answer.raise_for_status()
                    await answer.json()
            finally:
                semaphore.release()

        while time.monotonic() < end:
            await semaphore.acquire()
            group.create_task(ask())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
