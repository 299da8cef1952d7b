"""Options of every command: one frozen dataclass per command, checked on construction.

An option is declared once, as the field's type with its `Option`; the command line is made from the fields
and the library takes the classes as they are. Nothing heavy is imported here.
"""

from sparserm_cli.config.alignment import DoctorConfig, PairsConfig, RankConfig, SuggestConfig
from sparserm_cli.config.analysis import (
    DESCRIBER_KEY,
    CompareConfig,
    DescribeConfig,
    EvaluateConfig,
    ExplainConfig,
    ReportConfig,
)
from sparserm_cli.config.base import (
    DEFAULT_MODEL,
    DEFAULT_RUN,
    DEFAULT_SAE,
    STAGES,
    EngineConfig,
    Note,
    Phases,
    Progress,
    StageConfig,
    UnitsConfig,
    column_map,
    default_run,
)
from sparserm_cli.config.pipeline import (
    EncodeConfig,
    ExtractConfig,
    FitConfig,
    FrequencyConfig,
    HeadSetting,
    SelectConfig,
)
from sparserm_cli.config.run_directory import (
    CacheConfig,
    EnvConfig,
    ExportConfig,
    ImportConfig,
    RepairConfig,
    RunConfig,
    StatusConfig,
    VerifyConfig,
)
from sparserm_cli.config.scoring import (
    AdaptConfig,
    EditConfig,
    ResponsesConfig,
    ScoreConfig,
    ScoreLimits,
)
from sparserm_cli.config.serve import KEY_VARIABLE, ServeConfig
from sparserm_cli.config.train_sae import SAERecipe, TrainSAEConfig
from sparserm_cli.locations import RemotePath, local_folder, parse_location

Guards = ScoreLimits
"""The old name of `ScoreLimits`, kept for one release."""

__all__ = [
    "CONFIGS",
    "DEFAULT_MODEL",
    "DEFAULT_RUN",
    "DEFAULT_SAE",
    "DESCRIBER_KEY",
    "KEY_VARIABLE",
    "STAGES",
    "AdaptConfig",
    "CacheConfig",
    "CompareConfig",
    "DescribeConfig",
    "DoctorConfig",
    "EditConfig",
    "EncodeConfig",
    "EngineConfig",
    "EnvConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "ExtractConfig",
    "FitConfig",
    "FrequencyConfig",
    "Guards",
    "HeadSetting",
    "ImportConfig",
    "Note",
    "PairsConfig",
    "Phases",
    "Progress",
    "RankConfig",
    "RemotePath",
    "RepairConfig",
    "ReportConfig",
    "ResponsesConfig",
    "RunConfig",
    "SAERecipe",
    "ScoreConfig",
    "ScoreLimits",
    "SelectConfig",
    "ServeConfig",
    "StageConfig",
    "StatusConfig",
    "SuggestConfig",
    "TrainSAEConfig",
    "UnitsConfig",
    "VerifyConfig",
    "column_map",
    "default_run",
    "local_folder",
    "parse_location",
]

CONFIGS: dict[str, type[StageConfig]] = {
    "extract": ExtractConfig,
    "encode": EncodeConfig,
    "frequency": FrequencyConfig,
    "select": SelectConfig,
    "fit": FitConfig,
    "score": ScoreConfig,
    "evaluate": EvaluateConfig,
}
