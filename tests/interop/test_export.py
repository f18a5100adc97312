"""Writing experts in the originals' layouts, whether imported or trained here, and as .ply sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moegs import interop
from moegs.deform.embedding import Embedding
from moegs.deform.fused import Fused
from moegs.deform.hexplane import HexPlane
from moegs.deform.interpolation import Interpolation
from moegs.deform.polynomial import Polynomial
from moegs.deform.prior import Prior
from moegs.deform.reformulation import Reformulation
from moegs.errors import ConfigError
from moegs.expert import Expert
from moegs.gaussians.container import covariances
from moegs.gaussians.ply import read_ply
from moegs.render import RasterOptions
from moegs.train import ANTIALIASED
from tests.interop.models import ORIGINALS, expert, original, run_of
from tests.interop.support import assert_same_tensors, case, close

TRAINED_HERE: dict[str, Prior] = {
    "hexplane": replace(HexPlane.for_clip(10), width=8, resolution=(4, 3, 5, 6)),
    "hexplane without colours": replace(HexPlane.for_clip(10), width=8, heads=("means", "quats"), sh_degree=2),
    "embedding": replace(Embedding.for_clip(10), width=8),
    "embedding, fine only": replace(Embedding.for_clip(10), width=8, stages=("fine",), heads=("means",)),
    "interpolation": Interpolation.for_clip(12),
    "interpolation, linear": replace(Interpolation.for_clip(12), position="linear"),
    "interpolation, quaternions of any length": replace(Interpolation.for_clip(12), dynamic=0.5, normalise_static=False),
    "interpolation, all static": replace(Interpolation.for_clip(12), dynamic=0.0),
    "polynomial": Polynomial.for_clip(10),
    "polynomial, plain colours": replace(Polynomial.for_clip(10), sh_degree=0),
    "polynomial, features": replace(Polynomial.for_clip(10), color="features", activation="clamp"),
    "reformulation": replace(Reformulation.n3v(), time_span=4.0, cutoff=0.0),
    "reformulation for a clip": replace(Reformulation.for_clip(10), time_span=4.0),
    "reformulation, static axes": replace(Reformulation.n3v(), rot_4d=False),
}


def same_at_all_times(a: Expert, b: Expert, atol: float = 2e-5) -> None:
    for t in (0.0, 0.3, 0.95):
        x, y = a.at(t), b.at(t)
        close(y.means, x.means, atol, "means")
        close(y.opacities, x.opacities, atol, "opacities")
        close(covariances(y), covariances(x), atol, "covariances")
        k = x.sh.shape[1]
        close(y.sh[:, :k], x.sh, atol, "sh")
        assert not y.sh[:, k:].any()
        if x.features is not None:
            close(y.features, x.features, atol, "features")


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("format", ORIGINALS)
def test_original_shapes_round_trip_bit_for_bit(tmp_path: Path, format: str, n: int) -> None:
    first = interop.load(run_of(format, tmp_path / "a", n))
    same_at_all_times(replace(original(format, n), prior=first.prior), first)
    interop.export(first, tmp_path / "b", format)
    again = interop.load(tmp_path / "b")
    assert_same_tensors(again.params, first.params)
    assert again.prior == first.prior and again.options == first.options


@pytest.mark.parametrize("format", ORIGINALS)
@pytest.mark.parametrize("options", [ANTIALIASED, RasterOptions(), RasterOptions(eps2d=0.2, near=1.0, far=9.0)])
def test_how_an_expert_is_drawn_comes_back(tmp_path: Path, format: str, options: RasterOptions) -> None:
    interop.export(replace(original(format), options=options), tmp_path / "a", format)
    first = interop.load(tmp_path / "a")
    assert first.options == options
    interop.export(replace(first, options=ORIGINALS[format][1]), tmp_path / "b", format)
    assert interop.load(tmp_path / "b").options == ORIGINALS[format][1]
    assert "raster_options" not in (tmp_path / "b" / "cfg_args").read_text()


@pytest.mark.parametrize("format", ORIGINALS)
@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.5, 1.0)])
def test_the_colour_behind_an_expert_comes_back(tmp_path: Path, format: str, color: tuple[float, float, float]) -> None:
    interop.export(replace(original(format), background=color), tmp_path / "a", format)
    first = interop.load(tmp_path / "a")
    assert first.background == color
    interop.export(replace(first, background=(1.0, 1.0, 1.0)), tmp_path / "b", format)  # nothing of a former one stays
    assert interop.load(tmp_path / "b").background == (1.0, 1.0, 1.0)
    assert "background_color" not in (tmp_path / "b" / "cfg_args").read_text()


def test_what_their_projects_draw_otherwise() -> None:
    for format in ORIGINALS:
        assert interop.unlike_original(original(format)) == ()
    assert interop.unlike_original(replace(original("spacetime"), options=ANTIALIASED)) == ("low-pass filter",)
    wide = replace(original("ex4dgs"), options=RasterOptions(eps2d=0.4, compensate=True))
    assert interop.unlike_original(wide) == ()
    assert interop.unlike_original(replace(wide, options=RasterOptions())) == ("low-pass filter",)
    ours = expert(Interpolation.for_clip(10), options=ANTIALIASED)
    assert interop.unlike_original(ours) == ("opacity_window", "shortest_arc")
    assert interop.unlike_original(expert(Reformulation.for_clip(10))) == ("cutoff",)


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_experts_trained_here_become_equal_originals(tmp_path: Path, name: str) -> None:
    before = expert(TRAINED_HERE[name])
    interop.export(before, tmp_path)
    after = interop.load(tmp_path)
    same_at_all_times(before, after)
    assert after.decoder == before.decoder


@pytest.mark.parametrize("name", ["4DGaussians/n3v_deep_n64", "E-D3DGS/technicolor_n64", "Ex4DGS/n3v_default_n64",
                                  "SpacetimeGaussians/full_n3v_n64", "SpacetimeGaussians/lite_n3v_n64"])  # fmt: skip
def test_exports_have_the_bytes_and_names_of_the_originals(tmp_path: Path, name: str) -> None:
    checkpoint, _ = case(name)
    place = interop.export(interop.load(checkpoint), tmp_path)
    source = checkpoint / place.relative_to(tmp_path)
    assert {p.name for p in place.iterdir()} == {p.name for p in source.iterdir()}
    for path in source.iterdir():
        if path.suffix == ".ply":
            assert (place / path.name).read_bytes() == path.read_bytes()
        else:
            before, after = (torch.load(p, map_location="cpu", weights_only=True) for p in (path, place / path.name))
            as_dict = (lambda x: x) if isinstance(before, dict) else (lambda x: {"": x})
            assert list(as_dict(after)) == list(as_dict(before))
            assert_same_tensors(as_dict(after), as_dict(before))


def test_formats_and_priors_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds experts with prior 'embedding', not 'polynomial'"):
        interop.export(expert(Polynomial()), tmp_path, "e-d3dgs")
    with pytest.raises(ConfigError, match="expected one of 4dgaussians"):
        interop.export(expert(Polynomial()), tmp_path, "splat")
    with pytest.raises(ConfigError, match="no original project has the prior 'fused'"):
        interop.export(replace(expert(Polynomial()), prior=Fused()), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ORIGINALS)
def test_ply_sequences_of_any_expert(tmp_path: Path, format: str) -> None:
    model = original(format)
    paths = interop.export_ply_sequence(model, tmp_path, [0.0, 0.5])
    assert [p.name for p in paths] == ["frame_00000.ply", "frame_00001.ply"]
    found, now = read_ply(paths[1]), model.at(0.5)
    close(found.means, now.means, 0.0, "means")
    close(found.opacities, now.opacities, 1e-6, "opacities")
    torch.testing.assert_close(covariances(found), covariances(now), rtol=1e-3, atol=1e-6)
    if now.features is None:
        close(found.sh, now.sh, 0.0, "sh")
    else:
        assert torch.equal(found.sh[:, 0].argsort(0), now.features[:, :3].argsort(0))


@pytest.mark.parametrize("times", [[], [1.5], [float("nan")]])
def test_times_of_a_sequence_are_checked(tmp_path: Path, times: list[float]) -> None:
    with pytest.raises(ConfigError, match="times"):
        interop.export_ply_sequence(original("spacetime"), tmp_path, times)
