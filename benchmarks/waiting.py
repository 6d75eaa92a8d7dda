"""How long a training step on a CPU takes beside another process, with threads that spin and with threads that sleep.

    python benchmarks/waiting.py --neighbours 1

Processes train gated attention on one bag, in turn with OpenMP's default and with ``OMP_WAIT_POLICY=PASSIVE`` (see
``comel/base/waiting.py``), beside as many others that do nothing but compute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from statistics import median

STEP = """
import json, sys, time
import torch
from torch import nn

bag = torch.randn(int(sys.argv[1]), 1280)
embed = nn.Sequential(nn.Linear(1280, 256), nn.ReLU(), nn.LayerNorm(256))
tanh, sigmoid = (nn.Sequential(nn.Linear(256, 128), gate) for gate in (nn.Tanh(), nn.Sigmoid()))
weigh, head = nn.Linear(128, 1), nn.Linear(256, 4)
layers = nn.ModuleList([embed, tanh, sigmoid, weigh, head])
optimiser = torch.optim.AdamW(layers.parameters(), 1e-4)


def step():
    h = embed(bag)
    attention = torch.softmax(weigh(tanh(h) * sigmoid(h)), dim=0)
    loss = nn.functional.cross_entropy(head((attention * h).sum(dim=0, keepdim=True)), torch.tensor([1]))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


for _ in range(3):
    step()
begun = time.perf_counter()
for _ in range(int(sys.argv[2])):
    step()
print(json.dumps((time.perf_counter() - begun) / int(sys.argv[2])))
"""


def milliseconds(variables: dict[str, str], instances: int, steps: int) -> float:
    """Of a step, in a process with these variables besides its parent's."""
    command = [sys.executable, "-c", STEP, str(instances), str(steps)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return 1000 * float(json.loads(done.stdout))


def main() -> None:
    """Print a row for each size of a bag."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, default=1, help="other processes, each busy on one core")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    print("| instances | spinning, ms per step | asleep, ms per step | ratio (range) |\n|---:|---:|---:|---:|")
    with ExitStack() as stack:
        for _ in range(options.neighbours):
            neighbour = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(neighbour.kill)
        for instances in (300, 3000):
            pairs = [
                [milliseconds(variables, instances, options.steps) for variables in ({}, {"OMP_WAIT_POLICY": "PASSIVE"})]
                for _ in range(options.repeats)
            ]
            ratios = [spinning / asleep for spinning, asleep in pairs]
            before, now = (median(values) for values in zip(*pairs, strict=True))
            spread = f"{median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
            print(f"| {instances} | {before:.1f} | {now:.1f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
