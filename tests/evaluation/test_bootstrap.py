import numpy as np
import pytest

from cora.evaluation.bootstrap import Estimate, estimate, mean_of_known, resample_counts


def test_every_resample_draws_as_many_images_as_there_are():
    counts = resample_counts(37, resamples=50)
    assert counts.shape == (50, 37)
    assert (counts.sum(axis=1) == 37).all()
    assert (counts == resample_counts(37, resamples=50)).all()


def test_interval_of_a_mean_agrees_with_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    counts = resample_counts(400, resamples=4000)
    found = estimate(values.mean(), counts @ values / 400)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_unknown_values_are_left_out():
    assert estimate(np.nan, np.ones(3)).value is None
    assert estimate(0.5, np.array([np.nan, 0.4, np.nan, 0.6])).low == pytest.approx(0.405)
    assert estimate(0.5, np.full(3, np.nan)).low is None
    assert mean_of_known(np.array([[1.0, np.nan, 3.0]])) == pytest.approx(2.0)
    assert np.isnan(mean_of_known(np.full((1, 2), np.nan))).all()


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        resample_counts(0)


def test_estimates_are_written_with_their_intervals() -> None:
    assert Estimate(value=0.082, low=0.058, high=0.106).text() == "8.2 (5.8-10.6)"
    points = Estimate(value=1.25, low=-0.001, high=2.0)
    assert points.text(scale=1, form="z.2f", between=" to ") == "1.25 (0.00 to 2.00)"
    assert Estimate(value=0.0126, low=None, high=None).text(unit=" %") == "1.3 %"
    assert Estimate(value=None, low=None, high=None).text() == "-"
