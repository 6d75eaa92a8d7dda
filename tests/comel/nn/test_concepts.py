"""Concepts of tiles: found where they are, absent where nothing can be found, and in [0, 1] always."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comel.nn.concepts import ConceptKind, Concepts, normalised

DIMENSION = 24
KINDS: tuple[ConceptKind, ...] = ("clusters", "components")


def tiles_of(number: int = 3000, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Tiles of three kinds of tissue, of which every twentieth shows a finding besides; and which do."""
    draw = np.random.default_rng(seed)
    tissues = 4 * np.linalg.qr(draw.normal(size=(DIMENSION, 4)))[0].T
    finding = draw.random(number) < 0.05
    features = (
        tissues[draw.integers(0, 3, number)] + finding[:, None] * 1.5 * tissues[3] + 0.7 * draw.normal(size=(number, DIMENSION))
    )
    return torch.from_numpy(features), finding


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, scores))


@pytest.mark.parametrize("kind", KINDS)
def test_what_occurs_again_and_again_is_found_without_a_label(kind: ConceptKind) -> None:
    features, finding = tiles_of()
    concepts = Concepts(DIMENSION, kind, 8).double()
    assert not concepts(features).any() or kind == "components"
    concepts.fit(normalised(features).numpy())
    shown = concepts(features).numpy()
    assert shown.shape == (len(features), len(concepts))
    assert ((shown >= 0) & (shown <= 1)).all()
    ranked = sorted(range(shown.shape[1]), key=lambda i: -auc(shown[:, i], finding))
    assert max(auc(shown[:, ranked[0]], finding), auc(shown[:, ranked[:3]].sum(axis=1), finding)) > 0.95
    if kind == "clusters":
        np.testing.assert_allclose(shown.sum(axis=1), 1, rtol=1e-9)


def test_clusters_are_the_posterior_of_the_mixture() -> None:
    """Against the density itself, written out."""
    features, _ = tiles_of(400)
    concepts = Concepts(DIMENSION, "clusters", 3).double()
    concepts.fit(normalised(features).numpy())
    logits = normalised(features).numpy() @ concepts.weight.numpy().T + concepts.bias.numpy()
    wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(concepts(features).numpy(), wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-9)
    assert (concepts(features).argmax(dim=1).bincount(minlength=3) > 50).all()  # the three tissues


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tiles", [np.zeros((0, DIMENSION)), np.ones((1, DIMENSION)), np.ones((500, DIMENSION))], ids=str)
def test_where_nothing_is_to_be_found_no_concept_is_present(kind: ConceptKind, tiles: np.ndarray) -> None:
    concepts = Concepts(DIMENSION, kind, 4)
    if len(tiles):
        concepts.fit(tiles)
    shown = concepts(torch.randn(5, DIMENSION))
    assert shown.max() < 1e-6
    assert concepts(torch.zeros(0, DIMENSION)).shape == (0, len(concepts))


@pytest.mark.parametrize("kind", KINDS)
def test_few_tiles_give_few_concepts(kind: ConceptKind) -> None:
    features, _ = tiles_of(22)
    concepts = Concepts(DIMENSION, kind, 12).double()
    concepts.fit(normalised(features).numpy())
    present = (concepts.bias > -29).sum()
    assert 2 <= present <= (4 if kind == "clusters" else 8)
    assert torch.isfinite(concepts(features)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tiles_give_the_same_concepts(kind: ConceptKind) -> None:
    features, _ = tiles_of(500)
    one, other = Concepts(DIMENSION, kind, 6), Concepts(DIMENSION, kind, 6)
    for concepts in (one, other):
        torch.manual_seed(int(torch.randint(100, ())))
        concepts.fit(normalised(features).numpy())
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
