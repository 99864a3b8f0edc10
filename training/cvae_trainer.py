"""The CVAE's training loop: `transformers.Trainer` with our loss, its terms in the log, and vital signs on dev."""

from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from common import processes
from dataset.sharing import without_rows
from model.cvae import MiracleModel
from model.losses import (
    LossInputs,
    LossWeights,
    classification_loss,
    mean_over_processes,
    sum_over_processes,
    weighted_sum,
)
from model.prior import of_targets
from model.schedule import kl_weight
from training.bf16_weights import rounding_adamw
from training.recorded_step import GraphedStep
from training.shared_step import SharedStep
from training.trainer import StageTrainer

SHAPES = 16  # lengths are multiples of it where steps are recorded


def can_record(args: TrainingArguments) -> bool:
    """Whether training steps may be CUDA graphs: a GPU each, and nothing in a step that looks back at the host."""
    return (
        args.device.type == "cuda"
        and args.n_gpu == 1
        and not (args.fp16 or args.gradient_checkpointing or args.torch_compile)
    )


def _stacked(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([term.detach().float() for term in terms.values()])


class CvaeTrainer(StageTrainer):
    """Trains a `MiracleModel`.

    Args:
        settings: the weights and schedules of the loss, see `train_cvae.LossArguments`.
        new_learning_rate: of the layers that come from no base; the bases take ``args.learning_rate``.
        graphs: compute gradients by CUDA graphs (`training.recorded_step`), where `can_record` says so.
    """

    blank = staticmethod(without_rows)

    def __init__(self, *args, settings, new_learning_rate: float, graphs: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.graphed: GraphedStep | SharedStep | None = None
        trained, device = [p for p in self.model.parameters() if p.requires_grad], self.args.device
        if graphs and processes.several():
            parts = self.model.decoder_first(trained)
            self.graphed = SharedStep(self._loss_inputs, self._terms, *parts, device)
            # not wrapped: distributed data parallel holds what adds gradients up on a stream that cannot be recorded
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        elif graphs:
            self.graphed = GraphedStep(self._weighted, trained, device)
        self.settings, self.new_learning_rate = settings, new_learning_rate
        self.model_accepts_loss_kwargs = False  # our loss is a mean already; accumulation divides it
        self.sums: torch.Tensor | None = None  # of the loss terms since the last log, kept on the device
        self.steps, self.names = 0, ["loss"]  # of the values in `sums`

    def current_weights(self) -> LossWeights:
        """The weights at this optimizer step."""
        s, state = self.settings, self.state
        kl = kl_weight(s.kl_schedule, state.global_step, state.max_steps, s.kl_weight, s.kl_ramp, s.kl_cycles)
        return s.weights.replace(kl=kl)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted loss of a batch; its terms go into the log's running sums."""
        terms = model(**inputs, weights=self.current_weights())
        self.names = list(terms)
        self._note(_stacked(terms))
        return (terms["loss"], terms) if return_outputs else terms["loss"]

    def gradients_of(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of one batch; by graphs where that was asked for."""
        if self.graphed is None:
            return super().gradients_of(model, inputs, num_items_in_batch)
        model.train()
        scale = 1.0 / self.current_gradient_accumulation_steps
        whole = {"last": self.accelerator.sync_gradients} if isinstance(self.graphed, SharedStep) else {}
        kl = float(self.current_weights()["kl"])
        values = self.graphed(self._prepare_inputs(inputs), kl, scale, **whole)
        self._note(values)
        return values[0] * scale

    def _loss_inputs(self, batch) -> LossInputs:
        """What the loss is computed from, of this process's rows."""
        with self.accelerator.autocast():
            return self.model.loss_inputs(**batch, weights=self.current_weights())

    def _terms(self, given: LossInputs, kl: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of all processes' rows with that weight of the KL term, and all terms as they are logged."""
        with self.accelerator.autocast():
            terms = weighted_sum(given, self.current_weights().replace(kl=kl))
        self.names = list(terms)
        return terms["loss"], _stacked(terms)

    def _weighted(self, batch, kl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch's loss with that weight of the KL term, and all terms as they are logged."""
        terms = self.model_wrapped(**batch, weights=self.current_weights().replace(kl=kl))
        self.names = list(terms)
        return terms["loss"], _stacked(terms)

    def _note(self, values: torch.Tensor) -> None:
        self.sums = values if self.sums is None else self.sums + values
        self.steps += 1

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Add the means of the loss terms over the logging interval."""
        if "loss" in logs and self.sums is not None:
            means = (self.sums / self.steps).tolist()
            logs |= dict(zip(self.names, means)) | {"kl_weight": self.current_weights()["kl"]}
            self.sums, self.steps = None, 0
        super().log(logs, *args, **kwargs)

    def create_optimizer(self, model=None):
        """Base and new layers at their own learning rates; no weight decay on biases and norms; weights in bf16 are rounded stochastically."""
        if self.optimizer is None:
            bases = self.model.base_parameters()
            groups = []
            for from_base, rate in ((True, self.args.learning_rate), (False, self.new_learning_rate)):
                for decayed, decay in ((True, self.args.weight_decay), (False, 0.0)):
                    chosen = [
                        p
                        for p in self.model.parameters()
                        if p.requires_grad and (id(p) in bases) == from_base and (p.ndim > 1) == decayed
                    ]
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            if any(p.dtype == torch.bfloat16 for group in groups for p in group["params"]):
                optimizer_class, options = rounding_adamw(), options | {"seed": self.args.seed}
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        return self.optimizer

    def final_metrics(self) -> dict[str, float]:
        """The metrics of the trained weights: from the log where the last step ended with an evaluation, else computed now."""
        last = [
            entry
            for entry in self.state.log_history
            if entry["step"] == self.state.global_step and "eval_loss" in entry
        ]
        if not last or self.args.load_best_model_at_end:  # other weights than those of the last step
            return self.evaluate()
        return {key: value for key, value in last[-1].items() if key.startswith("eval_")}

    @torch.no_grad()
    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss terms at full KL weight and vital signs on dev, with the same noise at every call.

        Besides the loss terms: ``prior_head_accuracy``, the latent heads on samples of the prior (the prior does not
        know the aspect, so this belongs near chance), and ``latent_scale``, the root mean square of posterior samples.
        """
        weights = self.settings.weights.replace(context=0.0)
        model: MiracleModel = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        if self.graphed is not None:
            self.graphed.forget()  # evaluation needs the memory
        generator = torch.Generator().manual_seed(0)
        total, count = None, 0
        for batch in self._dev_batches(eval_dataset):
            batch = self._prepare_inputs(batch)
            size = self._rows_of_all(batch)
            noise = self._own_rows(torch.randn(2, size, model.config.latent_size, generator=generator))
            noise = noise.to(batch["targets"].device)
            with self.accelerator.autocast():  # the unwrapped model has none of its own
                terms = model(**batch, weights=weights, noise=noise[0])
                signs = self._vital_signs(model, batch, noise, weights.prior_combination)
            values = torch.stack([value.float() for value in (*terms.values(), *signs)]) * size
            total, count = values if total is None else total + values, count + size
        model.train(training)
        names = (*terms, "prior_head_accuracy", "latent_scale")
        metrics = {
            f"{metric_key_prefix}_{name}": value for name, value in zip(names, (total / count).tolist())
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _dev_batches(self, rows: Dataset | None) -> DataLoader:
        """Of several processes each has its rows of every batch, so that means over batches are those of one process."""
        if not processes.several():
            return self.get_eval_dataloader(rows)
        rows = self.eval_dataset if rows is None else rows
        return self.shared_loader(rows, self.eval_order(rows), self.args.eval_batch_size)

    @staticmethod
    def _rows_of_all(batch: dict[str, torch.Tensor]) -> int:
        """How many examples a batch has in all processes together."""
        own = torch.tensor(float(batch.get("rows", len(batch["targets"]))), device=batch["targets"].device)
        return int(sum_over_processes(own))

    @staticmethod
    def _own_rows(values: torch.Tensor) -> torch.Tensor:
        """Of a batch of all processes [.., rows, D] this one's, or the first for a filler."""
        own = values[..., processes.rank() :: processes.count(), :]
        return own if own.shape[-2] else values[..., :1, :]

    @staticmethod
    def _vital_signs(
        model: MiracleModel, batch: dict[str, torch.Tensor], noise: torch.Tensor, combination: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        targets = batch["targets"]
        priors = model.encode_prior(batch["context_ids"], batch["context_mask"])
        prior = of_targets(priors, targets, combination)
        posterior = model.encode_posterior(
            batch["posterior_ids"], batch["posterior_mask"], batch["posterior_types"]
        )
        rows = batch.get("rows", len(targets))
        logits = [scores.float()[:rows] for scores in model.heads(prior.sample(noise[1]))]
        _, correct = classification_loss(logits, targets[:rows])
        squares = posterior.sample(noise[0]).pow(2).mean(1)
        return correct, mean_over_processes(squares[:rows]).sqrt()
