"""Forecasts of the time left: from expectations, corrected by what finished jobs took."""

from unittest.mock import Mock

from hypothesis import given
from hypothesis import strategies as st

from mc3.progress import Forecast, format_duration


def test_durations_are_minutes_and_seconds_and_hours_from_one_on():
    expected = {0: "0:00", 59.6: "1:00", 3599: "59:59", 3600: "1:00:00", 36610: "10:10:10"}
    assert {seconds: format_duration(seconds) for seconds in expected} == expected


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=20), st.floats(0.1, 10))
def test_if_all_jobs_are_slower_by_one_factor_all_forecasts_but_the_first_are_exact(expected, factor):
    clock = Mock(return_value=0.0)
    forecast = Forecast({str(n): seconds for n, seconds in enumerate(expected)}, clock=clock)
    for n, seconds in enumerate(expected):
        forecast.start(str(n))
        pace = factor if n else 1
        assert abs(forecast.left() - pace * sum(expected[n:])) < 1e-6 * pace * sum(expected)
        clock.return_value += factor * seconds
        forecast.finish(str(n))
    assert forecast.left() == 0
