"""From a reference as users write it to the one version it means, at one moment of the catalog."""

from tetherd.errors import ModelNotFound, VersionNotFound
from tetherd.types import Reference
from tetherd.wire.messages import Catalog, Version


def resolve(catalog: Catalog, reference: Reference) -> Version:
    """Return the version. Raises ModelNotFound or VersionNotFound."""
    versions = {version.number: version for version in catalog.versions if version.model == reference.model}
    if not versions:
        raise ModelNotFound(f"there is no model '{reference.model}'", fix="tetherctl models ls shows what there is")
    number = reference.version
    if number is None:
        targets = [one for one in catalog.aliases if (one.model, one.alias) == (reference.model, reference.alias)]
        if not targets:
            raise VersionNotFound(f"'{reference.model}' has no alias '{reference.alias}'")
        number = targets[0].number
    if number not in versions:
        raise VersionNotFound(f"'{reference.model}' has no version {number}")
    return versions[number]
