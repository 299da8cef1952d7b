"""What each stage can be told: one frozen dataclass a stage, in the order of the pipeline.

The command line reads its defaults from these classes and the library takes them as they are. A sentence with
its unit stands below each field. Nothing heavy is imported here.
"""

from sparserm_cli.config.alignment import DoctorConfig, ExportConfig, PairsConfig, RankConfig
from sparserm_cli.config.analysis import CompareConfig, EvaluateConfig, ExplainConfig, ReportConfig
from sparserm_cli.config.base import (
    DEFAULT_MODEL,
    DEFAULT_RUN,
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
from sparserm_cli.config.scoring import Guards, ResponsesConfig, ScoreConfig
from sparserm_cli.config.serve import KEY_VARIABLE, ServeConfig
from sparserm_cli.locations import RemotePath, local_folder, place

__all__ = [
    "CONFIGS",
    "DEFAULT_MODEL",
    "DEFAULT_RUN",
    "KEY_VARIABLE",
    "STAGES",
    "CompareConfig",
    "DoctorConfig",
    "EncodeConfig",
    "EngineConfig",
    "EvaluateConfig",
    "ExplainConfig",
    "ExportConfig",
    "ExtractConfig",
    "FitConfig",
    "FrequencyConfig",
    "Guards",
    "HeadSetting",
    "Note",
    "PairsConfig",
    "Phases",
    "Progress",
    "RankConfig",
    "RemotePath",
    "ReportConfig",
    "ResponsesConfig",
    "ScoreConfig",
    "SelectConfig",
    "ServeConfig",
    "StageConfig",
    "UnitsConfig",
    "column_map",
    "default_run",
    "local_folder",
    "place",
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
