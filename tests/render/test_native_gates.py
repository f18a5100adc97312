"""Gates and blend in one pass: the native kernel against plain torch in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.render import native
from moegs.render.native.gates import gated_blend, usable
from moegs.route import blend, softmax_gates

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_not())


def drawn(k, h, w, seed=0, spread=3.0):
    """Images, logits, and gradients to colours and gates."""
    generator = torch.Generator().manual_seed(seed)
    images, logits = torch.rand(k, h, w, 3, generator=generator), spread * torch.randn(k, h, w, generator=generator)
    return images, logits, torch.randn(h, w, 3, generator=generator), torch.randn(k, h, w, generator=generator)


def reference(images, logits, temperature):
    gates = softmax_gates(logits, temperature)
    return blend(images, gates), gates


def outputs_and_gradients(function, images, logits, to_color, to_gates, temperature):
    """Colours, gates, and gradients to images and logits; upstream gradients that are None do not arrive."""
    leaves = [images.detach().clone().requires_grad_(), logits.detach().clone().requires_grad_()]
    color, gates = function(*leaves, temperature)
    terms = [(out * up).sum() for out, up in ((color, to_color), (gates, to_gates)) if up is not None]
    return [color.detach(), gates.detach(), *torch.autograd.grad(sum(terms), leaves, materialize_grads=True)]


def assert_alike(images, logits, to_color, to_gates, temperature=1.0):
    exact = outputs_and_gradients(
        reference, images.double(), logits.double(), None if to_color is None else to_color.double(),
        None if to_gates is None else to_gates.double(), temperature,
    )  # fmt: skip
    found = outputs_and_gradients(gated_blend, images, logits, to_color, to_gates, temperature)
    scales = [1.0, 1.0, 10.0, 10.0 / temperature]
    for ours, wanted, scale in zip(found, exact, scales, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=1e-6 * scale)


@settings(deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 9), st.integers(1, 37), st.integers(0, 9), st.sampled_from(["both", "color", "gates"]),
    st.sampled_from([0.01, 0.3, 1.0, 7.0]),
)  # fmt: skip
def test_it_is_what_torch_computes_and_so_are_its_gradients(k, h, w, seed, upstream, temperature):
    images, logits, to_color, to_gates = drawn(k, h, w, seed, spread=3 * min(temperature, 1))
    assert_alike(
        images, logits, None if upstream == "gates" else to_color, None if upstream == "color" else to_gates, temperature
    )


def test_every_instruction_set_agrees(isa):
    """More pixels than one piece of work, and not a multiple of anything."""
    assert_alike(*drawn(3, 67, 131))


def test_far_logits_and_experts_that_are_left_out(isa):
    """Gates sum to one at any distance, and those of minus infinity are exactly zero, as is everything that follows."""
    images, logits, to_color, to_gates = drawn(3, 5, 7, spread=200.0)
    logits[1, 2] = -torch.inf
    assert_alike(images, logits, to_color, to_gates)
    _, gates = gated_blend(images, logits, 1.0)
    torch.testing.assert_close(gates.sum(0), torch.ones(5, 7))
    assert not gates[1, 2].any()


def test_what_is_not_a_number_stays_in_its_pixel(isa):
    images, logits, *_ = drawn(3, 4, 9)
    for bad in (torch.nan, torch.inf):
        for expert in range(3):
            broken = logits.clone()
            broken[expert, 1, 6] = bad
            color, gates = gated_blend(images, broken, 1.0)
            assert gates.isnan().nonzero().tolist() == [[k, 1, 6] for k in range(3)]
            assert color.isnan().any(-1).nonzero().tolist() == [[1, 6]]
    images[2, 3, 8, 1] = torch.nan
    color, gates = gated_blend(images, logits, 1.0)
    assert not gates.isnan().any() and color.isnan().nonzero().tolist() == [[3, 8, 1]]


def test_threads_change_no_bit(monkeypatch):
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MOEGS_NUM_THREADS", threads)
        found.append(outputs_and_gradients(gated_blend, *drawn(2, 90, 121), 1.0))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_each_gradient_alone_and_upstream_ones_that_lie_otherwise():
    images, logits, to_color, to_gates = drawn(3, 6, 21)
    turned = to_color.permute(2, 1, 0).contiguous().permute(2, 1, 0), to_gates[:1].expand(3, -1, -1)
    assert_alike(images, logits, *turned)
    both = outputs_and_gradients(gated_blend, images, logits, to_color, None, 1.0)
    for i, leaf in enumerate((images, logits)):
        asking = leaf.clone().requires_grad_()
        color, gates = gated_blend(*((asking, logits) if i == 0 else (images, asking)), 1.0)
        assert gates.requires_grad == (i == 1)
        assert torch.equal(torch.autograd.grad((color * to_color).sum(), asking)[0], both[2 + i])


def test_colours_may_be_changed_in_place():
    images, logits, *_ = drawn(2, 3, 4)
    color, gates = gated_blend(images.requires_grad_(), logits.requires_grad_(), 1.0)
    (color.clamp_(0, 1).sum() + gates[0].sum()).backward()
    assert images.grad is not None


def test_images_that_lie_otherwise_in_memory():
    images, logits, *_ = drawn(2, 6, 8)
    turned = images.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not turned.is_contiguous()
    for one, other in zip(gated_blend(turned, logits, 0.5), gated_blend(images, logits, 0.5), strict=True):
        assert torch.equal(one, other)


def test_it_leaves_to_others_what_it_does_not_cover():
    images, logits, *_ = drawn(2, 3, 4)
    assert usable(images, logits)
    assert not usable(images.double(), logits.double())
    assert not usable(images[:, :0], logits[:, :0])
