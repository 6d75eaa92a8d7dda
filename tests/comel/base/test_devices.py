"""Which device is meant, and which GPUs child processes are given."""

from __future__ import annotations

import pytest
import torch

from comel.base.devices import gpu_names, resolve_device
from comel.errors import ConfigError


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cpu:0", 0, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda:2", 2, "no 'cuda:2': this machine has 2 CUDA devices; they count from cuda:0"),
        ("cuda:1", 1, "no 'cuda:1': this machine has 1 CUDA device; they count from cuda:0"),
        ("cuda:0", 0, "no 'cuda:0': torch finds no CUDA device; give auto or cpu"),
        ("cuda", 0, "no 'cuda': torch finds no CUDA device; give auto or cpu"),
        ("meta", 2, "no device 'meta'; give auto, cpu, cuda or cuda:N"),
        ("mps", 2, "no device 'mps'; give auto, cpu, cuda or cuda:N"),
        ("gpu", 2, "no device 'gpu'; give auto, cpu, cuda or cuda:N"),
        ("", 2, "no device ''; give auto, cpu, cuda or cuda:N"),
    ],
)
@pytest.mark.parametrize("setting", ["device", "trainer.device"])
def test_devices(device: str, count: int, expected: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if expected.startswith(("cpu", "cuda")):
        assert resolve_device(device, setting) == expected
    else:
        with pytest.raises(ConfigError) as error:
            resolve_device(device, setting)
        assert str(error.value) == f"{setting}: {expected}"


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (2, "", ["0", "1"]),
        (2, "5,7", ["5", "7"]),
        (2, "GPU-8a6f,GPU-11c2", ["GPU-8a6f", "GPU-11c2"]),
        (1, "3,", ["3"]),
    ],
)
def test_gpus_keep_the_names_that_this_process_was_given(count: int, visible: str | None, expected: list[str]) -> None:
    assert gpu_names(count, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == expected
