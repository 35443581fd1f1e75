"""Every rule that a message can name: those of layouts, and those of the configuration files of each framework."""

from planner.lint.config_rule import ConfigRule
from planner.lint.dialects import nvme
from planner.lint.dialects.colossalai_2022 import rules as colossalai_2022
from planner.lint.dialects.deepspeed import rules as deepspeed
from planner.lint.dialects.megatron import option_rules as megatron_options
from planner.lint.dialects.megatron import rules as megatron
from planner.lint.dialects.plugins import expert_rules as expert_plugins
from planner.lint.dialects.plugins import rules as plugins
from planner.lint.dialects.plugins import zero_rules as zero_plugins
from planner.lint.dialects.tabled import rules as tabled
from planner.rules import ALL_RULES, RULES
from planner.rules.rule import RuleText

CONFIG_RULES: tuple[ConfigRule, ...] = (
    *colossalai_2022.RULES,
    *nvme.RULES,
    *plugins.RULES,
    *expert_plugins.RULES,
    *zero_plugins.RULES,
    *megatron.RULES,
    *megatron_options.RULES,
    *deepspeed.RULES,
    *tabled.RULES,
)
"""Rules about the keys of one framework's configuration files."""

EVERY_RULE: tuple[RuleText, ...] = (*(rule.spelled_out() for rule in ALL_RULES), *CONFIG_RULES)
"""Every rule that a message can name, as people read it."""

BY_ID: dict[str, RuleText] = {rule.id: rule for rule in (*RULES, *CONFIG_RULES)}
"""Rules that a finding about a configuration can come from."""
