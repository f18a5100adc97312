"""The mean over the last part of a run."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from moegs.train.average import EVERY, Average


def test_it_is_the_mean_of_every_fifth_state_from_the_first_on():
    states = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    average, moving = Average(first=12), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for step in range(1, 41):
        with torch.no_grad():
            moving.copy_(states[step - 1])
        average.take(step, {"moving": moving})
        assert bool(average.mean) == (step >= 12)
    torch.testing.assert_close(average.mean["moving"], states[11::EVERY].mean(0))
    assert not average.mean["moving"].requires_grad


@given(st.floats(0, 1), st.integers(1, 60))
def test_the_last_state_is_always_among_them(share: float, steps: int):
    average = Average.over(share, steps)
    taken = range(average.first, steps + 1, EVERY)
    assert average.first >= 1 and taken[-1] == steps
    assert len(taken) - 1 <= share * steps / EVERY + 1e-9
    moving = torch.zeros(1)
    for step in range(1, steps + 1):
        average.take(step, {"moving": moving.fill_(step)})
    torch.testing.assert_close(average.mean["moving"].item(), sum(taken) / len(taken), rtol=1e-5, atol=0)
