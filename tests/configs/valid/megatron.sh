#!/bin/bash
# Two nodes of eight GPUs.
TP=4
PP=2

MODEL_ARGS="
    --num-layers 24
    --hidden-size 2048
    --num-attention-heads 16
    --seq-length 2048
    --max-position-embeddings 2048
    --vocab-size 50257
"

torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py $MODEL_ARGS \
    --tensor-model-parallel-size $TP \
    --pipeline-model-parallel-size ${PP} \
    --micro-batch-size 4 \
    --global-batch-size 64 \
    --use-distributed-optimizer \
    --bf16
