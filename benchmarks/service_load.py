"""The service under load: many clients at once, for minutes. Any error but 429 is one; memory must stay flat.

    python benchmarks/service_load.py --clients 32 --minutes 5 --out work/load

Every client sends a bag, reads the prediction, its map and its GeoJSON, lists jobs, and begins again. Resident memory is
that of the service and its worker processes, sampled each second; what is compared is the mean of the second fifth of the
time, when all is warm, with that of the last fifth.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from service_parts import BOUNDARY, a_run, boundary_body, serving, write_a_bag


class Load:
    """Clients that ask until told to stop, and what they were answered."""

    def __init__(self, port: int, body: bytes) -> None:
        self.port, self.body = port, body
        self.statuses: collections.Counter[tuple[str, int]] = collections.Counter()
        self.seconds: list[float] = []
        self.broken: list[str] = []
        self.stop = threading.Event()

    def client(self) -> None:
        """One client's life."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        while not self.stop.is_set():
            try:
                started = time.perf_counter()
                status, content, wait = self._ask(connection, "POST", "/v1/predictions", self.body, kind)
                if status == 201:
                    self.seconds.append(time.perf_counter() - started)
                    path = f"/v1/predictions/{json.loads(content)['id']}"
                    for part in ("", "/map.png?width=512", "/map.geojson"):
                        self._ask(connection, "GET", path + part)
                    self._ask(connection, "GET", "/v1/jobs?limit=5")
                elif status == 429:
                    self.stop.wait(wait)
            except (OSError, http.client.HTTPException) as error:
                if not self.stop.is_set():
                    self.broken.append(repr(error))
                connection.close()

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes, float]:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        route = path.split("?")[0].split("/")
        self.statuses[f"{method} {'/'.join('{id}' if len(part) == 32 else part for part in route)}", answer.status] += 1
        return answer.status, content, float(answer.headers.get("Retry-After", 1))


def resident(process: psutil.Process) -> int:
    """Bytes of the process and its children; one that ends meanwhile counts nothing."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total


def main() -> None:
    """Print answers by route and status, latency, and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=1280)
    parser.add_argument("--port", type=int, default=8766)
    parser.add_argument("--out", type=Path, default=Path("work/load"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run = a_run(given.out, given.dimension)
    load = Load(given.port, boundary_body(write_a_bag(given.out / "bag.h5", given.instances, given.dimension)))
    memory = []
    with serving(run, given.out / "state", given.port, workers=1) as service:
        process = psutil.Process(service.pid)
        clients = [threading.Thread(target=load.client) for _ in range(given.clients)]
        for client in clients:
            client.start()
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            memory.append(resident(process))
            time.sleep(1)
        load.stop.set()
        for client in clients:
            client.join()
    print("| request | status | answers |")
    print("|---|---|---|")
    for (request, status), count in sorted(load.statuses.items()):
        print(f"| {request} | {status} | {count} |")
    fifth = max(1, len(memory) // 5)
    early, late = np.mean(memory[fifth : 2 * fifth]) / 2**20, np.mean(memory[-fifth:]) / 2**20
    bad = sum(count for (_, status), count in load.statuses.items() if status >= 400 and status != 429) + len(load.broken)
    print(f"\nerrors other than 429: {bad}; connections that broke: {load.broken[:3] or 0}")
    if load.seconds:
        print(f"prediction: p50 {np.percentile(load.seconds, 50):.2f} s, p95 {np.percentile(load.seconds, 95):.2f} s")
    print(
        f"resident memory: {early:.0f} MiB early, {late:.0f} MiB late ({late / early - 1:+.1%}), peak {max(memory) / 2**20:.0f}"
    )


if __name__ == "__main__":
    main()
