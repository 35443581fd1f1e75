"""Rules about the keys of one framework's configuration files, which a layout alone does not show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from planner.layouts.degrees import divisors
from planner.rules.rule import RuleText, listed

Facts = Mapping[str, Any]
"""What a configuration says, by the names that its dialect gives; a fact that is not known is missing."""
FactPredicate = Callable[[Facts], bool]
FactValues = Callable[[Facts], dict[str, Any]]


def _no_values(facts: Facts) -> dict[str, Any]:
    return {}


class _Shown(dict[str, Any]):
    """Values of a template; a fact that the rule does not need may not be known."""

    def __missing__(self, name: str) -> str:
        return "?"


@dataclass(frozen=True, kw_only=True)
class ConfigRule(RuleText):
    """One rule. Its templates are over the facts and ``values``."""

    dialects: tuple[str, ...]
    """Names of the dialects it belongs to."""
    fact: str
    """The fact whose place in the file is shown and whose value a repair would change."""
    needs: tuple[str, ...]
    """Facts that have to be known; the rule says nothing where one is missing."""
    holds: FactPredicate
    values: FactValues = _no_values
    repaired: Callable[[Facts], Any] | None = None
    """The one value of ``fact`` that keeps the rule, where there is only one."""
    remedy: Literal["change", "add", "remove"] = "change"
    """What a repair does: another value of ``fact``, a key that the file lacks, or ``fact`` taken out."""
    added: Callable[[Facts], dict[str, Any]] | None = None
    """Keys that the file lacks with the values that keep the rule; ``True`` for an option without a value."""
    severity: Literal["error", "warning"] = "error"
    """A warning is what runs, and not as its author may think, or depends on the machine that runs it."""

    def holds_for(self, facts: Facts) -> bool:
        """Whether the facts keep the rule; true where it does not apply."""
        return any(name not in facts for name in self.needs) or self.holds(facts)

    def texts(self, facts: Facts) -> tuple[str, str, str, dict[str, Any]]:
        """Message, detail, hint and the numbers in them."""
        numbers = dict(self.values(facts))
        shown = _Shown({**facts, **numbers})
        used = {name: facts[name] for name in self.needs if not isinstance(facts[name], frozenset)}
        message, detail, hint = (text.format_map(shown) for text in (self.message, self.detail, self.hint))
        return message, detail, hint, used | numbers


def rule_for(dialects: str | tuple[str, ...], **fields: Any) -> ConfigRule:
    """A rule of one dialect whose field is its fact and whose detail lists what it needs, unless they are given."""
    named = (dialects,) if isinstance(dialects, str) else dialects
    fields.setdefault("field", fields["fact"])
    fields.setdefault("detail", ", ".join(f"{need} = {{{need}}}" for need in fields["needs"]))
    return ConfigRule(dialects=named, **fields)


def one_of(
    rule_id: str, plugins: str | tuple[str, ...], fact: str, choices: tuple[Any, ...], source: str
) -> ConfigRule:
    """A rule that a fact is one of ``choices``."""
    words = ", ".join(map(str, choices))
    return rule_for(
        plugins,
        id=rule_id,
        title=f"a {fact} that the plugin does not know",
        fact=fact,
        needs=(fact,),
        message=f"{fact} {{{fact}}} is none of {words}",
        hint=f"use one of {words}",
        why="The plugin asserts it before anything is built.",
        source=source,
        holds=lambda f: f[fact] in choices,
    )


def divides(fields: dict[str, Any], group: Callable[[Facts], int]) -> dict[str, Any]:
    """The fields of a rule that a group of ranks divides the GPUs."""
    return fields | {
        "values": lambda f: {
            "group": group(f),
            "rest": f["num_devices"] % group(f),
            "valid": listed(divisors(f["num_devices"])),
        },
        "holds": lambda f: f["num_devices"] % group(f) == 0,
    }
