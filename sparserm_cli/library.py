"""The stages as Python functions: keyword arguments with the defaults of the command line.

    from sparserm_cli import RewardModel, encode, evaluate, extract, fit, frequency, select

    extract("pairs.jsonl", layer=14, run="my-run")
    encode(sae="RELEASE/SAE_ID", run="my-run")
    frequency("my-run")
    select("my-run", top_k=32)
    fit("my-run")

Every function takes the fields of its config by name, or a whole `config`. `progress` is called with (work
done, work in all) and `note` with a sentence worth telling; both may be left out. A function returns the
summary of its stage and raises the errors of `sparserm_cli.errors`. Stages import torch when they are called.
"""

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, TypeVar

from sparserm_cli.config import (
    EncodeConfig,
    EvaluateConfig,
    ExtractConfig,
    FitConfig,
    FrequencyConfig,
    Note,
    Progress,
    SelectConfig,
    StageConfig,
)
from sparserm_cli.config.option import Field, declared_fields, default_of
from sparserm_cli.errors import UsageError

if TYPE_CHECKING:
    from sparserm_cli.analysis.evaluate.evaluate import EvaluateSummary
    from sparserm_cli.stages.encode.encode import EncodeSummary
    from sparserm_cli.stages.extract.extract import ExtractSummary
    from sparserm_cli.stages.fit.fit import FitSummary
    from sparserm_cli.stages.frequency.frequency import FrequencySummary
    from sparserm_cli.stages.select.select import SelectSummary

Summary = TypeVar("Summary")
Stage = Callable[[Any, Progress, Note], Summary]


def _silent(_done: int, _total: int) -> None:
    """Report no progress."""


def _unheard(_sentence: str) -> None:
    """Discard a message."""


def _takes(kind: type[StageConfig], first: str) -> Callable[[Stage[Summary]], Callable[..., Summary]]:
    """Let a function that wants a config, a progress and a note take keyword arguments instead.

    Args:
        kind: the config, whose fields become keyword arguments.
        first: the field that may be given without its name.

    """

    def decorate(stage: Stage[Summary]) -> Callable[..., Summary]:
        @wraps(stage)
        def call(
            *given: Any,
            config: StageConfig | None = None,
            progress: Progress = _silent,
            note: Note = _unheard,
            **options: Any,
        ) -> Summary:
            if given and isinstance(given[0], StageConfig):
                config, given = given[0], given[1:]
            named = _named(stage.__name__, first, given, options)
            return stage(_config(stage.__name__, kind, config, named), progress, note)

        call.__signature__ = _signature(kind, first)  # type: ignore[attr-defined]
        call.__doc__ = f"{stage.__doc__}\n\n    Keyword arguments:\n{_listed(kind)}"
        return call

    return decorate


def _named(
    function: str, first: str, given: tuple[Any, ...], options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the options with the one that was given without its name.

    Raises:
        UsageError: more than one was, or it was given twice.

    """
    if not given:
        return options
    if len(given) > 1 or first in options:
        found = f"{len(given)} arguments without a name" if len(given) > 1 else f"{first} twice"
        raise UsageError(f"{function}()", f"one argument without a name, {first}", found, "name the others")
    return {first: given[0], **options}


def _config(
    function: str, kind: type[StageConfig], config: StageConfig | None, options: Mapping[str, Any]
) -> StageConfig:
    """Return the config that the options make.

    Raises:
        UsageError: there is no such option, its value is wrong, or a config was given as well.

    """
    known = declared_fields(kind)
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see help({function})"
            raise UsageError(f"{function}()", "an argument that it has", name, hint)
    if config is None:
        return kind(**{name: _value(known[name], value) for name, value in options.items()})
    if options or not isinstance(config, kind):
        found = f"{', '.join(options)} beside it" if options else type(config).__name__
        raise UsageError(f"{function}(config)", f"a {kind.__name__} alone", found, "give one of them")
    return config


def _value(field: Field, value: Any) -> Any:
    """Return a value as the config has it: one of several alone, a mapping of columns, a path as text."""
    if field.name == "columns" and isinstance(value, Mapping):
        return tuple(f"{ours}={theirs}" for ours, theirs in value.items())
    if field.several and value is not None and not isinstance(value, list | tuple):
        value = tuple(value) if isinstance(value, range) else (value,)
    if field.kind is str and field.several:
        return tuple(_text(item) for item in value)
    return _text(value) if field.kind is str else value


def _text(value: Any) -> Any:
    """Return a path as text, and anything else as it is."""
    return str(value) if isinstance(value, os.PathLike) else value


def _signature(kind: type[StageConfig], first: str) -> Signature:
    """Return the signature that `help` and editors show."""
    fields = declared_fields(kind)
    names = [first, *(name for name in fields if name != first)]
    options = [
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD if name == first else Parameter.KEYWORD_ONLY,
            default=default_of(fields[name], kind),
        )
        for name in names
    ]
    extra = {"config": None, "progress": _silent, "note": _unheard}
    own = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in extra.items()]
    return Signature([*options, *own])


def _listed(kind: type[StageConfig]) -> str:
    """Return the keyword arguments with their sentences."""
    declared = {name: field.option.help for name, field in declared_fields(kind).items() if field.option}
    own = {
        "config": f"A {kind.__name__} instead of all of these.",
        "progress": "Function that is called with work done and work in all.",
        "note": "Function that is called with a sentence worth telling.",
    }
    return "\n".join(f"        {name}: {text}" for name, text in {**declared, **own}.items())


@_takes(ExtractConfig, "data")
def extract(config: ExtractConfig, progress: Progress, note: Note) -> "ExtractSummary":
    """Keep the residual activations of preference pairs."""
    from sparserm_cli.stages.extract.extract import extract as stage

    return stage(config, progress=progress, note=note)


@_takes(EncodeConfig, "run")
def encode(config: EncodeConfig, progress: Progress, note: Note) -> "EncodeSummary":
    """Compute the SAE latents of the captured tokens."""
    from sparserm_cli.stages.encode.encode import encode as stage

    return stage(config, progress=progress, note=note)


@_takes(FrequencyConfig, "run")
def frequency(config: FrequencyConfig, progress: Progress, note: Note) -> "FrequencySummary":
    """Count how often each latent fires on chosen and on rejected responses."""
    from sparserm_cli.stages.frequency.frequency import frequency as stage

    return stage(config, progress=progress, note=note)


@_takes(SelectConfig, "run")
def select(config: SelectConfig, progress: Progress, note: Note) -> "SelectSummary":
    """Choose the preference directions."""
    from sparserm_cli.stages.select.select import select as stage

    progress(0, 1)
    summary = stage(config, note=note)
    progress(1, 1)
    return summary


@_takes(FitConfig, "run")
def fit(config: FitConfig, progress: Progress, note: Note) -> "FitSummary":
    """Fit the reward head, and the controls beside it."""
    from sparserm_cli.stages.fit.fit import fit as stage

    return stage(config, progress=progress, note=note)


@_takes(EvaluateConfig, "file")
def evaluate(config: EvaluateConfig, progress: Progress, note: Note) -> "EvaluateSummary":
    """Measure the accuracy of the reward model on labelled data."""
    from sparserm_cli.analysis.evaluate.evaluate import evaluate as run

    return run(config, progress=progress, note=note)
