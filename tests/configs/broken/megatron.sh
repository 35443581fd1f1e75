torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py \
    --num-layers 24 --hidden-size 2048 --num-attention-heads 16 --vocab-size 50257 \
    --seq-length 2048 --max-position-embeddings 1024 \
    --tensor-model-parallel-size 3 --pipeline-model-parallel-size 1 \
    --num-layers-per-virtual-pipeline-stage 2 \
    --expert-model-parallel-size 3 \
    --micro-batch-size 4 --global-batch-size 90 \
    --fp16 --bf16 --recompute-granularity full
