"""Typed properties for this project's Python devices.

pymmcore-plus 0.18 hands a property the string that stands in the cfg, does not refuse a pre-init property after
initialisation, and limits set on a class leak to all its instances. So properties are registered per instance, with
the conversion and the refusal done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymmcore_plus.experimental.unicore import Device

V = TypeVar("V", int, float, str)


def add_property(
    device: Device,
    name: str,
    kind: type[V],
    read: Callable[[], V],
    write: Callable[[V], None] | None = None,
    *,
    limits: tuple[float, float] | None = None,
    allowed: Sequence[str] | None = None,
    only_before: Callable[[], bool] | None = None,
) -> None:
    """Register a property that converts what it is given.

    Parameters
    ----------
    device : Device
        Owner of the property.
    name : str
        Name as in a cfg.
    kind : type
        int, float or str.
    read, write : Callable
        Called under the device's lock; without ``write`` the property is read-only.
    limits : tuple of float, optional
        Lowest and highest value.
    allowed : sequence of str, optional
        The only values (of a str property).
    only_before : Callable, optional
        Makes it a pre-init property: writing is refused once this returns False.
    """

    def set_value(_device: Device, value: object) -> None:
        if only_before is not None and not only_before():
            raise ValueError("can only be set before the device is initialised")
        text = str(value)
        if kind is str:
            converted = kind(text)
        else:
            number = float(text)
            if kind is int and not number.is_integer():
                raise ValueError(f"{text} is not a whole number")
            converted = kind(number)
        if write is not None:
            write(converted)

    def get_value(_device: Device) -> V:
        return read()

    device.register_property(
        name,
        getter=get_value,
        setter=None if write is None else set_value,
        limits=limits,
        allowed_values=allowed,
        is_read_only=write is None,
        is_pre_init=only_before is not None,
        property_type=kind,
    )
