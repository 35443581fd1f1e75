"""What a model learns from: files of text and of tokens, tokenizers, and the order of samples.

Nothing here is held in memory as a whole, and nothing imports PyTorch.
"""
