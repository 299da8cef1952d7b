"""The output of the commands on the run directory, as text for people and as JSON."""

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
    """Print which stages ran, and the path of the reward model."""
    outcomes = {
        stage.name: {
            "state": "up to date" if stage.summary.fresh else "done",
            "seconds": round(stage.seconds, 2),
        }
        for stage in stages
    }
    data: dict[str, Any] = {"run": str(path), "stages": outcomes}
    lines = [
        f"{stage.name}: "
        + ("was up to date" if stage.summary.fresh else f"done in {duration(stage.seconds)}")
        for stage in stages
    ]
    fitted = next(stage.summary for stage in stages if stage.name == "fit")
    data |= {"reward": str(fitted.path), "verdict": fit_verdict(fitted.config)}
    where = f"{path}: complete, the reward model is {fitted.path}"
    then = f"next: {out.command('evaluate held-out.jsonl')}\nthen: {out.command('score responses.jsonl')}"
    out.result(data, "\n".join([*lines, data["verdict"], where, then]))


def settings_written(out: Output, path: Path) -> None:
    """Print the path of the settings file, and the command that runs it."""
    data = {"settings": str(path)}
    command = "sparserm run" if str(path) == "sparserm.toml" else f"sparserm run --config {path}"
    out.result(data, f"{path}: written\nnext: {command}")


def status(out: Output, run: PurePath, run_status: "Status") -> None:
    """Show the chain of artifacts as a tree."""
    data: dict[str, Any] = {
        "run": str(run),
        "next": out.command(run_status.next_command.removeprefix("sparserm "))
        if run_status.next_command
        else "",
        "artifacts": [
            {
                "name": artifact.name,
                "state": artifact.state,
                "detail": artifact.detail,
                "bytes": artifact.bytes,
                "created": artifact.created,
                "command": artifact.command,
            }
            for artifact in run_status.artifacts
        ],
    }
    content = _content(run, run_status)
    data["content"] = content
    lines = [str(run), *(f"{name}: {value}" for name, value in content.items())]
    for number, artifact in enumerate(run_status.artifacts):
        branch = "└─" if number == len(run_status.artifacts) - 1 else "├─"
        weight = size(artifact.bytes) if artifact.bytes else ""
        lines.append(
            f"{branch} {artifact.path.name:18} {artifact.state:10} {weight:>10}  {artifact.created}".rstrip()
        )
        if artifact.detail:
            lines.append(f"{'  ' if branch == '└─' else '│ '}   {artifact.detail}")
    lines.append(f"next: {data['next']}" if run_status.next_command else "everything is up to date")
    out.result(data, "\n".join(lines))


def _content(run: PurePath, run_status: "Status") -> dict[str, str]:
    """Return what the run is about, as its artifacts say; what is not there is left out."""
    states = {
        artifact.name: artifact.lineage.identity
        for artifact in run_status.artifacts
        if artifact.lineage is not None
    }
    capture, latents, chosen = (states.get(name, {}) for name in ("activations", "features", "directions"))
    head = states.get("reward", {})
    facts = {
        "data": _inputs(run) if capture else "",
        "model": capture.get("model", ""),
        "layer": ", ".join(map(str, capture.get("layers", ()))),
        "SAE": ", ".join(map(str, latents.get("sae", ()))),
        "directions": f"{chosen['top_k']} per side by {chosen['by']}" if chosen else "",
        "head": ", ".join(str(head[name]) for name in ("head", "pool", "loss") if name in head),
        "accuracy": _accuracy(run) if head else "",
    }
    return {name: value for name, value in facts.items() if value}


def _inputs(run: PurePath) -> str:
    """Return the files of the capture."""
    from sparserm_cli.store.capture.layout import ACTIVATIONS
    from sparserm_cli.store.capture.plan import plan_of
    from sparserm_cli.store.run.artifacts import unit_store

    store = unit_store(run, ACTIVATIONS)
    if store is None:
        return ""
    inputs = [
        PurePath(input_file.path) for input_file in plan_of(str(store.root), store.plan).settings.inputs
    ]
    return ", ".join(path.name if path.suffix else str(path) for path in inputs)


def _accuracy(run: PurePath) -> str:
    """Return the verdict on the reward model of the run, without its first word."""
    from sparserm_cli.store.artifacts.reward import read_reward, reward_path

    return fit_verdict(read_reward(reward_path(run)).config).removeprefix("verdict: ")


def verify(out: Output, run: PurePath, verification: "Verification") -> None:
    """Print what was checked and every damaged file, and end with the exit code of damage if there is any.

    Raises:
        CorruptStoreError: something is damaged.

    """
    damage = [
        (checked.artifact.name, problem) for checked in verification.damaged for problem in checked.damage
    ]
    data = {
        "run": str(run),
        "deep": verification.deep,
        "checked": [checked.artifact.name for checked in verification.artifacts],
        "damage": [{"artifact": name, **vars(problem)} for name, problem in damage],
    }
    how = "every byte read" if verification.deep else "every file looked at"
    names = ", ".join(checked.artifact.path.name for checked in verification.artifacts) or "nothing there"
    lines = [
        f"{name}/{problem.path}: expected {problem.expected}, found {problem.found}"
        for name, problem in damage
    ]
    out.result(data, "\n".join([f"{run}: {names} ({how})", *(lines or ["no damage"])]))
    verification.raise_if_damaged()


def repair(out: Output, run: PurePath, mended: Sequence["Repaired"]) -> None:
    """Print which units were given up, and the command that computes them again."""
    data = {
        "run": str(run),
        "repaired": [
            {"artifact": repaired.artifact.name, "units": list(repaired.units), "command": repaired.command}
            for repaired in mended
        ],
    }
    lines = [
        f"{repaired.artifact.path.name}: {len(repaired.units)} units given up; now run `{repaired.command}`"
        for repaired in mended
    ]
    out.result(data, "\n".join(lines or [f"{run}: no damage"]))
