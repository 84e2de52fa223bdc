"""The mosec contender: one worker process, batching by its own timer. Runs in the peers' environment."""

import os

import numpy as np
import onnxruntime as ort
import orjson
from mosec import Server, Worker

MODEL = os.environ["BENCH_MODEL"]
SHAPE = tuple(int(part) for part in os.environ["BENCH_SHAPE"].split(","))
THREADS = int(os.environ["BENCH_THREADS"])
BATCH = int(os.environ["BENCH_BATCH"])
FAST_JSON = os.environ["BENCH_JSON"] == "orjson"
RAW = 4 * int(np.prod(SHAPE))


class Model(Worker):
    """Takes JSON ``{"data": [...]}`` or raw little-endian floats, and answers in kind."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> tuple[bool, np.ndarray]:
        # JSON text of these numbers is always longer than their raw bytes, so the length tells them apart.
        if len(data) == RAW:
            return True, np.frombuffer(data, np.float32).reshape(SHAPE)
        loads = orjson.loads if FAST_JSON else super().deserialize
        return False, np.array(loads(data)["data"], np.float32).reshape(SHAPE)

    def forward(self, data):
        items = data if BATCH > 1 else [data]
        rows = np.stack([row for _, row in items]) if len(items) > 1 else items[0][1][None]
        scores = self.session.run(None, {self.name: rows})[0]
        answers = [(raw, row) for (raw, _), row in zip(items, scores, strict=True)]
        return answers if BATCH > 1 else answers[0]

    def serialize(self, data: tuple[bool, np.ndarray]) -> bytes:
        raw, row = data
        if raw:
            return row.tobytes()
        if FAST_JSON:
            return orjson.dumps({"scores": row}, option=orjson.OPT_SERIALIZE_NUMPY)
        return super().serialize({"scores": row.tolist()})


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=BATCH, max_wait_time=1 if BATCH > 1 else 0, timeout=30)
    server.run()
