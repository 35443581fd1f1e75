"""A training script of today's Colossal-AI."""

import colossalai
from colossalai.booster import Booster
from colossalai.booster.plugin import HybridParallelPlugin
from torch.optim import AdamW

BATCH_SIZE = 16
SEQ_LEN = 2048
MODEL = "gpt3-1.3b"


def main():
    colossalai.launch_from_torch()
    plugin = HybridParallelPlugin(
        tp_size=2,
        pp_size=2,
        zero_stage=1,
        precision="bf16",
        num_microbatches=BATCH_SIZE // 2,
    )
    return Booster(plugin=plugin), AdamW


if __name__ == "__main__":
    main()
