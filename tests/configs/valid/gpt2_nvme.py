from titans.model.gpt import gpt2_small
from torch.optim import Adam

BATCH_SIZE = 1
NUM_EPOCHS = 60
SEQ_LEN = 1024
NVME_PATH = '/local/nvme'

zero = dict(
    level=3,
    offload_optimizer_config=dict(device='nvme', nvme_path=NVME_PATH, buffer_count=4),
    offload_param_config=dict(device='nvme', nvme_path=NVME_PATH, max_in_cpu=1e9, buffer_size=1e8),
    aio_config=dict(block_size=1048576, queue_depth=8, thread_count=1),
)

optimizer = dict(type=Adam, lr=0.00015, weight_decay=1e-2)
model = dict(type=gpt2_small, checkpoint=True)
