"""Routers and blending: the formula, gradients, and use in foreign code."""

from __future__ import annotations

import math

import pytest
import torch

from moegs.errors import ConfigError, ShapeError
from moegs.render import rays, splat
from moegs.route import (
    Mixture,
    PixelRouter,
    RouterConfig,
    VolumePixelRouter,
    blend,
    gated_blend,
    oracle_gates,
    render_mixture,
    softmax_gates,
    uniform_gates,
)
from tests.render.scenes import camera, random_gaussians
from tests.route.test_mixture import make_mixture


def filled(router: VolumePixelRouter) -> VolumePixelRouter:
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in router.parameters():
            p.copy_(torch.randn(p.shape, generator=g).to(p))
    return router


def test_weights_start_where_they_are_asked_to():
    assert not any(w.any() for w in (VolumePixelRouter([3]).base, VolumePixelRouter([3]).view))
    released = VolumePixelRouter([2, 3], RouterConfig(initial_weight=0.9, initial_view=0.8, channels=2))
    assert released.base.tolist() == pytest.approx([0.9] * 5) and not released.time.any()
    assert released.view.shape == (5, 2) and released.view.flatten().tolist() == pytest.approx([0.8] * 10)


def test_gates_follow_the_papers_formula():
    experts, cam, t = [random_gaussians(12, seed=s) for s in (0, 1)], camera(), 0.3
    router = filled(VolumePixelRouter([12, 12], centre=(0.1, 0.2, 0.3), extent=2.0))
    logits = []
    for k, gaussians in enumerate(experts):
        rows = slice(12 * k, 12 * (k + 1))
        weights = torch.stack([router.base[rows], router.view[rows, 0], t * router.time[rows, 0]], dim=-1)
        maps = splat(gaussians, cam, weights, backend="reference")
        ray = rays(cam)
        ray = torch.cat([(ray[..., :3] - torch.tensor([0.1, 0.2, 0.3])) / 2.0, ray[..., 3:]], dim=-1)
        x = torch.cat([maps[..., 1:], ray], dim=-1)
        for i, layer in enumerate(router.layers):
            x = (torch.relu(x) if i else x) @ layer[0, :, :, 0, 0].T
        logits.append(maps[..., 0] + x[..., 0])
    expected = torch.softmax(torch.stack(logits), dim=0)
    torch.testing.assert_close(router(experts, cam, t, backend="reference"), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by the native kernel, and by torch in bands
def test_large_pictures_go_through_the_network_in_pieces(dtype: torch.dtype):
    router = VolumePixelRouter([1, 1], RouterConfig(inputs=("rays", "color")), generator=torch.Generator().manual_seed(0))
    router, cam, g = router.to(dtype), camera(300, 200, dtype), torch.Generator().manual_seed(1)
    maps, images = (torch.randn(2, 200, 300, 3, generator=g, dtype=dtype) for _ in range(2))
    whole = router.logits(maps, images, torch.ones(2, 200, 300, dtype=dtype), cam, 0.2)
    seen = [maps[..., 1:], (rays(cam) - torch.cat([router.centre, torch.zeros(3)])).expand(2, -1, -1, -1)]
    x = torch.cat([*seen, images, images - images.mean(0)], dim=-1)
    for i, layer in enumerate(router.layers):
        x = (x.relu() if i else x) @ layer[0, :, :, 0, 0].T
    torch.testing.assert_close(whole, maps[..., 0] + x[..., 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        RouterConfig(),
        RouterConfig(shared=False, background=1.0),
        RouterConfig(channels=3, inputs=("time", "color", "rays", "alpha"), hidden=(9,)),
        RouterConfig(channels=0, inputs=("rays",), hidden=()),
        RouterConfig(channels=0, inputs=("time",)),  # a network of its bias alone
        RouterConfig(kind="pixel", inputs=("rays", "time", "color")),
        RouterConfig(kind="pixel", inputs=("rays", "time"), shared=False),  # nothing that differs but the networks
    ],
)
def test_single_and_double_precision_take_different_ways_to_the_same_gates(config: RouterConfig, k: int):
    """Single goes through the native kernel where it is built, double through torch."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        router, g = filled(VolumePixelRouter([1] * k, config)).to(dtype), torch.Generator().manual_seed(3)
        drawn = [torch.randn(k, 11, 13, c, generator=g).to(dtype).requires_grad_() for c in (1 + 2 * config.channels, 3, 1)]
        maps, images, alphas = drawn
        seen = None if config.kind == "pixel" else maps
        logits = router.logits(seen, images, alphas[..., 0], camera(13, 11, dtype), 0.6)
        upstream = torch.randn(logits.shape, generator=g).to(dtype)
        layers = list(router.layers)
        found[dtype] = [logits, *torch.autograd.grad(logits, [*drawn, *layers], upstream, materialize_grads=True)]
    for single, double in zip(*found.values(), strict=True):
        torch.testing.assert_close(single.double(), double, atol=1e-4 * max(double.abs().max().item(), 1), rtol=1e-4)


def test_mixed_precision_is_refused():
    router, maps = VolumePixelRouter([1, 1]).double(), torch.rand(2, 5, 7, 3)
    with pytest.raises(RuntimeError, match="dtype"):
        router.logits(maps, maps, torch.ones(2, 5, 7), camera(7, 5), 0.2)


def test_function_transforms_reach_through_the_network():
    router, images = filled(VolumePixelRouter([1, 1])), torch.rand(2, 5, 7, 3)
    maps = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def total(maps):
        return router.logits(maps, images, torch.ones(2, 5, 7), camera(7, 5), 0.2).square().sum()

    torch.testing.assert_close(torch.func.grad(total)(maps), torch.autograd.grad(total(maps), maps)[0])


def test_a_network_that_sees_only_the_time_says_the_same_everywhere():
    router = PixelRouter([1, 1], inputs=("time",), shared=False)
    with torch.no_grad():
        for weights in router.layers:
            weights[1] = weights[0]
    gates = router.gates(None, torch.rand(2, 5, 7, 3), torch.ones(2, 5, 7), camera(7, 5), 0.3)
    assert gates.shape == (2, 5, 7) and bool((gates == 0.5).all())


@pytest.mark.parametrize(
    "config",
    [
        RouterConfig(),
        RouterConfig(channels=2, context=3, inputs=("rays", "color", "time", "alpha")),
        RouterConfig(kind="volume"),
        RouterConfig(shared=False, context=3),
    ],
)
def test_gates_sum_to_one_and_everything_gets_gradient(config: RouterConfig):
    experts, cam = [random_gaussians(9, seed=s) for s in (0, 1, 2)], camera()
    router = filled(VolumePixelRouter([9, 9, 9], config))
    gates = router(experts, cam, 0.5, backend="reference")
    torch.testing.assert_close(gates.sum(0), torch.ones(28, 40))
    gates[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in router.parameters() if p.numel())


def test_temperature_sharpens():
    logits = torch.tensor([[[1.0]], [[0.0]]])
    assert softmax_gates(logits, 0.01)[0].item() > 0.999 > 0.75 > softmax_gates(logits)[0].item()


def test_gradcheck_of_router_and_blend():
    experts = [random_gaussians(4, seed=s, dtype=torch.float64) for s in (0, 1)]
    cam = camera(10, 8, torch.float64)
    router = filled(VolumePixelRouter([4, 4], RouterConfig(background=1.0)).double())
    names, values = zip(*router.named_parameters(), strict=True)

    def run(*parameters):
        substitute = dict(zip(names, parameters, strict=True))
        gates = torch.func.functional_call(router, substitute, (experts, cam, 0.4))
        return blend(torch.linspace(0, 1, 2 * 8 * 10 * 3, dtype=torch.float64).view(2, 8, 10, 3), gates)

    assert torch.autograd.gradcheck(run, [v.detach().clone().requires_grad_() for v in values])


def test_gradcheck_of_blend_in_images():
    images = torch.rand(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    gates = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blend, (images, gates))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_and_blend_together_are_those_one_after_the_other(dtype):
    images, logits = torch.rand(3, 4, 5, 3, dtype=dtype), torch.randn(3, 4, 5, dtype=dtype)
    color, gates = gated_blend(images, logits, 0.5)
    torch.testing.assert_close(gates, softmax_gates(logits, 0.5))
    torch.testing.assert_close(color, blend(images, gates))
    with pytest.raises(ShapeError, match="logits"):
        gated_blend(images, logits[:2])
    with pytest.raises(ConfigError, match="temperature"):
        gated_blend(images, logits, 0.0)


def test_gradcheck_of_gated_blend_in_torch():
    leaves = [torch.rand(2, 3, 2, 3, dtype=torch.float64), torch.randn(2, 3, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(gated_blend, [x.requires_grad_() for x in leaves])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_temperature_can_be_learnt(dtype):
    images, logits = torch.rand(3, 4, 5, 3, dtype=dtype), torch.randn(3, 4, 5, dtype=dtype)
    tau = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    gated_blend(images, logits, tau)[0].square().sum().backward()
    other = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    blend(images, softmax_gates(logits, other)).square().sum().backward()
    assert tau.grad is not None and other.grad is not None and tau.grad != 0
    torch.testing.assert_close(tau.grad, other.grad)


def test_the_oracle_never_picks_what_is_no_number():
    images = torch.stack([torch.full((2, 2, 3), v) for v in (float("nan"), 0.1)])
    assert torch.equal(oracle_gates(images, torch.zeros(2, 2, 3))[1], torch.ones(2, 2))
    for wrong in (torch.tensor(0.5), torch.zeros(3, 2, 3)):
        with pytest.raises(ShapeError, match="truth"):
            oracle_gates(images, wrong)
    with pytest.raises(ShapeError, match="one expert or more"):
        uniform_gates(images[:0])


def test_yardsticks():
    truth = torch.zeros(2, 2, 3)
    images = torch.stack([torch.full((2, 2, 3), 0.5), torch.full((2, 2, 3), 0.1)])
    assert torch.equal(oracle_gates(images, truth)[1], torch.ones(2, 2))
    torch.testing.assert_close(blend(images, uniform_gates(images)), torch.full((2, 2, 3), 0.3))


def test_the_oracle_sees_pictures_as_they_are_shown():
    """1.3 is shown as 1, nearer to 0.98 than 0.9 is."""
    images = torch.stack([torch.full((2, 2, 3), v) for v in (1.3, 0.9)])
    assert torch.equal(oracle_gates(images, torch.full((2, 2, 3), 0.98))[0], torch.ones(2, 2))


def test_a_pixel_router_has_no_weights_on_gaussians():
    router = PixelRouter([5, 6])
    assert router.base.numel() == 0 and router.features(0.3) is None
    gates = router([random_gaussians(5), random_gaussians(6, seed=1)], camera(), 0.3, backend="reference")
    torch.testing.assert_close(gates.sum(0), torch.ones(28, 40))
    drawn = [PixelRouter([5, 6], extent=2.0, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(drawn[0].layers[0], drawn[1].layers[0]) and float(drawn[0].extent) == 2.0


def test_bad_requests_say_what_was_expected():
    with pytest.raises(ShapeError, match=r"expected \[3, 3\]"):
        VolumePixelRouter([3, 3])([random_gaussians(3), random_gaussians(4)], camera(), 0.0)
    with pytest.raises(ShapeError, match="blend"):
        blend(torch.ones(2, 3, 3, 3), torch.ones(2, 3, 4))
    with pytest.raises(ShapeError, match=r"router: is torch\.float32 on cpu, Gaussians torch\.float64"):
        VolumePixelRouter([3])([random_gaussians(3).to(torch.float64)], camera(), 0.0)
    for bad in ({"kind": "magic"}, {"inputs": ("smell",)}, {"context": 2}, {"temperature": 0.0}, {"background": math.nan}):
        with pytest.raises(ConfigError):
            RouterConfig(**bad)
    for bad in ({"counts": []}, {"counts": [2.5]}, {"extent": 0.0}, {"extent": math.nan}, {"centre": (0.0, 1.0)}):
        with pytest.raises(ConfigError):
            VolumePixelRouter(**({"counts": [2]} | bad))


@pytest.mark.parametrize("inputs", [("rays",), ("rays", "time")])
def test_one_network_that_cannot_tell_experts_apart_is_refused(inputs):
    with pytest.raises(ConfigError, match="add 'color' or"):
        RouterConfig(kind="pixel", inputs=inputs)
    RouterConfig(kind="pixel", inputs=(*inputs, "alpha"))


def test_gates_of_gaussians_are_those_of_the_mixture():
    """Options and backgrounds included; where a decoder makes the colours, only the mixture knows them."""
    whole, seen = make_mixture(), camera()
    names = ["a", "b"]
    experts = {n: whole.experts[n] for n in names}
    router = PixelRouter([len(e) for e in experts.values()], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = render_mixture(Mixture(experts, router), seen, 0.4).gates
        options, background = [e.options for e in experts.values()], torch.tensor([e.background for e in experts.values()])
        now = [e.at(0.4) for e in experts.values()]
        torch.testing.assert_close(router(now, seen, 0.4, options=options, background=background), expected)
        assert (router(now, seen, 0.4, options=options) - expected).abs().max() > 1e-3
    decoded = whole.experts["c"].at(0.4)
    with pytest.raises(ConfigError, match="use render_mixture"):
        PixelRouter([len(decoded)])([decoded], seen, 0.4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_without_meaning_is_refused(temperature):
    with pytest.raises(ConfigError, match="above 0"):
        softmax_gates(torch.zeros(2, 1, 1), temperature)
