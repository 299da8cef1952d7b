"""Actors that outlive a test: to start one and import torch takes longer than most of what is tested."""

from pathlib import Path
from typing import Any

from sparserm_cli.stages.engine.ray_engine import RayEngine

_kept: list[Any] = []


class KeptActors(RayEngine):
    """Takes the actors that earlier tests have left before it starts others."""

    def _add_actor(self) -> None:
        if not _kept:
            super()._add_actor()
            return
        actor = _kept.pop()
        self._starting[actor.prepare.remote(self._make, Path.cwd())] = actor

    def __exit__(self, *problem: object) -> None:
        _kept.extend([*self._idle, *self._starting.values()])
        super().__exit__(*problem)
