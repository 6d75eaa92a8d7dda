"""Task recognition against Gaussian densities computed from whole data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from comel.nn.recognition import TaskRecognition, shrunken_covariance

DIM = 6
COLUMNS = [slice(0, 2), slice(2, 5)]


def some_bags(
    seed: int = 0, each: int = 7, spread: float = 1.0, offset: float = 0.0, apart: float = 0.7
) -> list[tuple[Tensor, int]]:
    """Bags of five classes, of unequal length, with features of unequal scale."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(5, DIM)) * apart
    scale = np.array([1, 1, 3, 0.2, 10, 1.0])
    bags = []
    for column, centre in enumerate(centres):
        for _ in range(each + column):
            shift = generator.normal(size=DIM) * 0.5
            rows = (centre + shift + generator.normal(size=(generator.integers(2, 9), DIM))) * scale * spread + offset
            bags.append((torch.from_numpy(rows).float(), column))
    return bags


def taught(bags: list[tuple[Tensor, int]], classes: int = 5) -> TaskRecognition:
    recognition = TaskRecognition(bags[0][0].shape[1])
    recognition.add_classes(classes)
    for features, column in bags:
        recognition.observe(features, column)
    recognition.fit()
    return recognition


def shrunken_by_loops(deviations: np.ndarray, degrees: int) -> np.ndarray:
    """The covariance of deviations (n, D), shrunk on the correlation scale by Chen et al.'s amount, entry by entry."""
    size = deviations.shape[1]
    covariance = [[sum(row[i] * row[j] for row in deviations) / degrees for j in range(size)] for i in range(size)]
    mean_variance = sum(covariance[i][i] for i in range(size)) / size
    scale = [np.sqrt(covariance[i][i] + 1e-6 * mean_variance) for i in range(size)]
    correlation = [[covariance[i][j] / scale[i] / scale[j] for j in range(size)] for i in range(size)]
    squares = sum(value**2 for row in correlation for value in row)
    trace = sum(correlation[i][i] for i in range(size))
    above = (1 - 2 / size) * squares + trace**2
    below = (degrees + 1 - 2 / size) * (squares - trace**2 / size)
    rho = min(1.0, max(0.01, above / below))
    return np.array(
        [[((1 - rho) * correlation[i][j] + rho * (i == j)) * scale[i] * scale[j] for j in range(size)] for i in range(size)]
    )


def densities(bags: list[tuple[Tensor, int]], points: np.ndarray) -> np.ndarray:
    """log p(point | class) for five classes, (n, 5), from all bags at once."""
    means = np.stack([features.double().mean(dim=0).numpy() for features, _ in bags])
    labels = np.array([column for _, column in bags])
    centres = np.stack([means[labels == column].mean(axis=0) for column in range(5)])
    covariance = shrunken_by_loops(means - centres[labels], len(bags) - 5)
    return np.stack([multivariate_normal(centre, covariance).logpdf(points) for centre in centres], axis=1)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_equals_densities_with_a_shared_covariance(offset: float) -> None:
    bags = some_bags(offset=offset)
    queries = torch.stack([features[:2] for features, _ in some_bags(seed=1, offset=offset)])
    scores = densities(bags, queries.double().mean(dim=1).numpy())
    expected = log_softmax(np.stack([logsumexp(scores[:, part], axis=1) for part in COLUMNS], axis=1), axis=1)
    found = taught(bags).log_task(queries, None, COLUMNS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_large_scores_do_not_cancel() -> None:
    # features far from the origin and with little spread: the scores are millions, their differences tens
    bags = some_bags(spread=0.01, offset=50.0)
    queries = torch.stack([features[:2] for features, _ in bags])
    centred = [((features.double() - 50).float(), column) for features, column in bags]
    near = taught(centred).log_task((queries.double() - 50).float(), None, COLUMNS)
    torch.testing.assert_close(taught(bags).log_task(queries, None, COLUMNS), near, rtol=1e-3, atol=1e-3)


def test_shrinkage_against_loops() -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(40, 1)) * 3  # what all features have in common: shrunk in part, not away
    deviations = np.logspace(0, 2, DIM) * (shared + generator.normal(size=(40, DIM)))
    amounts = []
    for degrees in (1, 8, 40):
        found = shrunken_covariance(torch.from_numpy(deviations.T @ deviations), degrees).numpy()
        np.testing.assert_allclose(found, shrunken_by_loops(deviations, degrees), rtol=1e-8, atol=1e-12)
        amounts.append(1 - found[0, 1] * degrees / (deviations.T @ deviations)[0, 1])
    assert amounts[0] == pytest.approx(1)  # one degree of freedom says nothing of correlations
    assert 0.99 > amounts[1] > amounts[2] > 0.011


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.integers(0, 12), st.integers(0, 10**6))
def test_shrunken_covariance_can_always_be_solved(size: int, samples: int, seed: int) -> None:
    deviations = np.random.default_rng(seed).normal(size=(samples, size)) * np.logspace(0, -3, size)
    covariance = shrunken_covariance(torch.from_numpy(deviations.T @ deviations), samples)
    assert torch.linalg.eigvalsh(covariance).min() > 0


def test_probabilities_are_normalised_and_name_the_task() -> None:
    bags = some_bags(each=20, apart=2.0)
    recognition = taught(bags)
    log_task = torch.cat([recognition.log_task(features.unsqueeze(0), None, COLUMNS) for features, _ in bags])
    torch.testing.assert_close(log_task.exp().sum(dim=1), torch.ones(len(bags)))
    truth = torch.tensor([int(column >= 2) for _, column in bags])
    assert (log_task.argmax(dim=1) == truth).float().mean() > 0.95


def test_masked_rows_do_not_count() -> None:
    bags = some_bags()
    recognition = taught(bags)
    longest = max(len(features) for features, _ in bags)
    batch, mask = torch.full((len(bags), longest, DIM), 1e6), torch.zeros(len(bags), longest, dtype=torch.bool)
    for b, (features, _) in enumerate(bags):
        batch[b, -len(features) :], mask[b, -len(features) :] = features, True
    alone = torch.cat([recognition.log_task(features.unsqueeze(0), None, COLUMNS) for features, _ in bags])
    torch.testing.assert_close(recognition.log_task(batch, mask, COLUMNS), alone, rtol=1e-5, atol=1e-5)
    empty = recognition.log_task(batch[:1], torch.zeros(1, longest, dtype=torch.bool), COLUMNS)
    assert torch.isfinite(empty).all()


def test_the_order_of_the_stream_does_not_matter() -> None:
    bags = some_bags()
    queries = torch.stack([features[:2] for features, _ in bags])
    one, other = taught(bags), taught(bags[::-1])
    torch.testing.assert_close(one.second, other.second)
    torch.testing.assert_close(one.log_task(queries, None, COLUMNS), other.log_task(queries, None, COLUMNS))


def test_later_tasks_leave_the_sums_of_earlier_ones() -> None:
    bags = some_bags()
    first, later = [bag for bag in bags if bag[1] < 2], [bag for bag in bags if bag[1] >= 2]
    recognition = taught(first, classes=2)
    counts, sums = recognition.counts.clone(), recognition.sums.clone()
    recognition.add_classes(3)
    for features, column in later:
        recognition.observe(features, column)
    recognition.fit()
    assert torch.equal(recognition.counts[:2], counts)
    assert torch.equal(recognition.sums[:2], sums)
    torch.testing.assert_close(recognition.weight, taught(bags).weight)
    torch.testing.assert_close(recognition.bias, taught(bags).bias)


def test_classes_never_seen_have_no_probability() -> None:
    first = [bag for bag in some_bags() if bag[1] < 2]
    queries = torch.stack([features[:2] for features, _ in some_bags()])
    unfitted = taught(first, classes=2)
    unfitted.add_classes(3)  # their head exists, and is not learned yet
    for recognition in (unfitted, taught(first)):
        log_task = recognition.log_task(queries, None, COLUMNS)
        assert (log_task[:, 0] == 0).all()
        assert (log_task[:, 1].exp() == 0).all()
        assert torch.isfinite(log_task).all()


def test_before_anything_is_seen_all_tasks_are_alike() -> None:
    recognition = TaskRecognition(DIM)
    recognition.add_classes(4)
    recognition.fit()
    log_task = recognition.log_task(torch.randn(3, 2, DIM), None, [slice(0, 2), slice(2, 4)])
    torch.testing.assert_close(log_task, torch.full((3, 2), 0.5).log())


def test_one_bag_is_enough_to_begin() -> None:
    near = torch.zeros(3, DIM)
    recognition = taught([(near, 0), (near + 4, 2)])
    log_task = recognition.log_task(torch.stack([near, near + 4]), None, COLUMNS)
    # unit covariance: the squared distance of the two means is 6 x 16
    np.testing.assert_allclose(log_task[0, 1] - log_task[0, 0], -48, rtol=1e-5)
    np.testing.assert_allclose(log_task[1, 0] - log_task[1, 1], -48, rtol=1e-5)


def test_bags_without_any_spread_stay_finite() -> None:
    bags = [(torch.full((2, DIM), float(column)), column) for column in (0, 0, 2, 2)]
    log_task = taught(bags).log_task(torch.stack([features for features, _ in bags]), None, COLUMNS)
    assert torch.isfinite(log_task).all()
    assert log_task.argmax(dim=1).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("alike", [1.0, 0.5])
def test_features_that_are_alike_in_all_bags_are_no_news(alike: float) -> None:
    """Means of unequal numbers of equal rows differ by rounding, which is no covariance; a share of the features varies."""
    size, generator = 512, torch.Generator().manual_seed(0)
    constant = torch.rand(size, generator=generator) * 100
    varies = torch.arange(size) >= alike * size

    def bag(rows: int) -> Tensor:
        return constant + torch.randn(rows, size, generator=generator) * varies

    recognition = taught([(bag(5 + number), number * 7 % 4) for number in range(37)], classes=4)
    query, columns = bag(9).unsqueeze(0), [slice(0, 2), slice(2, 4)]
    near, far = recognition.distance(query, None, slice(0, 4)), recognition.distance(query + 1.0, None, slice(0, 4))
    assert near is not None
    assert far is not None
    assert near < 2
    assert far > 100
    if alike == 1.0:
        torch.testing.assert_close(recognition.log_task(query, None, columns), torch.full((1, 2), 0.5).log())


def test_state_goes_through_a_state_dict() -> None:
    recognition = taught(some_bags())
    fresh = TaskRecognition(DIM)
    fresh.add_classes(5)
    fresh.load_state_dict(recognition.state_dict())
    queries = torch.randn(4, 3, DIM)
    assert torch.equal(fresh.log_task(queries, None, COLUMNS), recognition.log_task(queries, None, COLUMNS))
