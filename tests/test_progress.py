"""Forecasts of the time left: from expectations, corrected by what finished jobs took."""

from hypothesis import given
from hypothesis import strategies as st

from mc3.progress import Forecast, format_duration


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_durations_are_minutes_and_seconds_and_hours_from_one_on():
    assert [format_duration(seconds) for seconds in (0, 59.6, 3599, 3600, 36610)] == [
        "0:00", "1:00", "59:59", "1:00:00", "10:10:10",
    ]  # fmt: skip


def test_the_time_left_follows_the_pace_of_the_finished_jobs():
    clock = Clock()
    forecast = Forecast({"a": 10.0, "b": 10.0, "c": 10.0}, clock=clock)
    left = []
    for name in "abc":
        forecast.start(name)
        left.append(forecast.left())
        clock.now += 20.0
        forecast.finish(name)
    assert left == [30.0, 40.0, 20.0]
    assert forecast.left() == 0


def test_a_line_names_the_job_its_number_and_the_time_left():
    clock = Clock()
    forecast = Forecast({"a": 60.0, "b": 120.0}, clock=clock)
    forecast.start("a")
    clock.now += 60.0
    forecast.finish("a")
    forecast.start("b")
    assert forecast.line("b") == "[2/2] b · 1:00 elapsed · about 2:00 left"


@given(st.lists(st.floats(0.1, 1e3), min_size=1, max_size=20), st.floats(0.1, 10))
def test_if_all_jobs_are_slower_by_one_factor_the_forecast_is_exact_after_the_first(expected, factor):
    clock = Clock()
    forecast = Forecast({str(n): seconds for n, seconds in enumerate(expected)}, clock=clock)
    for n, seconds in enumerate(expected):
        forecast.start(str(n))
        if n:
            assert abs(forecast.left() - factor * sum(expected[n:])) < 1e-6 * factor * sum(expected)
        clock.now += factor * seconds
        forecast.finish(str(n))
