"""SavedModel for JAX: decorate methods, save, and reload signatures by name, without the code.

Each public name is imported when it is first used (PEP 562), because `exporter --help`, `show` and
clients must not pay for importing JAX. `__init__.pyi` says the same to type checkers.
"""

from importlib import import_module

_HOMES = {
    "exporter.artifact.layout": ("is_artifact",),
    "exporter.asset": ("Asset",),
    "exporter.batching": ("Batching",),
    "exporter.checkpoints.checkpoint": ("Checkpoint", "TrackableSaver"),
    "exporter.checkpoints.restoring": ("RestoreStatus",),
    "exporter.comparison": ("Comparison",),
    "exporter.conversion.converted": ("Converted", "ConvertedSignature"),
    "exporter.conversion.converting": ("convert",),
    "exporter.diagnosis": ("Report", "check"),
    "exporter.errors": (
        "ArtifactError",
        "ArtifactExistsError",
        "ArtifactNotFoundError",
        "ArtifactReplacedError",
        "AssetNotFoundError",
        "AuthenticityError",
        "CheckpointError",
        "CheckpointExistsError",
        "CheckpointNotFoundError",
        "ConversionError",
        "FormatVersionError",
        "InconclusiveSizesError",
        "IncompatibleRuntimeError",
        "LoweringError",
        "NoDerivativeError",
        "NotBatchableError",
        "PlacementError",
        "RestoreError",
        "OptionError",
        "Problem",
        "StageError",
        "StateError",
        "TracingError",
        "TrackingError",
        "UnknownPartError",
        "UntrackedVariableError",
        "UnsafeProgramError",
        "VerificationError",
    ),
    "exporter.loading": ("load",),
    "exporter.runtime.functions": ("LoadedFunction", "LoadedSignature"),
    "exporter.runtime.model": ("LoadedModel",),
    "exporter.drafting": ("SaveOptions",),
    "exporter.saving": ("save",),
    "exporter.signing": ("check_signature", "sign"),
    "exporter.staging.functions": ("Function", "function"),
    "exporter.staging.tracing": ("ConcreteFunction",),
    "exporter.variable": ("Variable",),
    "exporter.verdicts": ("SampleResult", "VerificationReport"),
    "exporter.verification": ("verify",),
    "signatures": (
        "BindError",
        "Dim",
        "ExporterError",
        "ResolveError",
        "Signature",
        "SignatureError",
        "SpecError",
        "TensorSpec",
        "UnknownSignatureError",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_HOME_OF["stages"] = "exporter"  # a package of ours whose names stand together

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  # a list of text, made from the table above


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    value = (
        import_module(f"{home}.{name}") if home == __name__ else getattr(import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
