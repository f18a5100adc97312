"""The network at every pixel: the native kernel against plain torch in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.render import native
from moegs.render.native.network import pixel_network, usable

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_not())


def reference(own, common, layers, bias, residual):
    """The definition, in the inputs' precision."""
    k, h, w, _ = own.shape
    seen = own[..., 1:] if residual else own
    if common is not None:
        seen = torch.cat([seen, common.expand(k, h, w, -1)], dim=-1)
    for number, layer in enumerate(layers):
        seen = torch.einsum("khwi,koi->khwo", seen, layer.expand(k, -1, -1))
        if number == 0:
            seen = seen + bias.expand(k, -1)[:, None, None]
        if number + 1 < len(layers):
            seen = seen.relu()
    return seen[..., 0] + (own[..., 0] if residual else 0)


def drawn(k, h, w, own, common, hidden, networks, seed=0, residual=True):
    """Inputs of any sizes; ``own`` counts the residual channel."""
    generator = torch.Generator().manual_seed(seed)
    widths = [own - residual + common, *hidden, 1]
    layers = [torch.randn(networks, b, a, generator=generator) for a, b in pairwise(widths)]
    return {
        "own": torch.randn(k, h, w, own, generator=generator),
        "common": torch.randn(h, w, common, generator=generator) if common else None,
        "layers": layers,
        "bias": torch.randn(networks, widths[1], generator=generator),
        "residual": residual,
    }


def gradients(function, inputs, upstream):
    leaves = [inputs["own"], *inputs["layers"], inputs["bias"]]
    for leaf in leaves:
        leaf.requires_grad_()
    out = function(**inputs)
    return [out.detach(), *torch.autograd.grad((out * upstream).sum(), leaves, materialize_grads=True)]


def doubled(inputs):
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    return wide | {"layers": [w.double() for w in inputs["layers"]]}


def assert_alike(inputs, upstream):
    exact = gradients(reference, doubled(inputs), upstream.double())
    for found, wanted in zip(gradients(pixel_network, inputs, upstream), exact, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4 * max(float(wanted.abs().max()), 1e-3))


@settings(deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 21), st.integers(1, 7), st.integers(0, 4),
    st.lists(st.integers(1, 9), max_size=3), st.booleans(), st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_it_is_what_torch_computes_and_so_are_its_gradients(k, h, w, own, common, hidden, shared, residual, seed):
    residual = residual and (own > 1 or common > 0)
    inputs = drawn(k, h, w, own, common, hidden, 1 if shared else k, seed, residual)
    assert_alike(inputs, torch.randn(k, h, w, generator=torch.Generator().manual_seed(seed + 1)))


@pytest.mark.parametrize("shared", [True, False])
def test_every_instruction_set_agrees(isa, shared):
    """More pixels than one piece of work, and not a multiple of anything."""
    inputs = drawn(3, 67, 131, 3, 3, (6, 3), 1 if shared else 3)
    assert_alike(inputs, torch.randn(3, 67, 131, generator=torch.Generator().manual_seed(5)))


def test_threads_change_no_bit(monkeypatch):
    inputs, upstream = drawn(2, 90, 121, 3, 3, (6, 3), 1), torch.randn(2, 90, 121, generator=torch.Generator().manual_seed(1))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MOEGS_NUM_THREADS", threads)
        found.append(gradients(pixel_network, inputs, upstream))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_what_is_not_a_number_spreads_as_in_torch(isa):
    """In the inputs, and in gradients that dead units stop, however large they are."""
    upstream = torch.ones(1, 2, 3)
    inputs = drawn(1, 2, 3, 3, 0, (4,), 1)
    inputs["own"][0, 1, 1, 2] = torch.nan
    assert pixel_network(**inputs).isnan().nonzero().tolist() == [[0, 1, 1]]
    assert_alike_in_kind(inputs, upstream)
    inputs = drawn(1, 2, 3, 3, 0, (4,), 1)
    inputs["bias"][0, :3] = -100.0
    upstream[0, 0, 0] = torch.inf
    assert_alike_in_kind(inputs, upstream)


def assert_alike_in_kind(inputs, upstream):
    exact = gradients(reference, inputs, upstream)
    for found, wanted in zip(gradients(pixel_network, inputs, upstream), exact, strict=True):
        assert torch.equal(found.isnan(), wanted.isnan()) and torch.equal(found.isinf(), wanted.isinf())


def test_it_leaves_to_others_what_it_does_not_cover():
    own, common, layers = torch.zeros(2, 3, 4, 3), torch.zeros(3, 4, 3), [torch.zeros(1, 1, 5)]
    asking = common.clone().requires_grad_()
    assert usable([own], [common], layers) and usable([own], [], layers)
    assert not usable([], [common], layers)
    assert not usable([own.double()], [common], layers)
    assert not usable([own], [common], [layers[0].double()])
    assert not usable([own[:, :0]], [], layers)
    assert not usable([own], [asking], layers)
    with torch.no_grad():
        assert usable([own], [asking], layers)


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    inputs, upstream = drawn(2, 7, 9, 3, 3, (6, 3), 1), torch.ones(2, 7, 9)
    inputs["own"].requires_grad_()
    logits = pixel_network(**inputs)  # its weights ask for no gradient
    first, second = (torch.autograd.grad(logits, inputs["own"], upstream, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    exact = doubled({k: v for k, v in inputs.items() if k != "own"} | {"own": inputs["own"].detach()})
    torch.testing.assert_close(first.double(), gradients(reference, exact, upstream.double())[1], rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_refused():
    inputs = drawn(1, 3, 4, 3, 3, (6, 3), 1)
    inputs["own"].requires_grad_()
    (slope,) = torch.autograd.grad(pixel_network(**inputs).square().sum(), inputs["own"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_memory_that_is_not_the_callers_is_refused():
    """A conversion would be written to and lost."""
    own, networks = torch.zeros(1, 6, 2), torch.zeros(1, 2)
    arguments = (own, None, networks, [1, 1], True, torch.zeros(1, 6), None)
    native.library().network_backward(*arguments, torch.zeros(1, 2), 1)
    with pytest.raises(TypeError):
        native.library().network_backward(*arguments, torch.zeros(1, 2, dtype=torch.float64), 1)


def test_sizes_that_do_not_fit_are_refused():
    inputs = drawn(2, 3, 4, 3, 3, (6, 3), 1)
    with pytest.raises(ValueError, match="differ in pixels"):
        pixel_network(**inputs | {"common": torch.zeros(2, 4, 3)})
    with pytest.raises(ValueError, match="widths do not fit"):
        pixel_network(**inputs | {"own": torch.zeros(2, 3, 4, 5)})
    with pytest.raises(ValueError, match="weights do not fit"):
        pixel_network(**inputs | {"layers": [w.expand(3, -1, -1) for w in inputs["layers"]], "bias": torch.zeros(3, 6)})


def test_outputs_that_do_not_fit_are_refused():
    own, networks, widths = torch.zeros(1, 6, 2), torch.zeros(1, 2), [1, 1]
    library, upstream = native.library(), torch.zeros(1, 6)
    with pytest.raises(ValueError, match="logits"):
        library.network_forward(own, None, networks, widths, True, torch.zeros(1, 5), 1)
    with pytest.raises(ValueError, match="upstream"):
        library.network_backward(own, None, networks, widths, True, torch.zeros(1, 5), None, None, 1)
    with pytest.raises(ValueError, match="to the inputs"):
        library.network_backward(own, None, networks, widths, True, upstream, torch.zeros(1, 6, 3), None, 1)
    with pytest.raises(ValueError, match="to the weights"):
        library.network_backward(own, None, networks, widths, True, upstream, None, torch.zeros(1, 3), 1)
