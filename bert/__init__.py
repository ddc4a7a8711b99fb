"""The encoder and its heads over packed batches; weights in and out in Hugging Face's names."""
