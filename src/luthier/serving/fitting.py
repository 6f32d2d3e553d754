"""A bundle's parts held against each other before anything is allocated: Schema, Blueprint and tensors."""

import inspect
from typing import Any

from luthier.core.blueprint import Blueprint
from luthier.core.schema import Schema
from luthier.errors import BundleError
from luthier.networks.build import FAMILIES, build, without_memory
from luthier.networks.foreign import is_own_file
from luthier.store.bundle import Bundle, check_weights


def check_fit(bundle: Bundle, where: str) -> None:
    """Refuse a bundle whose network takes or gives something else than its Schema says, or has other weights.

    A network from your own file is not built here: what it answers is looked at when it does.

    Raises:
        BundleError: two of the parts differ.
        NetworkError: the network cannot be built.
    """
    blueprint = bundle.blueprint
    if blueprint is None or is_own_file(blueprint.family):
        return
    if bundle.schema is not None and blueprint.family in FAMILIES:
        _check_sizes(blueprint, bundle.schema, where)
    if blueprint.members > 1 and bundle.schema is not None and blueprint.task != bundle.schema.task:
        raise _differs(where, f"its networks answer together as {blueprint.task!r}, and the Schema says {bundle.task}")
    with without_memory():
        made = build(blueprint)
    check_weights(made, bundle.weights["state"], where=where)


def _check_sizes(blueprint: Blueprint, schema: Schema, where: str) -> None:
    from luthier.data.encode import input_sizes  # which brings the reading of tables

    family, sizes, image = FAMILIES[blueprint.family], input_sizes(schema), schema.image
    if family.takes not in (None, schema.blocks):
        raise _differs(where, f"the network {blueprint.family} does not take {', '.join(schema.blocks)}")
    channels = image.channels if image else 0
    expected: dict[str, Any] = {
        "num_numbers": sizes.num_numbers,
        "num_outputs": schema.num_outputs,
        "category_sizes": sizes.category_sizes,
        "vocabulary_sizes": sizes.vocabulary_sizes,
        "series_channels": sizes.series_channels,
        "image_channels": channels,
        "channels": channels or sizes.series_channels,
    }
    for name, parameter in inspect.signature(family.module).parameters.items():
        if name in expected:
            given = blueprint.arguments.get(name, parameter.default)
            given = tuple(given) if isinstance(given, list) else given
            if given != expected[name]:
                raise _differs(where, f"the network has {name} = {given}, and its Schema {expected[name]}")


def _differs(where: str, what: str) -> BundleError:
    return BundleError(
        f"{where} is not consistent: {what}",
        hint="copy it again, or save the model again",
        code="bundle-does-not-fit",
    )
