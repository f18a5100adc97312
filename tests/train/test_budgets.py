from __future__ import annotations

from dataclasses import replace

import pytest

from moegs import deform
from moegs.errors import ConfigError
from moegs.train import BUDGETS, budget, refine_budget, route_budget
from moegs.train.budgets import SHARE
from tests.train.scenes import small_scene


@pytest.mark.parametrize("prior", deform.names())
@pytest.mark.parametrize("size", BUDGETS)
def test_every_prior_has_a_plan_at_every_size(size, prior):
    chosen, config = budget(size, small_scene(), prior)
    assert chosen == deform.get(prior).for_clip(4)
    more = 1.5 if size == "small" else 1.0
    assert config.steps == round(more * BUDGETS[size].steps * SHARE.get(prior, 1.0))
    assert config.densify.max_gaussians == 360  # three for four of 24x20 pixels


def test_sizes_grow():
    small, medium, full = BUDGETS.values()
    for name in ("steps", "max_gaussians", "router_steps"):
        assert getattr(small, name) < getattr(medium, name) < getattr(full, name)
    scene = small_scene()
    assert route_budget("small", scene).steps < route_budget("full", scene).steps
    assert refine_budget("small", scene).steps < refine_budget("full", scene).steps


def test_the_cap_of_large_pictures_is_the_budgets():
    scene = small_scene()
    large = replace(scene, cameras=tuple(c.resized(400, 300) for c in scene.cameras))
    config = budget("small", large, "reformulation")[1]
    assert (config.densify.max_gaussians, config.steps) == (BUDGETS["small"].max_gaussians, BUDGETS["small"].steps)


def test_fewer_gaussians_take_more_steps():
    scene = small_scene()
    half = replace(scene, cameras=tuple(c.resized(200, 200) for c in scene.cameras))
    config = budget("small", half, "reformulation")[1]
    assert config.densify.max_gaussians == 30_000
    assert config.steps == round((4 / 3) ** 0.5 * BUDGETS["small"].steps)
    assert route_budget("small", half).steps == round((4 / 3) ** 0.5 * BUDGETS["small"].router_steps)
    assert refine_budget("small", half).steps == round((4 / 3) ** 0.5 * BUDGETS["small"].refine_steps)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="one of small, medium, full, got 'tiny'"):
        budget("tiny", small_scene(), "polynomial")
    with pytest.raises(ConfigError, match="got 'tiny'"):
        route_budget("tiny", small_scene())
    with pytest.raises(ConfigError, match="got 'tiny'"):
        refine_budget("tiny", small_scene())
    with pytest.raises(ConfigError, match="'nope'"):
        budget("small", small_scene(), "nope")
