"""What the commands that look after the run directory say: words for people, the same facts as JSON."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sparserm_cli.analysis.verdicts import fit_verdict
from sparserm_cli.console import Output
from sparserm_cli.formatting import duration, size

if TYPE_CHECKING:
    from sparserm_cli.stages.run import RanStage
    from sparserm_cli.store.run.status import Status
    from sparserm_cli.store.run.verify import Repaired, Verification


def run(out: Output, path: PurePath, stages: "Sequence[RanStage]") -> None:
    """Tell which stages did something and where the reward model is."""
    told = {
        one.name: {
            "state": "up to date" if one.summary.fresh else "done",
            "seconds": round(one.seconds, 2),
        }
        for one in stages
    }
    data: dict[str, Any] = {"run": str(path), "stages": told}
    lines = [
        f"{one.name}: " + ("was up to date" if one.summary.fresh else f"done in {duration(one.seconds)}")
        for one in stages
    ]
    fitted = next(stage.summary for stage in stages if stage.name == "fit")
    data |= {"reward": str(fitted.path), "verdict": fit_verdict(fitted.config)}
    where = f"{path}: complete, the reward model is {fitted.path}"
    then = f"next: {out.command('evaluate held-out.jsonl')}\nthen: {out.command('score responses.jsonl')}"
    out.result(data, "\n".join([*lines, data["verdict"], where, then]))


def settings_written(out: Output, path: Path) -> None:
    """Tell where the settings file is and what runs it."""
    data = {"settings": str(path)}
    command = "sparserm run" if str(path) == "sparserm.toml" else f"sparserm run --config {path}"
    out.result(data, f"{path}: written\nnext: {command}")


def status(out: Output, run: PurePath, found: "Status") -> None:
    """Show the chain of artifacts as a tree."""
    data = {
        "run": str(run),
        "next": out.command(found.next_command.removeprefix("sparserm ")) if found.next_command else "",
        "artifacts": [
            {
                "name": one.name,
                "state": one.state,
                "detail": one.detail,
                "bytes": one.bytes,
                "created": one.created,
                "command": one.command,
            }
            for one in found.artifacts
        ],
    }
    lines = [str(run)]
    for number, one in enumerate(found.artifacts):
        branch = "└─" if number == len(found.artifacts) - 1 else "├─"
        weight = size(one.bytes) if one.bytes else ""
        lines.append(f"{branch} {one.path.name:18} {one.state:10} {weight:>10}  {one.created}".rstrip())
        if one.detail:
            lines.append(f"{'  ' if branch == '└─' else '│ '}   {one.detail}")
    lines.append(f"next: {data['next']}" if found.next_command else "everything is up to date")
    out.result(data, "\n".join(lines))


def verify(out: Output, run: PurePath, found: "Verification") -> None:
    """Tell what was checked, every damaged file by name, and stop with the store's exit code if there is one.

    Raises:
        CorruptStoreError: something is damaged.

    """
    damage = [(checked.artifact.name, one) for checked in found.damaged for one in checked.damage]
    data = {
        "run": str(run),
        "deep": found.deep,
        "checked": [one.artifact.name for one in found.artifacts],
        "damage": [{"artifact": name, **vars(one)} for name, one in damage],
    }
    how = "every byte read" if found.deep else "every file looked at"
    names = ", ".join(one.artifact.path.name for one in found.artifacts) or "nothing there"
    lines = [f"{name}/{one.path}: expected {one.expected}, found {one.found}" for name, one in damage]
    out.result(data, "\n".join([f"{run}: {names} ({how})", *(lines or ["no damage"])]))
    found.raise_if_damaged()


def repair(out: Output, run: PurePath, mended: Sequence["Repaired"]) -> None:
    """Tell which units were given up and what makes them whole again."""
    data = {
        "run": str(run),
        "repaired": [
            {"artifact": one.artifact.name, "units": list(one.units), "command": one.command}
            for one in mended
        ],
    }
    lines = [
        f"{one.artifact.path.name}: {len(one.units)} units given up; now run `{one.command}`"
        for one in mended
    ]
    out.result(data, "\n".join(lines or [f"{run}: no damage"]))
