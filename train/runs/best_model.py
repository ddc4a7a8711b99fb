"""Whether the best model so far still lies in the run's folder."""

from concord.bert.errors import InputError
from concord.bert.model_files import read_weights
from concord.bert.names import WEIGHTS_FILE
from concord.bert.tensor_files import DIGEST
from concord.train.outputs.names import BEST
from concord.train.runs.session import Session


def check_best(session: Session) -> None:
    """Where the best model so far is damaged, or is not the one that the saved state knows and will not come again,
    choose the best of the evaluations that follow, of which there is one at least."""
    progress = session.progress
    path = session.directory / BEST / WEIGHTS_FILE
    try:
        digest = read_weights(path.parent)[0].metadata.get(DIGEST)
        reason = f"{path}: not the model of step {progress.best_step}" if digest != progress.best_digest else ""
    except InputError as error:
        digest, reason = None, str(error)
    # A run that was killed after an evaluation comes to it once more, and to the same model.
    if reason and (digest is None or not session.bit_equal):
        session.reporter.warn(f"{reason}; the best model will be that of the evaluations from here on")
        progress.best_score, progress.best_step, progress.best_dev = float("-inf"), 0, {}
        progress.since_best = 0
