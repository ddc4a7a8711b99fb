"""A process that composes the arrays of one chunk of texts after the other, begun by `composing_pool`.

On its input come pickles: the tokenizer and the options of `compose`; then a list of texts for each chunk.
On its output goes a pickle for each: the arrays, or the text of an InputError. It ends where its input does.
"""

import os
import pickle
import signal
import sys

from concord.bert.errors import InputError
from concord.train.data.composing import compose


def main() -> None:
    """Answer the chunks of the standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    tokenizer, options = pickle.load(sys.stdin.buffer)
    while True:
        try:
            texts = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = compose(texts, tokenizer, **options)
        except InputError as error:
            answer = str(error)
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main()
