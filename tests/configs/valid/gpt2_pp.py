from colossalai.amp import AMP_TYPE
from titans.model.gpt import gpt2_small
from torch.optim import Adam

BATCH_SIZE = 8
NUM_EPOCHS = 60
SEQ_LEN = 1024
NUM_MICRO_BATCHES = 4
HIDDEN_SIZE = 768
PIPELINE = 2
TENSOR_SHAPE = (BATCH_SIZE // NUM_MICRO_BATCHES, SEQ_LEN, HIDDEN_SIZE)

fp16 = dict(mode=AMP_TYPE.NAIVE)
optimizer = dict(type=Adam, lr=0.00015, weight_decay=1e-2)
model = dict(type=gpt2_small, checkpoint=True)
parallel = dict(pipeline=PIPELINE, tensor=dict(size=1, mode=None))
