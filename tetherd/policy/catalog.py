"""The catalog by name: from a reference as users write it to the one version it means at this moment."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Generic, TypeVar

from tetherd.errors import ModelNotFound, ModelUnloaded, Unavailable, VersionNotFound
from tetherd.types import LATEST, Reference
from tetherd.wire.catalog import Alias, Catalog, Version

E = TypeVar("E")


class Model(Generic[E]):
    """All versions and aliases of one name."""

    __slots__ = ("aliases", "name", "versions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[int, E] = {}
        self.aliases: dict[str, Alias] = {}

    @property
    def current(self) -> E:
        """Return the version that ``latest`` points to, or the newest where it points nowhere."""
        latest = self.aliases.get(LATEST)
        number = latest.number if latest is not None else max(self.versions)
        return self.versions[number]


class View(Generic[E]):
    """A catalog, by name, with what ``make`` returns for each version. Never changed: a new catalog, a new view."""

    def __init__(self, catalog: Catalog | None, make: Callable[[Version], E]) -> None:
        self.epoch = -1 if catalog is None else catalog.epoch
        self.models: dict[str, Model[E]] = {}
        self.digests: set[str] = set()
        self.unloaded: frozenset[str] = frozenset()
        if catalog is None:
            return
        self.unloaded = frozenset(catalog.unloaded)
        for version in catalog.versions:
            model = self.models.setdefault(version.model, Model(version.model))
            model.versions[version.number] = make(version)
            self.digests.add(version.version)
        for alias in catalog.aliases:
            if alias.model in self.models:
                self.models[alias.model].aliases[alias.alias] = alias

    def model(self, name: str) -> Model[E]:
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

    def resolve(self, reference: Reference) -> E:
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

    def check_serving(self, name: str) -> None:
        """Raise ModelUnloaded for a model that takes no work."""
        if name in self.unloaded:
            raise ModelUnloaded(f"model '{name}' was unloaded", fix=f"tetherctl models load {name}")
