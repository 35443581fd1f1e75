from colossalai.amp import AMP_TYPE
from model import GPT3_pipeline_1D
from torch.optim import Adam

BATCH_SIZE = 2 * 48
NUM_EPOCHS = 60
SEQ_LEN = 2048
NUM_MICRO_BATCHES = 48
HIDDEN_SIZE = 12288
TENSOR_SHAPE = (BATCH_SIZE // NUM_MICRO_BATCHES // 2, SEQ_LEN, HIDDEN_SIZE // 2)

fp16 = dict(mode=AMP_TYPE.NAIVE)
optimizer = dict(type=Adam, lr=0.00015, weight_decay=1e-2)
model = dict(type=GPT3_pipeline_1D, checkpoint=True, fused=True)
parallel = dict(pipeline=24, tensor=dict(mode='2.5d', size=4, depth=1))
