from __future__ import annotations

import json

import torch

from moegs import interop
from moegs.expert import load_expert
from moegs.render.camera import Camera, rays
from moegs_cli.importing import import_
from tests.interop.models import run_of
from tests.support import shared

STAGE2 = "golden/moegs-official"


def _checkpoint(folder):
    return next(p for p in sorted(shared(folder).rglob("checkpoint*")) if p.is_dir())


def test_a_mixture_of_the_authors_opens_as_ours(cli, tmp_path):
    source = _checkpoint(STAGE2)
    cli("import", source, "--out", tmp_path / "mix")
    found = json.loads(cli("info", tmp_path / "mix", "--json").output)
    assert len(found["experts"]) == len(interop.load_mixture(source).names)


def test_an_imported_mixture_and_an_expert_are_never_one_folder(cli, tmp_path):
    expert, out = tmp_path / "mix" / "expert.safetensors", tmp_path / "mix"
    run = ["import", run_of("spacetime", tmp_path / "run"), "--out", expert]
    cli(*run)
    cli("import", _checkpoint(STAGE2), "--out", out, "--force")
    assert not expert.exists() and (out / "manifest.json").exists()
    assert "holds a mixture" in cli(*run, exit_code=2).stderr and not expert.exists()


def test_its_logits_are_the_authors():
    imported = interop.load_mixture(_checkpoint(STAGE2))
    router = interop.to_mixture(imported).router
    camera = Camera(torch.eye(4), torch.tensor([[6.0, 0, 4], [0, 6, 3], [0, 0, 1]]), width=8, height=6)
    maps = torch.rand(len(imported.names), 6, 8, 3, generator=torch.Generator().manual_seed(0))
    alphas = torch.ones(len(imported.names), 6, 8)
    ours = router.logits(maps, torch.zeros(len(maps), 6, 8, 3), alphas, camera, 0.3)
    theirs = [imported.pixel_weight(m.permute(2, 0, 1), rays(camera).permute(2, 0, 1)) for m in maps]
    torch.testing.assert_close(ours, torch.stack(theirs))


def test_options_of_the_examples_are_known(cli, tmp_path):
    run = run_of("spacetime", tmp_path / "run")
    words = next(line for line in import_.epilog.splitlines() if "-o " in line).split()
    example = words[words.index("-o") + 1].strip("'")
    cli("import", run, "--out", tmp_path / "x.safetensors", "--format", "spacetime", "-o", example)
    assert load_expert(tmp_path / "x.safetensors").meta["chunk"] == [1, 6]


def test_unknown_formats_and_options_are_named(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("no checkpoint")
    out = tmp_path / "x.safetensors"
    assert "moegs: " in cli("import", tmp_path, "--out", out, exit_code=1).stderr
    assert "'nope'" in cli("import", tmp_path, "--out", out, "--format", "nope", exit_code=2).stderr
    assert not out.exists()
