"""Experts' files that were damaged or forged: one clear error each, and never another scene."""

from __future__ import annotations

import contextlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from moegs.deform import get, names
from moegs.errors import FormatError, MoegsError
from moegs.expert import Expert, load_expert, save_expert
from moegs.gaussians import PointCloud
from moegs.gaussians.params import take

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**400), st.floats(), st.text(max_size=5),
    st.lists(st.one_of(st.floats(), st.none()), max_size=4), st.dictionaries(st.text(max_size=4), st.none(), max_size=2),
)  # fmt: skip


def small(name: str = "polynomial", n: int = 5, **options: Any) -> Expert:
    g = torch.Generator().manual_seed(0)
    prior = replace(get(name).for_clip(6), **options)
    cloud = PointCloud(torch.rand(n, 3, generator=g), torch.rand(n, 3, generator=g), None)
    return Expert(prior, prior.init(cloud, g), decoder=prior.decoder)


def parts(expert: Expert, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of an expert's file."""
    save_expert(expert, folder / "whole.safetensors")
    with safe_open(folder / "whole.safetensors", framework="pt") as file:
        return {k: file.get_tensor(k).clone() for k in file.keys()}, json.loads(file.metadata()["moegs"])  # noqa: SIM118


def forged(folder: Path, tensors: dict[str, torch.Tensor], header: Any) -> Path:
    path = folder / "forged.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"moegs": json.dumps(header)})
    return path


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("kept", [0, 1, 5])
def test_every_prior_comes_back_however_few_its_gaussians(name, kept, tmp_path):
    whole = small(name)
    expert = replace(whole, params=take(whole.params, torch.arange(len(whole)) < kept))
    save_expert(expert, tmp_path / "e.safetensors")
    again = load_expert(tmp_path / "e.safetensors")
    assert again.prior == expert.prior and len(again) == kept


@pytest.mark.parametrize("name", names())
def test_no_tensor_that_a_render_needs_can_be_missing(name, tmp_path):
    tensors, header = parts(small(name), tmp_path)
    for lost in tensors:
        path = forged(tmp_path, {k: v for k, v in tensors.items() if k != lost}, header)
        try:
            with torch.no_grad():
                load_expert(path).at(0.5)
        except FormatError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("change", ["more rows", "fewer rows", "more columns", "flat", "scalar"])
def test_no_tensor_can_have_another_shape(name, change, tmp_path):
    tensors, header = parts(small(name), tmp_path)
    for changed, value in tensors.items():
        shapes = {
            "more rows": torch.cat([value, value]), "fewer rows": value[:-1], "flat": value.reshape(-1),
            "more columns": torch.cat([value, value], dim=-1), "scalar": torch.zeros(()),
        }  # fmt: skip
        try:
            load_expert(forged(tmp_path, tensors | {changed: shapes[change]}, header))
        except FormatError as error:
            assert "forged.safetensors: " in str(error)
        else:  # what a render does not depend on, or where the shape says how many there are
            assert shapes[change].shape == value.shape or not changed.startswith("gaussian.") or not value.numel()


@pytest.mark.parametrize("field", ["means", "quats", "scales", "opacities", "sh_dc", "sh_rest"])
def test_a_wrong_shape_is_named_with_what_was_expected(field, tmp_path):
    tensors, header = parts(small(), tmp_path)
    name = f"gaussian.{field}"
    path = forged(tmp_path, tensors | {name: torch.zeros(5, 7, 2)}, header)
    with pytest.raises(FormatError, match=rf"tensor '{name}': expected floats, shape \[5.*got .*\[5, 7, 2\]; .*make it"):
        load_expert(path)
    path = forged(tmp_path, tensors | {name: tensors[name].to(torch.int32)}, header)
    with pytest.raises(FormatError, match=rf"tensor '{name}': expected floats.*int32"):
        load_expert(path)


def test_a_missing_tensor_is_named(tmp_path):
    tensors, header = parts(small(), tmp_path)
    tensors.pop("gaussian.motion")
    with pytest.raises(FormatError, match=r"do not fit prior 'polynomial'.*'gaussian.motion' is missing"):
        load_expert(forged(tmp_path, tensors, header))


@pytest.mark.parametrize("name", ["decoder.w1", "decoder.w2"])
def test_a_decoder_has_its_tensors(name, tmp_path):
    tensors, header = parts(small(color="features"), tmp_path)
    with pytest.raises(FormatError, match=rf"'{name}': expected \[\d, \d+\] for the decoder, got \[3, 3\]"):
        load_expert(forged(tmp_path, tensors | {name: torch.zeros(3, 3)}, header))
    lost = {k: v for k, v in tensors.items() if k != name}
    with pytest.raises(FormatError, match=rf"'{name}': .* got nothing"):
        load_expert(forged(tmp_path, lost, header))
    plain, plain_header = parts(small(), tmp_path)
    decoders = {k: v for k, v in tensors.items() if k.startswith("decoder")}
    with pytest.raises(FormatError, match="9 features"):
        load_expert(forged(tmp_path, plain | decoders, plain_header | {"decoder": "sigmoid"}))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prior", 3, "'prior': expected str"),
        ("prior", "nerf", "expected one of"),
        ("config", [], "'config': expected dict"),
        ("config", {"sh_degree": "two"}, "'sh_degree': expected int"),
        ("config", {"nonsense": 1}, "unknown option 'nonsense'"),
        ("options", {"blur": 1}, "unknown: 'options.blur'"),
        ("options", {"eps2d": float("nan")}, "'options.eps2d': expected a number of at least 0, got 'nan'"),
        ("options", {"compensate": 1}, "'options.compensate'"),
        ("options", {"near": "0.1"}, "'options.near'"),
        ("background", [0, float("nan"), 0], "'background': expected three finite numbers"),
        ("background", [0, 0], "three finite"),
        ("decoder", "softmax", "'decoder'"),
        ("meta", None, "'meta': expected dict"),
    ],
)
def test_a_field_without_meaning_is_named(field, value, says, tmp_path):
    tensors, header = parts(small(), tmp_path)
    with pytest.raises(FormatError, match=says) as caught:
        load_expert(forged(tmp_path, tensors, header | {field: value}))
    assert str(tmp_path / "forged.safetensors") in str(caught.value)


@FUZZ
@given(st.sampled_from(["format", "version", "prior", "config", "options", "background", "decoder"]), ODD)
def test_any_value_of_a_field_is_read_or_refused(tmp_path, field, value):
    tensors, header = parts(small(), tmp_path)
    try:
        expert = load_expert(forged(tmp_path, tensors, header | {field: value}))
    except FormatError:
        return
    assert len(expert.at(0.5)) == 5


@FUZZ
@given(st.sampled_from(names()), st.data())
def test_any_value_of_a_setting_is_read_or_refused(tmp_path, name, data):
    tensors, header = parts(small(name), tmp_path)
    key = data.draw(st.sampled_from(sorted(header["config"])))
    header["config"][key] = data.draw(ODD)
    with contextlib.suppress(FormatError):
        load_expert(forged(tmp_path, tensors, header))


@FUZZ
@given(st.binary(max_size=4), st.floats(0, 1), st.booleans())
def test_damaged_bytes_are_one_error_or_other_numbers(tmp_path, noise, place, cut):
    save_expert(small(), tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    at = int(place * len(data))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data[:at] + noise + (b"" if cut else data[at + len(noise) :]))
    try:
        load_expert(path)
    except MoegsError as error:
        assert isinstance(error, FormatError) and str(path) in str(error)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", '{"format": ', "[" * 100_000, "\udcff"])
def test_metadata_that_is_no_header_is_refused(text, tmp_path):
    meta = json.dumps({"__metadata__": {"moegs": text}, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path = tmp_path / "e.safetensors"
    path.write_bytes(struct.pack("<Q", len(meta)) + meta.encode() + bytes(4))
    with pytest.raises(FormatError, match="e.safetensors"):
        load_expert(path)
