"""Words for replays that terminal and page share."""

from planner.validation.replay import Replay


def percent(value: float | None, *, signed: bool = False) -> str:
    """``"4.2 %"``, with its sign if asked for, and nothing for ``None``."""
    return "" if value is None else f"{value:+.1f} %" if signed else f"{value:.1f} %"


def layout_words(one: Replay) -> str:
    """A replayed layout in a few words: degrees, ZeRO stage, micro batch x their number, and the rest."""
    if one.case is None:
        return ""
    layout = one.case.layout
    mode = layout.tensor_mode.upper() + " " if layout.tensor_mode not in ("none", "1d") else ""
    words = [f"{mode}TP{layout.tensor_parallel} PP{layout.pipeline_parallel} DP{layout.data_parallel}"]
    words += [f"ZeRO{layout.zero_stage}"] * bool(layout.zero_stage)
    words += [f"{layout.micro_batch} x {layout.num_microbatches}"]
    words += [f"v{layout.num_model_chunks}"] * (layout.num_model_chunks > 1)
    words += ["recompute"] * any(layout.recompute_layers_per_stage) + ["SP"] * layout.sequence_parallel
    return " ".join(words + ["offload"] * (layout.offload.optimizer > 0))
