"""The base of all entries of a sweep file's ``space``: what each form can be asked.

Optuna is imported only when something is drawn, since a sweep file is checked without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)

from foldrace.errors import InputError
from foldrace.search.spec.fields import (
    BARE_LIST,
    BARE_VALUE,
    BareList,
    Name,
    SpecSection,
    among,
    broken,
)
from foldrace.search.spec.yaml_files import inline_yaml
from foldrace.trainables.tasks.parameters import Parameter, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

__all__ = ["Distribution"]


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _named_parents(value: object) -> object:
    if not isinstance(value, Mapping) or not value:
        raise broken("must name a parent and its values", "when: {optimizer: [sgd, rmsprop]}")
    return value


_WHEN_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"anyOf": [BARE_VALUE, BARE_LIST]},
}


class Distribution(SpecSection):
    """How one parameter is drawn. The six forms are its subclasses."""

    when: Annotated[
        dict[Name, Annotated[BareList, BeforeValidator(_one_or_more)]],
        BeforeValidator(_named_parents),
        WithJsonSchema(_WHEN_SCHEMA),
    ] = Field(default_factory=dict)
    """Parents and their values for which this parameter exists. By default it exists in every
    trial."""

    logarithmic: ClassVar[bool] = False

    @property
    def values(self) -> Sequence[Value] | None:
        """All values that it can take; None for a range of floats."""
        return None

    @property
    def grid(self) -> Sequence[Value] | None:
        """As `values`, and the values of a range of floats with a step."""
        return self.values

    @property
    @abstractmethod
    def upper(self) -> Value:
        """The upper bound of a range, the first of several choices."""

    @property
    @abstractmethod
    def middle(self) -> Value:
        """The middle of a range, on its own scale; the first of several choices."""

    @abstractmethod
    def read(self, text: str) -> Value:
        """The value that is recorded as ``text``, for readers that do not have the task.

        The task's declaration, where it is at hand, says more: see `Parameter.read`.

        Raises:
            ValueError: it has no such value.

        >>> from foldrace.search.spec.distributions import Choice
        >>> Choice(choice=["1000", "1e3"]).read("1e3"), Choice(choice=[None, 1]).read("1.0")
        ('1e3', 1)
        """

    @abstractmethod
    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """A value that an Optuna trial draws for the parameter ``name``."""

    @abstractmethod
    def to_optuna(self) -> BaseDistribution:
        """Optuna's form of it, equal to the one that `suggest` leaves in the trial."""

    @abstractmethod
    def check(self, field: str, value: Value) -> None:
        """Refuses a value, already in the parameter's type, that cannot be drawn.

        Raises:
            InputError: names ``field``.
        """

    def contains(self, value: Value) -> bool:
        """Whether a value, in the parameter's type, can be drawn."""
        try:
            self.check("", value)
        except InputError:
            return False
        return True

    @abstractmethod
    def fitted(self, field: str, parameter: Parameter) -> Self:
        """The same with its values in the type of the declared parameter.

        Raises:
            InputError: names ``field``: a value or bound that the parameter cannot have.
        """

    def active(self, params: Mapping[str, Value]) -> bool:
        """Whether the parameter exists beside ``params``, which hold its parents' values."""
        return all(
            parent in params and among(params[parent], values)
            for parent, values in self.when.items()
        )

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        shown = {k: v for k, v in dumped.items() if k != "when" and (k != "step" or v is not None)}
        return {**shown, "when": dumped["when"]} if self.when else shown

    def __str__(self) -> str:
        """As it is written in a sweep file, on one line."""
        return inline_yaml(self.model_dump(by_alias=True))
