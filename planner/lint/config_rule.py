"""Rules about the keys of one framework's configuration files, which a layout alone does not show."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from planner.layouts.degrees import divisors
from planner.lint.draft import Fact
from planner.rules.rule import RuleText, listed

Facts = Mapping[str, Any]
"""What a configuration says, by the names that its dialect declares; a fact that is not known is missing."""


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Facts that a function of a rule cannot do without: its parameters that have no default."""
    return tuple(name for name, needed in (_parameters(function) or {}).items() if needed)


@cache
def _parameters(function: Callable[..., Any]) -> dict[str, bool] | None:
    """Parameter to whether it has no default; nothing for a function that takes all facts."""
    found = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in found):
        return None
    return {parameter.name: parameter.default is parameter.empty for parameter in found}


def asked_for(rule: "ConfigRule") -> frozenset[str]:
    """Facts that decide whether a configuration keeps a rule."""
    return frozenset(_parameters(rule.holds) or ()).union(rule.needs)


def apply(function: Callable[..., Any], facts: Facts) -> Any:
    """A function of a rule with the facts that its parameters name."""
    named = _parameters(function)
    given = facts if named is None else {name: facts[name] for name in named if named[name] or name in facts}
    return function(**given)


class _Shown(dict[str, Any]):
    """Values of a template; a fact that the rule does not need may not be known."""

    def __missing__(self, name: str) -> str:
        return "?"


@dataclass(frozen=True, kw_only=True)
class ConfigRule(RuleText):
    """One rule. Its templates are over the facts and ``values``; parameters of its functions are names of facts."""

    dialects: tuple[str, ...]
    """Names of the dialects it belongs to."""
    fact: str
    """The fact whose place in the file is shown and whose value a repair would change."""
    needs: tuple[str, ...]
    """Facts that have to be known; the rule says nothing where one is missing."""
    holds: Callable[..., bool]
    values: Callable[..., dict[str, Any]] = lambda: {}
    """Further numbers for the templates."""
    repaired: Callable[..., Any] | None = None
    """The one value of ``fact`` that keeps the rule, where there is only one."""
    remedy: Literal["change", "add", "remove"]
    """What a repair does: another value of ``fact``, a key that the file lacks, or ``fact`` taken out."""
    added: Callable[..., dict[str, Any]] | None = None
    """Keys that the file lacks with the values that keep the rule; ``True`` for an option without a value."""
    options: tuple[str, ...] = ()
    """Options of a command whose presence it asks for, of the fact ``options``."""
    severity: Literal["error", "warning"] = "error"
    """A warning is what runs, and not as its author may think, or depends on the machine that runs it."""

    def holds_for(self, facts: Facts) -> bool:
        """Whether the facts keep the rule; true where it does not apply."""
        return any(name not in facts for name in self.needs) or bool(apply(self.holds, facts))

    def said_of(self, facts: Facts) -> tuple[dict[str, str], dict[str, Any]]:
        """Message, detail and hint, and the numbers in them."""
        numbers = apply(self.values, facts)
        used = {name: facts[name] for name in self.needs if not isinstance(facts[name], frozenset)}
        return self.texts(_Shown({**facts, **numbers})), used | numbers


def rules_of(facts: Mapping[str, Fact], *dialects: str, source: str = "") -> Callable[..., Callable[..., ConfigRule]]:
    """The maker of a dialect's rules: first id, title and what kind of rule it is, then its texts and functions.

    Unless they are given, a rule needs what ``holds`` asks for, its fact is the first of these, its field is where a
    person looks for that fact, and its detail lists all of them; its remedy is to add what it names, if it does; and
    it comes from ``source``.
    """

    def headed(rule_id: str, title: str = "", **kind: Any) -> Callable[..., ConfigRule]:
        def rule(**fields: Any) -> ConfigRule:
            needs = fields.setdefault("needs", parameters(fields["holds"]))
            fact = fields.setdefault("fact", needs[0])
            defaults = {
                "dialects": dialects,
                "title": title,
                "source": source,
                "field": facts[fact].key or fact,
                "detail": ", ".join(f"{need} = {{{need}}}" for need in needs),
                "remedy": "add" if "added" in fields else "change",
            }
            return ConfigRule(id=rule_id, **{**defaults, **kind, **fields})

        return rule

    return headed


def one_of(fact: str, choices: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of a rule that a fact is one of ``choices``."""
    words = ", ".join(map(str, choices))
    return {
        "title": f"a {fact} that the plugin does not know",
        "needs": (fact,),
        "message": f"{fact} {{{fact}}} is none of {words}",
        "hint": f"use one of {words}",
        "why": "The plugin asserts it before anything is built.",
        "holds": lambda **facts: facts[fact] in choices,
    }


def multiples_around(number: int, unit: int) -> str:
    """The multiples of ``unit`` around a number, from ``unit`` on."""
    below = number // unit * unit
    return listed([multiple for multiple in (below, below + unit) if multiple])


def divides(*degrees: str, given: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a rule that the product of some degrees, and of others where they are given, divides the GPUs."""

    def group(facts: Facts) -> int:
        return math.prod(facts.get(degree, 1) for degree in (*degrees, *given))

    return {
        "needs": (*degrees, "num_devices"),
        "values": lambda num_devices, **facts: {
            "group": group(facts),
            "rest": num_devices % group(facts),
            "valid": listed(divisors(num_devices)),
        },
        "holds": lambda num_devices, **facts: num_devices % group(facts) == 0,
    }
