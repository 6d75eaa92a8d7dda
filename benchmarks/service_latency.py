"""How long a prediction takes from the last byte of a bag on, against reading the file and calling the model.

    python benchmarks/service_latency.py --out work/latency

One client sends a bag of 10,000 tiles of 1280 features to ``comel serve`` again and again. The clock starts when the last byte
of the body is sent, all others having arrived, and stops with the last byte of the answer. Between two requests the same file
is read and predicted here, without the service, by the same model on as many threads.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from pathlib import Path

import numpy as np
from service_parts import BOUNDARY, a_run, boundary_body, serving, write_a_bag

from comel.bags.bag import read_bag
from comel.prediction.predictor import Predictor

ARRIVAL_SECONDS = 1.0


def ask(port: int, body: bytes) -> float:
    """Seconds from the last byte sent to the last byte received."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.putrequest("POST", "/v1/predictions")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:-1])
    time.sleep(ARRIVAL_SECONDS)
    started = time.perf_counter()
    connection.send(body[-1:])
    answer = connection.getresponse()
    content = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 201:
        raise SystemExit(f"the service answered {answer.status}: {content[:300]!r}")
    assert json.loads(content)["instances"]["count"] > 0
    connection.close()
    return seconds


def main() -> None:
    """Print median and 95th percentile of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, default=Path("work/latency"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run = a_run(given.out, given.dimension)
    bag = write_a_bag(given.out / "bag.h5", given.instances, given.dimension)
    body, predictor = boundary_body(bag), Predictor.open(run, device="cpu")
    served, bare = [], []
    with serving(run, given.out / "state", given.port, workers=0):
        for turn in range(given.requests + 2):
            started = time.perf_counter()
            predictor.predict(read_bag(bag))
            seconds = time.perf_counter() - started
            answered = ask(given.port, body)
            if turn >= 2:  # the first ones warm both up
                bare.append(seconds)
                served.append(answered)
    print("| | p50 (ms) | p95 (ms) |")
    print("|---|---|---|")
    for name, values in (("file and model", bare), ("service", served)):
        print(f"| {name} | {np.percentile(values, 50) * 1e3:.0f} | {np.percentile(values, 95) * 1e3:.0f} |")
    ratios = [np.percentile(served, q) / np.percentile(bare, q) for q in (50, 95)]
    print(f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
