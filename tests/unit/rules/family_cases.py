"""Cases of the rules of families and of all-to-all, as in :mod:`tests.unit.rules.rule_cases`."""

from tests.helpers import layout, tiny_llama
from tests.unit.rules.rule_cases import IN_V, Case, V

LLAMA = {name: getattr(tiny_llama(), name) for name in ("attention", "positions", "mlp", "norm")}
CASES = (
    Case(
        "TP006", layout(tensor_parallel=2), layout(tensor_parallel=4),
        "tensor parallel degree 4 does not divide the 2 heads of keys of tiny",
        "use a tensor parallel degree of 1 or 2",
        {"kv_heads": 2, "kv_rest": 2}, asked={"model": {"attention": {"kv_heads": 2}}},
    ),
    Case(
        "TP007", layout(tensor_parallel=2), layout(tensor_parallel=4),
        "stack tiny-stack pads the 96 tokens of tiny to 128, and not its loss head",
        "use a tensor parallel degree of 1 or 2",
        {"vocab_size": 96, "padded": 128},
        asked={"model": {"vocab_size": 96}, "stack": {"unpadded_head_families": ("gpt2",)}},
    ),
    Case(
        "TP027", layout(tensor_parallel=4), layout(tensor_parallel=4, tensor_mode="2d"),
        "mode 2d does not divide the layers of tiny", "use --mode 1d", {"grid_families": "no family"},
        asked={"stack": {"grid_families": ()}},
    ),
    Case(
        "SP003", layout(sequence_parallel_degree=2), layout(sequence_parallel_degree=2, tensor_parallel=2),
        "stack tiny-stack does not divide sequences of tiny over 2 ranks of their own here",
        "set sequence_parallel_degree to 1", {"families": "gpt2", "with_tensor": "no family"},
        asked={"stack": {"all_to_all_families": ("gpt2",)}},
    ),
    Case(
        "SP004", layout(sequence_parallel_degree=2), layout(sequence_parallel_degree=4),
        "sequence length 6 does not divide by the sequence parallel degree 4",
        "use a sequence_parallel_degree of 1 or 2",
        {"rest": 2}, asked={"seq_len": 6},
    ),
    Case(
        "SP005", layout(sequence_parallel_degree=2), layout(sequence_parallel_degree=2, tensor_parallel=2),
        "2 ranks of all-to-all x TP 2 do not divide the 4 heads and 2 heads of keys of tiny",
        "use a sequence_parallel_degree of 1", {"both": 4}, asked={"model": {"attention": {"kv_heads": 2}}},
    ),
    Case(
        "SP006", layout(sequence_parallel_degree=2),
        layout(sequence_parallel_degree=2, tensor_parallel=2, sequence_parallel=True),
        "sequences are divided over 2 ranks by all-to-all, and in the tensor parallel group as well",
        "set sequence_parallel to false, or sequence_parallel_degree to 1", {"degree": 2},
    ),
    Case(
        "SP007", layout(tensor_parallel=2), layout(tensor_parallel=2, sequence_parallel=True),
        "stack tiny-stack drops sequence parallelism for models like tiny", "set sequence_parallel to false",
        {"slice_families": "no family"}, asked={"stack": {"slice_families": ()}},
    ),
    Case(
        "PP012", layout(), layout(pipeline_parallel=2),
        "in a pipeline stack tiny-stack does not keep the window of 4 tokens of tiny", "use one stage, or --seq-len 4",
        {"window": 4, "window_families": "no family"}, asked={"model": {"attention": {"sliding_window": 4}}},
    ),
    Case(
        "STK007", layout(), layout(),
        "stack tiny-stack does not train models with the parts of tiny", "use a model of gpt2, or another --stack",
        {"family": "llama", "families": "gpt2"}, asked_of_broken={"model": LLAMA},
    ),
    Case(
        "PP013", layout(pipeline_parallel=2), layout(**V),
        "stack tiny-stack does not run models like tiny under schedule zbv",
        "use another schedule", {"family": "gpt2", "zero_bubble_families": "no family"},
        asked={"stack": {"schedules": IN_V["schedules"]}},
    ),
    Case(
        "PP014", layout(pipeline_parallel=2), layout(**V),
        "stack tiny-stack does not run tiny, whose embeddings are tied, under schedule zbv", "use another schedule",
        {"family": "gpt2", "zero_bubble_tied_families": "no family"},
        asked={"stack": {**IN_V, "zero_bubble_tied_families": ()}},
    ),
)  # fmt: skip
