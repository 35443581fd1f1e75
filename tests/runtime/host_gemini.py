"""Lets Gemini divide chunks on the CPU, for tests: its code tells host from device by the kind of device."""

from typing import Any

from planner.plans.plan import Plan


def divide_on_host() -> None:
    """Call every chunk that is not offloaded one on CUDA, and never move one; nothing can be offloaded then.

    Calling it again changes nothing.
    """
    from colossalai.zero.gemini.chunk import Chunk, ChunkManager

    close = Chunk.close_chunk
    if close.__module__ == __name__:
        return

    def close_chunk(self: Any) -> None:
        close(self)
        if not self.keep_gathered:  # the library takes the device for that of an offloaded shard
            self.cuda_shard, self.cpu_shard = self.cpu_shard, None

    Chunk.close_chunk = close_chunk
    Chunk.device_type = property(lambda self: "cuda")
    ChunkManager.move_chunk = lambda *_, **__: None


def host_plugin(plan: Plan) -> Any:
    """The plugin of the runtime, without streams and pinned memory."""
    from runtime.engines.plugins import gemini_plugin

    return gemini_plugin(plan, enable_async_reduce=False, pin_memory=False)
