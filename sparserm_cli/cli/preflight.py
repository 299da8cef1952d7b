"""Checks that need no torch, made before it is imported: missing files and missing artifacts."""

from sparserm_cli.config import EncodeConfig, ExtractConfig, FitConfig, ResponsesConfig, StageConfig


def check_inputs(config: StageConfig) -> None:
    """Check the files and artifacts that a command begins with; seconds pass before the command itself could.

    Raises:
        BadInputError: a data file is not there, or is none.
        IncompatibleError: an artifact is not there, or is not what it should be.
        CorruptStoreError: an artifact is damaged.

    """
    if isinstance(config, ExtractConfig) and config.data:
        _check_source(config.data, config)
    elif isinstance(config, ResponsesConfig):
        if config.file:
            _check_source(config.file, config)
        _check_reward(config)
    elif isinstance(config, EncodeConfig):
        from sparserm_cli.store.capture.artifact import open_capture

        open_capture(config.run)
    elif isinstance(config, FitConfig):
        from sparserm_cli.store.artifacts.directions import read_directions

        read_directions(config.run)


def _check_source(source: str, config: ExtractConfig | ResponsesConfig) -> None:
    """Open a file of rows, without reading it; a data set of the hub is left to the command."""
    from sparserm_cli.data.sources.open import is_hub_name, open_source

    if not is_hub_name(source):
        open_source(source, split=config.split, offline=config.offline)


def _check_reward(config: ResponsesConfig) -> None:
    from sparserm_cli.store.artifacts.reward import read_reward, reward_folder, reward_path

    read_reward(reward_folder(config.reward or reward_path(config.run)))
