from titans.model.gpt import gpt3
from torch.optim import Adam

BATCH_SIZE = 2
NUM_EPOCHS = 60
SEQ_LEN = 2048

zero = dict(
    level=3,
    offload_optimizer_config=dict(device='cpu', pin_memory=True),
    offload_param_config=dict(device='cpu', pin_memory=True),
)

optimizer = dict(type=Adam, lr=0.00015, weight_decay=1e-2)
model = dict(type=gpt3, checkpoint=True)
