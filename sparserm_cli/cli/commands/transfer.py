"""The commands that bring artifacts out of and into the run directory: export, import."""

from sparserm_cli.cli.builder import command
from sparserm_cli.cli.output import transfer as show
from sparserm_cli.cli.panels import MAINTAIN, USE
from sparserm_cli.config import ExportConfig, ImportConfig
from sparserm_cli.console import Output


@command(ExportConfig, USE)
def export(settings: ExportConfig, out: Output) -> None:
    """Write the capture to one file, or the reward model for transformers, a model hub or llama.cpp.

    `--to hf` gives a folder that AutoModelForSequenceClassification loads, with the lower blocks of the
    language model inside; `--to hub-folder` gives the same with a model card, ready to upload.
    `--to control-vector` gives a .gguf file with which llama.cpp steers the language model.

    Example: sparserm export reward-hf --to hf
    """
    if settings.to == "capture":
        from sparserm_cli.store.exchange.capture_files import export_capture

        show.export_capture(out, export_capture(settings.run, settings.target))
        return
    if settings.to == "control-vector":
        from sparserm_cli.alignment.steering.export import export_control_vector

        show.export_control_vector(out, export_control_vector(settings))
        return
    from sparserm_cli.alignment.hf_export.export import export_hf

    show.export_model(out, export_hf(settings, note=out.note))


@command(ImportConfig, MAINTAIN)
def import_(settings: ImportConfig, out: Output) -> None:
    """Read an exported capture into the run directory.

    Example: sparserm import activations.h5
    """
    from sparserm_cli.store.exchange.capture_files import import_capture

    manifest = import_capture(settings.source, settings.run, force=settings.force)
    show.import_capture(out, settings.run, manifest)
