"""TransMIL: squaring, PPEG and the class token, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comel.models.transmil import PPEG
from tests.comel.models.zoo import BREAST, DIM, LUNG, array, bag, embedded, layer_norm, linear, make


def image_of(ppeg: PPEG, image: np.ndarray) -> np.ndarray:
    """(side, side, dim), pixel by pixel."""
    side, out = len(image), image.copy()
    for convolution, k in zip(ppeg.convolutions, (7, 5, 3), strict=True):
        weight, bias = array(convolution.weight), array(convolution.bias)
        for y in range(side):
            for x in range(side):
                out[y, x] += bias
                for dy in range(-(k // 2), k // 2 + 1):
                    for dx in range(-(k // 2), k // 2 + 1):
                        if 0 <= y + dy < side and 0 <= x + dx < side:
                            out[y, x] += weight[:, 0, dy + k // 2, dx + k // 2] * image[y + dy, x + dx]
    return out


def test_positions_by_hand() -> None:
    torch.manual_seed(0)
    ppeg, x = PPEG(3).double(), torch.randn(1, 16, 3, dtype=torch.float64)
    expected = image_of(ppeg, array(x[0]).reshape(4, 4, 3))
    np.testing.assert_allclose(array(ppeg(x))[0], expected.reshape(16, 3), atol=1e-12)


@pytest.mark.parametrize(("count", "repeated"), [(1, 0), (2, 2), (3, 1), (7, 2), (10, 6)])
@pytest.mark.parametrize("landmarks", [4, 99])
def test_model_by_hand(count: int, repeated: int, landmarks: int) -> None:
    model, x = make("transmil", BREAST, LUNG, landmarks=landmarks), bag(count)
    output, trunk, h = model(x), model.trunk, embedded(model, x)
    t = np.concatenate([array(trunk.class_token)[0], h, h[:repeated]])
    side = round((len(t) - 1) ** 0.5)
    assert side * side == len(t) - 1

    def attend(layer: torch.nn.Module, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out, row = layer(torch.tensor(tokens)[None], weigh=True)
        return array(out)[0], array(row)[0]

    t = t + attend(trunk.attention1, layer_norm(trunk.norm1, t))[0]
    t = np.concatenate([t[:1], image_of(trunk.positions, t[1:].reshape(side, side, DIM)).reshape(-1, DIM)])
    change, row = attend(trunk.attention2, layer_norm(trunk.norm2, t))
    t = layer_norm(trunk.norm, t + change)
    np.testing.assert_allclose(array(output.bag_features)[0], t[0], atol=1e-10)
    np.testing.assert_allclose(array(output.instance_features)[0], t[1 : count + 1], atol=1e-10)
    logits = np.concatenate([linear(head, t[0]) for head in model.heads])
    np.testing.assert_allclose(array(output.logits)[0], logits, atol=1e-10)
    weights = [max(row[1 + m], 0) + (max(row[1 + count + m], 0) if m < repeated else 0) for m in range(count)]
    np.testing.assert_allclose(array(output.attention)[0], np.array(weights) / sum(weights), atol=1e-10)


def test_where_a_tile_lies_matters() -> None:
    model, x = make("transmil", BREAST), bag(12)
    assert not torch.allclose(model(x).logits, model(x.flip(1)).logits)


def test_weights_below_zero_count_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("transmil", BREAST)
    row = torch.tensor([0.5, 0.2, -0.3, 0.3, -0.1, -0.2, 0.1, 0.3, 0.2, -0.4], dtype=torch.float64)  # class token, 7 and 2
    monkeypatch.setattr(model.trunk.attention2, "forward", lambda x, weigh: (torch.zeros_like(x), row.unsqueeze(0)))
    expected = np.array([0.2 + 0.2, 0, 0.3, 0, 0, 0.1, 0.3]) / 1.1
    np.testing.assert_allclose(array(model(bag(7)).attention)[0], expected, atol=1e-12)
    row.fill_(-1.0)
    np.testing.assert_allclose(array(model(bag(9)).attention)[0], np.full(9, 1 / 9), atol=1e-12)
