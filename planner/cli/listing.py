"""``rules``, ``explain``, ``models`` and ``hardware``: what gptplan knows."""

from planner.cli.output import print_json
from planner.codes import CODES
from planner.diagnostics import ExitCode, usage_error
from planner.lint.registry import EVERY_RULE
from planner.rules import RuleText
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import builtin_names, did_you_mean, load_spec, to_builtins
from planner.views import explain as tables


def rules(*, as_json: bool) -> int:
    """List the rule table."""
    if as_json:
        print_json([_rule_document(rule) for rule in EVERY_RULE])
    else:
        tables.print_rules(EVERY_RULE)
    return ExitCode.OK


def explain(rule_id: str, *, as_json: bool) -> int:
    """Print one rule's page, or what another code of a message means."""
    code = rule_id.upper()
    if code in CODES:
        return _explain_code(code, as_json=as_json)
    known = {rule.id: rule for rule in EVERY_RULE}
    rule = known.get(code)
    if rule is None:
        raise usage_error(
            f"there is no rule {rule_id}",
            location=rule_id,
            hint=did_you_mean(code, [*known, *CODES]) or "`gptplan rules` lists them",
        )
    if as_json:
        print_json(_rule_document(rule))
    else:
        tables.print_rule(rule)
    return ExitCode.OK


def _explain_code(code: str, *, as_json: bool) -> int:
    if as_json:
        print_json({"id": code, "why": CODES[code]})
    else:
        tables.print_code(code, CODES[code])
    return ExitCode.OK


def _rule_document(rule: RuleText) -> dict[str, str]:
    fields = ("id", "title", "field", "message", "detail", "hint", "why", "source")
    return {field: getattr(rule, field) for field in fields}


def models(*, as_json: bool) -> int:
    """List the built-in models."""
    specs = [load_spec(name, ModelSpec) for name in builtin_names(ModelSpec)]
    if as_json:
        print_json(to_builtins(specs))
    else:
        tables.print_models(specs)
    return ExitCode.OK


def hardware(*, as_json: bool) -> int:
    """List the built-in hardware."""
    specs = [load_spec(name, HardwareSpec) for name in builtin_names(HardwareSpec)]
    if as_json:
        print_json(to_builtins(specs))
    else:
        tables.print_hardware(specs)
    return ExitCode.OK
