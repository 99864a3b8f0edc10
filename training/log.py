"""The log of a training: lines that a person can read, with the time that is left."""

from tqdm.auto import tqdm
from transformers import TrainerCallback

from common.eta import WORTH_SAYING, Pace, duration

HIDDEN = ("runtime", "samples_per_second", "steps_per_second", "epoch", "grad_norm", "learning_rate")
FORECAST_AFTER = 15.0  # seconds of steps, before a long training says how long it will be


class ReadableLog(TrainerCallback):
    """Log lines of a stage; a long training says early how long it will take, whenever its first line comes."""

    def __init__(self, name: str):
        self.name = name
        self.pace: Pace | None = None
        self.forecast = False

    def on_step_end(self, args, state, control, **kwargs):
        """The clock starts behind the first step, which warms up."""
        if self.pace is None:
            self.pace = Pace(state.max_steps, state.global_step)
        elif not self.forecast and self.pace.elapsed >= FORECAST_AFTER:
            self.forecast = True
            left = self.pace.left(state.global_step) or 0.0
            if left >= WORTH_SAYING and state.is_world_process_zero:
                self._say(f"{self.name}: {state.max_steps} steps, about {duration(left)} from here")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """One line per log: step, the numbers, the time left."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        shown = {
            key.removeprefix("eval_"): value for key, value in logs.items() if isinstance(value, (int, float))
        }
        numbers = [f"{key} {value:.4g}" for key, value in shown.items() if key not in HIDDEN]
        kind = "dev  " if any(key.startswith("eval_") for key in logs) else "train"
        left = [words] if self.pace and (words := self.pace.words(state.global_step)) else []
        self._say(
            f"{self.name} {kind} step {state.global_step}/{state.max_steps}  {'  '.join(numbers + left)}"
        )

    def _say(self, line: str) -> None:
        with tqdm.external_write_mode():  # above the bars, where there are some
            print(line, flush=True)
