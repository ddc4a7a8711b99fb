"""The name of every file in a model's directory, as Hugging Face has them, and of a run's folder with a model."""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
HEADS_FILE, EARLIER_HEADS_FILE = (
    "heads.safetensors",
    "heads-before.safetensors",
)  # beside the weights of a trained model
PICKLE_FILE = "pytorch_model.bin"
INDEX_ENDING = ".index.json"  # of the file that says which tensor lies in which of several
TOKENIZER_FILE, VOCABULARY_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
CARD_FILE = "README.md"
BEST = "best"  # a run's folder within its own, in the layout of Hugging Face
# Those that sentence-transformers adds.
MODULES_FILE, SENTENCE_CONFIG_FILE = "modules.json", "sentence_bert_config.json"
POOLING_CONFIG_FILE = "1_Pooling/config.json"
DENSE_CONFIG_FILE, DENSE_WEIGHTS_FILE = "2_Dense/config.json", "2_Dense/model.safetensors"
SENTENCE_FILES = (MODULES_FILE, SENTENCE_CONFIG_FILE, POOLING_CONFIG_FILE, DENSE_CONFIG_FILE, DENSE_WEIGHTS_FILE)
SENTENCE_FOLDERS = ("1_Pooling", "2_Dense")
