"""The name of every file in a model's directory, as Hugging Face has them, and of a run's folder with a model."""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
INDEX_ENDING = ".index.json"  # of the file that says which tensor lies in which of several
TOKENIZER_FILE, VOCABULARY_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
BEST = "best"  # a run's folder within its own, in the layout of Hugging Face
