from colossalai.amp import AMP_TYPE
from model import GPT3_pipeline_1D
from torch.optim import Adam

BATCH_SIZE = 192
NUM_EPOCHS = 60
SEQ_LEN = 2048
NUM_MICRO_BATCHES = 192
HIDDEN_SIZE = 12288
TENSOR_SHAPE = (BATCH_SIZE // NUM_MICRO_BATCHES, SEQ_LEN, HIDDEN_SIZE)

fp16 = dict(mode=AMP_TYPE.NAIVE)
optimizer = dict(type=Adam, lr=0.00015, weight_decay=1e-2)
model = dict(type=GPT3_pipeline_1D, checkpoint=True, fused=True)
parallel = dict(pipeline=32, tensor=dict(mode='1d', size=4))
