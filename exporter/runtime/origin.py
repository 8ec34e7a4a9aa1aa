"""What a loaded model was loaded from, and what of it goes along when the model is saved again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exporter.artifact.assets import read_asset
from exporter.artifact.layout import digest_bytes, inside
from exporter.artifact.records import Manifest, SampleRecord
from exporter.artifact.samples import Sample
from exporter.artifact.stored import StoredBatching, StoredModel, StoredSample, StoredStages
from exporter.errors import ArtifactError
from exporter.runtime.compiling import Outcome
from exporter.runtime.concrete import LoadedConcrete
from exporter.runtime.functions import LoadedFunction


@dataclass(frozen=True)
class Origin:
    """An artifact as it was loaded.

    Attributes:
      folder: where it was, absolute.
      manifest: what it says, as far as it was loaded.
      functions: its functions, in the manifest's order.
      concrete: its concrete functions likewise.
      outcomes: what became of each program that was compiled, so far.
    """

    folder: Path
    manifest: Manifest
    functions: Sequence[LoadedFunction]
    concrete: Sequence[LoadedConcrete]
    outcomes: Sequence[Outcome]

    @property
    def aliased(self) -> dict[str, LoadedFunction]:
        """The functions that have an alias, by it."""
        found = self.manifest.function_aliases
        return {alias: self.functions[number] for alias, number in found.items()}

    @property
    def stored(self) -> StoredModel:
        """What the next artifact of the model has, unless its save says otherwise."""
        return StoredModel(
            self.aliased,
            self.manifest.tags,
            self.manifest.metadata,
            [
                StoredSample(record, self.concrete[record.concrete], partial(self._read, record))
                for record in self.manifest.samples
            ],
            self.manifest.content.variables,
            [
                StoredStages(
                    name, stages, self.concrete[self.manifest.signatures[name]], self.read_asset
                )
                for name, stages in self.manifest.stages.items()
            ],
            [
                StoredBatching(name, record, self.concrete[self.manifest.signatures[name]])
                for name, record in self.manifest.batching.items()
            ],
        )

    def read_asset(self, path: str) -> bytes:
        """The content of a file of the artifact.

        Raises:
          ArtifactError: if it is not as it was when the model was loaded.
        """
        return read_asset(self.folder, self.manifest.files, path)

    def sample(self, record: SampleRecord) -> Sample:
        """A sample, read from the folder.

        Raises:
          ArtifactError: if its file is not as it was when the model was loaded.
        """
        return Sample(record, self._read(record))

    def _read(self, record: SampleRecord) -> bytes:
        file = inside(self.folder, record.file)
        known = next(one for one in self.manifest.files if one.path == record.file)
        try:
            with file.open("rb") as stream:
                data = stream.read(known.size + 1)
        except OSError as error:
            raise ArtifactError(
                f"the samples of the loaded model cannot be read from {file}: {error.strerror}. "
                "Pass samples= to save others, or samples={} for none."
            ) from error
        if digest_bytes(data) != known.blake3:
            raise ArtifactError(
                f"{file} is not what it was when the model was loaded. Load it again, or pass "
                "samples= to save other samples, or samples={} for none."
            )
        return data
