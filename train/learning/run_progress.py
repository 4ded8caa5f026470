"""How far a run has come."""

from dataclasses import dataclass

from train.settings.train_config import TrainConfig


@dataclass
class RunProgress:
    """What a run carries besides weights: steps done, the best validation score and how many validations ago it was."""

    step: int = 0
    best: float = -1.0
    since_best: int = 0

    def note(self, score: float) -> bool:
        """Take in the score of a validation; returns whether it is the best so far."""
        better = score > self.best
        self.best, self.since_best = max(score, self.best), 0 if better else self.since_best + 1
        return better

    def ended(self, config: TrainConfig) -> bool:
        """All steps done, or no better validation for `patience` of them."""
        patience = config.validation.patience
        return self.step >= config.steps or (patience is not None and self.since_best >= patience)
