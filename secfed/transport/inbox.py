"""Messages on their way to the driver: those that arrive while the disk is busy are written together.

Waiting until bytes are on disk takes milliseconds, for one message or a hundred. Each message is acknowledged after the
write that included it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from secfed.secagg import Stage
from secfed.staging import Whole
from secfed.transport.driver import Verdict

_MOST = 64  # most messages written together, so that the first does not wait too long
Message = tuple[int, Stage, Whole]


class Inbox:
    """One queue of messages, and one task that empties it.

    Args:
        accept: Takes messages (client id, stage and bytes of each) and returns a verdict on each once they are written.
    """

    def __init__(self, accept: Callable[[Sequence[Message]], Awaitable[list[Verdict]]]) -> None:
        self._accept = accept
        self._waiting: deque[tuple[Message, asyncio.Future[Verdict]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def put(self, client_id: int, stage: Stage, message: Whole) -> Verdict:
        """Deliver a message and return its outcome.

        Raises:
            SecFedError: It cannot be written.
        """
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append(((client_id, stage, message), verdict))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._empty())
        return await verdict

    async def _empty(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            try:
                verdicts = await self._accept([message for message, _ in batch])
            except Exception as error:
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for (_, waiting), verdict in zip(batch, verdicts, strict=True):
                if not waiting.done():  # the client may be gone meanwhile; its message still counts
                    waiting.set_result(verdict)
