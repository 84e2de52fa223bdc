"""The hand-written FastAPI contender: raw request bodies, orjson, and a batcher that waits for nothing.

Runs in the peers' environment.
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

MODEL = os.environ["BENCH_MODEL"]
SHAPE = tuple(int(part) for part in os.environ["BENCH_SHAPE"].split(","))
THREADS = int(os.environ["BENCH_THREADS"])
BATCH = int(os.environ["BENCH_BATCH"])

options = ort.SessionOptions()
options.intra_op_num_threads = THREADS
options.inter_op_num_threads = 1
session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name


class Batcher:
    """Runs together whatever queued while the model was busy, up to a limit."""

    def __init__(self) -> None:
        self.waiting: list[tuple[np.ndarray, asyncio.Future]] = []
        self.pool = ThreadPoolExecutor(1)
        self.task: asyncio.Task | None = None

    async def infer(self, row: np.ndarray) -> np.ndarray:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self.waiting.append((row, answer))
        if self.task is None or self.task.done():
            self.task = loop.create_task(self.drain(loop))
        return await answer

    async def drain(self, loop: asyncio.AbstractEventLoop) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            scores = await loop.run_in_executor(self.pool, self.run, [row for row, _ in batch])
            for (_, answer), row in zip(batch, scores, strict=True):
                if not answer.done():
                    answer.set_result(row)

    def run(self, rows: list[np.ndarray]) -> np.ndarray:
        return session.run(None, {name: np.stack(rows) if len(rows) > 1 else rows[0][None]})[0]


app = FastAPI()
batcher = Batcher()


@app.post("/json")
async def json(request: Request) -> Response:
    row = np.array(orjson.loads(await request.body())["data"], np.float32).reshape(SHAPE)
    scores = await batcher.infer(row)
    return Response(orjson.dumps({"scores": scores}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.post("/raw")
async def raw(request: Request) -> Response:
    row = np.frombuffer(await request.body(), np.float32).reshape(SHAPE)
    return Response((await batcher.infer(row)).tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="error")
