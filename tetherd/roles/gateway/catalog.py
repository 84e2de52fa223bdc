"""The gateway's view of the catalog: what a reference means at this moment."""

from difflib import get_close_matches
from typing import Final

from tetherd.errors import ModelNotFound, Unavailable, VersionNotFound
from tetherd.types import LATEST, Reference, Signature
from tetherd.wire.messages import Alias, Catalog, Version
from tetherd.wire.openinference import Served
from tetherd.wire.templates import Templates

PLATFORMS: Final = {"onnx": "onnxruntime_onnx"}


class Entry:
    """One version, with what every request for it needs made ready once."""

    __slots__ = ("served", "signature", "templates", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.signature: Signature = version.signature
        self.served = Served(version.model, str(version.number), version.signature)
        self.templates = Templates(version.signature)


class Model:
    """All versions and aliases of one name."""

    __slots__ = ("aliases", "name", "versions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[int, Entry] = {}
        self.aliases: dict[str, Alias] = {}

    @property
    def current(self) -> Entry:
        """Return the version that ``latest`` points to, or the newest where it points nowhere."""
        latest = self.aliases.get(LATEST)
        number = latest.number if latest is not None else max(self.versions)
        return self.versions[number]


class View:
    """A catalog, by name. Never changed: a new catalog makes a new view."""

    def __init__(self, catalog: Catalog | None) -> None:
        self.epoch = -1 if catalog is None else catalog.epoch
        self.models: dict[str, Model] = {}
        self.digests: set[str] = set()
        if catalog is None:
            return
        for version in catalog.versions:
            model = self.models.setdefault(version.model, Model(version.model))
            model.versions[version.number] = Entry(version)
            self.digests.add(version.version)
        for alias in catalog.aliases:
            if alias.model in self.models:
                self.models[alias.model].aliases[alias.alias] = alias

    def model(self, name: str) -> Model:
        """Return a model. Raises ModelNotFound, or Unavailable before the first catalog has come."""
        found = self.models.get(name)
        if found is not None:
            return found
        if self.epoch < 0:
            raise Unavailable("the manager has not sent its catalog yet", fix="try again soon", retry_after=1.0)
        close = get_close_matches(name, self.models, 1)
        raise ModelNotFound(
            f"no model is called '{name}'",
            fix=f"did you mean '{close[0]}'?" if close else "tetherctl models ls lists what there is",
        )

    def resolve(self, reference: Reference) -> Entry:
        """Return the version a reference means now. Raises ModelNotFound, VersionNotFound, Unavailable."""
        model = self.model(reference.model)
        number = reference.version
        if number is None:
            alias = model.aliases.get(reference.alias)
            if alias is None:
                raise VersionNotFound(
                    f"model '{model.name}' has no alias '{reference.alias}'",
                    fix=f"it has {', '.join(sorted(model.aliases)) or 'none'}",
                )
            number = alias.number
        entry = model.versions.get(number)
        if entry is None:
            raise VersionNotFound(
                f"model '{model.name}' has no version {number}",
                fix=f"it has {', '.join(str(known) for known in sorted(model.versions))}",
            )
        return entry
