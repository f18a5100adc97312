"""One clip and one seed, and every model that is trained on it, once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from moegs import __version__, train
from moegs.data import Scene
from moegs.deform import Prior, to_config
from moegs.expert import Expert, load_expert, save_expert
from moegs.io import digest, write_json
from moegs.prune import criterion as score_named
from moegs.prune.refit import HALFWAY, prune_and_refit
from moegs.report.paper.origin import code_digest
from moegs.report.paper.plan import Plan, content_key, prior_and_seed
from moegs.route import Mixture, PixelRouter, fuse, load_mixture, save_mixture
from moegs.train import FitConfig, RefineConfig, RouteConfig, stacking_split
from moegs.train.views import sample_views, scene_description
from moegs.train.volume import fit_volume_router

CODES = "codes.json"


@dataclass(frozen=True)
class Bench:
    """Where the models of a clip are trained, kept and found again.

    Models are named by what they were asked to be: other settings make another model, the same settings the same one.
    Training that was interrupted goes on from its checkpoint.

    Attributes:
        scene: the clip.
        plan: sizes of everything.
        seed: of all models.
        out: folder for models and cells.
        command: the command that measures this clip with this seed.
        progress: show bars.
        device: where models train and are measured.
    """

    scene: Scene
    plan: Plan
    seed: int
    out: Path
    command: str = ""
    progress: bool = True
    device: str = "cpu"

    @cached_property
    def clip(self) -> str:
        """Stands for the clip's cameras, points, number of frames, first pictures and who is held out."""
        held_out = {f"{i}": self.scene.image(i, 0) for i in self.scene.test}
        return content_key([scene_description(self.scene), self.scene.bounds, digest(held_out)])

    def fit_of(self, name: str, share: float = 1.0) -> tuple[Prior, FitConfig]:
        """Prior and training of an expert, with a share of the budget's steps."""
        prior_name, seed = prior_and_seed(name, self.seed)
        prior, fit = train.budget(self.plan.budget, self.scene, prior_name)
        return prior, replace(fit, seed=seed, steps=max(round(share * self.plan.capped(fit.steps)), 1))

    def route_of(self, kind: str = "volume-pixel") -> RouteConfig:
        """Training of a router of a kind."""
        config = train.route_budget(self.plan.budget, self.scene)
        router = PixelRouter([1]).config if kind == "pixel" else config.router
        return replace(config, router=router, seed=self.seed, steps=self.plan.capped(config.steps))

    @property
    def refining(self) -> RefineConfig:
        """Training of experts and router together."""
        config = train.refine_budget(self.plan.budget, self.scene)
        return replace(config, seed=self.seed, steps=self.plan.capped(config.steps))

    def cameras(self, which: str) -> tuple[int, ...]:
        """Training cameras: ``"all"``, or those that stacking gives to the ``"experts"`` or keeps for the ``"router"``."""
        if which == "all":
            return self.scene.train
        return stacking_split(self.scene, self.plan.left_out)[which == "router"]

    def expert_key(self, name: str, share: float = 1.0, views: str = "all") -> str:
        """What an expert's folder is called, without training it; another version of moegs trains another one."""
        prior, fit = self.fit_of(name, share)
        asked = [__version__, self.clip, prior.name, to_config(prior), asdict(fit), self.cameras(views)]
        return f"{name}-{content_key(asked)}"

    def expert(self, name: str, share: float = 1.0, views: str = "all") -> Expert:
        """An expert by name, trained now or before."""
        folder = self.models / self.expert_key(name, share, views)
        if not (folder / "expert.safetensors").exists():
            prior, fit = self.fit_of(name, share)
            how: dict[str, Any] = {"out": folder, "resume": True, "cameras": self.cameras(views), "device": self.device}
            fitted = train.fit_expert(self.scene, prior, fit, **how, progress=self.progress)
            keep_expert(fitted, folder)
            self.keep_codes(folder.name)
        return load_expert(folder / "expert.safetensors", self.device)

    def mixture_key(self, names: Sequence[str], kind: str = "volume-pixel", **stage: Any) -> str:
        """What a mixture's folder is called, without training it; ``stage`` as for :meth:`mixture`."""
        experts = [self.expert_key(n, stage.get("share", 1.0), stage.get("views", "all")) for n in names]
        cameras = self.cameras(stage.get("router_views", "all"))
        return f"{kind}-{len(names)}-{content_key([experts, kind, asdict(self.route_of(kind)), cameras])}"

    def experts(self, names: Sequence[str], share: float = 1.0, views: str = "all") -> dict[str, Expert]:
        """Several experts by name."""
        return {name: self.expert(name, share, views) for name in names}

    def mixture(
        self, names: Sequence[str], kind: str = "volume-pixel", *, share: float = 1.0, views: str = "all",
        router_views: str = "all",
    ) -> Mixture:  # fmt: skip
        """A mixture with a router of gates, trained now or before.

        Args:
            names: experts in order.
            kind: ``"volume-pixel"`` or ``"pixel"``.
            share: of the experts' steps.
            views: cameras of the experts.
            router_views: cameras of the router.
        """
        folder = self.models / self.mixture_key(names, kind, share=share, views=views, router_views=router_views)
        if not (folder / "manifest.json").exists():
            fitted = train.fit_router(
                self.scene, self.experts(names, share, views), self.route_of(kind), out=folder, resume=True,
                cameras=self.cameras(router_views), progress=self.progress,
            )  # fmt: skip
            save_mixture(fitted, folder, {"scene": self.scene.name, "n_frames": self.scene.n_frames})
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)
            self.keep_codes(folder.name, *(self.expert_key(n, share, views) for n in names))
        return load_mixture(folder, self.device)

    def refined_key(self, names: Sequence[str], **stage: Any) -> str:
        """What a refined mixture's folder is called, without training it; ``stage`` as for :meth:`mixture`."""
        asked = [self.mixture_key(names, **stage), asdict(self.refining), self.cameras(stage.get("views", "all"))]
        return f"refined-{len(names)}-{content_key(asked)}"

    def refined(self, names: Sequence[str], **stage: Any) -> Mixture:
        """A mixture whose experts and router then learned on together, trained now or before."""
        folder = self.models / self.refined_key(names, **stage)
        if not (folder / "manifest.json").exists():
            fitted = train.refine_mixture(
                self.scene, self.mixture(names, **stage), self.refining, out=folder, resume=True,
                cameras=self.cameras(stage.get("views", "all")), progress=self.progress,
            )  # fmt: skip
            save_mixture(fitted, folder, {"scene": self.scene.name, "n_frames": self.scene.n_frames})
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)
            self.keep_codes(folder.name, self.mixture_key(names, **stage))
        return load_mixture(folder, self.device)

    def pruned_key(self, criterion: str, ratio: float, rounds: int, scored: int, refit: float) -> str:
        """What a pruned mixture's folder is called, without making it."""
        asked = [self.refined_key(self.plan.names), criterion, ratio, rounds, scored, self._refit_steps(refit), self.seed]
        return f"pruned-{len(self.plan.names)}-{criterion}-{ratio:g}-{content_key(asked)}"

    def pruned(self, criterion: str, ratio: float, rounds: int, scored: int, refit: float) -> Mixture:
        """The refined mixture with a fraction of its Gaussians, refitted, made now or before.

        Args:
            criterion: what Gaussians are ranked by.
            ratio: fraction to drop.
            rounds: steps to the ratio.
            scored: training views to rank on.
            refit: times refinement's steps to learn on for.
        """
        key = self.pruned_key(criterion, ratio, rounds, scored, refit)
        folder = self.models / key
        if not (folder / "manifest.json").exists():
            whole, views = self.refined(self.plan.names), sample_views(self.scene, scored, seed=self.seed)
            left, _ = prune_and_refit(
                self.scene, whole, score_named(criterion, self.seed), views, ratio=ratio, rounds=rounds,
                steps=self._refit_steps(refit), seed=self.seed, out=folder, resume=True, progress=self.progress,
            )  # fmt: skip
            save_mixture(left, folder, {"scene": self.scene.name, "n_frames": self.scene.n_frames})
            for learnt in (folder, folder / HALFWAY):
                (learnt / "checkpoint.safetensors").unlink(missing_ok=True)
            self.keep_codes(key, self.refined_key(self.plan.names))
        return load_mixture(folder, self.device)

    def fused_key(self, scored: int, refit: float) -> str:
        """What the fused model's folder is called, without making it."""
        asked = [self.refined_key(self.plan.names), scored, self._refit_steps(refit), self.seed]
        return f"fused-{len(self.plan.names)}-{content_key(asked)}"

    def fused(self, scored: int, refit: float) -> tuple[Expert, Expert]:
        """The refined mixture as one model, as fusion makes it, and after it learnt on, made now or before.

        Args:
            scored: training views to see on how far each Gaussian is trusted.
            refit: times refinement's steps to learn on for.
        """
        key = self.fused_key(scored, refit)
        folder = self.models / key
        before, after = folder / "fused.safetensors", folder / "expert.safetensors"
        if not after.exists():
            whole, views = self.refined(self.plan.names), sample_views(self.scene, scored, seed=self.seed)
            save_expert(fuse(whole, views), before)
            learnt = train.train_on(
                self.scene, load_expert(before, self.device), self._refit_steps(refit), seed=self.seed, start_as=key,
                out=folder, resume=True, progress=self.progress,
            )  # fmt: skip
            keep_expert(learnt, folder)
            self.keep_codes(key, self.refined_key(self.plan.names))
        return load_expert(before, self.device), load_expert(after, self.device)

    def _refit_steps(self, refit: float) -> int:
        return self.plan.capped(round(refit * self.refining.steps))

    def merged(self, names: Sequence[str]) -> Expert:
        """The experts under a volume router, as one model, trained now or before."""
        folder = self.models / self.mixture_key(names, "volume")
        if not (folder / "expert.safetensors").exists():
            experts, config = self.experts(names), self.route_of("volume")
            fitted = fit_volume_router(
                self.scene, experts, config, out=folder, resume=True, progress=self.progress
            )  # fmt: skip
            keep_expert(fitted, folder)
            self.keep_codes(folder.name, *map(self.expert_key, names))
        return load_expert(folder / "expert.safetensors", self.device)

    def keep_codes(self, model: str, *of: str) -> None:
        """Note by what code a model was trained, and those that it was made of."""
        write_json(self.models / model / CODES, sorted({code_digest(), *(c for m in of for c in self.codes(m))}))

    def codes(self, model: str) -> list[str]:
        """By what code a model and those that it was made of were trained, as far as that was noted."""
        try:
            return list(json.loads((self.models / model / CODES).read_text()))
        except (OSError, ValueError, TypeError):
            return ["unknown"]

    @property
    def models(self) -> Path:
        """Folder of all models."""
        return self.out / "models"


def keep_expert(expert: Expert, folder: Path) -> None:
    """Write what training ended in, and drop the checkpoint, which is three times as large."""
    save_expert(expert, folder / "expert.safetensors")
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
