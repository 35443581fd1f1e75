"""``rules``, ``explain``, ``models``, ``hardware`` and ``stacks``: what gptplan knows."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from planner.cli.parameters import Json, JsonOnly, print_json
from planner.codes import CODES
from planner.diagnostics import ExitCode, usage_error
from planner.handover.options import Option
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.files import SpecType, builtin_names, did_you_mean, load_spec, to_builtins

if TYPE_CHECKING:
    from planner.views.content import Table


LAYOUT = "layout"
"""What `explain` is told for every field of a layout."""


def rules(options: JsonOnly) -> int:
    """List every rule."""
    from planner.lint.registry import EVERY_RULE
    from planner.views import listing
    from planner.views.terminal import print_content

    if options.as_json:
        print_json([_rule_document(rule) for rule in EVERY_RULE])
    else:
        print_content(listing.rules_table(EVERY_RULE))
    return ExitCode.OK


def _known_codes() -> Iterable[str]:
    from planner.layouts.pins import PINNABLE
    from planner.lint.registry import EVERY_RULE

    return [*(rule.id for rule in EVERY_RULE), *CODES, LAYOUT, *PINNABLE]


class Explain(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``explain``."""

    rule: Annotated[
        str,
        Option(
            "A rule id, such as TP001; a layout field that can be pinned; or `layout`, for all of these.",
            known=_known_codes,
            is_argument=True,
        ),
    ]
    as_json: Json = False


def explain(options: Explain) -> int:
    """Say what a rule demands, why, and where it comes from, or what a layout field is and how it is pinned."""
    from planner.layouts.pins import pinnable
    from planner.lint.registry import EVERY_RULE
    from planner.views import listing
    from planner.views.terminal import print_content

    fields = {one.field: one for one in pinnable()}
    if (field := options.rule.lower()) in {LAYOUT, *fields}:
        wanted = [one for one in fields.values() if field in (LAYOUT, one.field)]
        if options.as_json:
            documents = [one._asdict() for one in wanted]
            print_json(documents if field == LAYOUT else documents[0])
        else:
            print_content(*([listing.pins_table(wanted)] if field == LAYOUT else listing.pin_lines(wanted[0])))
        return ExitCode.OK
    code = options.rule.upper()
    known = {rule.id: rule for rule in EVERY_RULE}
    if code in CODES and options.as_json:
        print_json({"id": code, "why": CODES[code]})
    elif code in CODES:
        print_content(f"{code}: {CODES[code]}")
    elif code not in known:
        raise usage_error(
            f"there is no rule or layout field {options.rule}",
            location=options.rule,
            hint=did_you_mean(code, _known_codes()) or "`gptplan rules` and `gptplan explain layout` list them",
        )
    elif options.as_json:
        print_json(_rule_document(known[code]))
    else:
        print_content(*listing.rule_lines(known[code]))
    return ExitCode.OK


def _rule_document(rule: Any) -> dict[str, str]:
    fields = ("id", "title", "field", "message", "detail", "hint", "why", "source")
    return {field: getattr(rule, field) for field in fields}


def models(options: JsonOnly) -> int:
    """List the built-in models."""
    from planner.views import listing

    return _list(ModelSpec, listing.models_table, as_json=options.as_json)


def hardware(options: JsonOnly) -> int:
    """List the built-in hardware."""
    from planner.views import listing

    return _list(HardwareSpec, listing.hardware_table, as_json=options.as_json)


def stacks(options: JsonOnly) -> int:
    """List the built-in training stacks."""
    from planner.views import listing

    return _list(StackSpec, listing.stacks_table, as_json=options.as_json)


def _list(kind: type[SpecType], table: Callable[[list[SpecType]], "Table"], *, as_json: bool) -> int:
    specs = [load_spec(name, kind) for name in builtin_names(kind)]
    if as_json:
        print_json(to_builtins(specs))
    else:
        from planner.views.terminal import print_content

        print_content(table(specs))
    return ExitCode.OK
