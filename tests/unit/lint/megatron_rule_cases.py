"""For every rule of Megatron-LM's arguments a file that breaks it and one that keeps it."""

from tests.unit.lint.config_rule_cases import Case, megatron

_TP, _PP = "--tensor-model-parallel-size", "--pipeline-model-parallel-size"
_VIRTUAL = "--num-layers-per-virtual-pipeline-stage"

CASES = (
    Case(
        "MEG001", "a.sh", megatron(f"{_TP} 3"), megatron(f"{_TP} 2"), "world size 8 does not divide by TP x PP x CP = 3"
    ),
    Case(
        "MEG002",
        "a.sh",
        megatron("--num-layers-per-virtual-pipeline-stage 2"),
        megatron("--num-layers-per-virtual-pipeline-stage 2 --pipeline-model-parallel-size 2 --global-batch-size 16"),
        "an interleaved schedule needs --pipeline-model-parallel-size above 1, and it is 1",
    ),
    Case(
        "MEG003",
        "a.sh",
        megatron(f"{_TP} 4 --num-query-groups 6"),
        megatron(f"{_TP} 2 --num-query-groups 6"),
        "--num-query-groups 6 and --tensor-model-parallel-size 4 do not divide each other",
    ),
    Case(
        "MEG004",
        "a.sh",
        megatron("--expert-model-parallel-size 2"),
        megatron("--expert-model-parallel-size 2 --num-experts 4"),
        "--expert-model-parallel-size 2 needs --num-experts, and it is not given",
    ),
    Case(
        "MEG005",
        "a.sh",
        megatron("--expert-model-parallel-size 4 --num-experts 6"),
        megatron("--expert-model-parallel-size 2 --num-experts 6"),
        "--num-experts 6 does not divide by --expert-model-parallel-size 4",
    ),
    Case(
        "MEG006",
        "a.sh",
        megatron("--expert-model-parallel-size 3 --num-experts 6"),
        megatron("--expert-model-parallel-size 2 --num-experts 6"),
        "world size 8 does not divide by expert TP x EP x PP = 3",
    ),
    Case(
        "MEG007",
        "a.sh",
        megatron("--fp16 --bf16"),
        megatron("--bf16"),
        "--fp16 and --bf16 are both given, and only one of them may be",
    ),
    Case(
        "MEG008",
        "a.sh",
        megatron("--global-batch-size 12"),
        megatron("--global-batch-size 16"),
        "--global-batch-size 12 does not divide by micro batch x DP = 8",
    ),
    Case(
        "MEG009",
        "a.sh",
        megatron("--recompute-granularity full"),
        megatron("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"),
        "--recompute-granularity full needs --recompute-method, and it is not given",
    ),
    Case(
        "MEG010",
        "a.sh",
        megatron("--num-layers 12 --hidden-size 770 --num-attention-heads 12"),
        megatron(""),
        "--hidden-size 770 does not divide by --num-attention-heads 12",
    ),
    Case(
        "MEG011",
        "a.sh",
        megatron("--bf16").replace("torchrun", "torchrun --nproc_per_node 4"),
        megatron("--bf16"),
        "the launcher starts 4 processes, and 8 GPUs are checked",
    ),
    Case(
        "MEG012",
        "a.sh",
        megatron("--recompute-granularity full --recompute-method uniform"),
        megatron("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"),
        "--recompute-granularity full needs --recompute-num-layers, and it is not given",
    ),
    Case(
        "MEG013",
        "a.sh",
        megatron("--recompute-granularity selective --recompute-method uniform"),
        megatron("--recompute-granularity selective"),
        "--recompute-granularity selective does not take --recompute-method",
    ),
    Case(
        "MEG014",
        "a.sh",
        megatron(f"{_PP} 2 {_VIRTUAL} 3 --num-virtual-stages-per-pipeline-rank 2 --global-batch-size 16"),
        megatron(f"{_PP} 2 {_VIRTUAL} 3 --global-batch-size 16"),
        f"{_VIRTUAL} and --num-virtual-stages-per-pipeline-rank are both given, and only one of them may be",
    ),
    Case(
        "MEG015",
        "a.sh",
        megatron(f"{_PP} 8 --global-batch-size 16"),
        megatron(f"{_PP} 4 --global-batch-size 16"),
        "12 layers do not divide by --pipeline-model-parallel-size 8",
    ),
    Case(
        "MEG016",
        "a.sh",
        megatron(f"{_PP} 2 {_VIRTUAL} 4 --global-batch-size 16"),
        megatron(f"{_PP} 2 {_VIRTUAL} 2 --global-batch-size 16"),
        f"the 6 layers of a stage do not divide by {_VIRTUAL} 4",
    ),
    Case(
        "MEG017",
        "a.sh",
        megatron("--context-parallel-size 8").replace("1024", "1016"),
        megatron("--context-parallel-size 4"),
        "--seq-length 1016 does not divide by 2 x --context-parallel-size = 16",
    ),
    Case(
        "MEG018",
        "a.sh",
        megatron("--sequence-parallel"),
        megatron(f"--sequence-parallel {_TP} 2"),
        "--sequence-parallel has no effect with --tensor-model-parallel-size 1",
    ),
    Case(
        "MEG019",
        "a.sh",
        megatron("--overlap-param-gather --overlap-grad-reduce"),
        megatron("--overlap-param-gather --overlap-grad-reduce --use-distributed-optimizer"),
        "--overlap-param-gather needs --use-distributed-optimizer, and it is not given",
    ),
    Case(
        "MEG020",
        "a.sh",
        megatron("--overlap-param-gather --use-distributed-optimizer"),
        megatron("--overlap-param-gather --overlap-grad-reduce --use-distributed-optimizer"),
        "--overlap-param-gather needs --overlap-grad-reduce, and it is not given",
    ),
    Case(
        "MEG021",
        "a.sh",
        megatron(f"--tp-comm-overlap {_TP} 2"),
        megatron(f"--tp-comm-overlap --sequence-parallel {_TP} 2"),
        "--tp-comm-overlap needs --sequence-parallel, and it is not given",
    ),
    Case(
        "MEG022",
        "a.sh",
        megatron("--optimizer-cpu-offload"),
        megatron("--optimizer-cpu-offload --use-precision-aware-optimizer"),
        "--optimizer-cpu-offload needs --use-precision-aware-optimizer, and it is not given",
    ),
    Case(
        "MEG023",
        "a.sh",
        megatron("--train-iters 100 --train-samples 1000"),
        megatron("--train-iters 100"),
        "--train-iters does not go with --train-samples",
    ),
    Case(
        "MEG024",
        "a.sh",
        megatron("--recompute-activations --recompute-method uniform"),
        megatron("--recompute-activations"),
        "--recompute-method does not go with --recompute-activations",
    ),
    Case(
        "MEG025",
        "a.sh",
        megatron("--checkpoint-activations"),
        megatron("--recompute-activations"),
        "Megatron-LM of today stops at --checkpoint-activations",
    ),
    Case(
        "MEG026",
        "a.sh",
        megatron(f"{_TP} 2"),
        "export CUDA_DEVICE_MAX_CONNECTIONS=1\n" + megatron(f"{_TP} 2"),
        "tensor or context parallelism needs CUDA_DEVICE_MAX_CONNECTIONS=1, and the script does not set it",
    ),
    Case(
        "MEG027",
        "a.sh",
        megatron("--distribute-saved-activations"),
        megatron(
            f"--distribute-saved-activations --recompute-granularity full --recompute-method uniform {_TP} 2 "
            "--recompute-num-layers 1"
        ),
        "--distribute-saved-activations needs --tensor-model-parallel-size above 1, full recomputation and no "
        "--sequence-parallel",
    ),
    Case(
        "MEG028",
        "a.sh",
        megatron(f"--use-torch-fsdp2 {_PP} 2 --global-batch-size 16"),
        megatron("--use-torch-fsdp2"),
        "--use-torch-fsdp2 does not go with --pipeline-model-parallel-size 2",
    ),
    Case(
        "MEG029",
        "a.sh",
        megatron("--use-torch-fsdp2 --use-distributed-optimizer"),
        megatron("--use-torch-fsdp2"),
        "--use-torch-fsdp2 does not go with --use-distributed-optimizer",
    ),
    Case(
        "MEG030",
        "a.sh",
        megatron("--bf16 --fp16-lm-cross-entropy"),
        megatron("--fp16 --fp16-lm-cross-entropy"),
        "--fp16-lm-cross-entropy needs --fp16, and it is not given",
    ),
    Case(
        "MEG031",
        "a.sh",
        megatron(f"{_PP} 4 {_VIRTUAL} 1 --global-batch-size 12"),
        megatron(f"{_PP} 4 {_VIRTUAL} 1 --global-batch-size 16"),
        "6 micro batches do not suit the interleaved schedule of 4 stages",
    ),
    Case(
        "MEG032",
        "a.sh",
        megatron(f"{_PP} 4 --decoder-first-pipeline-num-layers 2 --global-batch-size 16"),
        megatron(f"{_PP} 4 --decoder-first-pipeline-num-layers 3 --global-batch-size 16"),
        "10 layers are left for 3 middle stages, and they do not divide",
    ),
)
