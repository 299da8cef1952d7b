"""The output of export and import, as text for people and as JSON."""

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from sparserm_cli.console import Output
from sparserm_cli.formatting import size

if TYPE_CHECKING:
    from sparserm_cli.alignment.hf_export.export import ExportSummary
    from sparserm_cli.alignment.steering.export import ControlVectorSummary
    from sparserm_cli.store.units.records import Manifest


def export_capture(out: Output, path: Path) -> None:
    """Print the path of the exported file."""
    count = path.stat().st_size
    out.result({"path": str(path), "bytes": count}, f"{path}: {size(count)}")


def import_capture(out: Output, run: PurePath, manifest: "Manifest") -> None:
    """Print what was imported."""
    data = {"run": str(run), "digest": manifest.digest, "units": len(manifest.units), "bytes": manifest.bytes}
    summary_line = (
        f"{run}: {len(manifest.units)} units, {size(manifest.bytes)}, content digest {manifest.digest}"
    )
    out.result(data, f"{summary_line}\nnext: {out.command('encode', sae='SAE')}")


def export_model(out: Output, summary: "ExportSummary") -> None:
    """Print the path of the exported model, and how to load it."""
    data = {**summary._asdict(), "path": str(summary.path)}
    summary_line = (
        f"{summary.path}: {size(summary.bytes)}, {summary.parameters:,} parameters of the language model"
    )
    load = f'AutoModelForSequenceClassification.from_pretrained("{summary.path}", trust_remote_code=True)'
    out.result(data, f"{summary_line}\nload it: {load}")


def export_control_vector(out: Output, summary: "ControlVectorSummary") -> None:
    """Tell where the control vector is, how long it is and how llama.cpp takes it."""
    lines = [
        f"after block {layer}: length {abs(summary.strength) * norm:.3f}, {abs(summary.strength):g} times "
        f"the mean norm of the residual stream; by itself it moves a score by {gain:+.2f} standard deviations"
        for layer, norm, gain in zip(summary.layers, summary.norms, summary.gains, strict=True)
    ]
    use = f"use it: llama-cli --model {summary.model}.gguf --control-vector {summary.path}"
    data = {**summary._asdict(), "path": str(summary.path)}
    out.result(data, "\n".join([f"{summary.path}: {size(summary.bytes)}", *lines, use]))
